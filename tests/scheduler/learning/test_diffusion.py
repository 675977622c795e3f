"""The denoising chain: coefficients, noise, and the compiled chain against the plain one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from scheduler.learning.compiled_actor import CompiledActor
from scheduler.learning.diffusion import denoise, variance_preserving
from scheduler.learning.networks import NoiseStack
from scheduler.learning.noise import NoiseSource

AGENTS, ACTIONS, STATE, HIDDEN, SAMPLES, STEPS = 3, 6, 8, 5, 10, 5


def actor(*, softmax: bool, noise: Any = "posterior") -> tuple[NoiseStack, CompiledActor]:
    network = NoiseStack(
        AGENTS,
        actions=ACTIONS,
        state=STATE,
        hidden=HIDDEN,
        steps=STEPS,
        softmax=softmax,
        generator=torch.Generator().manual_seed(0),
    )
    return network, CompiledActor(network, variance_preserving(STEPS, noise=noise))


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_the_composite_of_five_steps_is_known() -> None:
    # x0 = 12.5 x_I - 17.5 eps + N(0, 5.1^2), from the authors' code run on constants.
    assert variance_preserving(5).composite() == pytest.approx((12.49, 17.53, 5.113), abs=5e-3)
    assert variance_preserving(5, noise="none").composite()[2] == 0.0


def test_the_papers_noise_is_half_the_posterior_variance() -> None:
    ours, papers = variance_preserving(5), variance_preserving(5, noise="paper")
    np.testing.assert_allclose(papers.spread_I, ours.spread_I**2 / 2)
    np.testing.assert_array_equal(papers.keep_I, ours.keep_I)


def test_the_last_step_adds_no_noise() -> None:
    for steps in (1, 2, 5, 10):
        schedule = variance_preserving(steps)
        assert schedule.spread_I[0] == 0.0
        assert schedule.noisy_steps == steps - 1
    with pytest.raises(ValueError, match="steps is 0"):
        variance_preserving(0)


def test_a_perfect_prediction_recovers_what_was_noised() -> None:
    schedule = variance_preserving(5, noise="none")
    start, wanted = normal(4, 3), torch.full((4, 3), 0.7)
    # eps that, at every step, makes the recovered x_0 the wanted one.
    recover_x, recover_eps = schedule.recover_x_I, schedule.recover_eps_I

    def predict(x: torch.Tensor, step: int) -> torch.Tensor:
        return (float(recover_x[step]) * x - wanted) / float(recover_eps[step])

    torch.testing.assert_close(denoise(start, predict, schedule, torch.empty(0)), wanted)


def test_a_clamped_chain_ends_within_the_clamp() -> None:
    schedule = variance_preserving(5)
    x = denoise(10 * normal(4, 3), lambda x, step: -x, schedule, 10 * normal(4, 4, 3), clamp=1.0)
    assert x.abs().max() <= 1.0


def test_noise_is_standard_normal_and_repeats_from_a_position() -> None:
    source = NoiseSource(5)
    values = source.normal(1000, 1000).numpy()
    assert abs(values.mean()) < 0.003
    assert abs(values.std() - 1.0) < 0.003
    assert abs((values**4).mean() - 3.0) < 0.03
    assert abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]) < 0.004
    position = source.position
    again = source.normal(3, 7)
    source.position = position
    assert torch.equal(source.normal(3, 7), again)
    assert not torch.equal(NoiseSource(6).normal(3, 7), NoiseSource(5).normal(3, 7))


@pytest.mark.parametrize(("softmax", "noise"), [(True, "posterior"), (False, "none")])
def test_the_compiled_chain_is_the_plain_one_in_values_and_gradients(
    softmax: bool, noise: Any
) -> None:
    network, compiled = actor(softmax=softmax, noise=noise)
    schedule = variance_preserving(STEPS, noise=noise)
    start, state = normal(2, AGENTS, ACTIONS, SAMPLES), normal(2, AGENTS, STATE, SAMPLES)
    x0 = compiled.run(start, state, NoiseSource(1), learn=True)
    steps = schedule.noisy_steps
    z = NoiseSource(1).normal(AGENTS, 2, steps, ACTIONS, SAMPLES) if steps else None
    grad = normal(AGENTS, ACTIONS, SAMPLES)
    compiled.backward(grad)
    ours = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    for chain in range(2):
        condition = network.condition(state[chain])
        plain = denoise(
            start[chain],
            lambda x, step, condition=condition: network(  # type: ignore[misc]
                x, condition, step
            ),
            schedule,
            torch.empty(0) if z is None else z[:, chain].transpose(0, 1),
        )
        torch.testing.assert_close(x0[chain], plain, rtol=1e-4, atol=1e-4)
        if chain == 0:
            (plain * grad).sum().backward()  # type: ignore[no-untyped-call]
    for mine, parameter in zip(ours, network.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-5)


def test_columns_beyond_an_agents_tasks_are_left_out_and_change_nothing() -> None:
    _, compiled = actor(softmax=True)
    start, state = normal(1, AGENTS, ACTIONS, SAMPLES), normal(1, AGENTS, STATE, SAMPLES)
    whole = compiled.run(start, state, NoiseSource(1))
    count_A = np.array([SAMPLES, 4, 1])
    part = compiled.run(start, state, NoiseSource(1), count_A=count_A)
    for agent, count in enumerate(count_A):
        torch.testing.assert_close(part[0, agent, :, :count], whole[0, agent, :, :count])
        assert not part[0, agent, :, count:].any()


def test_a_single_decision_is_a_chain_of_one_sample() -> None:
    _, compiled = actor(softmax=True)
    start, state = normal(1, AGENTS, ACTIONS, 1), normal(1, AGENTS, STATE, 1)
    silent = variance_preserving(STEPS, noise="none")
    quiet = CompiledActor(actor(softmax=True)[0], silent)
    x0 = quiet.run(start, state, NoiseSource(1))
    one_B = quiet.one(1, start[0, 1, :, 0].numpy(), state[0, 1, :, 0].numpy(), NoiseSource(1))
    np.testing.assert_allclose(one_B, x0[0, 1, :, 0].numpy(), rtol=1e-4, atol=1e-4)
    noisy_B = compiled.one(1, start[0, 1, :, 0].numpy(), state[0, 1, :, 0].numpy(), NoiseSource(1))
    assert np.abs(noisy_B - one_B).max() > 0.5


def test_a_diverged_network_shows() -> None:
    network, compiled = actor(softmax=True)
    with torch.no_grad():
        network.second.weight_AOI[1, 0, 0] = float("nan")
    x0 = compiled.run(normal(1, AGENTS, ACTIONS, 2), normal(1, AGENTS, STATE, 2), NoiseSource(1))
    assert not torch.isfinite(x0[0, 1]).all()
    assert torch.isfinite(x0[0, 0]).all()

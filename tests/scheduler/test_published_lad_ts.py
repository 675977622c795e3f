"""The node's LAD-TS against the networks it was exported from, and what it refuses."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scheduler import checkpoint, registry
from scheduler.algorithms.published_lad_ts import PublishedLadTs
from scheduler.checkpoint import InvalidCheckpoint
from scheduler.learning import learners
from scheduler.learning.diffusion import denoise, variance_preserving
from scheduler.learning.trainer import TrainingRun, train
from scheduler.observation import Observation
from scheduler.policies.published_lad_ts import PublishedLadTsPolicy, lad_ts_published
from scheduler.simulator.scenario import Scenario

TINY = Scenario(name="tiny", servers=4, tasks_per_slot_max=5, slots=8)
STATION = 2


def trained(folder: Path, **options: str) -> Path:
    settings = {"pool_min": 15, "batch": 8} | options
    run = TrainingRun(
        policy="lad_ts_published",
        scenario=TINY,
        options=settings,
        seed=1,
        episodes=2,
        folder=folder,
        tensorboard=False,
    )
    train(run, lambda report: None)
    return folder / "policy.safetensors"


def policy(path: Path, **options: Any) -> PublishedLadTsPolicy:
    made = registry.create(
        "lad_ts_published", rng=np.random.default_rng(7), checkpoint_path=str(path), **options
    )
    assert isinstance(made, PublishedLadTsPolicy)
    return made


def observe(**changed: Any) -> Observation:
    observation = Observation(
        node_ids=("a", "b", "c", "d"),
        local=STATION,
        work=2.5,
        input_bits=3_000_000,
        backlog_B=np.array([4.0, 0.0, 9.0, 30.0]),
        own_B=np.array([0.0, 1.0, 0.0, 0.0]),
        capacity_B=np.array([10.0, 20.0, 30.0, 40.0]),
        link_s_B=np.zeros(4),
        staleness_s_B=np.zeros(4),
        alive_B=np.ones(4, np.bool_),
        latent_B=np.array([0.1, 0.2, 0.3, 0.4]),
    )
    return replace(observation, **changed)


@pytest.mark.parametrize("options", [{}, {"state": "normal"}, {"softmax": "false"}])
def test_it_computes_what_the_trained_network_computes(
    tmp_path: Path, options: dict[str, str]
) -> None:
    path = trained(tmp_path, noise="none", **options)
    kept = checkpoint.load(tmp_path / "training.safetensors", kind="training")
    learner = learners.create("lad_ts_published", TINY, {"noise": "none"} | options, seed=0)
    assert isinstance(learner, PublishedLadTs)
    actor = learner.actor
    actor.load_state_dict(
        {
            name.removeprefix("learner/actor/"): torch.from_numpy(array)
            for name, array in kept.arrays.items()
            if name.startswith("learner/actor/")
        }
    )
    divisors = torch.from_numpy(learner.scale.array()).float()
    raw_S = torch.tensor([3.0, 2.5, 4.0, 1.0, 9.0, 30.0])
    scale_S = divisors if len(divisors) == 6 else torch.ones(6)
    state_ASM = (raw_S / scale_S).expand(4, 6)[:, :, None].contiguous()
    latent_ABM = torch.tensor([0.1, 0.2, 0.3, 0.4]).expand(4, 4)[:, :, None].contiguous()
    condition = actor.condition(state_ASM)
    x0_ABM = denoise(
        latent_ABM,
        lambda x, step: actor(x, condition, step),
        variance_preserving(5, noise="none"),
        torch.empty(0),
    )
    wanted_B = x0_ABM[STATION, :, 0].softmax(0).detach().numpy()
    np.testing.assert_allclose(policy(path).chances(observe()), wanted_B, rtol=1e-4, atol=1e-6)
    another_B = x0_ABM[0, :, 0].softmax(0).detach().numpy()
    np.testing.assert_allclose(
        policy(path, station=0).chances(observe()), another_B, rtol=1e-4, atol=1e-6
    )


def test_its_noise_is_the_trainings_noise(tmp_path: Path) -> None:
    # x0 = 12.5 x_I - 17.5 eps + N(0, 5.1^2): with eps a softmax that hardly moves, the spread of
    # a difference of two logits is 5.1 sqrt(2).
    chooser = policy(trained(tmp_path))
    logs = np.log([chooser.chances(observe()) for _ in range(4000)])
    assert np.std(logs[:, 0] - logs[:, 3]) == pytest.approx(5.113 * np.sqrt(2), rel=0.05)


def test_a_decision_carries_its_latent_and_the_weights_version(tmp_path: Path) -> None:
    chooser = policy(trained(tmp_path))
    decision = chooser.decide(observe())
    assert decision.latent_B is not None
    assert decision.latent_B.sum() == pytest.approx(1.0)
    assert decision.policy == "lad_ts_published"
    assert decision.weights_version == chooser.version
    assert chooser.version.startswith("lad_ts_published-2-")
    assert policy(tmp_path / "policy.safetensors").version == chooser.version
    first = chooser.decide(observe(latent_B=None))  # nothing is kept yet
    assert first.latent_B is not None


def test_choices_follow_the_chances_and_spare_the_dead(tmp_path: Path) -> None:
    path = trained(tmp_path, noise="none", softmax="false")
    sampled, best = policy(path), policy(path, evaluation="argmax")
    chance_B = sampled.chances(observe())
    counts = Counter(sampled.decide(observe()).choice for _ in range(4000))
    for server, chance in enumerate(chance_B):
        assert counts[server] / 4000 == pytest.approx(chance, abs=0.03)
    assert best.decide(observe()).choice == int(chance_B.argmax())
    for dead in range(4):
        alive_B = np.arange(4) != dead
        for chooser in (sampled, best):
            seen = observe(alive_B=alive_B)
            assert all(chooser.decide(seen).choice != dead for _ in range(50))


def test_what_it_cannot_decide_it_says(tmp_path: Path) -> None:
    path = trained(tmp_path)
    chooser = policy(path)
    with pytest.raises(
        ValueError, match=r"3 candidates; weights lad_ts_published-2-\w+ are for 4 servers"
    ):
        chooser.decide(observe(node_ids=("a", "b", "c")))
    with pytest.raises(ValueError, match="backlog of server 1 of task 0 is nan"):
        chooser.decide(observe(backlog_B=np.array([0.0, np.nan, 0.0, 0.0])))
    with pytest.raises(ValueError, match="give the policy a station"):
        chooser.decide(observe(local=None))
    assert policy(path, station=1).decide(observe(local=None)).choice in range(4)
    with pytest.raises(InvalidCheckpoint, match="4 stations; there is no 4"):
        policy(path, station=4)
    with pytest.raises(ValueError, match="choose sample or argmax"):
        policy(path, evaluation="best")


def test_a_missing_or_foreign_checkpoint_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="needs the option checkpoint_path"):
        registry.create("lad_ts_published", rng=rng, station=1)
    with pytest.raises(InvalidCheckpoint, match="there is no such file"):
        lad_ts_published(rng=rng, checkpoint_path=str(tmp_path / "none"))
    path = trained(tmp_path)
    loaded = checkpoint.load(path, kind="policy")
    foreign = replace(loaded, info=replace(loaded.info, policy="dqn"))
    checkpoint.save(path, foreign)
    with pytest.raises(InvalidCheckpoint, match="of dqn, not of"):
        policy(path)


def test_a_chain_starts_live_as_it_did_in_training(tmp_path: Path) -> None:
    path = trained(tmp_path, noise="none", start="zero")
    chance_B = policy(path).chances(observe())
    other_B = policy(path).chances(observe(latent_B=np.array([0.9, 0.1, 0.0, 0.0])))
    np.testing.assert_array_equal(chance_B, other_B)
    loaded = checkpoint.load(path, kind="policy")
    config = loaded.info.config | {"start": "gaussian"}
    checkpoint.save(path, replace(loaded, info=replace(loaded.info, config=config)))
    chooser = policy(path)
    assert (chooser.chances(observe()) != chooser.chances(observe())).any()


def test_every_server_number_has_its_own_scale(tmp_path: Path) -> None:
    path = trained(tmp_path, state="normal")
    arrays = checkpoint.load(path, kind="policy").arrays
    assert arrays["state_scale"].shape == (6,)
    assert arrays["coefficients"].shape == (3, 5)


class Tossed:
    """A generator that tosses what it is told to."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


@pytest.mark.parametrize(
    ("tossed", "choice"), [(0.0, 1), (0.2, 1), (0.34, 1), (0.41, 2), (0.9, 2), (0.999999, 2)]
)
def test_a_toss_counts_among_the_living(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tossed: float, choice: int
) -> None:
    chooser = policy(trained(tmp_path))
    monkeypatch.setattr(chooser, "chances", lambda _: np.array([0.1, 0.2, 0.3, 0.4]))
    chooser._rng = Tossed(tossed)  # type: ignore[assignment]
    seen = observe(alive_B=np.array([False, True, True, False]))
    # Of .5 altogether the first .2 are node b's.
    assert chooser.decide(seen).choice == choice

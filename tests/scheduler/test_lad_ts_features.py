"""LAD-TS live and compiled: the same features, random numbers and choices, decision by decision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from scheduler.learning.diffusion import variance_preserving
from scheduler.learning.equivariant import DenoisingActor, encoded
from scheduler.observation import FloatArray, Observation, Traffic
from scheduler.policies.lad_ts_features import WAITS, filled, inputs, look
from scheduler.policies.lad_ts_policy import Actor, Chain, LadTs, Weights, shapes
from scheduler.simulator import scenarios
from scheduler.simulator.lad_ts_kernel import PLACES_MAX, PRIOR_TASKS, play
from scheduler.simulator.random_clusters import clusters
from scheduler.simulator.rules.view import book, facts_of, link_s, open_view
from scheduler.simulator.rules.view import look as look_at
from scheduler.simulator.workload import Episode, draw


def some_actor(seed: int, *, steps: int = 5, hidden: int = 16) -> Actor:
    rng = np.random.default_rng(seed)
    arrays = {
        name: rng.normal(size=shape) / np.sqrt(shape[0])
        for name, shape in shapes(steps=steps, hidden=hidden).items()
    }
    return Actor.of_arrays(arrays, Path("some"))


def as_a_station_sees(episode: Episode, server_N: np.ndarray, tasks: int) -> list[Observation]:
    """What the deciding stations know at each of the first tasks, latents excepted."""
    facts = facts_of(episode)
    view = open_view(facts)
    seen, came, load, mean_work, report_s = [], 0.0, 1.0, 1.0, -1.0
    refresh_s, servers = episode.scenario.refresh_s, episode.servers
    for task in range(tasks):
        now_s, home = episode.arrival_s_N[task], int(episode.origin_N[task])
        look_at(facts, view, now_s)
        published_s = view.clock_s[1] if refresh_s > 0.0 else now_s
        if published_s != report_s:
            report_s = published_s
            mean_work = (came + episode.work_N[0]) / (task + 1)
            capacity = view.capacity_B.sum()
            up = int((view.capacity_B > 0.0).sum())
            prior_s = refresh_s + PRIOR_TASKS * mean_work * up / capacity
            load = (came / capacity + prior_s) / (report_s + prior_s) if report_s > 0.0 else 1.0
        seen.append(
            Observation(
                node_ids=tuple(f"n{server:02}" for server in range(servers)),
                local=home,
                work=float(episode.work_N[task]),
                input_bits=0,
                backlog_B=view.backlog_B.copy(),
                own_B=view.own_SB[home].copy(),
                capacity_B=view.capacity_B.copy(),
                link_s_B=np.array([link_s(facts, task, server) for server in range(servers)]),
                staleness_s_B=np.full(servers, now_s - report_s),
                alive_B=view.capacity_B > 0.0,
                dispatchers=facts.stations,
                traffic=Traffic(mean_work=mean_work, load=load, report_period_s=refresh_s),
            )
        )
        came += episode.work_N[task]
        book(facts, view, task, server_N[task])
    return seen


def decided_live(
    episode: Episode, seen: list[Observation], policy: LadTs
) -> tuple[list[int], list[FloatArray]]:
    kept: dict[tuple[int, int], FloatArray] = {}
    choices, latents = [], []
    for task, observation in enumerate(seen):
        place = int(episode.origin_N[task]), min(int(episode.index_N[task]), PLACES_MAX - 1)
        latent_B = kept.get(place)
        with_latent = Observation(**{**vars(observation), "latent_B": latent_B})
        decision = policy.decide(with_latent)
        assert decision.latent_B is not None
        kept[place] = decision.latent_B
        choices.append(decision.choice)
        latents.append(decision.latent_B)
    return choices, latents


EPISODES = {
    scenario.name: draw(scenario, np.random.default_rng(3))
    for scenario in (
        *clusters(11, 5, family="training"),
        scenarios.get("outage"),
        scenarios.get("fdedge"),
    )
}


@pytest.mark.parametrize(
    "chain",
    [Chain(), Chain(start="gaussian", noise="posterior", evaluation="sample"), Chain(start="zero")],
    ids=str,
)
@pytest.mark.parametrize("name", EPISODES)
def test_the_live_policy_decides_as_the_compiled_one(name: str, chain: Chain) -> None:
    episode = EPISODES[name]
    actor = some_actor(1)
    tasks = min(episode.tasks, 250)
    played = play(episode, actor, chain, np.random.default_rng(5))
    seen = as_a_station_sees(episode, played.server_N, tasks)
    weights = Weights(actor=actor, version="some")
    policy = LadTs(rng=np.random.default_rng(5), weights=weights, chain=chain)
    choices, _ = decided_live(episode, seen, policy)
    assert choices == played.server_N[:tasks].tolist()
    assert len(set(choices)) > 1


@pytest.mark.parametrize("name", EPISODES)
def test_recorded_features_are_those_of_the_live_policy(name: str) -> None:
    episode = EPISODES[name]
    played = play(episode, some_actor(2), Chain(), np.random.default_rng(7), record=True)
    tasks = min(episode.tasks, 60)
    rng = np.random.default_rng(7)
    for task, observation in enumerate(as_a_station_sees(episode, played.server_N, tasks)):
        usable_B = np.flatnonzero(observation.alive_B)
        seen = look(observation, usable_B, rng)
        found_BV = played.server_NBV[task, usable_B]
        np.testing.assert_allclose(found_BV, seen.server_BS, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(played.context_NC[task], seen.context_C, rtol=1e-5, atol=1e-6)
        assert played.unit_s_N[task] == pytest.approx(seen.unit_s)


def test_the_torch_actor_and_the_numpy_actor_denoise_alike() -> None:
    generator = torch.Generator().manual_seed(4)
    network = DenoisingActor(16, 5, generator)
    actor = Actor.of_arrays(network.export(), Path("some"))
    schedule = variance_preserving(5, noise="none")
    rng = np.random.default_rng(6)
    for episode in EPISODES.values():
        played = play(episode, actor, Chain(), rng, record=True)
        task, servers = episode.tasks // 2, episode.servers
        padded_BV = np.zeros((1, servers + 3, played.server_NBV.shape[2]), np.float32)
        padded_BV[0, :servers] = played.server_NBV[task]
        present_MB = torch.zeros(1, servers + 3)
        present_MB[0, :servers] = 1.0
        context_MC = torch.from_numpy(played.context_NC[task][None])
        input_MBF = encoded(torch.from_numpy(padded_BV), context_MC, present_MB)
        seen = (played.server_NBV[task].astype(float), played.context_NC[task].astype(float), 1.0)
        input_BF = inputs(seen)  # type: ignore[arg-type]
        np.testing.assert_allclose(input_MBF[0, :servers].numpy(), input_BF, atol=1e-5)
        x_B = rng.normal(size=servers)
        x_MB = torch.zeros(1, servers + 3)
        x_MB[0, :servers] = torch.from_numpy(x_B)
        log_MB = network(input_MBF, present_MB, x_MB, schedule, generator)
        x0_B = actor.denoised(input_BF, x_B.copy(), schedule, rng)
        chance_B = np.exp(x0_B - x0_B.max()) / np.exp(x0_B - x0_B.max()).sum()
        np.testing.assert_allclose(log_MB[0, :servers].exp().detach(), chance_B, atol=1e-4)
        assert not log_MB[0, servers:].exp().any()


def test_servers_have_no_names() -> None:
    """Another order of the servers is another order of the chances."""
    rng = np.random.default_rng(8)
    actor, servers = some_actor(3), 7
    input_BF = rng.normal(size=(servers, len(actor.skip_F)))
    x_B, order = rng.normal(size=servers), rng.permutation(servers)
    schedule = variance_preserving(5, noise="none")
    once = actor.denoised(input_BF, x_B, schedule, rng)
    again = actor.denoised(input_BF[order], x_B[order], schedule, rng)
    np.testing.assert_allclose(again, once[order])
    assert np.ptp(once) > 0.1


@pytest.mark.parametrize("tasks", [0, 1, 3, 7, 14, 15, 40, 1000])
def test_tasks_are_filled_in_one_after_another(tasks: int) -> None:
    """Against the definition: each task goes where it ends first; most of many like water."""
    rng = np.random.default_rng(tasks)
    capacity_B, load_B = rng.uniform(1.0, 10.0, 7), rng.uniform(0.0, 30.0, 7)
    added_B = filled(load_B, capacity_B, tasks, 2.0)
    assert added_B.sum() == pytest.approx(2.0 * tasks)
    expected_B = np.zeros(7)
    for _ in range(tasks):
        expected_B[np.argmin((load_B + expected_B + 0.4 * 2.0) / capacity_B)] += 2.0
    if tasks <= 14:
        np.testing.assert_allclose(added_B, expected_B)
    else:
        assert np.abs(added_B - expected_B).max() < 2.5 * 2.0


def test_guesses_are_none_for_a_single_dispatcher_and_where_all_is_fresh() -> None:
    observation = Observation(
        node_ids=("a", "b", "c"),
        local=1,
        work=2.0,
        input_bits=0,
        backlog_B=np.array([4.0, 1.0, 0.0]),
        own_B=np.zeros(3),
        capacity_B=np.array([1.0, 2.0, 4.0]),
        link_s_B=np.array([0.1, 0.0, 0.2]),
        staleness_s_B=np.array([3.0, 0.0, 3.0]),
        alive_B=np.ones(3, bool),
        dispatchers=1,
        traffic=Traffic(mean_work=2.0, load=0.9, report_period_s=5.0),
    )
    rng = np.random.default_rng(0)
    alone = look(observation, np.arange(3), rng).server_BS[:, :WAITS]
    np.testing.assert_allclose(alone, np.tile(alone[:, :1], WAITS))
    many = Observation(**{**vars(observation), "dispatchers": 3})
    waits_BW = look(many, np.arange(3), rng).server_BS[:, :WAITS]
    # The deciding node's own queue is no guess by time; the others' have grown.
    assert waits_BW[1, 1] == waits_BW[1, 0]
    assert waits_BW[2, 1] > waits_BW[2, 0]
    assert (waits_BW[:, 3] >= waits_BW[:, 0]).all()

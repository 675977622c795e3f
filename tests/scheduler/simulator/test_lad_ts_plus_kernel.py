"""LAD-TS+ compiled against its live twin, and what its terms are there for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from scheduler.observation import Observation, Traffic
from scheduler.policies.lad_ts_plus_policy import (
    CONTEXT,
    GAINS,
    MODULATION,
    SERVER,
    LadTsPlus,
    Weights,
)
from scheduler.simulator.lad_ts_plus_kernel import LadTsPlusDispatcher
from scheduler.simulator.queueing import FloatArray, IntArray
from scheduler.simulator.scenario import CapacityChange, Scenario
from scheduler.simulator.service import Discipline, service_delay_s
from scheduler.simulator.workload import Episode, draw

SMALL = Scenario(name="small", servers=4, slots=6, tasks_per_slot_max=9)
OUTAGE = (
    CapacityChange(at_s=2.0, server=0, factor=0.0),
    CapacityChange(at_s=4, server=0, factor=1),
)


def weights(seed: int | None, scale: float = 0.3) -> Weights:
    rng = np.random.default_rng(seed)
    scale = 0.0 if seed is None else scale
    return Weights(
        gains_CG=rng.normal(0, scale, (len(CONTEXT), len(GAINS))),
        reorder_gains_CG=rng.normal(0, scale, (len(CONTEXT), len(GAINS))),
        price_SM=rng.normal(0, scale, (len(SERVER), len(MODULATION))),
        version="test",
    )


def place_live(episode: Episode, learned: Weights, price: float) -> IntArray:
    """What the live policy decides when it is shown, task by task, what a station knows."""
    scenario = episode.scenario
    stations, servers = scenario.servers, episode.servers
    policy = LadTsPlus(rng=np.random.default_rng(0), weights=learned, price=price)
    queue_B, seen_B = np.zeros(servers), np.zeros(servers)
    queued_B, seen_queued_B = np.zeros(servers), np.zeros(servers)
    own_SB = np.zeros((stations, servers))
    latents: dict[tuple[int, int], FloatArray] = {}
    now_s, report_s, work, load, mean_work = 0.0, -1.0, 0.0, 1.0, 1.0
    chosen = np.empty(episode.tasks, np.int64)
    for task in range(episode.tasks):
        arrival_s = float(episode.arrival_s_N[task])
        for second in range(int(now_s), int(arrival_s)):  # changes are at whole seconds here
            capacity_B = episode.capacity_KB[
                np.searchsorted(episode.since_s_K, second, side="right") - 1
            ]
            left_B = np.maximum(queue_B - capacity_B, 0.0)
            queued_B *= np.divide(left_B, queue_B, out=np.zeros(servers), where=queue_B > 0)
            queue_B = left_B
        now_s = arrival_s
        stretch = int(np.searchsorted(episode.since_s_K, now_s, side="right")) - 1
        believed_B = episode.believed_KB[stretch]
        report = np.floor(now_s / scenario.refresh_s + 1e-9) * scenario.refresh_s
        if report != report_s:
            report_s, seen_B, seen_queued_B = report, queue_B.copy(), queued_B.copy()
            own_SB[:] = 0.0
            mean_work = (work + episode.work_N[0]) / (task + 1)
            capacity = believed_B.sum()
            prior_s = scenario.refresh_s + 10 * mean_work * (believed_B > 0).sum() / capacity
            load = (work / capacity + prior_s) / (report_s + prior_s) if report_s > 0 else 1.0
        origin, key = int(episode.origin_N[task]), (episode.origin_N[task], episode.index_N[task])
        link_s_B = episode.input_mbit_N[task] / episode.link_mbit_s_B
        link_s_B[origin] = 0.0
        decision = policy.decide(
            Observation(
                node_ids=tuple(str(server) for server in range(servers)),
                local=origin,
                work=float(episode.work_N[task]),
                input_bits=0,
                backlog_B=np.maximum(seen_B - (now_s - report_s) * believed_B, 0.0),
                own_B=own_SB[origin],
                capacity_B=believed_B,
                link_s_B=link_s_B,
                staleness_s_B=np.zeros(servers),
                alive_B=believed_B > 0.0,
                dispatchers=stations,
                latent_B=latents.get(key),
                queued_B=seen_queued_B,
                traffic=Traffic(
                    mean_work=float(mean_work),
                    load=float(load),
                    report_period_s=scenario.refresh_s,
                ),
            )
        )
        assert decision.latent_B is not None
        latents[key] = decision.latent_B
        chosen[task] = decision.choice
        queue_B[decision.choice] += episode.work_N[task]
        queued_B[decision.choice] += 1.0
        own_SB[origin, decision.choice] += episode.work_N[task]
        work += float(episode.work_N[task])
    return chosen


@pytest.mark.parametrize("price", [0.0, 0.7])
@pytest.mark.parametrize("changes", [(), OUTAGE])
@pytest.mark.parametrize("seed", [None, 1])
def test_the_live_policy_and_the_compiled_one_decide_the_same(
    seed: int | None, changes: tuple[CapacityChange, ...], price: float
) -> None:
    episode = draw(SMALL.replace(changes=changes), np.random.default_rng(7))
    compiled = LadTsPlusDispatcher(weights(seed), price=price)
    assert np.array_equal(
        compiled.place(episode, np.random.default_rng(0)),
        place_live(episode, weights(seed), price),
    )


def test_no_choice_depends_on_when_the_run_ends() -> None:
    episode = draw(SMALL.replace(tasks_per_slot_max=12), np.random.default_rng(7))
    longer = dataclasses.replace(
        episode, scenario=episode.scenario.replace(slots=100 * episode.scenario.slots)
    )
    for reorder in (False, True):
        priced = LadTsPlusDispatcher(weights(1), price=1.0, reorder=reorder)
        free = LadTsPlusDispatcher(weights(1), reorder=reorder)
        rng = np.random.default_rng(0)
        placed_N = priced.place(episode, rng)
        assert np.array_equal(placed_N, priced.place(longer, rng))
        assert not np.array_equal(placed_N, free.place(episode, rng)), "the price decides"


def mean_delay_s(scenario: Scenario, dispatcher: LadTsPlusDispatcher, order: str = "fcfs") -> float:
    delays = []
    for seed in range(3):
        episode = draw(scenario, np.random.default_rng(seed))
        server_N = dispatcher.place(episode, np.random.default_rng(seed))
        delays.append(service_delay_s(episode, server_N, Discipline.parse(order)).mean())
    return float(np.mean(delays))


def test_the_ring_keeps_stations_apart_where_noise_lets_them_collide() -> None:
    scenario = Scenario(name="N=38", tasks_per_slot_max=38)
    mean_s = {
        start: mean_delay_s(scenario, LadTsPlusDispatcher(weights(None), start=start))
        for start in ("memory", "ring", "gaussian")
    }
    assert mean_s["ring"] < 0.95 * mean_s["gaussian"]
    assert mean_s["memory"] < mean_s["ring"]


def test_knowing_that_servers_reorder_pays_where_they_do() -> None:
    scenario = Scenario(name="default", slots=30)
    told = mean_delay_s(scenario, LadTsPlusDispatcher(weights(None), reorder=True), "srpt")
    not_told = mean_delay_s(scenario, LadTsPlusDispatcher(weights(None)), "srpt")
    assert told < not_told


def test_dead_servers_get_nothing_and_a_dead_cluster_is_an_error() -> None:
    dead = tuple(CapacityChange(at_s=0.0, server=index, factor=0.0) for index in range(3))
    episode = draw(SMALL.replace(changes=dead), np.random.default_rng(0))
    server_N = LadTsPlusDispatcher(weights(None)).place(episode, np.random.default_rng(0))
    assert set(server_N) == {int(episode.capacity_KB[0].argmax())}
    all_dead = (*dead, CapacityChange(at_s=0.0, server=3, factor=0.0))
    episode = draw(SMALL.replace(changes=all_dead), np.random.default_rng(0))
    with pytest.raises(ValueError, match="no server is believed to work"):
        LadTsPlusDispatcher(weights(None)).place(episode, np.random.default_rng(0))


def test_weights_of_another_shape_or_with_nan_are_refused() -> None:
    good = weights(1)
    with pytest.raises(ValueError, match="gains_CG has shape"):
        dataclasses.replace(good, gains_CG=good.gains_CG[:3])
    broken = good.price_SM.copy()
    broken[1, 2] = np.nan
    with pytest.raises(ValueError, match="price_SM holds a value that is not finite"):
        dataclasses.replace(good, price_SM=broken)

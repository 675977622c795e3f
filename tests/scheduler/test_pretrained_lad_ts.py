"""The LAD-TS that ships: any names, any units, any order; and honest about what it was not for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scheduler import checkpoint, registry
from scheduler.learning import pretraining
from scheduler.learning.pretraining import as_one_station, cluster, scale, train_one
from scheduler.observation import Observation, Traffic
from scheduler.policies.pretrained_lad_ts import (
    PRETRAINED,
    SERVERS_MAX,
    SERVERS_MIN,
    PretrainedLadTs,
    in_units_of_training,
    packed,
    unpacked,
)
from scheduler.policy import UnknownMembership
from scheduler.simulator.workload import draw, mean_work


def observe(capacity_B: np.ndarray, *, backlog_B: np.ndarray | None = None) -> Observation:
    count = len(capacity_B)
    return Observation(
        node_ids=tuple(f"n{index}" for index in range(count)),
        local=0,
        work=12.0,
        input_bits=8000,
        backlog_B=np.zeros(count) if backlog_B is None else backlog_B,
        own_B=np.zeros(count),
        capacity_B=capacity_B,
        link_s_B=np.zeros(count),
        staleness_s_B=np.zeros(count),
        alive_B=np.ones(count, np.bool_),
        traffic=Traffic(mean_work=10.0),
    )


def shipped() -> PretrainedLadTs:
    made = registry.create("lad_ts", rng=np.random.default_rng(3))
    assert isinstance(made, PretrainedLadTs)
    return made


def mean_delay_s(choose: Callable[[Observation], int], servers: int) -> float:
    """Of tasks of 10 units at load .8, on nodes up to four times as fast as the slowest."""
    rng = np.random.default_rng(servers)
    capacity_B, backlog_B, delays_s = np.linspace(1.0, 4.0, servers), np.zeros(servers), []
    for _ in range(100 + 25 * servers):
        backlog_B = np.maximum(
            backlog_B - capacity_B * rng.exponential(10.0 / (0.8 * capacity_B.sum())), 0.0
        )
        chosen = choose(replace(observe(capacity_B, backlog_B=backlog_B), work=10.0))
        backlog_B[chosen] += 10.0
        delays_s.append(backlog_B[chosen] / capacity_B[chosen])
    return float(np.mean(delays_s))


@pytest.mark.parametrize("servers", range(SERVERS_MIN, SERVERS_MAX + 1))
def test_it_reads_the_queues_of_every_number_of_nodes(servers: int) -> None:
    chooser, rng = shipped(), np.random.default_rng(1)
    learned_s = mean_delay_s(lambda seen: chooser.decide(seen).choice, servers)
    blind_s = mean_delay_s(lambda _: int(rng.integers(servers)), servers)
    assert learned_s < 0.8 * blind_s
    decision = chooser.decide(observe(np.linspace(1.0, 4.0, servers)))
    assert decision.policy == "lad_ts"
    assert decision.weights_version is not None
    assert decision.latent_B is not None
    assert decision.latent_B.sum() == pytest.approx(1.0)


def test_other_numbers_of_nodes_are_unknown() -> None:
    for servers in (1, SERVERS_MAX + 1):
        with pytest.raises(UnknownMembership, match="LAD-TS ships for 2 to 40"):
            shipped().decide(observe(np.ones(servers)))


def test_it_takes_a_few_hundred_kilobytes() -> None:
    assert PRETRAINED.stat().st_size < 800_000


def test_neither_units_nor_names_matter() -> None:
    capacity_B, backlog_B = np.array([1.0, 4.0, 2.0]), np.array([3.0, 40.0, 5.0])
    seen = observe(capacity_B, backlog_B=backlog_B)
    larger = replace(
        seen,
        work=seen.work * 7,
        backlog_B=backlog_B * 7,
        capacity_B=capacity_B * 70,  # ten times as fast in units of which a task has seven
        traffic=Traffic(mean_work=70.0),
    )
    one, other = shipped().decide(seen), shipped().decide(larger)
    assert one.latent_B is not None
    assert other.latent_B is not None
    np.testing.assert_allclose(one.latent_B, other.latent_B, rtol=1e-4)
    turned = np.array([2, 0, 1])
    moved = replace(seen, capacity_B=capacity_B[turned], backlog_B=backlog_B[turned])
    again = shipped().decide(moved)
    assert again.latent_B is not None
    np.testing.assert_allclose(again.latent_B, one.latent_B[turned], rtol=1e-4)


def test_the_dead_are_spared_and_the_unmeasured_do_no_harm() -> None:
    seen = replace(
        observe(np.array([0.0, 4.0, 2.0]), backlog_B=np.array([5.0, 0.0, 0.0])),
        alive_B=np.array([False, False, True]),
        traffic=None,
    )
    assert all(shipped().decide(seen).choice == 2 for _ in range(20))
    nothing = observe(np.zeros(3), backlog_B=np.ones(3))
    with pytest.raises(ValueError, match="finite"):
        shipped().decide(nothing)


def test_live_and_training_have_the_same_units() -> None:
    scenario = cluster(4, np.random.default_rng(1))
    assert scenario.capacities is not None
    capacity_B, work = np.array(scenario.capacities), mean_work(scenario)
    backlog_B = np.array([1.0, 2.0, 3.0, 4.0])
    live = replace(
        observe(capacity_B, backlog_B=backlog_B), work=work / 2, traffic=Traffic(mean_work=work)
    )
    order_B, seen = in_units_of_training(live)
    assert list(order_B) == [0, 1, 2, 3]
    units = scale(scenario)
    np.testing.assert_allclose(seen.load_B / 8.0, backlog_B / np.array(units.backlog_B))
    assert seen.work / 2.0 == pytest.approx(work / 2 / units.work)


def test_one_station_has_all_tasks() -> None:
    episode = draw(cluster(3, np.random.default_rng(1)), np.random.default_rng(2))
    merged = as_one_station(episode)
    assert (merged.origin_N == 0).all()
    first_N = np.flatnonzero(np.diff(merged.slot_N, prepend=-1))
    assert (merged.index_N[first_N] == 0).all()
    assert merged.index_N.max() < merged.scenario.tasks_per_slot_max


def test_packed_weights_come_apart_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "MEASURED_EPISODES", 1)
    monkeypatch.setattr(pretraining, "VALIDATED_EVERY", 1)
    monkeypatch.setattr(pretraining, "VALIDATED_EPISODES", 1)
    trained = {servers: train_one(servers, episodes=1, seed=0) for servers in (2, 3)}
    path = tmp_path / "pack.safetensors"
    checkpoint.save(path, packed(trained))
    pack = checkpoint.load(path, kind="policy")
    for servers, one in trained.items():
        again = unpacked(pack, servers)
        assert again.arrays.keys() == one.arrays.keys()
        for name, array in one.arrays.items():
            np.testing.assert_array_equal(again.arrays[name], array)
    with pytest.raises(UnknownMembership):
        unpacked(pack, 4)


def test_an_unknown_way_to_choose_is_refused() -> None:
    with pytest.raises(ValueError, match="choose sample or argmax"):
        registry.create("lad_ts", rng=np.random.default_rng(1), evaluation="best")

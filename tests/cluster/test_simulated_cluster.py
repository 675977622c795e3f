"""Nodes under hundreds of seeds of faults: nothing is lost, nothing contradicts itself.

`make seeds N=5000` runs more of them; `make seeds SEED=17` one again, with its story.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from edge_node.clock import Moment
from edge_node.tasks.lifecycle_limits import EVENTS_OF_A_LIFE_MAX
from tests.cluster.process import LIMITS
from tests.cluster.simulated_cluster import (
    LISTS,
    MODELS,
    SimulatedCluster,
    machines,
    run_draining,
    run_faulty,
    run_helping,
    run_mixed,
    run_quiet,
)
from tests.cluster.users import Told

SEEDS = int(os.environ.get("SEEDS", "200"))
QUIET_SEEDS = 20
MIXED_SEEDS = 60
HELPING_SEEDS = 60
counted = pytest.mark.skipif(SEEDS < 200, reason="too few seeds to reach everything often")


@pytest.fixture(scope="module")
def clusters() -> list[SimulatedCluster]:
    return [run_faulty(seed) for seed in range(SEEDS)]


@counted
def test_the_seeds_exercise_what_they_are_for(clusters: list[SimulatedCluster]) -> None:
    told = [told for cluster in clusters for told in cluster.users.told.values()]
    ends = Counter(one.final.kind.value for one in told if one.final is not None)
    assert ends["finished"] > 8 * SEEDS
    assert ends["failed"] > 50
    assert ends["cancelled"] > 20
    codes = Counter(one.final.error.code for one in told if one.final and one.final.error)
    for code in ("deadline_exceeded", "image_store_failed"):
        assert codes[code] > 5, codes
    attempts = [len({e.attempt for e in one.events if e.executor}) for one in told]
    assert sum(count > 1 for count in attempts) > 2 * SEEDS
    assert sum(cluster.users.conflicts for cluster in clusters) > SEEDS
    assert sum(cluster.users.lists_read for cluster in clusters) > 2 * SEEDS
    kinds = Counter(fault.split()[2] for cluster in clusters for fault in cluster.faults)
    assert min(kinds.values()) > 20, kinds


@counted
def test_every_event_and_instruction_is_reached(clusters: list[SimulatedCluster]) -> None:
    stopped = [run_draining(seed) for seed in range(QUIET_SEEDS)]
    seen: Counter[str] = sum((cluster.seen for cluster in [*clusters, *stopped]), Counter())
    seldom = [
        f"{name}.{kind.__name__}"
        for name, kinds in machines().items()
        for kind in kinds
        if seen[f"{name}.{kind.__name__}"] < 10
    ]
    assert not seldom, seen


def test_drawings_move_and_no_more_often_than_they_may(clusters: list[SimulatedCluster]) -> None:
    moves = [
        event.move
        for cluster in clusters
        for told in cluster.users.told.values()
        for event in told.events
        if event.move is not None
    ]
    reasons = Counter(move.reason for move in moves)
    assert reasons["idle"] > len(clusters), reasons
    assert not [move for move in moves if move.source == move.target]
    for cluster in clusters:
        for told in cluster.users.told.values():
            lives = Counter(
                event.sequence // EVENTS_OF_A_LIFE_MAX
                for event in told.events
                if event.move and event.move.reason != "draining"
            )
            assert max(lives.values(), default=0) <= LIMITS.moves_max


def test_a_seed_tells_the_same_story_again() -> None:
    first, second = run_faulty(3), run_faulty(3)
    assert first.faults == second.faults
    assert first.seen == second.seen
    assert [told.events for told in first.users.told.values()] == [
        told.events for told in second.users.told.values()
    ]


@pytest.mark.parametrize("seed", range(QUIET_SEEDS))
def test_where_nodes_are_told_to_stop_no_step_is_drawn_twice(seed: int) -> None:
    cluster = run_draining(seed)
    assert any(told.final for told in cluster.users.told.values())


@pytest.mark.parametrize("seed", range(QUIET_SEEDS))
def test_where_nothing_fails_everything_is_drawn_once(seed: int) -> None:
    """Attempts that last longer than a lease and queues longer than it, included."""
    cluster = run_quiet(seed)
    assert any(told.final for told in cluster.users.told.values())
    assert cluster.users.lists_read > LISTS // 4


@pytest.mark.parametrize("seed", range(QUIET_SEEDS))
def test_any_node_takes_any_model_where_nothing_fails(seed: int) -> None:
    cluster = run_quiet(seed, models=MODELS)
    drawn = {drawn_by(told) for told in finished(cluster)}
    assert len(drawn) > 1, "nodes of both models draw"
    assert not cluster.users.refused.keys() & {"model_not_found", "model_away"}


def test_two_models_come_through_all_faults() -> None:
    drawn: Counter[str] = Counter()
    for seed in range(MIXED_SEEDS):
        cluster = run_mixed(seed)
        for told in finished(cluster):
            where = {told.task_id[:2], drawn_by(told)}
            models = {place.model for place in cluster.places if place.node_id in where}
            drawn["elsewhere" if len(models) > 1 else "alike"] += 1
    assert drawn["elsewhere"] > 3 * MIXED_SEEDS, drawn


def finished(cluster: SimulatedCluster) -> list[Told]:
    """Of those whose images were seen."""
    return [told for told in cluster.users.told.values() if told.image is not None]


def drawn_by(told: Told) -> str:
    """The node whose worker drew it, as its image says."""
    assert told.image is not None
    return told.image.decode().split("/")[2]


def test_a_policy_with_latents_decides_through_all_faults() -> None:
    latents = 0
    for seed in range(15):
        cluster = run_faulty(seed, policy="lad_ts_plus")
        at = Moment(now_s=cluster.time.now_s, unix_s=cluster.time.now_s)
        for node in cluster.nodes:
            snapshot = node.memory.snapshot(at)
            latents += 0 if snapshot is None else len(snapshot.latents | snapshot.open_latents)
    assert latents > 40


@counted
def test_idle_devices_help_through_faults_and_without() -> None:
    """What is drawn, told and promised is as it is without them; steps are shared all the same."""
    faulty = [run_helping(seed) for seed in range(HELPING_SEEDS)]
    quiet = [run_quiet(seed, helping=True) for seed in range(QUIET_SEEDS)]
    for clusters in (faulty, quiet):
        nodes = [node for one in clusters for node in [*one.nodes, *one.past]]
        assert sum(node.worker.steps_shared for node in nodes) > len(clusters)
        assert sum(node.worker.rows_given for node in nodes) > 2 * len(clusters)

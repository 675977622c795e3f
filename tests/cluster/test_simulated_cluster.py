"""The task lifecycle under 200 seeds of faults, and planted defects that those seeds find."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_node.domain import Offload
from edge_node.tasks import lifecycle as life
from edge_node.tasks.hosting import Hosting
from edge_node.tasks.lifecycle import Lifecycle, Moment
from tests.cluster.simulated_cluster import InvariantBroken, SimulatedCluster

SEEDS = range(200)


def run(seed: int, **classes: type) -> SimulatedCluster:
    cluster = SimulatedCluster(seed, **classes)
    cluster.plan(tasks=12, faults=5)
    try:
        cluster.run()
    except InvariantBroken as broken:
        raise InvariantBroken(f"seed {seed}, t = {cluster.now_s:.3f} s: {broken}") from None
    return cluster


def run_all(**classes: type) -> None:
    for seed in SEEDS:
        run(seed, **classes)


def test_no_invariant_breaks_in_200_seeds() -> None:
    finished = 0
    replaced = 0
    moves = 0
    for seed in SEEDS:
        cluster = run(seed)
        moves += cluster.moves
        for client in cluster.clients.values():
            finished += client.final is not None
            replaced += len({e.attempt for e in client.events if e.attempt}) > 1
    # The seeds must exercise what they are for.
    assert finished > 2000
    assert replaced > 400
    assert moves > 400


def test_a_policy_with_latents_decides_through_all_faults() -> None:
    latents = 0
    for seed in range(40):
        cluster = SimulatedCluster(seed, policy="lad_ts_plus")
        cluster.plan(tasks=12, faults=5)
        cluster.run()
        at = Moment(now_s=cluster.now_s, unix_s=cluster.now_s)
        for node in cluster.nodes.values():
            snapshot = node.memory.snapshot(at)
            latents += 0 if snapshot is None else len(snapshot.latents | snapshot.open_latents)
    assert latents > 100


class NoFenceAtOrigin(Lifecycle):
    def _is_current(self, entry: life._Entry, attempt: int) -> bool:
        return True


class NoFenceAtExecutor(Hosting):
    def _is_stale(self, offload: Offload) -> bool:
        return False


class YesBeforeAppend(Lifecycle):
    def handle(self, event: life.Event, at: Moment) -> list[life.Instruction]:
        instructions = super().handle(event, at)
        if isinstance(event, life.TasksSubmitted):
            yes = life.AnswerAccepted(task_ids=tuple(task.id for task in event.tasks))
            return [yes, *instructions]
        return instructions


class NoReplacement(Lifecycle):
    def _give_up_attempt(
        self, entry: life._Entry, reason: str, message: str, at: Moment
    ) -> list[life.Instruction]:
        return []


class InitImageLeftBehind(Lifecycle):
    def handle(self, event: life.Event, at: Moment) -> list[life.Instruction]:
        return [self._changed(one) for one in super().handle(event, at)]

    def _changed(self, instruction: life.Instruction) -> life.Instruction:
        if not isinstance(instruction, life.StartAttempt) or instruction.offload.attempt == 1:
            return instruction
        offload = instruction.offload
        drawing = replace(offload.drawing, init_image_sha256="lost" + offload.task_id)
        return replace(instruction, offload=replace(offload, drawing=drawing))


class LeaseIgnored(Lifecycle):
    def _lease_lapsed(self, entry: life._Entry, at: Moment) -> bool:
        return False


class EndBeforeRecord(Lifecycle):
    def _end(self, entry: life._Entry, *args: object, **kwargs: object) -> list[life.Instruction]:
        instructions = super()._end(entry, *args, **kwargs)  # type: ignore[arg-type]
        return [*instructions, *self._finalise(entry, args[1])]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "defect",
    [
        {"lifecycle_class": NoFenceAtOrigin},
        {"hosting_class": NoFenceAtExecutor},
        {"lifecycle_class": YesBeforeAppend},
        {"lifecycle_class": NoReplacement},
        {"lifecycle_class": InitImageLeftBehind},
        {"lifecycle_class": LeaseIgnored},
        {"lifecycle_class": EndBeforeRecord},
    ],
    ids=lambda defect: next(iter(defect.values())).__name__,
)
def test_planted_defect_is_found(defect: dict[str, type]) -> None:
    with pytest.raises(InvariantBroken):
        run_all(**defect)

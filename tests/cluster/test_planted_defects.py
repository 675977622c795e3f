"""Defects planted in the machines and in the shell, one at a time: the seeds find every one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from edge_node.attempt_codes import HANDED_OVER
from edge_node.checkpoint import Checkpoint
from edge_node.clock import Moment
from edge_node.dispatch.background import Background
from edge_node.dispatch.dispatcher import Dispatcher
from edge_node.dispatch.executor import Executor
from edge_node.dispatch.inbox import Inbox
from edge_node.dispatch.offloads import Offloads
from edge_node.dispatch.own_node import OwnNode
from edge_node.dispatch.own_tasks import OwnTasks
from edge_node.dispatch.placer import Placer
from edge_node.dispatch.timekeeper import Timekeeper
from edge_node.domain import AttemptFailed, NodeId, NodeState, StepFinished
from edge_node.peering.peer_links import PeerLinks
from edge_node.peering.service import PeerService
from edge_node.shared_rows import RowGiven
from edge_node.tasks import hosting as hosted
from edge_node.tasks import lifecycle_protocol as life
from edge_node.tasks.checkpoints import Checkpoints
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.hosting import Hosting
from edge_node.tasks.lifecycle import Lifecycle
from edge_node.tasks.row_lease import RowLease
from edge_node.tasks.serving import ServingNodes
from tests.cluster.simulated_cluster import (
    MODELS,
    run_draining,
    run_faulty,
    run_helping,
    run_quiet,
)
from tests.cluster.users import InvariantBroken

# Enough for the defect that is found least often.
FAULTY_SEEDS_MAX = 150
QUIET_SEEDS_MAX = 20

Plant = Callable[[pytest.MonkeyPatch], None]


def nothing(*_: object, **__: object) -> None:
    """Instead of what should be done."""


async def nothing_at_all(*_: object, **__: object) -> None:
    """Instead of what should be done in its time."""


def skipped(owner: type, name: str) -> Plant:
    """A part that does nothing where it should."""
    return lambda patch: patch.setattr(owner, name, nothing)


def says(owner: type, name: str, answer: object) -> Plant:
    """A question that has always the same answer."""
    return lambda patch: patch.setattr(owner, name, lambda *_, **__: answer)


def without(*events: type) -> Plant:
    """Events that never reach the machines."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        apply = Inbox.apply

        def deaf(self: Inbox, event: Any) -> None:
            if not isinstance(event, events):
                apply(self, event)

        patch.setattr(Inbox, "apply", deaf)

    return plant


def changed(owner: type, change: Callable[[Any, list[Any]], list[Any]]) -> Plant:
    """A machine that says something else than it should; `change` is given the event, too."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        handle = owner.handle  # type: ignore[attr-defined]

        def handle_changed(self: Any, event: Any, *at: Any, **named: Any) -> list[Any]:
            return change(event, handle(self, event, *at, **named))

        patch.setattr(owner, "handle", handle_changed)

    return plant


def yes_before_append(event: life.Event, told: list[life.Instruction]) -> list[life.Instruction]:
    if not isinstance(event, life.TasksSubmitted) or not isinstance(told[0], life.AppendTasks):
        return told
    return [life.AnswerAccepted(task_ids=tuple(task.id for task in event.tasks)), *told]


def init_image_left_behind(_: life.Event, told: list[life.Instruction]) -> list[life.Instruction]:
    return [
        replace(
            one,
            offload=replace(
                one.offload, drawing=replace(one.offload.drawing, init_image_sha256="lost")
            ),
        )
        if isinstance(one, life.StartAttempt) and one.offload.fence.attempt > 1
        else one
        for one in told
    ]


def end_before_record(patch: pytest.MonkeyPatch) -> None:
    end = Lifecycle._end

    def both(self: Lifecycle, entry: Any, status: Any, at: Moment, **named: Any) -> list[Any]:
        return [*end(self, entry, status, at, **named), *self._finalise(entry, at)]

    patch.setattr(Lifecycle, "_end", both)


def lease_not_renewed_by_reports(patch: pytest.MonkeyPatch) -> None:
    reported = Lifecycle._reported

    def forgetful(self: Lifecycle, event: life.AttemptReported, at: Moment) -> list[Any]:
        entry = self._live.get(event.task_id)
        until_s = 0.0 if entry is None else entry.lease_until_s
        told = reported(self, event, at)
        if entry is not None:
            entry.lease_until_s = until_s
        return told

    patch.setattr(Lifecycle, "_reported", forgetful)


def latent_of_an_old_attempt(patch: pytest.MonkeyPatch) -> None:
    reported = Lifecycle._reported

    def trusting(self: Lifecycle, event: life.AttemptReported, at: Moment) -> list[Any]:
        told = reported(self, event, at)
        entry = self._live.get(event.task_id)
        if entry is not None and isinstance(event.report, StepFinished) and event.report.checkpoint:
            self.checkpoints.forget(event.task_id)
            self.checkpoints.keep(entry.task, event.report.checkpoint)
        return told

    patch.setattr(Lifecycle, "_reported", trusting)


def latent_of_another_drawing(patch: pytest.MonkeyPatch) -> None:
    def any_of_them(self: Checkpoints, _: Any) -> Checkpoint | None:
        return next(iter(self._kept.values()), None)

    patch.setattr(Checkpoints, "of", any_of_them)


def steps_go_back(patch: pytest.MonkeyPatch) -> None:
    place = Lifecycle._place

    def forgetful(self: Lifecycle, entry: Any, *rest: Any, **named: Any) -> list[Any]:
        entry.record = replace(entry.record, step=0)
        self.checkpoints.forget(entry.task.id)
        return place(self, entry, *rest, **named)

    patch.setattr(Lifecycle, "_place", forgetful)


def handed_over_without_its_latent(_: hosted.Event, told: list[Any]) -> list[Any]:
    return [
        replace(one, report=replace(one.report, checkpoint=None))
        if isinstance(one, hosted.ReportAttempt) and isinstance(one.report, StepFinished)
        else one
        for one in told
    ]


def never_hung_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Executor, "unhost", nothing)
    patch.setattr(PeerService, "cancel_offload", nothing)


def draws_stay_when_the_worker_is_lost(patch: pytest.MonkeyPatch) -> None:
    draw = Executor._draw

    async def hopeful(self: Executor, start: hosted.StartDrawing) -> None:
        reported = self._reported

        def only_good(start: hosted.StartDrawing, report: Any) -> None:
            if type(report).__name__ != "AttemptFailed":
                reported(start, report)

        self._reported = only_good  # type: ignore[method-assign]
        await draw(self, start)

    patch.setattr(Executor, "_draw", hopeful)


def key_forgotten(patch: pytest.MonkeyPatch) -> None:
    append = OwnTasks._append

    async def keyless(self: OwnTasks, tasks: Any) -> None:
        self._idempotency.clear()
        await append(self, tasks)

    patch.setattr(OwnTasks, "_append", keyless)


def stream_not_cancelled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Background, "cancel", nothing)

    def stopped(self: Executor, task_id: Any, fence: Any) -> None:
        self._drawings._keyed[task_id, fence].cancel()

    patch.setattr(Executor, "stop_drawing", stopped)


def answered_and_kept(patch: pytest.MonkeyPatch) -> None:
    answer = OwnTasks._answer

    def keeping(self: OwnTasks, task_id: Any, told: Any) -> None:
        kept = self._idempotency.get(task_id)
        answer(self, task_id, told)
        self._idempotency[task_id] = kept

    patch.setattr(OwnTasks, "_answer", keeping)


FAULTY: dict[str, Plant] = {
    # The machines.
    "no fence at the origin": says(Lifecycle, "_is_current", True),
    "no fence at the executor": says(Hosting, "_is_stale", False),
    "yes before it is on disk": changed(Lifecycle, yes_before_append),
    "a lost attempt is not placed again": says(Lifecycle, "_give_up_attempt", []),
    "the init image stays behind": changed(Lifecycle, init_image_left_behind),
    "leases never lapse": says(Lifecycle, "_lease_lapsed", False),
    "the end before its record": end_before_record,
    "the latent of an old attempt is kept": latent_of_an_old_attempt,
    "the checkpoint of another drawing is sent": latent_of_another_drawing,
    "steps go back": steps_go_back,
    "a drawing moves without end": says(Lifecycle, "_moves_left", 1),
    # The shell: the executor's side.
    "StopDrawing does nothing": skipped(Executor, "stop_drawing"),
    "a worker that is lost ends nothing": draws_stay_when_the_worker_is_lost,
    # The origin's side.
    "watchers are not woken": skipped(OwnTasks, "wake_watchers"),
    "refusals are not told": skipped(OwnTasks, "refused"),
    "images are not written": skipped(OwnTasks, "store_image"),
    "ends are not recorded": skipped(OwnTasks, "record_final"),
    "ends are not noted": skipped(OwnTasks, "note"),
    "Idempotency-Keys are forgotten": key_forgotten,
    # Placing, state and time.
    "ended dispatches are still counted": skipped(ClusterView, "dispatch_ended"),
    "time does not pass": without(life.ClockAdvanced),
    "recovered tasks are not taken up": without(life.TasksRecovered),
}

QUIET: dict[str, Plant] = {
    "streams of stopped attempts stay open": stream_not_cancelled,
    "keys of answered requests are kept": answered_and_kept,
    "states of peers are not taken in": skipped(Dispatcher, "peer_state_received"),
    "reports of peers are not passed on": skipped(Offloads, "reported"),
    "heartbeats are never sent": without(hosted.HeartbeatDue),
    "leases are not renewed by reports": lease_not_renewed_by_reports,
    "state is not pushed": skipped(PeerLinks, "push_state"),
    "a changed queue is not told": skipped(OwnNode, "changed"),
    "own dispatches are not seen by oneself": skipped(OwnNode, "look"),
    "nothing is placed": skipped(Placer, "place"),
    "an origin that hung up is drawn for": never_hung_up,
    "StopAttempt does nothing": skipped(Offloads, "stop_attempt"),
    "nobody looks at the time": lambda patch: patch.setattr(Timekeeper, "run", nothing_at_all),
}


def any_node_is_a_candidate(patch: pytest.MonkeyPatch) -> None:
    """Placement that does not ask which model a node draws."""
    among = ServingNodes._found_among

    def all_of_them(self: ServingNodes, model: str, states: Mapping[NodeId, NodeState]) -> Any:
        named = {
            n: replace(s, serves=(replace(s.serves[0], name=model),)) if s.serves else s
            for n, s in states.items()
        }
        return among(self, model, named)

    patch.setattr(ServingNodes, "_found_among", all_of_them)


MIXED: dict[str, Plant] = {
    "tasks are placed on nodes of another model": any_node_is_a_candidate,
    "only a node's own model may be asked for": says(ClusterView, "served", None),
}


def reported_as_gone_and_drawn_on(patch: pytest.MonkeyPatch) -> None:
    """Both ends draw: the origin hears of a hand-over that the worker was never asked for."""

    def hand_over(self: Executor, task_id: Any, fence: Any) -> None:
        report = AttemptFailed(code=HANDED_OVER, message="gone", retryable=True)
        self._inbox.apply(hosted.DrawingReported(task_id=task_id, fence=fence, report=report))

    patch.setattr(Executor, "hand_over", hand_over)


MOVING: dict[str, Plant] = {
    "the export is lost": changed(Hosting, handed_over_without_its_latent),
    "nobody is told to hand over": skipped(Executor, "hand_over_hosted"),
    "both ends draw what moved": reported_as_gone_and_drawn_on,
}

DRAINING: dict[str, Plant] = {
    "what is handed over leaves its latent behind": changed(
        Hosting, handed_over_without_its_latent
    ),
}


def helps_beside_own_work(patch: pytest.MonkeyPatch) -> None:
    ask = RowLease.ask

    def blind(self: RowLease, leading: Any, *, idle: bool, **rest: Any) -> str:
        return ask(self, leading, idle=True, **rest)

    patch.setattr(RowLease, "ask", blind)


def waits_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("tests.cluster.worker.patience_s", lambda row_s: 1000.0)


HELPING: dict[str, Plant] = {
    "a helper goes on beside own work": helps_beside_own_work,
    "whom a helper helps is not looked at": says(RowLease, "holder", None),
}

HELPING_FAULTY: dict[str, Plant] = {
    "the row of another step or drawing is used": says(RowGiven, "answers", True),
    "who draws waits for ever": waits_for_ever,
}


def find(run: Callable[[int], object], seeds: int) -> int:
    """The first seed that finds a defect; fails if none does."""
    for seed in range(seeds):
        try:
            run(seed)
        except InvariantBroken:
            return seed
    pytest.fail(f"none of {seeds} seeds finds it")


@pytest.mark.parametrize("defect", FAULTY)
def test_a_defect_is_found_by_faults(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTY[defect](monkeypatch)
    assert find(run_faulty, FAULTY_SEEDS_MAX) < FAULTY_SEEDS_MAX


@pytest.mark.parametrize("defect", QUIET)
def test_a_defect_is_found_where_nothing_fails(
    defect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    QUIET[defect](monkeypatch)
    assert find(run_quiet, QUIET_SEEDS_MAX) < QUIET_SEEDS_MAX


@pytest.mark.parametrize("defect", MIXED)
def test_a_defect_is_found_where_nodes_draw_two_models(
    defect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    MIXED[defect](monkeypatch)
    assert find(run_quiet_mixed, QUIET_SEEDS_MAX) < QUIET_SEEDS_MAX


@pytest.mark.parametrize("defect", MOVING)
def test_a_defect_is_found_where_drawings_move(
    defect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    MOVING[defect](monkeypatch)
    assert find(run_quiet, QUIET_SEEDS_MAX) < QUIET_SEEDS_MAX


@pytest.mark.parametrize("defect", HELPING)
def test_a_defect_is_found_where_idle_devices_help(
    defect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    HELPING[defect](monkeypatch)
    assert find(run_quiet_helping, QUIET_SEEDS_MAX) < QUIET_SEEDS_MAX


@pytest.mark.parametrize("defect", HELPING_FAULTY)
def test_a_defect_is_found_where_helpers_fail(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    HELPING_FAULTY[defect](monkeypatch)
    assert find(run_helping, FAULTY_SEEDS_MAX) < FAULTY_SEEDS_MAX


def run_quiet_helping(seed: int) -> None:
    run_quiet(seed, helping=True)


def run_quiet_mixed(seed: int) -> None:
    cluster = run_quiet(seed, models=MODELS)
    if cluster.users.refused.keys() & {"model_not_found", "model_away"}:
        raise InvariantBroken("a model that a live node draws was refused")


@pytest.mark.parametrize("defect", DRAINING)
def test_a_defect_is_found_where_nodes_are_told_to_stop(
    defect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    DRAINING[defect](monkeypatch)
    assert find(run_draining, QUIET_SEEDS_MAX) < QUIET_SEEDS_MAX


def test_a_broken_seed_tells_the_story_of_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    QUIET["an origin that hung up is drawn for"](monkeypatch)
    seed = find(run_quiet, QUIET_SEEDS_MAX)
    with pytest.raises(InvariantBroken, match="unwanted") as broken:
        run_quiet(seed)
    story = str(broken.value)
    assert story.startswith("seed ")
    assert "StoryLine(" in story
    assert "HostedLine(event='OffloadReceived'" in story

"""What the machines hold themselves to after every event: each broken once on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edge_node.domain import AttemptFinished, NodeId, TaskStatus
from edge_node.tasks.fate import Phase
from edge_node.tasks.lifecycle import Lifecycle
from edge_node.tasks.membership import NEW_PEERS_MAX, Membership
from edge_node.tasks.membership_protocol import AddressFound, Started
from tests.tasks.test_lifecycle import IMAGE, TASK_ID, placed, report, submitted
from tests.tasks.test_membership import A as OWN_ID
from tests.tasks.test_membership import Story as Membered
from tests.tasks.test_membership import X, Y, settings, state

Break = Callable[[Any], None]


def attempting() -> Lifecycle:
    machine = submitted()
    placed(machine)
    return machine


def storing() -> Lifecycle:
    machine = attempting()
    report(machine, AttemptFinished(image=IMAGE, queue_s=0.0, compute_s=1.0))
    return machine


def record(**changes: Any) -> Break:
    def change(entry: Any) -> None:
        entry.record = replace(entry.record, **changes)

    return change


def steps_done(count: int) -> Break:
    def change(entry: Any) -> None:
        entry.steps_done = count

    return change


def phase(which: Phase) -> Break:
    def change(entry: Any) -> None:
        entry.phase = which

    return change


def moved(times: int) -> Break:
    def change(entry: Any) -> None:
        entry.moved = list(range(times))

    return change


@pytest.mark.parametrize(
    ("machine", "change", "wrong"),
    [
        (attempting, phase(Phase.FINAL), "a final task is live"),
        (attempting, moved(4), "moved too often"),
        (attempting, record(status=TaskStatus.FAILED), "its status is not its phase"),
        (attempting, phase(Phase.RECORDING), "its status is not its phase"),
        (attempting, record(executor=None), "nobody draws it"),
        (storing, record(executor=None), "nobody draws it"),
        (attempting, record(attempt=9), "another attempt is shown"),
        (storing, record(attempt=9), "another attempt is shown"),
        (submitted, record(executor=NodeId("b")), "placed already"),
        (attempting, steps_done(1), "more steps than were told"),
    ],
)
def test_a_task_that_contradicts_itself_is_found_and_named(
    machine: Callable[[], Lifecycle], change: Break, wrong: str
) -> None:
    found = machine()
    found.validate()
    change(found._live[TASK_ID])
    with pytest.raises(AssertionError, match=f"{TASK_ID}: {wrong}\n"):
        found.validate()


@pytest.mark.parametrize(
    ("machine", "change"),
    [(attempting, moved(3)), (attempting, record(step=3)), (storing, record(step=9))],
)
def test_what_may_be_is_not_complained_of(machine: Callable[[], Lifecycle], change: Break) -> None:
    found = machine()
    change(found._live[TASK_ID])
    found.validate()
    assert found.in_flight == 1


def test_a_configured_address_has_a_link_while_the_node_runs() -> None:
    machine = Membership(settings(X), own_id=OWN_ID)
    machine.validate()
    machine._started = True
    with pytest.raises(AssertionError, match="a configured address has no link"):
        machine.validate()
    machine._leaving = True
    machine.validate()


def test_links_that_nobody_configured_are_bounded_and_others_are_not() -> None:
    many = [f"10.0.1.{number}:90" for number in range(NEW_PEERS_MAX + 1)]
    machine = Membership(settings(*many), own_id=OWN_ID)
    machine.handle(Started(), now_s=0.0)
    machine.validate()
    machine._settings = settings()
    with pytest.raises(AssertionError, match="too many links that nobody configured"):
        machine.validate()


def test_nobody_meets_himself() -> None:
    machine = Membership(settings(), own_id=OWN_ID)
    machine.handle(AddressFound(address=X), now_s=0.0)
    machine.validate()
    story = Membered(Y)
    story.answer(Y, state())
    story.machine._own_id = state().node_id
    with pytest.raises(AssertionError, match="this node is its own peer"):
        story.machine.validate()

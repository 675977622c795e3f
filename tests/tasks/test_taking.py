"""What a node that would idle asks for, by what the others told it."""

from __future__ import annotations

from typing import Any

import pytest

from edge_node.domain import Offload
from edge_node.moves import HeldDrawing, WantedTask
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.hosting import Hosting, HostingLimits, OffloadReceived
from edge_node.tasks.taking import wanted_here
from tests.tasks.test_cluster_view import OWN, PEER, state, view_of
from tests.tasks.test_hosting import offload

HELD = HeldDrawing(
    task_id="peer-1",
    fence=(1, 3),
    model="m",
    age_s=20.0,
    work_left=30.0,
    step_work=1.0,
    begun=True,
    moves_left=2,
)


def cluster(*, own: dict[str, Any] | None = None, **there: Any) -> ClusterView:
    """The own node at 10 units/s and a peer at 1, which draws what it told."""
    fields: dict[str, Any] = {"capacity": 1.0, "backlog": 30.0, "held": (HELD,)}
    return view_of(
        state(OWN, **({"capacity": 10.0} | (own or {}))), state(PEER, **(fields | there))
    )


def wanted(view: ClusterView, hosting: Hosting | None = None, **changes: Any) -> WantedTask | None:
    asked: dict[str, Any] = {"portable": True, "cost_s": 0.1, "order": "oldest", "now_s": 100.0}
    return wanted_here(
        OWN, hosting=hosting or Hosting(HostingLimits()), view=view, **(asked | changes)
    )


def test_an_idle_node_asks_for_what_a_slower_one_draws() -> None:
    one = wanted(cluster())
    assert one is not None
    assert (one.task_id, one.fence, one.taker, one.reason) == ("peer-1", (1, 3), OWN, "idle")
    # Half a step there and the move, then 29.5 units at 10/s instead of 30 s.
    assert one.gain_s == pytest.approx(30.0 - 0.5 - 0.1 - 2.95)


def test_what_was_worked_off_since_it_told_is_counted() -> None:
    one = wanted(cluster(), now_s=102.0)
    assert one is not None
    assert one.gain_s == pytest.approx(28.0 - 0.5 - 0.1 - 2.75)


@pytest.mark.parametrize(
    "there",
    [
        {"held": ()},
        {"model": "another", "serves": ()},
        {"capacity": 10.0},
    ],
    ids=["it tells nothing", "another model", "as fast"],
)
def test_some_stay(there: dict[str, Any]) -> None:
    assert wanted(cluster(**there)) is None


def test_a_worker_that_cannot_go_on_asks_for_nothing() -> None:
    assert wanted(cluster(), portable=False) is None
    assert wanted(cluster(), now_s=200.0) is None  # nobody was heard for long


def test_a_node_tells_what_it_holds_first_to_be_drawn_first() -> None:
    hosting = Hosting(HostingLimits())
    assert hosting.told(now_s=50.0, portable=True) == ()
    for number, (age_s, moves_left) in enumerate([(1.0, 2), (9.0, 2), (5.0, 0)]):
        one = offload(number, attempt=1, work=10.0)
        one = Offload(**(vars(one) | {"age_s": age_s, "moves_left": moves_left}))
        hosting.handle(OffloadReceived(offload=one, now_s=40.0))
    told = hosting.told(now_s=50.0, portable=True)
    assert [one.task_id for one in told] == ["task-1", "task-2", "task-0"]
    assert [one.age_s for one in told] == [19.0, 15.0, 11.0]
    assert [one.moves_left for one in told] == [2, 0, 2]
    assert {one.step_work for one in told} == {2.0}

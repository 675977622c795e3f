"""What this device would go on with, of what others are known to hold. Pure.

The rule is `scheduler/running_moves.py`; this gives it what a node knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edge_node.changing import changed
from edge_node.domain import NodeId
from edge_node.moves import HeldDrawing, WantedTask
from edge_node.tasks.cluster_view import ClusterView, NodeView
from edge_node.tasks.hosting import Hosting
from scheduler.running_moves import Held, Line, MoveOrder, best_take


def wanted_here(
    own_id: NodeId,
    *,
    hosting: Hosting,
    view: ClusterView,
    portable: bool,
    cost_s: float,
    order: MoveOrder,
    now_s: float,
) -> WantedTask | None:
    """The drawing that should go on here, if any should.

    Args:
        own_id: this node.
        hosting: what it holds.
        view: what others hold, as far as they say.
        portable: whether the worker here goes on with what others began.
        cost_s: for which a drawing stands still that moves.
        order: as `best_take` has it.
        now_s: the clock.
    """
    views = view.views(now_s=now_s)
    others = [one for one in views if one.alive and one.state.node_id != own_id and one.state.held]
    queue = view.queue_of(own_id, now_s=now_s)
    if not others or queue is None or not portable:
        return None
    own = Line(
        node_id=own_id,
        capacity=queue.capacity,
        backlog=hosting.backlog,
        held=_as_held(hosting.told(now_s=now_s, portable=portable), older_s=0.0, done=0.0),
    )
    lines = list(_lines(others, own_id=own_id, view=view, now_s=now_s))
    take = best_take(own, lines, cost_s=cost_s, order=order)
    if take is None:
        return None
    held = next(
        held
        for one in others
        if one.state.node_id == take.source
        for held in one.state.held
        if held.task_id == take.task_id
    )
    return WantedTask(
        task_id=held.task_id,
        fence=held.fence,
        taker=own_id,
        reason=take.reason,
        gain_s=take.gain_s,
    )


def _lines(
    others: Iterable[NodeView], *, own_id: NodeId, view: ClusterView, now_s: float
) -> Iterator[Line]:
    for other in others:
        state = other.state
        queue = view.queue_of(state.node_id, now_s=now_s)
        if queue is None:
            continue
        drawn_here = {
            model
            for model in {held.model for held in state.held}
            if {own_id, state.node_id} <= set(view.servers(model, now_s=now_s))
        }
        # What it has done since it told, as its backlog is taken to have shrunk.
        done = max(0.0, state.backlog + other.own_unseen_work - queue.backlog)
        held = [
            one if one.model in drawn_here else changed(one, moves_left=0) for one in state.held
        ]
        yield Line(
            node_id=state.node_id,
            capacity=queue.capacity,
            backlog=queue.backlog,
            held=_as_held(held, older_s=done / queue.capacity, done=done),
        )


def _as_held(told: Iterable[HeldDrawing], *, older_s: float, done: float) -> list[Held]:
    """As the rule has it; `done` was worked off since it was told, in the order of the line."""
    held = []
    for one in told:
        left = max(0.0, one.work_left - done)
        done = max(0.0, done - one.work_left)
        if left > 0.0:
            held.append(
                Held(
                    task_id=one.task_id,
                    age_s=one.age_s + older_s,
                    work_left=left,
                    step_work=one.step_work,
                    begun=one.begun or left < one.work_left,
                    movable=one.moves_left > 0,
                )
            )
    return held

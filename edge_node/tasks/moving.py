"""Which waiting task of this origin would be drawn sooner by another node. Pure.

A placement counts on queues as they were known; a burst, a device that slows down or one that joins
makes it a bad one afterwards. Then the task that waits longest of all that this node has placed
goes where it is drawn sooner. What has begun stays, for its steps would be lost.

One task at a time, and one node at a time: nodes take turns by a reading that they share
(`ClusterView.shared_s`), so that each sees what the last one moved. Where views of the cluster
differ two may move at once, which the next turns mend.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from edge_node.config import NodeConfig
from edge_node.domain import NodeId, TaskId
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.lifecycle_protocol import WaitingAttempt
from scheduler.registry import spec_of

# A move must gain this share of what drawing the task takes there: backlogs are known to about a
# step, and a task that moves to and fro is helped by neither.
GAIN_MIN_SERVICES = 0.5


Moving = Literal["none", "waiting", "running"]


def moving_of(config: NodeConfig) -> Moving:
    """What moves at this node, by its settings; the former `move_waiting` is read, too."""
    if config.move is not None:
        return config.move
    by_default = spec_of(config.policy).by_expected_delay
    if config.move_waiting is not None:
        return "waiting" if config.move_waiting else "none"
    return "waiting" if by_default else "none"


def is_turn(node_id: NodeId, alive: Sequence[NodeId], *, shared_s: float, turn_s: float) -> bool:
    """Whether this node may move a task now; `alive` holds every node that may, this one too."""
    ordered = sorted(alive)
    return ordered[math.floor(shared_s / turn_s) % len(ordered)] == node_id


def task_to_move(
    waiting: Iterable[WaitingAttempt], *, view: ClusterView, now_s: float
) -> TaskId | None:
    """The task that gains most seconds by a move, if any gains enough.

    Looked at is the one that each executor serves last: where clients take turns, it is of the
    client with the most work there, and of that one's the last that was sent.
    """
    lines: dict[NodeId, dict[str, list[WaitingAttempt]]] = {}
    for one in waiting:
        lines.setdefault(one.executor, {}).setdefault(one.task.turns, []).append(one)
    last = [
        max(max(clients.values(), key=_work), key=lambda one: one.dispatch)
        for clients in lines.values()
    ]
    gains_s = {one.task.id: _gain_s(one, view=view, now_s=now_s) for one in last}
    best = max(gains_s, key=lambda task_id: gains_s[task_id], default=None)
    return best if best is not None and gains_s[best] > 0.0 else None


def _work(line: Iterable[WaitingAttempt]) -> float:
    return sum(one.task.work for one in line)


def _gain_s(waiting: WaitingAttempt, *, view: ClusterView, now_s: float) -> float:
    """Seconds by which the task would be drawn sooner elsewhere, beyond the least gain."""
    seen = view.observation(waiting.task, avoided=frozenset(), now_s=now_s)
    if seen is None or waiting.executor not in seen.node_ids:
        return -math.inf
    here = seen.node_ids.index(waiting.executor)
    others_B = seen.alive_B & (np.arange(len(seen.node_ids)) != here)
    if not others_B.any() or not seen.alive_B[here]:
        return -math.inf
    work = waiting.task.work
    ends_there_s = seen.load_B[here] / seen.capacity_B[here]
    service_s_B = work / seen.capacity_B[others_B]
    wait_s_B = seen.load_B[others_B] / seen.capacity_B[others_B]
    needed_s_B = wait_s_B + (1.0 + GAIN_MIN_SERVICES) * service_s_B + seen.link_s_B[others_B]
    return float(ends_there_s - needed_s_B.min())

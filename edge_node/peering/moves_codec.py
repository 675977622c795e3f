"""Between moves.py and the messages of node.proto; the messages around them are node_codec's.

Owns the mapping alone. What comes was checked by the rules of its message.
"""

from __future__ import annotations

from dedgeai.v1 import node_pb2

from edge_node.domain import Fence
from edge_node.moves import MOVE_REASONS, HeldDrawing, Move, WantedTask
from edge_node.peering import codec


def held_to_proto(held: HeldDrawing) -> node_pb2.HeldDrawing:
    """What a node tells of an attempt that it holds."""
    return node_pb2.HeldDrawing(
        task_id=held.task_id,
        fence=codec.fence_to_proto(Fence(*held.fence)),
        model=held.model,
        age_s=held.age_s,
        work_left=held.work_left,
        step_work=held.step_work,
        begun=held.begun,
        moves_left=held.moves_left,
    )


def held_from_proto(message: node_pb2.HeldDrawing) -> HeldDrawing:
    """What a node told of an attempt that it holds."""
    return HeldDrawing(
        task_id=message.task_id,
        fence=(message.fence.term, message.fence.attempt),
        model=message.model,
        age_s=max(0.0, message.age_s),
        work_left=max(0.0, message.work_left),
        step_work=max(0.0, message.step_work),
        begun=message.begun,
        moves_left=message.moves_left,
    )


def move_to_proto(move: Move) -> node_pb2.Move:
    """That a drawing moved."""
    return node_pb2.Move(
        source=move.source, target=move.target, reason=move.reason, gain_s=move.gain_s
    )


def move_from_proto(message: node_pb2.Move) -> Move:
    """That a drawing moved, of a message."""
    reason = next(one for one in MOVE_REASONS if one == message.reason)
    return Move(source=message.source, target=message.target, reason=reason, gain_s=message.gain_s)


def wanted_to_proto(wanted: WantedTask) -> node_pb2.TakeTaskRequest:
    """That a node would go on with a task."""
    return node_pb2.TakeTaskRequest(
        task_id=wanted.task_id,
        fence=codec.fence_to_proto(Fence(*wanted.fence)),
        taker=wanted.taker,
        reason=wanted.reason,
        gain_s=wanted.gain_s,
    )


def wanted_from_proto(message: node_pb2.TakeTaskRequest) -> WantedTask:
    """That a node would go on with a task, of a message."""
    reason = next(one for one in MOVE_REASONS if one == message.reason)
    return WantedTask(
        task_id=message.task_id,
        fence=(message.fence.term, message.fence.attempt),
        taker=message.taker,
        reason=reason,
        gain_s=message.gain_s,
    )

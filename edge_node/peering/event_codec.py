"""Between happenings.py and the messages in which nodes tell each other what happens.

Owns the mapping, and what only several fields tell together: that it happened at who says so.
"""

from __future__ import annotations

from dedgeai.v1 import node_pb2

from edge_node.domain import NodeId, TaskId, owner
from edge_node.errors import MalformedMessage
from edge_node.happenings import Happened
from edge_node.peering import message_rules, node_codec


def happened_to_proto(happened: Happened) -> node_pb2.WatchEventsResponse:
    """Something that happened, as a message."""
    event = happened.event
    return node_pb2.WatchEventsResponse(
        number=happened.number,
        task_id=happened.task_id or "",
        client=happened.client,
        event=None if event is None else node_codec.event_to_proto(event),
        missed=happened.missed,
    )


def happened_from_proto(
    message: node_pb2.WatchEventsResponse, *, client: str, of: NodeId
) -> Happened:
    """Something that happened at `of`, to a task of `client` if that is named.

    Raises:
        MalformedMessage: it is another node's, another client's, or breaks a rule.
    """
    message_rules.check(message)
    if not message.HasField("event"):
        return Happened(number=message.number, missed=message.missed)
    task_id = TaskId(message.task_id)
    if not task_id or owner(task_id) != of or client not in ("", message.client):
        raise MalformedMessage(f"What happened to {task_id or 'nobody'} was not asked for.")
    return Happened(
        number=message.number,
        task_id=task_id,
        client=message.client,
        event=node_codec.event_from_proto(message.event),
        missed=message.missed,
    )

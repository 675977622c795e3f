"""Between listing.py and the messages in which nodes ask each other for their tasks.

Owns the mapping, and what only several fields tell together: that a page is of what was asked for.
"""

from __future__ import annotations

from dedgeai.v1 import node_pb2

from edge_node.domain import NodeId, TaskId, TaskStatus, owner
from edge_node.errors import MalformedMessage
from edge_node.listing import PAGE_TASKS_MAX, Listed, Place, TaskFilter, TaskPage
from edge_node.peering import message_rules, node_codec


def filter_to_proto(wanted: TaskFilter) -> node_pb2.TaskFilter:
    """Which tasks are wanted, as a message."""
    return node_pb2.TaskFilter(
        statuses=sorted(wanted.statuses), model=wanted.model, client=wanted.client
    )


def filter_from_proto(message: node_pb2.TaskFilter) -> TaskFilter:
    """Which tasks are wanted; the message is checked."""
    return TaskFilter(
        statuses=frozenset(TaskStatus(one) for one in message.statuses),
        model=message.model,
        client=message.client,
    )


def request_to_proto(
    wanted: TaskFilter, *, before: Place | None, count: int
) -> node_pb2.ListTasksRequest:
    """What a node is asked for."""
    return node_pb2.ListTasksRequest(
        filter=filter_to_proto(wanted), before=_place_to_proto(before), count=count
    )


def request_from_proto(
    message: node_pb2.ListTasksRequest,
) -> tuple[TaskFilter, Place | None, int]:
    """What this node is asked for; raises MalformedMessage."""
    message_rules.check(message)
    before = _place_from_proto(message.before) if message.HasField("before") else None
    return filter_from_proto(message.filter), before, min(message.count, PAGE_TASKS_MAX + 1)


def page_to_proto(page: TaskPage) -> node_pb2.ListTasksResponse:
    """A page as a message."""
    return node_pb2.ListTasksResponse(
        tasks=[
            node_pb2.ListedTask(
                accepted_at=one.place.unix_s, task=node_codec.record_to_proto(one.record)
            )
            for one in page.listed
        ],
        until=_place_to_proto(page.until),
    )


def page_from_proto(
    message: node_pb2.ListTasksResponse,
    *,
    wanted: TaskFilter,
    before: Place | None,
    count: int,
    of: NodeId,
) -> TaskPage:
    """What a node answered to what it was asked for.

    Raises:
        MalformedMessage: it is another's, was not asked for, or is in another order.
    """
    message_rules.check(message)
    if len(message.tasks) > count:
        raise MalformedMessage(f"{len(message.tasks)} tasks came, and {count} were asked for.")
    listed: list[Listed] = []
    last = before
    for one in message.tasks:
        record = node_codec.record_from_proto(one.task)
        place = Place(one.accepted_at, record.task.id)
        if owner(record.task.id) != of or not wanted.wants(record):
            raise MalformedMessage(f"{record.task.id} was not asked for.")
        if last is not None and place >= last:
            raise MalformedMessage(f"{record.task.id} is not where it belongs.")
        listed.append(Listed(place=place, record=record))
        last = place
    until = _place_from_proto(message.until) if message.HasField("until") else None
    if until is None or last is None or until < last or (listed and until == last):
        return TaskPage(listed=tuple(listed), until=until)
    raise MalformedMessage("A page ends before its last task, or where it begins.")


def _place_to_proto(place: Place | None) -> node_pb2.TaskPlace | None:
    if place is None:
        return None
    return node_pb2.TaskPlace(accepted_at=place.unix_s, task_id=place.task_id)


def _place_from_proto(message: node_pb2.TaskPlace) -> Place:
    return Place(message.accepted_at, TaskId(message.task_id))

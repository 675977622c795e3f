"""What happens goes over the wire whole, and only from where it happened."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_node.domain import NodeId, TaskEvent, TaskId
from edge_node.errors import MalformedMessage
from edge_node.happenings import Happened
from edge_node.peering.event_codec import happened_from_proto, happened_to_proto
from tests.filled import filled
from tests.peering.test_round_trips import sent

OWNER = NodeId("orin-a")
HAPPENED = filled(Happened, event=filled(TaskEvent), task_id=TaskId("orin-a-01J2"))


def test_it_comes_back_whole() -> None:
    nothing = Happened(number=4, missed=True)
    for happened in (HAPPENED, nothing, replace(nothing, missed=False)):
        message = sent(happened_to_proto(happened))
        for client in ("", HAPPENED.client):
            assert happened_from_proto(message, client=client, of=OWNER) == happened


def test_what_was_not_asked_for_is_refused() -> None:
    message = happened_to_proto(HAPPENED)
    for client, of in (("another", OWNER), ("", NodeId("orin-b"))):
        with pytest.raises(MalformedMessage):
            happened_from_proto(message, client=client, of=of)
    with pytest.raises(MalformedMessage):
        happened_from_proto(happened_to_proto(replace(HAPPENED, task_id=None)), client="", of=OWNER)

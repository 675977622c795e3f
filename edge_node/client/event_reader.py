"""Server-sent events out of lines of text; WHATWG HTML, section 9.2.6, as far as nodes use it."""

from __future__ import annotations

import json

from edge_node.client.objects import Event, NotUnderstood
from edge_node.client.problems import UNREACHABLE_AGAIN_S, RequestRefused
from edge_node.errors import DEdgeAIError

EVENT_STREAM = "text/event-stream"


class EventReader:
    """Takes the lines of one stream; keeps the id of the last event, to go on from there."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self._kind = ""
        self._id = ""
        self._data: list[str] = []

    def feed(self, line: str) -> Event | None:
        """Takes a line without its end; returns an event if one is complete.

        Raises:
            RequestRefused: the stream says that it cannot go on.
        """
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                self._kind = value
            elif name == "data":
                self._data.append(value)
            elif name == "id":
                self._id = value
            return None
        kind, data = self._kind, "\n".join(self._data)
        self._kind, self._data = "", []
        if self._id:
            self.last_id, self._id = self._id, ""
        if not data:
            return None
        try:
            document = json.loads(data)
        except ValueError:
            raise NotUnderstood(f"An event has no JSON: {data[:80]!r}.") from None
        if kind == "error":
            raise _refusal(document)
        # What happens to a node, and what was missed, has no type of its own.
        return Event.of({"type": kind, **document})


def _refusal(document: object) -> DEdgeAIError:
    said = document.get("error") if isinstance(document, dict) else None
    if not isinstance(said, dict):
        return NotUnderstood(f"The stream ended with {document!r:.80}.")
    server_error = said.get("type") == "server_error"
    return RequestRefused(
        str(said.get("message")),
        code=str(said.get("code")),
        http_status=500 if server_error else 400,
        param=said.get("param"),
        # It may be another node's that is being started again.
        retry_after_s=UNREACHABLE_AGAIN_S if server_error else None,
    )

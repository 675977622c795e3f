"""Requests of AUTOMATIC1111's surface that are under way here, by who asked for them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from edge_node.domain import TaskId


@dataclass(kw_only=True, eq=False)
class Sitting:
    """One request.

    Attributes:
        client_id: of the key that asked; empty where none is asked for.
        name: by which its client asks for its progress alone; may be empty.
        task_ids: of its images, in their order.
        given_up: those that its client wants no more.
    """

    client_id: str
    name: str
    task_ids: tuple[TaskId, ...]
    began_unix_s: float = field(default_factory=time.time)
    given_up: set[TaskId] = field(default_factory=set)


class Sittings:
    """All of them; a client sees its own."""

    def __init__(self) -> None:
        self._all: dict[Sitting, None] = {}

    @contextmanager
    def under_way(self, sitting: Sitting) -> Iterator[Sitting]:
        """The request is being drawn within the context."""
        self._all[sitting] = None
        try:
            yield sitting
        finally:
            del self._all[sitting]

    def of(self, client_id: str, *, name: str = "") -> list[Sitting]:
        """A client's, oldest first; with a name, those that go by it."""
        own = [one for one in self._all if one.client_id == client_id]
        return [one for one in own if one.name == name] if name else own

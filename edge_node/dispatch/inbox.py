"""The one inbox: every event is applied whole, with all that follows from it, before the next.

Owns the two task machines, so that nobody else can change a task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from edge_node.clock import Clock, moment
from edge_node.tasks import hosting as hosted
from edge_node.tasks import lifecycle_protocol as life
from edge_node.tasks.hosting import Hosting
from edge_node.tasks.lifecycle import Lifecycle

Obey = Callable[[life.Instruction | hosted.Instruction], None]


class Inbox:
    """Events in; the machines' instructions are carried out in order.

    Args:
        lifecycle: fates of the tasks accepted here.
        hosting: attempts drawn here.
        clock: says when an event happened.
    """

    def __init__(self, *, lifecycle: Lifecycle, hosting: Hosting, clock: Clock) -> None:
        self._lifecycle = lifecycle
        self._hosting = hosting
        self._clock = clock
        self._events: deque[life.Event | hosted.Event] = deque()
        self._applying = False
        self._obey: Obey | None = None
        self._hosting_changed: Callable[[], None] | None = None

    def connect(self, *, obey: Obey, hosting_changed: Callable[[], None]) -> None:
        """Says who carries out instructions, and who is told when attempts come or go."""
        self._obey = obey
        self._hosting_changed = hosting_changed

    def apply(self, event: life.Event | hosted.Event) -> None:
        """Applies an event, or leaves it to the call that is applying one."""
        self._events.append(event)
        if self._applying:
            return
        self._applying = True
        try:
            while self._events:
                self._apply_one(self._events.popleft())
        finally:
            self._applying = False

    def _apply_one(self, event: life.Event | hosted.Event) -> None:
        assert self._obey is not None, "connected before the first event"
        assert self._hosting_changed is not None, "connected before the first event"
        if isinstance(event, hosted.Event):
            before = self._hosting.changes
            for wanted in self._hosting.handle(event):
                self._obey(wanted)
            if self._hosting.changes != before:
                self._hosting_changed()
            return
        for instruction in self._lifecycle.handle(event, moment(self._clock)):
            self._obey(instruction)

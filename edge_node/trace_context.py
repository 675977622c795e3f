"""Which trace what is done now belongs to, by W3C Trace Context: in a request's own context alone.

Owns what of it is believed when others say it. Knows no spans: those are `telemetry/tracing.py`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass

# https://www.w3.org/TR/trace-context: version, trace id, parent's id, flags; no id is all zeros.
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_STATE = re.compile(r"[ -~]{1,512}")


@dataclass(frozen=True, kw_only=True)
class TraceContext:
    """The span that is going on: `traceparent` and `tracestate`; the first empty for none."""

    parent: str = ""
    state: str = ""

    @classmethod
    def told(cls, headers: Iterable[tuple[str, str]]) -> TraceContext:
        """What a caller's headers or metadata say; nothing where that is not well formed."""
        found = {name: value for name, value in headers if name in ("traceparent", "tracestate")}
        parent, state = found.get("traceparent", ""), found.get("tracestate", "")
        if not _PARENT.fullmatch(parent):
            return NO_TRACE
        return cls(parent=parent, state=state if _STATE.fullmatch(state) else "")

    @property
    def carrier(self) -> tuple[tuple[str, str], ...]:
        """As headers or metadata for whoever is called; empty for none."""
        pairs = (("traceparent", self.parent), ("tracestate", self.state))
        return tuple(pair for pair in pairs if pair[1])


NO_TRACE = TraceContext()
current: ContextVar[TraceContext] = ContextVar("trace", default=NO_TRACE)

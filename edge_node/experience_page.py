"""What one node reads of another's experience at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ExperiencePage:
    """Some entries of an experience pool, in the order of writing.

    Attributes:
        last: cursor of the last one; that of the request where there is none.
        entries: fields by name, as the pool's store keeps them.
        read_unix_s: what the clock that dated them said when they were read; 0 where it is the
            reader's own, or is not told.
    """

    last: str
    entries: tuple[dict[bytes, bytes], ...]
    read_unix_s: float = 0.0

"""What was computed for prompts, the least recently used dropped first, bounded in bytes.

Owns the bound and the order of dropping. It does not encode and it knows nothing of tensors but
the size that it is told.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Encoded = TypeVar("Encoded")


class PromptCache(Generic[Key, Encoded]):
    """Least recently used cache; one key, such as the empty prompt, may be kept for good."""

    def __init__(self, *, bytes_max: int, kept: Key | None = None) -> None:
        self._bytes_max = bytes_max
        self._kept = kept
        self._entries: OrderedDict[Key, tuple[Encoded, int]] = OrderedDict()
        self.bytes_held = 0

    def get(self, key: Key) -> Encoded | None:
        """What was computed for `key`, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Key, encoded: Encoded, *, size_bytes: int) -> None:
        """Keeps `encoded`, dropping others if it must; one that alone is too big is not kept."""
        if key in self._entries:
            self.bytes_held -= self._entries.pop(key)[1]
        if key != self._kept and size_bytes > self._bytes_max:
            return
        self._entries[key] = (encoded, size_bytes)
        self.bytes_held += size_bytes
        for candidate in list(self._entries):
            if self.bytes_held <= self._bytes_max:
                break
            if candidate not in (self._kept, key):
                self.bytes_held -= self._entries.pop(candidate)[1]
        if key != self._kept and self.bytes_held > self._bytes_max:
            # Only the kept one is left beside it, and the two do not fit together.
            self.bytes_held -= self._entries.pop(key)[1]

    def clear(self) -> None:
        """Drops all, as when memory runs out."""
        self._entries.clear()
        self.bytes_held = 0

"""Encoded prompts by text, the least recently used dropped first, bounded in bytes.

Owns the bound and the order of dropping. It does not encode and it knows nothing of tensors but
the size that it is told.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Encoded = TypeVar("Encoded")


class PromptCache(Generic[Encoded]):
    """Least recently used cache; the empty prompt, which nearly every drawing needs, stays."""

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._entries: OrderedDict[str, tuple[Encoded, int]] = OrderedDict()
        self.bytes_held = 0

    def get(self, prompt: str) -> Encoded | None:
        """What was encoded for `prompt`, or None."""
        entry = self._entries.get(prompt)
        if entry is None:
            return None
        self._entries.move_to_end(prompt)
        return entry[0]

    def put(self, prompt: str, encoded: Encoded, *, size_bytes: int) -> None:
        """Keeps `encoded`, dropping others if it must; one that alone is too big is not kept."""
        if prompt in self._entries:
            self.bytes_held -= self._entries.pop(prompt)[1]
        if prompt and size_bytes > self._bytes_max:
            return
        self._entries[prompt] = (encoded, size_bytes)
        self.bytes_held += size_bytes
        for candidate in list(self._entries):
            if self.bytes_held <= self._bytes_max:
                break
            if candidate and candidate != prompt:
                self.bytes_held -= self._entries.pop(candidate)[1]
        if prompt and self.bytes_held > self._bytes_max:
            # Only the empty prompt is left beside it, and the two do not fit together.
            self.bytes_held -= self._entries.pop(prompt)[1]

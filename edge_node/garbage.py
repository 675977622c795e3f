"""When memory goes back: Python's of cycles, and the C library's of large blocks."""

from __future__ import annotations

import contextlib
import ctypes
import gc

# New objects that can hold others, beyond those that went, before it looks at them: some hundred
# requests' worth, a few MB. A request leaves no cycles behind, or few.
NEW_OBJECTS_MAX = 20_000
# Blocks from here on are the system's own again as soon as they are freed.
LARGE_BYTES_MIN = 2**20
_M_MMAP_THRESHOLD = -3  # of mallopt(3)


def collect_later() -> None:
    """To be called before all that stays is loaded: looking through it again and again is slow."""
    gc.disable()


def collect_seldom() -> None:
    """To be called once all is there that stays: it is not looked at again."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS_MAX, *gc.get_threshold()[1:])


def return_large_blocks() -> None:
    """To be called before the first: no large block is kept for the next, by no thread.

    By itself glibc keeps up to 64 MiB per thread that has once held blocks of half that size.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES_MIN)

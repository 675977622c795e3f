"""Places in a node's queue: which its worker keeps up to date, and what is said of others."""

from __future__ import annotations

# Places at the head of the queue of which changes are told; further back once is enough.
PLACES_TOLD_MAX = 10


def place_now(*, told: int, counted: int) -> int:
    """Place of an attempt that waits, from 1.

    The worker knows turns and priorities, and tells each change at the head of the queue. Behind
    that its word ages, and the order of arrival is nearer.

    Args:
        told: the worker's last word; 0 before the first.
        counted: by the order of arrival.
    """
    if told == 0:
        return counted
    return told if told <= PLACES_TOLD_MAX else max(PLACES_TOLD_MAX + 1, min(told, counted))

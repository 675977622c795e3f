"""Who draws next: first come first served within a priority, one image size at a time.

Owns the order of waiting drawings and the choice of those that may join a step. Pure: it holds no
queue of its own and knows neither clocks nor threads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A drawing that waits.

    Attributes:
        arrival: number of the arrival at this worker; earlier is smaller.
        priority: larger is served first.
        size_px: width and height; only rows of the same size share a transformer call.
    """

    arrival: int
    priority: int
    size_px: tuple[int, int]


def in_order(waiting: Iterable[Waiting]) -> list[Waiting]:
    """All that wait, first to be served first."""
    return sorted(waiting, key=lambda one: (-one.priority, one.arrival))


def positions(waiting: Iterable[Waiting]) -> dict[int, int]:
    """Place in the queue by arrival number, counted from 1."""
    return {one.arrival: place for place, one in enumerate(in_order(waiting), start=1)}


def joining(
    waiting: Iterable[Waiting], *, running_size_px: tuple[int, int] | None, places: int
) -> list[Waiting]:
    """Those that join the running rows now.

    The order is never broken: the first in line whose size differs from that of the running rows
    holds back all behind it, else a stream of one size would starve every other.

    Args:
        waiting: the queue, in any order.
        running_size_px: size of the rows that are under way, None when there are none.
        places: rows that may still join.
    """
    chosen: list[Waiting] = []
    size_px = running_size_px
    for one in in_order(waiting):
        if len(chosen) >= places or (size_px is not None and one.size_px != size_px):
            break
        size_px = one.size_px
        chosen.append(one)
    return chosen

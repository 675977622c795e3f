"""Who is drawn next: first come first served or known sizes first, due times and deadlines.

Owns the order of all drawings that a worker holds, begun or not, and the choice of those whose
rows are active. Pure: it holds no queue and knows neither clocks nor threads. Its simulated twin
is `scheduler.simulator.service`; a test serves the same drawings with both.

The order, the most decisive first:

1. larger priority;
2. who would miss a deadline by waiting longer, least latest start first;
3. under fcfs and sjf who has begun, here or elsewhere: only 1 and 2 interrupt a drawing there, and
   one that was begun elsewhere and asked for before;
4. who is older than c0 + c1 x its own service time (promotion), earliest due first; by load, c0 is
   beta x the longest wait lately larger (`scheduler.longest_wait`);
5. under sjf the least whole and under srpt the least remaining seconds, less ageing x age;
6. under fcfs who was asked for first, wherever that was; then who came first.

That is among the drawings of one client. Several clients take turns (`fair_shares`), whatever their
drawings are: none gets ahead of another by priorities, deadlines, or many small drawings.

Times are the worker's own seconds, also where an emulated device runs many times faster than the
one it stands for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from edge_node.worker.fair_shares import FairShares

Discipline = Literal["fcfs", "sjf", "srpt"]


@dataclass(frozen=True, kw_only=True)
class Order:
    """In which order drawings are taken.

    Attributes:
        discipline: "fcfs" by arrival; "sjf" least work first, never interrupted by its like;
            "srpt" least remaining work first, interrupted only between denoising steps.
        ageing: a; orders by seconds of service - a x age in seconds instead.
        promotion: (c0 in seconds, c1); a drawing older than c0 + c1 x its own service time is
            taken first, earliest due first.
        promotion_load: beta; adds to c0 beta x the longest wait lately, see `at`. Without
            `promotion`, c0 is 0 and c1 is 1.
    """

    discipline: Discipline = "fcfs"
    ageing: float | None = None
    promotion: tuple[float, float] | None = None
    promotion_load: float | None = None

    def __post_init__(self) -> None:
        """Refuses what no worker can follow."""
        if self.discipline not in get_args(Discipline):
            known = ", ".join(get_args(Discipline))
            raise ValueError(f"the order is {self.discipline!r}: give one of {known}")
        for name, numbers in (
            ("ageing", () if self.ageing is None else (self.ageing,)),
            ("promotion", self.promotion or ()),
            ("promotion_load", () if self.promotion_load is None else (self.promotion_load,)),
        ):
            if numbers and self.discipline == "fcfs":
                raise ValueError(f"fcfs goes by age already: leave {name} out, or give sjf or srpt")
            if not all(math.isfinite(number) and number >= 0.0 for number in numbers):
                raise ValueError(f"{name} is {getattr(self, name)!r}: give 0 or more")

    def at(self, longest_wait_s: float) -> Order:
        """The order as it is while this is the longest wait lately: with a c0 of that time."""
        if self.promotion_load is None:
            return self
        c0_s, c1 = self.promotion or (0.0, 1.0)
        later_s = self.promotion_load * longest_wait_s
        return dataclasses.replace(self, promotion=(c0_s + later_s, c1), promotion_load=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A drawing as the order sees it.

    Attributes:
        arrival: number of the arrival at this worker; earlier is smaller.
        priority: larger is served first.
        size_px: width and height; only rows of the same size share a step.
        asked_s: time at which it was asked for, here or elsewhere; a drawing that moves keeps it.
        service_s: seconds that all of it takes on this worker at its present capacity.
        left_s: those of them that are still to come.
        deadline_s: time at which the image is of no use any more, None when it always is.
        started: it holds a latent; it is active or parked.
        resumes: it was begun elsewhere.
        client: who wants it.
    """

    arrival: int
    priority: int
    size_px: tuple[int, int]
    asked_s: float
    service_s: float
    left_s: float
    deadline_s: float | None = None
    started: bool = False
    resumes: bool = False
    client: str = ""


def ranked(
    entries: Iterable[Entry], *, order: Order, now_s: float, shares: FairShares | None = None
) -> list[Entry]:
    """All entries, first to be served first; without `shares` as those of one client."""
    in_order = sorted(entries, key=_ranks(order, now_s))
    return in_order if shares is None else shares.in_turns(in_order)


def _ranks(order: Order, now_s: float) -> Callable[[Entry], tuple[float, ...]]:
    """What entries are compared by; one closure, as thousands may wait and each step may ask."""
    by_arrival, by_rest = order.discipline == "fcfs", order.discipline == "srpt"
    ageing = order.ageing or 0.0
    c0_s, c1 = order.promotion or (math.inf, 0.0)

    def rank(entry: Entry) -> tuple[float, ...]:
        # The margin is the whole service time: what it would wait for a drawing like itself. As it
        # does not shrink with the steps done, who is pressed stays so until it is done, and two
        # drawings do not push each other out by turns. Who cannot be in time gets no favour.
        pressed_s = math.inf
        if entry.deadline_s is not None:
            latest_start_s = entry.deadline_s - entry.left_s
            if latest_start_s - entry.service_s <= now_s < latest_start_s:
                pressed_s = latest_start_s
        due_s = entry.asked_s + c0_s + c1 * entry.service_s
        # All ages grow alike: the time of arrival stands for the age.
        size_s = (entry.left_s if by_rest else entry.service_s) + ageing * entry.asked_s
        return (
            -entry.priority,
            pressed_s,
            not (by_rest or entry.started or entry.resumes),
            due_s if due_s <= now_s else math.inf,
            entry.asked_s if by_arrival else size_s,
            entry.arrival,
        )

    return rank


def positions(
    entries: Iterable[Entry], *, order: Order, now_s: float, shares: FairShares | None = None
) -> dict[int, int]:
    """Place among those that have not begun, by arrival number, counted from 1."""
    waiting = (entry for entry in entries if not entry.started)
    in_line = ranked(waiting, order=order, now_s=now_s, shares=shares)
    return {entry.arrival: place for place, entry in enumerate(in_line, start=1)}


def active(in_order: Sequence[Entry], *, places: int, started_max: int) -> list[Entry]:
    """Whose rows are active next: the first `places` in the order, of any size.

    What has begun and is not among them is parked. Fewer places take a part from the front.

    Args:
        in_order: all that the worker holds, as `ranked` has them.
        places: rows that may be active.
        started_max: drawings that may hold a latent, active or parked; once so many do, none
            begins in the place of another.
    """
    chosen: list[Entry] = []
    started = sum(entry.started for entry in in_order)
    for entry in in_order:
        if len(chosen) == places:
            break
        if not entry.started:
            if started >= started_max:
                continue
            started += 1
        chosen.append(entry)
    return chosen


def next_change_s(entries: Iterable[Entry], *, order: Order, now_s: float) -> float:
    """Until when the order stays as it is if only active rows step and none comes or goes.

    The next time after `now_s` at which a drawing is promoted, pressed, beyond help or past its
    deadline; infinite when there is none. Steps of an active row only bring it further forward.
    """
    c0_s, c1 = order.promotion or (math.inf, 0.0)
    change_s = math.inf
    for entry in entries:
        due_s = entry.asked_s + c0_s + c1 * entry.service_s
        if now_s < due_s < change_s:
            change_s = due_s
        if entry.deadline_s is not None:
            latest_start_s = entry.deadline_s - entry.left_s
            pressed_s = latest_start_s - entry.service_s
            for instant_s in (pressed_s, latest_start_s, entry.deadline_s):
                if now_s < instant_s < change_s:
                    change_s = instant_s
    return change_s

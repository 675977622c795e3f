"""Who is drawn next: by values, against a plain reading of the rules, and against the simulator."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.worker import queue_order
from edge_node.worker.queue_order import Entry, Order, ranked
from scheduler import longest_wait

EXAMPLES = settings(
    max_examples=int(os.environ.get("DEDGEAI_EXAMPLES", "30")), deadline=None, database=None
)
FCFS, SJF, SRPT = Order(), Order(discipline="sjf"), Order(discipline="srpt")


def entry(arrival: int, **changes: Any) -> Entry:
    """A drawing of 10 s that came at its arrival number in seconds."""
    base = {
        "arrival": arrival,
        "priority": 0,
        "size_px": (64, 64),
        "asked_s": float(arrival),
        "service_s": 10.0,
        "left_s": changes.get("service_s", 10.0),
    }
    return Entry(**{**base, **changes})


def test_under_fcfs_who_was_asked_for_first_is_first_wherever_that_was() -> None:
    moved = entry(9, asked_s=0.5, resumes=True)
    waits, drawn = entry(1), entry(2, started=True)
    order = [one.arrival for one in ranked([waits, drawn, moved], order=Order(), now_s=10.0)]
    # What has begun goes on, here or there, the older first; and only then what waits.
    assert order == [9, 2, 1]
    young = replace(moved, asked_s=5.0)
    order = [one.arrival for one in ranked([waits, drawn, young], order=Order(), now_s=10.0)]
    assert order == [2, 9, 1]
    fresh = replace(moved, resumes=False)
    order = [one.arrival for one in ranked([waits, drawn, fresh], order=Order(), now_s=10.0)]
    assert order == [2, 9, 1]


def chosen(
    entries: list[Entry],
    order: Order = FCFS,
    *,
    now_s: float = 100.0,
    places: int = 1,
    started_max: int = 99,
) -> list[int]:
    in_order = queue_order.ranked(entries, order=order, now_s=now_s)
    active = queue_order.active(in_order, places=places, started_max=started_max)
    return [one.arrival for one in active]


def test_first_come_first_served_within_a_priority() -> None:
    queue = [entry(3), entry(1), entry(4, priority=2), entry(2, priority=-1)]
    assert chosen(queue, places=9) == [4, 1, 3, 2]
    assert chosen(queue, places=2) == [4, 1]
    assert chosen([], places=2) == []
    queue.append(entry(5, started=True, priority=9))
    places = queue_order.positions(queue, order=FCFS, now_s=100.0)
    assert places == {4: 1, 1: 2, 3: 3, 2: 4}


def test_sizes_mix_in_queue_order() -> None:
    queue = [entry(1), entry(2, size_px=(32, 64)), entry(3), entry(4, size_px=(32, 32))]
    assert chosen(queue, places=3) == [1, 2, 3]


def test_what_has_begun_goes_on_but_under_srpt() -> None:
    running = entry(2, service_s=20.0, left_s=15.0, started=True)
    queue = [entry(1, service_s=5.0), running, entry(3, service_s=9.0)]
    assert chosen(queue, FCFS) == [2]
    assert chosen(queue, SJF, places=9) == [2, 1, 3]
    assert chosen(queue, SRPT, places=9) == [1, 3, 2]
    nearly_done = entry(2, service_s=20.0, left_s=4.0, started=True)
    assert chosen([entry(1, service_s=5.0), nearly_done], SRPT) == [2]
    assert chosen([entry(1, priority=1), nearly_done], FCFS) == [1], "priority interrupts"


def test_ageing_is_taken_off_the_seconds_of_service() -> None:
    queue = [entry(0, service_s=30.0), entry(90, service_s=15.0)]
    assert chosen(queue, SJF, now_s=100.0) == [90]
    aged = Order(discipline="sjf", ageing=0.2)
    assert chosen(queue, aged, now_s=100.0) == [0], "30 - .2 x 100 is less than 15 - .2 x 10"
    assert chosen(queue, Order(discipline="srpt", ageing=0.1), now_s=100.0) == [90]


def test_promotion_by_due_time() -> None:
    order = Order(discipline="srpt", promotion=(15.0, 1.0))
    queue = [entry(0, service_s=30.0), entry(4, service_s=20.0), entry(39, service_s=1.0)]
    assert chosen(queue, order, now_s=38.5) == [39]
    assert chosen(queue, order, now_s=39.0) == [4], "due at 4 + 15 + 20"
    assert chosen(queue, order, now_s=60.0, places=9) == [4, 0, 39], "earliest due first"
    interrupted = Order(discipline="sjf", promotion=(15.0, 1.0))
    running = [*queue, entry(50, started=True)]
    assert chosen(running, interrupted, now_s=60.0, places=2) == [50, 4], "sjf goes on"


def test_promotion_follows_the_longest_wait() -> None:
    order = Order(discipline="srpt", promotion_load=0.5)
    queue = [entry(0, service_s=30.0), entry(39, service_s=1.0)]
    assert order.at(10.0) == Order(discipline="srpt", promotion=(5.0, 1.0))
    assert chosen(queue, order.at(20.0), now_s=39.5) == [39], "due at 0 + .5 x 20 + 30"
    assert chosen(queue, order.at(20.0), now_s=40.0) == [0]
    both = Order(discipline="sjf", ageing=0.1, promotion=(15.0, 2.0), promotion_load=2.0)
    assert both.at(4.0) == Order(discipline="sjf", ageing=0.1, promotion=(23.0, 2.0))
    assert SRPT.at(1e9) is SRPT


def test_a_deadline_that_waiting_would_miss_goes_first() -> None:
    queue = [entry(0, started=True), entry(1, deadline_s=120.0), entry(2, deadline_s=119.0)]
    assert chosen(queue, now_s=98.0, places=9) == [0, 1, 2], "time for another of its size"
    assert chosen(queue, now_s=99.0, places=9) == [2, 0, 1]
    assert chosen(queue, now_s=100.0, places=9) == [2, 1, 0], "the least latest start"
    assert chosen(queue, now_s=109.0, places=9) == [1, 0, 2], "too late at 109: no favour"
    ahead = [*queue, entry(3, priority=1)]
    assert chosen(ahead, now_s=100.0) == [3]


def test_who_is_pressed_stays_so_while_it_is_drawn() -> None:
    other = entry(0, started=True)
    for left_s in (10.0, 5.0, 1.0):
        pressed = entry(1, left_s=left_s, deadline_s=116.0, started=True)
        assert chosen([other, pressed], now_s=110.0 - left_s) == [1]


def test_latents_are_bounded() -> None:
    begun = [entry(1, started=True), entry(2, started=True)]
    urgent = entry(3, priority=5)
    assert chosen([*begun, urgent], started_max=3) == [3]
    assert chosen([*begun, urgent], started_max=2) == [1]
    assert chosen([*begun, urgent], places=3, started_max=2) == [1, 2]
    assert chosen([entry(3), entry(4)], places=2, started_max=2) == [3, 4]


def test_when_to_look_again() -> None:
    order = Order(discipline="srpt", promotion=(15.0, 1.0))
    queue = [entry(0, deadline_s=100.0)]
    changes_s = []
    now_s = 0.0
    while (now_s := queue_order.next_change_s(queue, order=order, now_s=now_s)) < math.inf:
        changes_s.append(now_s)
    assert changes_s == [25.0, 80.0, 90.0, 100.0], "promoted, pressed, beyond help, late"
    assert queue_order.next_change_s([entry(0)], order=SRPT, now_s=0.0) == math.inf


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"discipline": "lifo"}, "give one of fcfs, sjf, srpt"),
        ({"discipline": "fcfs", "ageing": 1.0}, "leave ageing out"),
        ({"discipline": "fcfs", "promotion": (15.0, 1.0)}, "leave promotion out"),
        ({"discipline": "srpt", "ageing": -1.0}, "give 0 or more"),
        ({"discipline": "srpt", "ageing": math.nan}, "give 0 or more"),
        ({"discipline": "sjf", "promotion": (15.0, -1.0)}, "give 0 or more"),
        ({"discipline": "fcfs", "promotion_load": 0.9}, "leave promotion_load out"),
        ({"discipline": "srpt", "promotion_load": math.inf}, "give 0 or more"),
    ],
)
def test_an_impossible_order_says_what_to_give(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Order(**arguments)


# Against a plain reading of the rules. Whole seconds, so that ties are common.

SECONDS = st.integers(0, 12).map(float)
ORDERS = st.one_of(
    st.just(FCFS),
    st.builds(
        Order,
        discipline=st.sampled_from(["sjf", "srpt"]),
        ageing=st.none() | st.sampled_from([0.0, 0.5, 1.0]),
        promotion=st.none() | st.tuples(SECONDS, st.sampled_from([0.0, 0.5, 1.0])),
    ),
)


@st.composite
def queues(draw: st.DrawFn) -> list[Entry]:
    entries = []
    for arrival in range(draw(st.integers(0, 7))):
        service_s = draw(st.integers(1, 8))
        started = draw(st.booleans())
        entries.append(
            Entry(
                arrival=arrival,
                priority=draw(st.sampled_from([0, 0, 0, 1])),
                size_px=(64, draw(st.sampled_from([32, 64]))),
                asked_s=draw(SECONDS),
                service_s=float(service_s),
                left_s=float(draw(st.integers(1, service_s)) if started else service_s),
                deadline_s=draw(st.none() | st.integers(1, 30).map(float)),
                started=started,
                resumes=not started and draw(st.booleans()),
            )
        )
    return draw(st.permutations(entries))


def goes_before(one: Entry, other: Entry, *, order: Order, now_s: float) -> bool:
    """The rules of queue_order.py, read one after the other."""
    if one.priority != other.priority:
        return one.priority > other.priority

    def slack_s(drawing: Entry) -> float:
        deadline_s = math.inf if drawing.deadline_s is None else drawing.deadline_s
        return deadline_s - now_s - drawing.left_s

    pressed = [0 < slack_s(drawing) <= drawing.service_s for drawing in (one, other)]
    if any(pressed) and (not all(pressed) or slack_s(one) != slack_s(other)):
        return pressed[0] and (not pressed[1] or slack_s(one) < slack_s(other))
    begun = [drawing.started or drawing.resumes for drawing in (one, other)]
    if order.discipline != "srpt" and begun[0] != begun[1]:
        return begun[0]
    if order.promotion is not None:
        c0_s, c1 = order.promotion
        overdue_s = [now_s - d.asked_s - c0_s - c1 * d.service_s for d in (one, other)]
        if max(overdue_s) >= 0 and overdue_s[0] != overdue_s[1]:
            return overdue_s[0] > overdue_s[1]
    if order.discipline != "fcfs":
        size_s = [
            (d.left_s if order.discipline == "srpt" else d.service_s)
            - (order.ageing or 0.0) * (now_s - d.asked_s)
            for d in (one, other)
        ]
        if size_s[0] != size_s[1]:
            return size_s[0] < size_s[1]
    elif one.asked_s != other.asked_s:
        return one.asked_s < other.asked_s
    return one.arrival < other.arrival


def chosen_by_hand(
    entries: list[Entry], order: Order, *, now_s: float, places: int, started_max: int
) -> list[int]:
    left = list(entries)
    taken: list[int] = []
    holding = {one.arrival for one in entries if one.started}
    while len(taken) < places:
        may = [d for d in left if d.arrival in holding or len(holding) < started_max]
        first = [
            one
            for one in may
            if all(one is d or goes_before(one, d, order=order, now_s=now_s) for d in may)
        ]
        if not may:
            break
        assert len(first) == 1, "the rules leave no ties"
        taken.append(first[0].arrival)
        holding.add(first[0].arrival)
        left.remove(first[0])
    return taken


@EXAMPLES
@given(
    entries=queues(),
    order=ORDERS,
    now_s=st.integers(12, 30).map(float),
    places=st.integers(1, 4),
    parked_max=st.integers(0, 3),
)
def test_the_active_rows_are_those_of_the_rules(
    entries: list[Entry], order: Order, now_s: float, places: int, parked_max: int
) -> None:
    limits = {"places": places, "started_max": places + parked_max}
    assert chosen(entries, order, now_s=now_s, **limits) == chosen_by_hand(
        entries, order, now_s=now_s, **limits
    )


@EXAMPLES
@given(entries=queues(), order=ORDERS, now_s=st.integers(12, 30).map(float), share=st.floats(0, 1))
def test_nothing_changes_before_it_is_said_to(
    entries: list[Entry], order: Order, now_s: float, share: float
) -> None:
    change_s = min(queue_order.next_change_s(entries, order=order, now_s=now_s), now_s + 50.0)
    later_s = now_s + share * (change_s - now_s)
    if later_s < change_s:
        assert chosen(entries, order, now_s=later_s, places=9) == chosen(
            entries, order, now_s=now_s, places=9
        )


# Against the simulator's Discipline: one server, one row.


def served_s(
    order: Order, arrival_s: list[float], work_s: list[float], steps: list[int]
) -> list[float]:
    """When each drawing is done, on a server that asks `queue_order` before every step."""
    now_s, done_s, steps_done = 0.0, [math.nan] * len(steps), [0] * len(steps)
    longest_s = longest_waits_s(arrival_s, work_s)
    look_again_s, seen, first = -math.inf, -1, -1
    while any(math.isnan(one) for one in done_s):
        held = [
            Entry(
                arrival=i,
                priority=0,
                size_px=(64, 64),
                asked_s=arrival_s[i],
                service_s=work_s[i],
                left_s=(steps[i] - steps_done[i]) * (work_s[i] / steps[i]),
                started=steps_done[i] > 0,
            )
            for i in range(len(steps))
            if math.isnan(done_s[i]) and arrival_s[i] <= now_s
        ]
        if not held:
            now_s = min(arrival_s[i] for i in range(len(steps)) if math.isnan(done_s[i]))
            continue
        known = sum(one <= now_s for one in arrival_s)
        here = order.at(longest_s[known - 1])
        before, first = first, chosen(held, here, now_s=now_s)[0]
        if known == seen and now_s < look_again_s and math.isnan(done_s[before]):
            assert first == before, "the engine would not have looked"
        seen, look_again_s = known, queue_order.next_change_s(held, order=here, now_s=now_s)
        now_s += work_s[first] / steps[first]
        steps_done[first] += 1
        if steps_done[first] == steps[first]:
            done_s[first] = now_s
    return done_s


def longest_waits_s(arrival_s: list[float], work_s: list[float]) -> list[float]:
    """The longest wait lately once each drawing has come, on a server that never idles."""
    longest_s, before_s, free_s = 0.0, 0.0, 0.0
    found = []
    for at_s, work in zip(arrival_s, work_s, strict=True):
        longest_s = longest_wait.after_arrival(longest_s, max(free_s - at_s, 0.0), at_s - before_s)
        found.append(longest_s)
        before_s, free_s = at_s, max(free_s, at_s) + work
    return found


@pytest.mark.parametrize("load", [0.8, 1.2])
@pytest.mark.parametrize(
    "order",
    [
        FCFS,
        SJF,
        SRPT,
        Order(discipline="sjf", ageing=0.1),
        Order(discipline="srpt", ageing=0.1),
        Order(discipline="sjf", promotion=(5.0, 1.0)),
        Order(discipline="srpt", promotion=(5.0, 1.0)),
        Order(discipline="srpt", ageing=0.1, promotion=(3.0, 0.5)),
        Order(discipline="srpt", promotion_load=0.5),
        Order(discipline="sjf", promotion=(1.0, 0.5), promotion_load=0.9),
    ],
    ids=str,
)
def test_one_row_serves_as_the_simulator_does(order: Order, load: float) -> None:
    from scheduler.simulator.service import Discipline, service_delay_s
    from tests.scheduler.simulator.test_service import episode_of

    rng = np.random.default_rng(7)
    tasks = 150
    steps_N = rng.integers(1, 20, tasks)
    work_N = steps_N * rng.uniform(0.05, 0.15, tasks)
    arrival_s_N = np.sort(rng.uniform(0.0, work_N.sum() / load, tasks))
    episode = episode_of(arrival_s_N.tolist(), work_N.tolist(), steps_N.tolist())
    simulated_s_N = service_delay_s(
        episode,
        np.zeros(tasks, np.int64),
        Discipline(
            order=order.discipline,
            ageing=order.ageing,
            promotion=order.promotion,
            promotion_load=order.promotion_load,
        ),
    )
    done_s_N = served_s(order, arrival_s_N.tolist(), work_N.tolist(), steps_N.tolist())
    assert done_s_N - arrival_s_N == pytest.approx(simulated_s_N, abs=1e-9)

"""Turns of several clients at one device: by values, and what holds of any of them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from edge_node.worker import queue_order
from edge_node.worker.fair_shares import CLIENTS_MAX, FairShares
from edge_node.worker.queue_order import Entry, Order
from tests.worker.test_queue_order import EXAMPLES, FCFS, ORDERS, SJF, SRPT, entry, queues

CLIENTS = ("a", "b", "c")


def order_of(entries: list[Entry], shares: FairShares, order: Order = FCFS) -> list[int]:
    ranked = queue_order.ranked(entries, order=order, now_s=100.0, shares=shares)
    return [one.arrival for one in ranked]


def test_a_thousand_of_one_client_are_one_before_anothers_first() -> None:
    shares = FairShares()
    waiting = [entry(arrival, client="a") for arrival in range(1000)]
    shares.begun("a", 10.0)
    waiting[0] = dataclasses.replace(waiting[0], started=True)
    waiting += [entry(1000, client="b"), entry(1001, client="b"), entry(1002, client="c")]
    assert order_of(waiting, shares)[:6] == [0, 1000, 1002, 1, 1001, 2]
    for order in (SJF, SRPT):
        assert order_of(waiting, shares, order)[:3] == [0, 1000, 1002]
    places = queue_order.positions(waiting, order=FCFS, now_s=100.0, shares=shares)
    assert (places[1000], places[1]) == (1, 3)


def test_shares_are_of_time_and_not_of_drawings() -> None:
    shares = FairShares()
    large = [entry(arrival, client="a", service_s=30.0) for arrival in range(3)]
    small = [entry(10 + arrival, client="b", service_s=10.0) for arrival in range(9)]
    assert order_of([*large, *small], shares) == [0, 10, 11, 12, 1, 13, 14, 15, 2, 16, 17, 18]


def test_who_was_away_has_nothing_saved_up_and_nothing_to_pay() -> None:
    shares = FairShares()
    shares.begun("b", 10.0)
    for _ in range(100):
        shares.begun("a", 10.0)
    others = [entry(arrival, client="a") for arrival in range(3)]
    back = [entry(10 + arrival, client="b") for arrival in range(3)]
    assert order_of([*others, *back], shares) == [10, 0, 11, 1, 12, 2]


def test_names_that_somebody_invents_are_not_remembered_for_ever() -> None:
    shares = FairShares()
    for number in range(3 * CLIENTS_MAX):
        shares.begun(f"invented {number}", 1.0 + number % 7)
        assert len(shares._next_s) <= CLIENTS_MAX
    for number in range(20):
        shares.begun("a", 10.0 * (1 + number))
    assert list(shares._next_s) == ["a"], "who has had his turn is forgotten"


def test_neither_priority_nor_deadline_gets_ahead_of_another_client() -> None:
    shares = FairShares()
    greedy = [entry(arrival, client="a", priority=100, deadline_s=111.0) for arrival in range(3)]
    modest = [entry(10, client="b"), entry(11, client="b", priority=1)]
    assert order_of([*greedy, *modest], shares) == [0, 11, 1, 10, 2]


def test_what_has_begun_goes_on_whoever_comes() -> None:
    shares = FairShares()
    shares.begun("a", 10.0)
    begun = entry(0, client="a", started=True, left_s=9.0)
    for order in (FCFS, SJF, SRPT):
        quick = entry(1, client="b", priority=5, service_s=1.0)
        assert order_of([begun, quick], shares, order) == [0, 1]


@EXAMPLES
@given(entries=queues(), order=ORDERS, given_s=st.lists(st.floats(0.1, 50), max_size=3))
def test_one_client_is_served_as_if_there_were_no_shares(
    entries: list[Entry], order: Order, given_s: list[float]
) -> None:
    shares = FairShares()
    for client, service_s in zip(CLIENTS, given_s, strict=False):
        shares.begun(client, service_s)
    plain = queue_order.ranked(entries, order=order, now_s=20.0)
    assert queue_order.ranked(entries, order=order, now_s=20.0, shares=shares) == plain


@EXAMPLES
@given(entries=queues(), order=ORDERS, data=st.data())
def test_each_clients_own_are_in_its_own_order(
    entries: list[Entry], order: Order, data: st.DataObject
) -> None:
    named = [
        dataclasses.replace(one, client=data.draw(st.sampled_from(CLIENTS))) for one in entries
    ]
    together = queue_order.ranked(named, order=order, now_s=20.0, shares=FairShares())
    assert sorted(one.arrival for one in together) == sorted(one.arrival for one in named)
    for client in CLIENTS:
        own = [one for one in named if one.client == client]
        alone = queue_order.ranked(own, order=order, now_s=20.0)
        assert [one for one in together if one.client == client] == alone


ARRIVALS = st.lists(
    st.tuples(st.sampled_from(CLIENTS), st.floats(0.0, 60.0), st.floats(1.0, 9.0)),
    min_size=1,
    max_size=25,
)


@EXAMPLES
@given(arrivals=ARRIVALS, order=st.sampled_from([FCFS, SJF]))
def test_who_comes_anew_waits_for_one_drawing_of_each_other_client_at_most(
    arrivals: list[tuple[str, float, float]], order: Order
) -> None:
    """One device; and while two clients wait, neither is given much more than the other."""
    entries = [
        entry(number, client=client, asked_s=at_s, service_s=service_s)
        for number, (client, at_s, service_s) in enumerate(arrivals)
    ]
    left, shares, now_s = list(entries), FairShares(), 0.0
    begun: list[tuple[float, float, Entry]] = []  # (begin, end, whose)
    while left:
        here = [one for one in left if one.asked_s <= now_s]
        if not here:
            now_s = min(one.asked_s for one in left)
            continue
        first = queue_order.ranked(here, order=order, now_s=now_s, shares=shares)[0]
        shares.begun(first.client, first.service_s)
        begun.append((now_s, now_s + first.service_s, first))
        now_s += first.service_s
        left.remove(first)
    begins = {one.arrival: begin_s for begin_s, _, one in begun}
    ends = {one.arrival: end_s for _, end_s, one in begun}
    for one in entries:
        own = [other for other in entries if other.client == one.client and other is not one]
        held = any(o.asked_s <= one.asked_s < ends[o.arrival] for o in own)
        lately = any(o.asked_s <= begins[one.arrival] for o in own)
        if held or lately:
            continue  # it does not come anew
        overtaking: dict[str, int] = defaultdict(int)
        for begin_s, _, other in begun:
            if one.asked_s <= begin_s < begins[one.arrival]:
                overtaking[other.client] += 1
        assert all(count <= 1 for count in overtaking.values()), (one, begun)


@EXAMPLES
@given(
    a_s=st.lists(st.floats(1.0, 9.0), min_size=20, max_size=30),
    b_s=st.lists(st.floats(1.0, 9.0), min_size=20, max_size=30),
)
def test_two_who_always_wait_are_given_the_same(a_s: list[float], b_s: list[float]) -> None:
    shares = FairShares()
    left = {
        client: [entry(k, client=client, service_s=s) for k, s in enumerate(services)]
        for client, services in (("a", a_s), ("b", b_s))
    }
    given_s = {"a": 0.0, "b": 0.0}
    while all(left.values()):
        first = queue_order.ranked([*left["a"], *left["b"]], order=FCFS, now_s=0.0, shares=shares)[
            0
        ]
        shares.begun(first.client, first.service_s)
        given_s[first.client] += first.service_s
        left[first.client].remove(first)
        assert abs(given_s["a"] - given_s["b"]) <= 18.0, "a drawing of each"

"""The slot's clock and the latent memory, with hand-worked values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_node.clock import Moment
from edge_node.tasks.slots import SLOT_S_MAX, SLOT_S_MIN, Place, SlotMemory, SlotSettings
from scheduler.policy import Decision

AB, ABC = ("a", "b"), ("a", "b", "c")
UNIX_S = 1e9


def memory_of(slot_s: float | None = 1.0, latents_max: int = 64, now_s: float = 0.0) -> SlotMemory:
    return SlotMemory(SlotSettings(slot_s=slot_s, latents_max=latents_max), now_s=now_s)


def decide(
    memory: SlotMemory,
    latent: tuple[float, ...] | None,
    *,
    node_ids: tuple[str, ...] = AB,
    version: str = "v1",
) -> Any:
    """Makes the slot's next decision, which leaves `latent`; returns what it started from."""
    nth = memory.place()
    start = memory.recall(nth, node_ids)
    latent_B = None if latent is None else np.array(latent)
    decision = Decision(choice=0, policy="p", latent_B=latent_B, weights_version=version)
    memory.decided(nth, node_ids, decision)
    return start


def pass_to(memory: SlotMemory, now_s: float, service_s: float | None = None) -> bool:
    return memory.advance(now_s=now_s, service_s=lambda: service_s)


def test_the_nth_of_a_slot_starts_where_the_nth_of_an_earlier_slot_ended() -> None:
    memory = memory_of()
    assert decide(memory, (0.5, 0.0)) is None
    assert decide(memory, (0.0, 0.5)) is None
    assert pass_to(memory, 1.0)
    assert decide(memory, (0.25, 0.5)).tolist() == [0.5, 0.0]
    assert pass_to(memory, 2.5)
    # The previous slot had no second decision: the one before it had.
    assert decide(memory, (0.0, 0.0)).tolist() == [0.25, 0.5]
    assert decide(memory, (0.0, 0.0)).tolist() == [0.0, 0.5]
    assert decide(memory, (0.0, 0.0)) is None


def test_what_a_slot_leaves_is_not_read_in_it_even_when_n_wraps() -> None:
    memory = memory_of(latents_max=2)
    decide(memory, (0.5, 0.0))
    decide(memory, (0.0, 0.5))
    assert memory.place() == Place(slot=0, index=2, row=0)
    assert decide(memory, (0.125, 0.0)) is None
    pass_to(memory, 1.0)
    assert decide(memory, (0.0, 0.0)).tolist() == [0.125, 0.0]


def test_slots_follow_each_other_without_drift_and_empty_ones_count() -> None:
    memory = memory_of()
    assert not pass_to(memory, 0.999)
    assert not pass_to(memory, 1.4), "nothing was left, nothing is to be written"
    assert memory.slot == 1
    assert not pass_to(memory, 1.99)
    decide(memory, (1.0, 0.0))
    assert pass_to(memory, 7.2)
    assert memory.slot == 7
    assert memory.place() == Place(slot=7, index=0, row=0)


def test_a_slot_lasts_one_mean_service_as_measured_when_it_begins_within_bounds() -> None:
    memory = memory_of(slot_s=None)
    pass_to(memory, SLOT_S_MIN, service_s=2.0)
    pass_to(memory, SLOT_S_MIN + 1.9, service_s=0.5)
    assert memory.slot == 1
    pass_to(memory, SLOT_S_MIN + 2.0, service_s=0.001)
    assert memory.slot == 2
    pass_to(memory, SLOT_S_MIN + 2.0 + 1.01 * SLOT_S_MIN, service_s=1e6)
    assert memory.slot == 3
    pass_to(memory, 0.99 * SLOT_S_MAX, service_s=None)
    assert memory.slot == 3
    pass_to(memory, 2.0 + 1.01 * SLOT_S_MAX, service_s=None)
    assert memory.slot == 4
    pass_to(memory, 2.0 + 1.99 * SLOT_S_MAX)
    assert memory.slot == 4, "what is not measured stays as it was"


def test_latents_are_found_by_node_when_nodes_come_and_go() -> None:
    memory = memory_of()
    decide(memory, (0.5, 0.25))
    pass_to(memory, 1.0)
    assert decide(memory, None, node_ids=("c", "b", "a")).tolist() == [0.0, 0.25, 0.5]
    pass_to(memory, 2.0)
    assert decide(memory, None, node_ids=("b",)).tolist() == [0.25]


def test_other_weights_begin_afresh_and_decisions_without_latent_leave_all_as_it_is() -> None:
    memory = memory_of()
    decide(memory, (0.5, 0.25))
    decide(memory, (0.5, 0.5))
    pass_to(memory, 1.0)
    assert decide(memory, None, version="").tolist() == [0.5, 0.25]
    pass_to(memory, 2.0)
    assert decide(memory, (0.0, 1.0), version="v2").tolist() == [0.5, 0.25]
    assert decide(memory, (0.0, 1.0), version="v2") is None
    pass_to(memory, 3.0)
    assert decide(memory, None).tolist() == [0.0, 1.0]


def test_what_other_weights_left_in_this_slot_is_gone_too() -> None:
    memory = memory_of()
    decide(memory, (0.5, 0.25))
    decide(memory, (0.5, 0.5))
    decide(memory, (0.0, 1.0), version="v2")
    pass_to(memory, 1.0)
    for _ in range(2):
        assert decide(memory, None, version="v2") is None
    assert decide(memory, None, version="v2").tolist() == [0.0, 1.0]


def test_a_snapshot_goes_on_within_its_slot() -> None:
    memory = memory_of(now_s=10.0)
    decide(memory, (0.1, 0.2))
    pass_to(memory, 11.0)
    decide(memory, (0.3, 0.4))
    snapshot = memory.snapshot(Moment(now_s=11.5, unix_s=UNIX_S))
    assert snapshot is not None
    # Another life reads another clock; .2 s have passed.
    later = memory_of(now_s=500.0)
    later.restore(snapshot, Moment(now_s=500.0, unix_s=UNIX_S + 0.2))
    for one, at_s in ((memory, 11.7), (later, 500.0)):
        assert not pass_to(one, at_s)
        assert one.place() == Place(slot=1, index=1, row=1)
        assert pass_to(one, at_s + 0.31)
        assert decide(one, None).tolist() == pytest.approx([0.3, 0.4], rel=1e-7)
    # Rounding happens when a latent is kept, so both start from the very same numbers.
    ends: list[Any] = [one.snapshot(Moment(now_s=0, unix_s=0.0)) for one in (memory, later)]
    assert ends[0].latents == ends[1].latents


def test_a_snapshot_of_a_slot_that_is_over_leaves_what_it_left() -> None:
    memory = memory_of()
    decide(memory, (0.5, 0.25))
    snapshot = memory.snapshot(Moment(now_s=0.5, unix_s=UNIX_S))
    assert snapshot is not None
    later = memory_of(latents_max=64)
    later.restore(snapshot, Moment(now_s=7.0, unix_s=UNIX_S + 100))
    assert pass_to(later, 7.0)
    assert (later.slot, decide(later, None).tolist()) == (100, [0.5, 0.25])


def test_a_clock_set_back_before_the_snapshot_begins_its_slot_again() -> None:
    memory = memory_of()
    decide(memory, (0.5, 0.25))
    snapshot = memory.snapshot(Moment(now_s=0.5, unix_s=UNIX_S))
    assert snapshot is not None
    later = memory_of()
    later.restore(snapshot, Moment(now_s=7.0, unix_s=UNIX_S - 3600))
    assert not pass_to(later, 7.9)
    assert pass_to(later, 8.0)


def test_a_memory_without_latents_has_no_snapshot_and_a_smaller_one_takes_what_fits() -> None:
    memory = memory_of()
    assert memory.snapshot(Moment(now_s=0.0, unix_s=UNIX_S)) is None
    for _ in range(5):
        decide(memory, (0.5, 0.25), node_ids=AB)
    snapshot = memory.snapshot(Moment(now_s=0.0, unix_s=UNIX_S))
    assert snapshot is not None
    smaller = memory_of(latents_max=2)
    smaller.restore(snapshot, Moment(now_s=0.0, unix_s=UNIX_S))
    kept = smaller.snapshot(Moment(now_s=0.0, unix_s=UNIX_S))
    assert kept is not None
    assert sorted(kept.open_latents) == [0, 1]


def test_a_snapshot_is_in_the_order_of_the_latest_candidates() -> None:
    memory = memory_of()
    decide(memory, (0.5, 0.25))
    decide(memory, (0.5, 0.25, 1.0), node_ids=ABC)
    snapshot = memory.snapshot(Moment(now_s=0.0, unix_s=UNIX_S))
    assert snapshot is not None
    assert snapshot.node_ids == ABC
    first = np.frombuffer(snapshot.open_latents[0], np.float32)
    assert first.tolist() == [0.5, 0.25, 0.0]


def test_all_of_a_snapshot_is_taken_over() -> None:
    memory = memory_of(latents_max=4)
    decide(memory, (0.5, 0.25))
    pass_to(memory, 1.0)
    decide(memory, None)
    decide(memory, (0.75, 1.0))
    snapshot = memory.snapshot(Moment(now_s=1.5, unix_s=UNIX_S))
    assert snapshot is not None
    assert (snapshot.node_ids, snapshot.version, snapshot.slot) == (AB, "v1", 1)
    assert (snapshot.slot_s, snapshot.decided) == (1.0, 2)
    assert snapshot.began_unix_s == UNIX_S - 0.5
    assert (list(snapshot.latents), list(snapshot.open_latents)) == ([0], [1])
    later = memory_of(slot_s=None, latents_max=4, now_s=70.0)
    later.restore(snapshot, Moment(now_s=70.0, unix_s=UNIX_S + 0.25))
    assert later.place() == Place(slot=1, index=2, row=2)
    row = Place(slot=1, index=0, row=0)
    recalled = later.recall(row, AB)
    assert recalled is not None
    assert recalled.tolist() == [0.5, 0.25]
    # .75 s of its slot are over.
    assert not pass_to(later, 70.24, 1.0)
    assert pass_to(later, 70.25, 1.0)
    assert later.slot == 2
    recalled = later.recall(Place(slot=2, index=1, row=1), AB)
    assert recalled is not None
    assert recalled.tolist() == [0.75, 1.0]


def test_latents_of_two_models_are_in_one_snapshot() -> None:
    memory = memory_of()
    decide(memory, (0.5, 0.25))
    decide(memory, (1.0, 0.75), node_ids=("c", "d"))
    snapshot = memory.snapshot(Moment(now_s=0.5, unix_s=UNIX_S))
    assert snapshot is not None
    assert snapshot.node_ids == ("a", "b", "c", "d")
    later = memory_of(now_s=7.0)
    later.restore(snapshot, Moment(now_s=7.0, unix_s=UNIX_S + 100))
    pass_to(later, 7.0)
    assert decide(later, None).tolist() == [0.5, 0.25]
    assert decide(later, None, node_ids=("c", "d")).tolist() == [1.0, 0.75]

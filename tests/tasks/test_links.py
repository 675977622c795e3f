"""What offloads and states tell of a link, with hand-worked values."""

from __future__ import annotations

import pytest

from edge_node.tasks.links import LinkEstimate, ReportDelay


def test_what_every_offload_waits_for_is_no_transfer() -> None:
    link = LinkEstimate(assumed_bits_s=1e9)
    link.round_trip_measured(0.002)
    for seconds in (0.02, 0.02, 0.5):
        link.offload_answered(800, seconds)
    assert link.throughput_bits_s == 1e9, "small offloads say nothing of throughput"
    link.offload_answered(4e6, 0.06)
    assert link.throughput_bits_s == pytest.approx(1e8)
    assert link.round_trip_s == 0.002


def test_a_hiccup_does_not_count_and_a_change_does() -> None:
    link = LinkEstimate(assumed_bits_s=1e9)
    for seconds in (0.1, 0.1, 0.1, 9.0):
        link.offload_answered(1e7, seconds)
    assert link.throughput_bits_s == pytest.approx(1e8)
    for _ in range(5):
        link.offload_answered(1e7, 1.0)
    assert link.throughput_bits_s == pytest.approx(1e7)


@pytest.mark.parametrize(("seconds", "bits_s"), [(0.0, 1e11), (1e-9, 1e11), (1e3, 1e6)])
def test_throughput_is_bounded(seconds: float, bits_s: float) -> None:
    link = LinkEstimate(assumed_bits_s=1e9)
    link.offload_answered(2e6, seconds)
    assert link.throughput_bits_s == pytest.approx(bits_s)


def test_delay_is_what_a_message_took_beyond_the_quickest() -> None:
    delay = ReportDelay()
    delay.message_arrived(sent_s=1000.0, changed_s=None, now_s=5.0)
    assert delay.excess_s == 0.0
    delay.message_arrived(sent_s=1001.0, changed_s=1000.95, now_s=6.01)
    assert delay.excess_s == pytest.approx(0.2 * 0.06, rel=0.01)
    # A quicker message shows that the first one was late as well.
    delay.message_arrived(sent_s=1002.0, changed_s=None, now_s=6.9)
    assert delay.excess_s == pytest.approx(0.8 * 0.2 * 0.06, rel=0.01)
    delay.message_arrived(sent_s=1003.0, changed_s=1003.0, now_s=8.0)
    assert delay.excess_s == pytest.approx(0.64 * 0.2 * 0.06 + 0.2 * 0.1, rel=0.01)


def test_a_clock_that_drifts_does_not_look_late_for_ever() -> None:
    delay = ReportDelay()
    for minute in range(120):
        # 50 ppm slow: 3 ms a minute.
        delay.message_arrived(sent_s=60 * minute * (1 - 5e-5), changed_s=None, now_s=60.0 * minute)
    assert delay.excess_s < 0.005


def test_a_round_trip_is_smoothed_from_the_first() -> None:
    link = LinkEstimate(assumed_bits_s=1e9)
    assert link.round_trip_s == 0.0
    link.round_trip_measured(0.010)
    assert link.round_trip_s == 0.010
    link.round_trip_measured(0.020)
    assert link.round_trip_s == pytest.approx(0.012)


def test_between_small_and_large_an_offload_says_nothing() -> None:
    link = LinkEstimate(assumed_bits_s=1e9, round_trip_s=0.1)
    link.offload_answered(1e5, 0.3)  # still small
    link.offload_answered(1e5 + 1, 9.0)
    link.offload_answered(1e6 - 1, 9.0)
    assert link.throughput_bits_s == 1e9
    link.offload_answered(1e6, 0.5)  # large: .3 s of it every offload waits for
    assert link.throughput_bits_s == pytest.approx(5e6)


def test_without_a_small_offload_the_round_trip_is_taken_off() -> None:
    link = LinkEstimate(assumed_bits_s=1e9, round_trip_s=0.1)
    link.offload_answered(1e6, 0.5)
    assert link.throughput_bits_s == pytest.approx(2.5e6)


def test_the_last_seven_count() -> None:
    link = LinkEstimate(assumed_bits_s=1e9)
    for seconds in (1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1):
        link.offload_answered(1e7, seconds)
    assert link.throughput_bits_s == pytest.approx(1e7)
    link.offload_answered(1e7, 0.1)
    assert link.throughput_bits_s == pytest.approx(1e8)


def test_the_offset_drifts_with_the_time_since_the_last_message() -> None:
    delay = ReportDelay()
    delay.message_arrived(sent_s=100.0, changed_s=None, now_s=10.0)
    # 100 s later 20 ms are late, of which the clocks may have drifted 10.
    delay.message_arrived(sent_s=200.0, changed_s=None, now_s=110.02)
    assert delay.excess_s == pytest.approx(0.2 * 0.01, rel=1e-3)
    # From there on: 10 s later, 1 ms more.
    delay.message_arrived(sent_s=210.0, changed_s=None, now_s=120.02)
    assert delay.excess_s == pytest.approx(0.8 * 0.2 * 0.01 + 0.2 * 0.009, rel=1e-3)

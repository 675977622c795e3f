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

"""What of a caller's trace is believed: what is well formed, as W3C's recommendation has it."""

from __future__ import annotations

import pytest

from edge_node.trace_context import NO_TRACE, TraceContext

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_what_is_well_formed_goes_on() -> None:
    told = TraceContext.told([("traceparent", GOOD), ("tracestate", "a=1,b=2"), ("x", "y")])
    assert told.carrier == (("traceparent", GOOD), ("tracestate", "a=1,b=2"))
    assert TraceContext.told([("traceparent", GOOD)]).carrier == (("traceparent", GOOD),)
    assert NO_TRACE.carrier == ()


@pytest.mark.parametrize(
    "parent",
    [
        "",
        GOOD.upper(),
        GOOD[:-1],
        f"{GOOD}-more",
        f"ff{GOOD[2:]}",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        f"{GOOD}\n",
    ],
)
def test_what_is_not_is_nothing(parent: str) -> None:
    assert TraceContext.told([("traceparent", parent), ("tracestate", "a=1")]) is NO_TRACE


def test_a_state_that_no_header_can_hold_is_left_out() -> None:
    for state in ("a" * 513, "a=\x00", "a=\nb"):
        told = TraceContext.told([("traceparent", GOOD), ("tracestate", state)])
        assert told == TraceContext(parent=GOOD)

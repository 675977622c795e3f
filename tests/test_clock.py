"""A wall clock that is set while a process runs moves nothing in it."""

from __future__ import annotations

import time

import pytest

from edge_node.clock import SystemClock

TEN_DAYS_S = 10 * 86_400.0


@pytest.mark.parametrize("step_s", [TEN_DAYS_S, -TEN_DAYS_S])
def test_a_step_of_the_wall_clock_is_shown_and_not_followed(
    monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    wall_s = time.time
    clock = SystemClock()
    assert clock.unix_s() == pytest.approx(wall_s(), abs=1.0)
    before = clock.unix_s()
    monkeypatch.setattr(time, "time", lambda: wall_s() + step_s)
    assert 0.0 <= clock.unix_s() - before < 1.0
    assert clock.step_s() == pytest.approx(step_s, abs=1.0)
    # The next life believes what it finds.
    assert SystemClock().unix_s() == pytest.approx(wall_s() + step_s, abs=1.0)

"""The shapes that carry the answer to "is the learned policy worse?", at their boundaries."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.guard import guard
from scheduler.guard.guard import GuardSettings
from scheduler.guard.status import GuardStatus
from scheduler.guard.verdict import ReplayVerdict, configured_version

VERDICT = ReplayVerdict(
    version="v",
    rule="r",
    judged_unix_s=1.0,
    tasks=2000,
    failed=0,
    learned_mean_s=5.0,
    rule_mean_s=4.0,
    worse_low=0.25,
    worse_high=0.5,
)
STATUS = GuardStatus(
    wanted="l",
    rule="r",
    rules=("r",),
    deciding="l",
    reason="",
    version="v",
    pinned=False,
    decisions=10,
    learned_share=0.5,
    learned_share_total=0.9,
    verdict=None,
    live_cycles=0,
    live_worse=None,
)


def test_a_verdict_is_sure_beyond_its_bounds_only() -> None:
    assert VERDICT.worse == 0.25
    assert [VERDICT.surely_worse(margin) for margin in (0.24, 0.25, 0.26)] == [True, False, False]
    assert [VERDICT.surely_not_worse(margin) for margin in (0.49, 0.5, 0.51)] == [
        *(False, False, True),
    ]


def test_weights_that_ship_go_by_the_policy_and_its_options() -> None:
    assert configured_version("lad_ts_plus", {}) == "lad_ts_plus"
    options = {"start": "ring", "price": 0.35}
    assert configured_version("lad_ts_plus", options) == "lad_ts_plus:price=0.35,start=ring"


@pytest.mark.parametrize(("total", "counts"), [(None, False), (0.899, False), (0.9, True)])
def test_nine_decisions_of_ten_are_reported_as_the_learned_policys(
    total: float | None, counts: bool
) -> None:
    assert replace(STATUS, learned_share_total=total).counts_as_learned is counts


def test_when_a_guard_acts_where_nothing_is_configured() -> None:
    settings = GuardSettings(wanted="l", rules=("r",))
    assert vars(settings) == {
        "wanted": "l",
        "rules": ("r",),
        "pinned": False,
        "margin": 0.01,
        "decision_budget_s": 0.002,
        "slot_s": 3.5,
        "window_s": 60.0,
        "window_tasks": 2000,
        "trusted_versions": frozenset(),
    }
    assert (guard.OVERRUNS_MAX, guard.OVERRUNS_OF) == (3, 20)
    assert (guard.LIVE_TRIP_WINDOWS, guard.DETAIL_CHARS_MAX) == (200, 120)

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scheduler.experience import RecordedDecision
from scheduler.guard import guard as guarding
from scheduler.guard.alternation import (
    CYCLES_MIN,
    RULE_WINDOW,
    WINDOWS_PER_CYCLE,
    Alternation,
    LiveFinding,
)
from scheduler.guard.guard import Guard, GuardSettings, reason_word
from scheduler.guard.verdict import ReplayVerdict
from scheduler.observation import Observation
from scheduler.policy import Decision, Outcome, UnknownMembership
from tests.set_clock import SetClock

SETTINGS = GuardSettings(
    wanted="lad_ts_plus",
    rules=("slow_server_aware", "ring"),
    slot_s=3.0,
    window_s=10.0,
    window_tasks=20,
    trusted_versions=frozenset({"shipped"}),
)
OBSERVATION = Observation(
    node_ids=("a", "b", "c"),
    local=0,
    work=10.0,
    input_bits=8000,
    backlog_B=np.zeros(3),
    own_B=np.zeros(3),
    capacity_B=np.array([4.0, 2.0, 1.0]),
    link_s_B=np.zeros(3),
    staleness_s_B=np.zeros(3),
    alive_B=np.array([True, True, False]),
)


class Rule:
    def __init__(self, name: str = "slow_server_aware") -> None:
        self.name = name
        self.outcomes: list[Outcome] = []

    def decide(self, observation: Observation) -> Decision:
        return Decision(choice=0, policy=self.name)

    def record(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


class Learned(Rule):
    """Chooses b unless told to misbehave."""

    def __init__(self, clock: SetClock) -> None:
        super().__init__()
        self.clock = clock
        self.error: Exception | None = None
        self.choice = 1
        self.latent_B = np.array([0.0, 1.0, 0.0])
        self.takes_s = 0.0

    def decide(self, observation: Observation) -> Decision:
        self.clock.now += self.takes_s
        if self.error is not None:
            raise self.error
        return Decision(
            choice=self.choice,
            policy="lad_ts_plus",
            latent_B=self.latent_B,
            weights_version="shipped",
        )


class Stage:
    def __init__(self, settings: GuardSettings = SETTINGS, version: str = "shipped") -> None:
        self.clock = SetClock(0.0)
        self.learned = Learned(self.clock)
        self.rule, self.ring = Rule(), Rule("ring")
        self.guard = Guard(
            settings,
            learned=self.learned,
            version=version,
            rules={"slow_server_aware": self.rule, "ring": self.ring},
            now_s=self.clock.now_s,
            shared_s=self.clock.unix_s,
            cpu_s=self.clock.now_s,
        )
        self.numbered = 0

    def decide(self, observation: Observation = OBSERVATION) -> Decision:
        decision = self.guard.decide(observation)
        assert reason_word(decision.reason) in guarding.REASONS
        assert (decision.policy == "lad_ts_plus") == (decision.reason in ("", "pinned"))
        return decision

    def run(self, *, learned_s: float, rule_s: float) -> Decision:
        """One task from decision to outcome."""
        decision = self.decide()
        self.numbered += 1
        decision_id = f"task-{self.numbered}/1"
        self.guard.note_decision(
            RecordedDecision(
                decision_id=decision_id,
                node_id="a",
                decided_unix_s=self.clock.unix_s(),
                slot=0,
                index_in_slot=0,
                steps=10,
                observation=OBSERVATION,
                decision=decision,
            )
        )
        delay_s = learned_s if decision.policy == "lad_ts_plus" else rule_s
        self.guard.record(Outcome(decision_id=decision_id, service_delay_s=delay_s, completed=True))
        return decision


def verdict(
    low: float,
    high: float,
    *,
    at_s: float = 1.0,
    version: str = "shipped",
    rule: str = "slow_server_aware",
) -> ReplayVerdict:
    return ReplayVerdict(
        version=version,
        rule=rule,
        judged_unix_s=at_s,
        tasks=2000,
        failed=0,
        learned_mean_s=10.0 * (1.0 + (low + high) / 2.0),
        rule_mean_s=10.0,
        worse_low=low,
        worse_high=high,
    )


def test_shipped_weights_decide_from_the_start() -> None:
    decision = Stage().decide()
    assert (decision.choice, decision.policy, decision.reason) == (1, "lad_ts_plus", "")


def test_unknown_weights_wait_for_their_verdict() -> None:
    stage = Stage(version="fresh")
    assert stage.decide().reason == "no verdict yet"
    stage.guard.judged(verdict(-0.02, 0.03, version="fresh"))
    assert stage.decide().reason == "replay: may be worse than slow_server_aware by 3.0%"
    stage.guard.judged(verdict(-0.02, 0.005, at_s=2.0, version="fresh"))
    assert stage.decide().reason == ""


def test_weights_that_were_found_better_than_what_decides_go_on_in_its_place() -> None:
    stage = Stage()
    stage.guard.swap_learned(stage.learned, "next", better_than="shipped")
    assert stage.decide().reason == "no verdict yet", "nothing has decided here yet"
    stage = Stage()
    assert stage.decide().reason == ""
    stage.guard.swap_learned(stage.learned, "next", better_than="shipped")
    assert stage.decide().reason == ""
    stage.guard.swap_learned(stage.learned, "after", better_than="others")
    assert stage.decide().reason == "no verdict yet"


def test_being_better_than_what_is_worse_than_the_rule_is_not_enough() -> None:
    stage = Stage()
    assert stage.decide().reason == ""
    stage.guard.judged(verdict(0.02, 0.06))
    stage.guard.swap_learned(stage.learned, "next", better_than="shipped")
    assert stage.decide().reason == "no verdict yet"


def test_what_windows_found_worse_stands_for_what_goes_on_in_its_place() -> None:
    stage = Stage()
    for _ in range(WINDOWS_PER_CYCLE * (CYCLES_MIN + 30)):
        for _ in range(3):
            stage.run(learned_s=30.0, rule_s=10.0)
        stage.clock.now += SETTINGS.window_s
        if stage.guard.status().reason.startswith("live"):
            break
    tripped = stage.guard.status().reason
    assert tripped.startswith("live: worse than")
    stage.guard.swap_learned(stage.learned, "next", better_than="shipped")
    assert stage.decide().reason == tripped
    stage.guard.swap_learned(stage.learned, "others")
    assert stage.decide().reason == "no verdict yet"


def test_no_weights_leave_it_to_the_rule() -> None:
    stage = Stage()
    stage.guard.swap_learned(None, None)
    assert stage.decide().reason == "no weights"


def test_a_replay_takes_the_turn_and_gives_it_back() -> None:
    stage = Stage()
    stage.guard.judged(verdict(0.02, 0.06, at_s=1.0))
    assert stage.decide().reason == "replay: worse than slow_server_aware by 4.0%"
    # Between the bounds nothing changes, from either side.
    stage.guard.judged(verdict(-0.01, 0.02, at_s=2.0))
    assert stage.decide().reason == "replay: worse than slow_server_aware by 4.0%"
    stage.guard.judged(verdict(-0.02, 0.009, at_s=3.0))
    assert stage.decide().reason == ""
    stage.guard.judged(verdict(-0.01, 0.02, at_s=4.0))
    assert stage.decide().reason == ""


def test_the_rule_of_the_newest_verdict_stands_in_and_is_named() -> None:
    stage = Stage(version="fresh")
    assert (stage.decide().policy, stage.guard.rule) == ("slow_server_aware", "slow_server_aware")
    # Which rule is best is true of the cluster, whatever weights were judged.
    stage.guard.judged(verdict(0.02, 0.06, at_s=2.0, version="other", rule="ring"))
    assert (stage.decide().policy, stage.decide().reason) == ("ring", "no verdict yet")
    stage.guard.judged(verdict(0.02, 0.06, at_s=3.0, version="fresh", rule="ring"))
    assert stage.decide().reason == "replay: worse than ring by 4.0%"
    status = stage.guard.status()
    assert (status.rule, status.deciding) == ("ring", "ring")
    assert status.rules == ("slow_server_aware", "ring")
    # One of other rules brings no other rule back.
    stage.guard.judged(verdict(0.02, 0.06, at_s=4.0, version="fresh", rule="greedy"))
    assert stage.decide().policy == "ring"
    # Other weights inherit the rule.
    stage.guard.swap_learned(stage.learned, "newer")
    assert (stage.decide().policy, stage.decide().reason) == ("ring", "no verdict yet")


def test_another_rule_begins_the_test_by_windows_anew() -> None:
    stage = Stage()
    cycles = CYCLES_MIN // 2
    for _ in range(cycles * WINDOWS_PER_CYCLE + 1):
        stage.run(learned_s=1.0, rule_s=1.0)
        stage.clock.now += SETTINGS.window_s
    assert stage.guard.status().live_cycles == cycles
    stage.guard.judged(verdict(-0.01, 0.0))  # the same rule: nothing begins anew
    assert stage.guard.status().live_cycles == cycles
    stage.guard.judged(verdict(-0.01, 0.0, at_s=2.0, rule="ring"))
    assert stage.guard.status().live_cycles == 0
    stage.clock.now = SETTINGS.window_s * (RULE_WINDOW + 7 * WINDOWS_PER_CYCLE)
    window = stage.run(learned_s=1.0, rule_s=1.0)
    assert (window.policy, window.reason) == ("ring", "window")


def test_another_margin_judges_the_last_verdict_anew() -> None:
    stage = Stage()
    stage.guard.judged(verdict(0.02, 0.06))
    assert stage.decide().reason == "replay: worse than slow_server_aware by 4.0%"
    stage.guard.reconfigure(replace(SETTINGS, margin=0.1))
    assert stage.decide().reason == ""
    stage.guard.reconfigure(SETTINGS)
    assert stage.decide().reason == "replay: worse than slow_server_aware by 4.0%"
    stage.guard.reconfigure(replace(SETTINGS, pinned=True))
    assert stage.decide().reason == "pinned"


def test_a_learner_whose_clock_is_days_behind_has_the_last_word_all_the_same() -> None:
    stage = Stage()
    stage.guard.judged(verdict(-0.02, 0.0, at_s=1e6))
    assert stage.decide().reason == ""
    # Another device learns now.
    stage.guard.judged(verdict(0.02, 0.06, at_s=1.0))
    assert stage.decide().reason == "replay: worse than slow_server_aware by 4.0%"
    stage.guard.judged(verdict(-0.02, 0.0, at_s=2.0, rule="ring"))
    assert (stage.decide().reason, stage.guard.rule) == ("", "ring")


def test_verdicts_of_other_weights_or_rules_do_not_count() -> None:
    stage = Stage()
    stage.guard.judged(verdict(-0.02, 0.0, at_s=5.0))
    stage.guard.judged(verdict(0.02, 0.06, at_s=6.0, version="other"))
    stage.guard.judged(replace(verdict(0.02, 0.06, at_s=6.0), rule="greedy"))
    assert stage.decide().reason == ""


def test_a_verdict_may_come_before_its_weights() -> None:
    stage = Stage()
    stage.guard.judged(verdict(-0.02, 0.0, version="fresh"))
    stage.guard.swap_learned(Learned(stage.clock), "fresh")
    assert stage.decide().reason == ""


def test_verdicts_of_earlier_weights_do_not_count_for_the_next() -> None:
    stage = Stage()
    stage.guard.judged(verdict(-0.02, 0.0))
    stage.guard.swap_learned(Learned(stage.clock), "fresh")
    assert stage.decide().reason == "no verdict yet"


@pytest.mark.parametrize(
    ("misbehave", "reason"),
    [
        ({"error": ValueError("nan")}, "error: ValueError: nan"),
        ({"error": ZeroDivisionError()}, "error: ZeroDivisionError: "),
        ({"choice": 2}, "error: chose what may not be chosen"),
        ({"choice": 7}, "error: chose what may not be chosen"),
        ({"choice": -1}, "error: chose what may not be chosen"),
        ({"latent_B": np.array([0.0, np.nan, 1.0])}, "not finite"),
        ({"latent_B": np.ones(2)}, "not finite"),
    ],
)
def test_failures_stand_until_the_next_slot(misbehave: dict[str, object], reason: str) -> None:
    stage = Stage()
    former = {name: getattr(stage.learned, name) for name in misbehave}
    for name, value in misbehave.items():
        setattr(stage.learned, name, value)
    assert stage.decide().reason == reason
    for name, value in former.items():
        setattr(stage.learned, name, value)
    stage.clock.now = 2.9
    assert stage.decide().reason == reason
    assert stage.guard.status().reason == reason
    stage.clock.now = 3.1
    assert stage.decide().reason == ""


def test_a_pause_is_tolerated_and_slowness_is_not() -> None:
    stage = Stage()
    stage.learned.takes_s = 0.003
    assert [stage.decide().reason for _ in range(3)] == ["", "", "over budget"]
    stage.clock.now = 3.1
    # One more try: still slow, so it stays with the rule; once fast, it is trusted again.
    assert stage.decide().reason == "over budget"
    stage.clock.now = 6.1
    stage.learned.takes_s = 0.0
    assert [stage.decide().reason for _ in range(30)] == [""] * 30
    stage.learned.takes_s = 0.003
    assert stage.decide().reason == ""


def test_an_unknown_membership_is_the_rules_until_it_changes() -> None:
    stage = Stage()
    stage.learned.error = UnknownMembership("4 candidates; the weights are for 3 servers")
    assert stage.decide().reason == "unknown membership"
    stage.learned.error = None
    stage.clock.now = 50.0
    assert stage.decide().reason == "unknown membership"
    assert stage.guard.status().reason == "unknown membership"
    assert stage.decide(replace(OBSERVATION, node_ids=("a", "b", "d"))).reason == ""
    assert stage.guard.status().reason == ""


def test_the_rule_has_its_windows() -> None:
    stage = Stage()
    reasons = []
    for number in range(WINDOWS_PER_CYCLE):
        stage.clock.now = 10.0 * number + 5.0
        reasons.append(stage.decide().reason)
    assert reasons[RULE_WINDOW] == "window"
    assert reasons.count("") == WINDOWS_PER_CYCLE - 1
    status = stage.guard.status()
    assert status.learned_share == status.learned_share_total == 0.95
    assert status.counts_as_learned


def test_a_pinned_policy_decides_whatever_is_found() -> None:
    stage = Stage(replace(SETTINGS, pinned=True), version="fresh")
    stage.guard.judged(verdict(0.5, 0.6, version="fresh"))
    stage.clock.now = 10.0 * RULE_WINDOW + 5.0
    assert stage.decide().reason == "pinned"
    stage.learned.error = ValueError("broken")
    assert stage.decide().reason == "error: ValueError: broken"


def live_windows(stage: Stage, cycles: int, rng: np.random.Generator, *, worse: float) -> int:
    """Windows until the live test trips, 0 for never."""
    first = int(stage.clock.now // 10.0)
    for number in range(first, first + cycles * WINDOWS_PER_CYCLE):
        stage.clock.now = 10.0 * number + 5.0
        luck_s = 5.0 * float(np.exp(0.13 * rng.standard_normal()))
        if stage.run(learned_s=luck_s * (1.0 + worse), rule_s=luck_s).reason.startswith("live"):
            return number - first
    return 0


def test_a_worse_policy_is_found_live_and_tried_again() -> None:
    stage = Stage()
    windows = live_windows(stage, 60, np.random.default_rng(3), worse=0.2)
    assert 0 < windows <= 25 * WINDOWS_PER_CYCLE
    assert stage.guard.status().reason.startswith("live: worse than slow_server_aware by ")
    assert stage.guard.status().deciding == "slow_server_aware"
    stage.clock.now += 10.0 * guarding.LIVE_TRIP_WINDOWS + 20.0
    assert stage.decide().reason == ""
    assert stage.guard.status().live_cycles == 0


def test_an_equal_policy_is_left_alone() -> None:
    trips = [
        live_windows(Stage(), 40, np.random.default_rng(seed), worse=0.0) > 0 for seed in range(20)
    ]
    assert sum(trips) <= 2  # 5 % is the stated chance: three of 20 have a chance under 8 %


def test_outcomes_reach_both_policies() -> None:
    stage = Stage()
    stage.guard.record(Outcome(decision_id="x/1", service_delay_s=1.0, completed=True))
    assert len(stage.rule.outcomes) == len(stage.learned.outcomes) == 1


def test_status_tells_who_was_wanted_and_who_decided() -> None:
    stage = Stage(version="fresh")
    before = stage.guard.status()
    assert (before.learned_share, before.learned_share_total) == (None, None)
    assert not before.counts_as_learned
    for _ in range(10):
        stage.decide()
    stage.guard.judged(verdict(-0.02, 0.0, version="fresh"))
    for _ in range(30):
        stage.decide()
    status = stage.guard.status()
    assert (status.wanted, status.deciding, status.reason) == ("lad_ts_plus", "lad_ts_plus", "")
    assert (status.learned_share, status.learned_share_total) == (1.0, 0.75)
    assert not status.counts_as_learned
    assert status.verdict is not None


def test_long_reasons_are_cut() -> None:
    stage = Stage()
    stage.learned.error = ValueError("x" * 500)
    assert len(stage.decide().reason) == 120


def test_three_slow_decisions_of_twenty_are_too_many() -> None:
    stage = Stage()
    reasons = []
    for number in range(20):
        stage.learned.takes_s = 0.003 if number in (0, 10, 19) else 0.0
        reasons.append(stage.decide().reason)
    assert reasons == [""] * 19 + ["over budget"]
    spread = Stage()
    for number in range(21):
        spread.learned.takes_s = 0.003 if number in (0, 10, 20) else 0.0
        assert spread.decide().reason == ""


def test_the_budget_itself_may_be_used() -> None:
    stage = Stage(replace(SETTINGS, decision_budget_s=0.25))
    stage.learned.takes_s = 0.25
    assert [stage.decide().reason for _ in range(5)] == [""] * 5


def test_a_live_trip_lasts_ten_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    found = Alternation.finding
    worse = LiveFinding(cycles=12, worse=0.125, surely_worse=True)
    monkeypatch.setattr(Alternation, "finding", lambda _: worse)
    stage.clock.now = 5.0
    stage.run(learned_s=1.0, rule_s=1.0)
    monkeypatch.setattr(Alternation, "finding", found)
    assert stage.decide().reason == "live: worse than slow_server_aware by 12.5%"
    # Two thousand seconds later its turn comes again.
    stage.clock.now = 2004.9
    assert stage.decide().reason == "live: worse than slow_server_aware by 12.5%"
    stage.clock.now = 2005.0
    assert stage.decide().reason == ""


def test_what_the_rule_decides_for_another_reason_is_no_window_of_the_test() -> None:
    stage = Stage()
    stage.learned.error = ValueError("broken")
    stage.clock.now = 85.0
    stage.run(learned_s=1.0, rule_s=1.0)
    assert not stage.guard._alternation._windows
    stage.learned.error = None
    stage.clock.now = 95.0
    stage.run(learned_s=1.0, rule_s=1.0)
    assert list(stage.guard._alternation._windows) == [9]
    pinned = Stage(replace(SETTINGS, pinned=True))
    pinned.clock.now = 95.0
    pinned.run(learned_s=1.0, rule_s=1.0)
    assert not pinned.guard._alternation._windows


def test_the_share_is_of_the_latest_decisions() -> None:
    stage = Stage()
    stage.learned.error = ValueError("broken")
    for _ in range(10):
        stage.decide()
    stage.learned.error, stage.clock.now = None, 3.0
    for _ in range(15):
        stage.decide()
    status = stage.guard.status()
    assert (status.learned_share, status.learned_share_total) == (0.75, 0.6)
    assert (status.decisions, status.wanted, status.pinned) == (25, "lad_ts_plus", False)

"""What decisions led to, worked out by hand and in disorder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from scheduler.algorithms.equivariant_lad_ts import HARM_HORIZON
from scheduler.experience import PooledDecision
from scheduler.learning.hindsight import SETTLED_S, Hindsight, Judged
from scheduler.policy import Outcome
from tests.scheduler.learning.lived import BEGAN_UNIX_S, decided, lived, outcome

NOTHING_B = np.zeros(3)


def hindsight(entries: Sequence[PooledDecision | Outcome], **options: float) -> Hindsight:
    made = Hindsight(
        decisions_max=int(options.get("decisions_max", 1000)),
        outcome_wait_s=options.get("outcome_wait_s", 100.0),
        harm=options.get("harm", 1.0),
        rng=np.random.default_rng(0),
    )
    for entry in entries:
        made.add(entry)
    return made


def late(number: int = 90, *, at_s: float = 50.0) -> PooledDecision:
    """Somebody decides later, so that all before is settled; on server c, where nobody else is."""
    return decided(number, at_s, 1.0, NOTHING_B, 2)


def found(made: Hindsight) -> dict[float, Judged]:
    return {round(one.lived.decided_unix_s - BEGAN_UNIX_S, 6): one for one in made.judged()}


def test_a_task_costs_its_own_delay_and_that_of_who_joins_before_its_server_idles() -> None:
    # Server a, of capacity 4: two tasks join while it works, a third after it idled.
    entries: list[PooledDecision | Outcome] = []
    for number, (at_s, delay_s) in enumerate(((0.0, 2.0), (1.0, 2.0), (2.5, 1.0), (9.0, 1.0))):
        entries += [decided(number, at_s, 4.0, NOTHING_B, 0), outcome(number, delay_s)]
    by_time = found(hindsight([*entries, late()]))
    unit_s = by_time[0.0].lived.seen.unit_s
    assert unit_s == pytest.approx(3.0 / 6.5)  # mean work 1, three servers, capacity 6.5

    def passed(s: float) -> float:
        return math.exp(-s / (HARM_HORIZON * unit_s))

    service_s = 4.0 / 4.0
    later = passed(1.0) * (1.0 + passed(1.5))
    assert by_time[0.0].cost == pytest.approx((2.0 + service_s * later) / unit_s)
    assert by_time[1.0].cost == pytest.approx((2.0 + service_s * passed(1.5)) / unit_s)
    assert by_time[2.5].cost == pytest.approx(1.0 / unit_s)
    assert by_time[9.0].cost == pytest.approx(1.0 / unit_s)
    without = found(hindsight([*entries, late()], harm=0.0))
    assert without[0.0].cost == pytest.approx(2.0 / unit_s)


def test_pools_that_are_read_one_after_another_say_the_same_as_one_stream() -> None:
    entries = lived(60)
    together = [(one.cost, one.lived.server) for one in hindsight(entries).judged()]
    by_node: dict[str, list[PooledDecision | Outcome]] = {}
    owner = {e.recorded.decision_id: e.life for e in entries if isinstance(e, PooledDecision)}
    for entry in entries:
        life = entry.life if isinstance(entry, PooledDecision) else owner[entry.decision_id]
        by_node.setdefault(life, []).append(entry)
    assert len(by_node) == 3
    apart = hindsight([entry for life in reversed(by_node) for entry in by_node[life]])
    assert [(one.cost, one.lived.server) for one in apart.judged()] == together


def test_what_is_not_over_is_not_judged_and_counts_as_being_served() -> None:
    begun = decided(0, 0.0, 4.0, NOTHING_B, 0)
    joined: list[PooledDecision | Outcome] = [decided(1, 5.0, 4.0, NOTHING_B, 0), outcome(1, 2.0)]
    made = hindsight([begun, *joined])
    assert found(made) == {}  # the end of the second is not settled
    made.add(decided(2, 7.0 + SETTLED_S + 0.1, 4.0, NOTHING_B, 2))
    assert list(found(made)) == [5.0]
    made.add(outcome(0, 6.0))
    made.add(late())
    assert found(made)[0.0].cost > 6.0 / found(made)[0.0].lived.seen.unit_s


def test_of_a_task_that_was_placed_again_only_the_last_attempt_is_learned_from() -> None:
    made = hindsight(
        [
            decided(0, 0.0, 4.0, NOTHING_B, 0),
            decided(0, 3.0, 4.0, NOTHING_B, 1, attempt=2),
            outcome(0, 8.0),
            outcome(0, 8.0, attempt=2),
            late(),
        ]
    )
    assert {at: (one.lived.server, one.delay_s) for at, one in found(made).items()} == {
        3.0: ("b", 5.0)
    }


def test_what_comes_twice_or_belongs_nowhere_is_counted_and_changes_nothing() -> None:
    entries = lived(20)
    once = [one.cost for one in hindsight(entries).judged()]
    made = hindsight([*entries, *entries, outcome(777, 1.0)])
    assert [one.cost for one in made.judged()] == once
    counts = made.counts
    assert (counts.decisions, counts.outcomes, counts.duplicates) == (20, 20, 40)
    assert counts.strays == 1


def test_a_decision_between_one_server_is_none() -> None:
    made = hindsight([decided(0, 0.0, 1.0, NOTHING_B, 0, servers=1), outcome(0, 1.0), late()])
    assert made.judged() == []
    assert made.counts.undecided == 1


def test_the_oldest_are_given_up_beyond_a_number() -> None:
    made = hindsight(lived(50), decisions_max=20)
    assert len(made.judged()) <= 20
    assert made.counts.expired == 0
    made = hindsight([decided(n, float(n), 1.0, NOTHING_B, 0) for n in range(30)], decisions_max=20)
    assert made.counts.expired == 10

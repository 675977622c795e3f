"""Who is set aside, for how long, and that the memory of it is bounded."""

from __future__ import annotations

from edge_node.tasks.conduct import Conduct, ConductLimits

LIMITS = ConductLimits(broken_max=3, within_s=60.0, aside_s=300.0, remembered_max=4)


def test_a_few_broken_rules_within_a_while_are_enough() -> None:
    conduct = Conduct(LIMITS)
    assert [conduct.broke("a", now_s=now_s) for now_s in (0.0, 1.0, 2.0)] == [False, False, True]
    assert conduct.aside_s("a", now_s=2.0) == 300.0
    assert conduct.aside_s("b", now_s=2.0) == 0.0
    assert not conduct.broke("a", now_s=3.0)  # was on its way
    assert conduct.count_aside(now_s=301.9) == 1
    assert conduct.count_aside(now_s=302.0) == 0
    assert [conduct.broke("a", now_s=302.0 + n) for n in range(3)] == [False, False, True]


def test_one_now_and_then_is_forgiven() -> None:
    conduct = Conduct(LIMITS)
    assert not any(conduct.broke("a", now_s=31.0 * n) for n in range(100))


def test_strangers_push_each_other_out() -> None:
    conduct = Conduct(LIMITS)
    for number in range(1000):
        for _ in range(3):
            conduct.broke(f"n{number}", now_s=0.0)
    assert conduct.count_aside(now_s=0.0) == 4

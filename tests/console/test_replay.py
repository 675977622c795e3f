"""What a replay plans and how it counts, without a network."""

from __future__ import annotations

from collections import Counter

import pytest

from edge_node.console.replay import STEPS_MAX, STEPS_MIN, Arrivals, plan, summarise
from edge_node.console.rest_client import Drawn

CAPTIONS = tuple(f"caption {i}" for i in range(50))


def test_the_same_seed_plans_the_same_whatever_places_it() -> None:
    arrivals = Arrivals(kind="poisson", rate_hz=2.0)
    first = plan(arrivals, captions=CAPTIONS, tasks=200, nodes=3, seed=1)
    assert first == plan(arrivals, captions=CAPTIONS, tasks=200, nodes=3, seed=1)
    assert first != plan(arrivals, captions=CAPTIONS, tasks=200, nodes=3, seed=2)
    assert {task.steps for task in first} == set(range(STEPS_MIN, STEPS_MAX + 1))
    assert first[-1].at_s == pytest.approx(100, rel=0.3)


def test_a_batch_comes_at_once_and_evenly() -> None:
    planned = plan(Arrivals(kind="batch"), captions=CAPTIONS, tasks=9, nodes=3, seed=0)
    assert {task.at_s for task in planned} == {0.0}
    assert Counter(task.node for task in planned) == {0: 3, 1: 3, 2: 3}
    one = plan(Arrivals(kind="batch", to="one"), captions=CAPTIONS, tasks=9, nodes=3, seed=0)
    assert {task.node for task in one} == {0}
    assert len({task.prompt for task in one}) == 9


def test_in_every_slot_each_node_gets_one_to_k_tasks() -> None:
    arrivals = Arrivals(kind="slots", tasks_per_slot_max=4, slot_s=2.0)
    planned = plan(arrivals, captions=CAPTIONS, tasks=300, nodes=3, seed=0)
    per_slot = Counter((task.at_s, task.node) for task in planned)
    last = planned[-1].at_s
    full = [count for (at_s, _), count in per_slot.items() if at_s < last]
    assert (min(full), max(full)) == (1, 4)
    assert all(task.at_s % 2.0 == 0 for task in planned)


def drawn(delay_s: float, *, asked: str, executor: str, sent_s: float = 0.0) -> Drawn:
    return Drawn(
        prompt="p",
        node_url=asked,
        status_code=200 if executor else 429,
        delay_s=delay_s,
        sent_s=sent_s,
        content=b"png" if executor else b"",
        executor=executor,
        error="" if executor else "queue full",
    )


def test_statistics_are_of_images_and_failures_are_told() -> None:
    results = [
        drawn(1.0, asked="u0", executor="n0"),
        drawn(2.0, asked="u0", executor="n1", sent_s=1.0),
        drawn(6.0, asked="u1", executor="n1"),
        drawn(0.1, asked="u1", executor=""),
    ]
    summary = summarise(results, node_of_url={"u0": "n0", "u1": "n1"})
    assert (summary.tasks, summary.images, summary.failed) == (4, 3, 1)
    assert summary.total_s == 6.0
    assert summary.mean_s == pytest.approx(3.0)
    assert summary.median_s == 2.0
    assert summary.offload_share == pytest.approx(1 / 3)
    assert summary.per_node == {"n0": 1, "n1": 2}
    assert summary.errors == {"queue full": 1}

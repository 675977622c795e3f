"""The benchmark of two models: its plan, what it counts, and that the README tells its result."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import several_models as bench
from edge_node.console.rest_client import Drawn

ROOT = Path(__file__).parents[2]


def drawn(executor: str, delay_s: float = 1.0) -> Drawn:
    return Drawn(
        prompt="p", node_url="", status_code=200, delay_s=delay_s, sent_s=0.0, executor=executor
    )


def test_each_request_goes_to_any_node_or_to_one_of_its_own_model() -> None:
    requests = bench.planned(tasks=200, rate_hz=5.0, share_a=0.5, seed=1)
    assert {one.node for one in requests} == {0, 1, 2}
    assert all(bench.NODES[one.own_node][0] == one.model for one in requests)
    assert any(bench.NODES[one.node][0] != one.model for one in requests)
    assert requests == bench.planned(tasks=200, rate_hz=5.0, share_a=0.5, seed=1)


def test_an_image_of_a_node_of_the_other_model_is_misplaced_and_one_of_nobody_too() -> None:
    requests = bench.planned(tasks=50, rate_hz=5.0, share_a=0.5, seed=1)
    right = [drawn("node-0" if one.model == "a" else "node-2") for one in requests]
    assert bench.misplaced(right, requests) == 0
    wrong = [drawn("node-2" if requests[0].model == "a" else "node-1"), drawn(""), *right[2:]]
    assert bench.misplaced(wrong, requests) == 2


def test_equal_delays_have_no_difference() -> None:
    same = [drawn("node-0", delay_s=1.0 + index) for index in range(50)]
    assert bench.interval(same, same, seed=0) == [0.0, 0.0]


def test_the_readme_tells_what_was_measured() -> None:
    result = json.loads((ROOT / "benchmarks/results/several_models.json").read_text())
    told = (ROOT / "README.md").read_text()
    low, high = (f"{100 * one:.1f}" for one in result["mean_ratio_less_1_interval_95"])
    assert result["misplaced"] == 0
    assert f"(95 % interval {low}..{high})".replace("-0.", "-.") in told
    ours, theirs = (result[name]["mean_s"] for name in ("one_cluster", "two_clusters"))
    assert f"mean delay {ours:.2f} s".replace(" 0.", " .") in told
    assert f"beside {theirs:.2f} s".replace(" 0.", " .") in told

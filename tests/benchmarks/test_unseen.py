"""Standings over drawn clusters: by hand, and from the command line."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import unseen
from scheduler.simulator.comparison import Plan, PolicyResult, ScenarioResult, compare
from scheduler.simulator.dispatchers import parse_policies
from scheduler.simulator.random_clusters import clusters, weights_seed


def result_of(servers: int, refresh_s: float, means: dict[str, float]) -> ScenarioResult:
    """A cluster on which policies have these mean delays, and Opt-TS 1 s."""
    plan = Plan(policies=tuple(parse_policies("opt_ts")), episodes=1)
    cluster = clusters(1, 1, family="test")[0]
    [measured] = compare(plan, [cluster])

    def policy_result(name: str, mean_s: float) -> PolicyResult:
        delays = dataclasses.replace(measured.reference.delays, mean_s=mean_s)
        return dataclasses.replace(measured.reference, policy=name, delays=delays)

    return ScenarioResult(
        scenario=cluster.replace(servers=servers, capacities=(1.0,) * servers, refresh_s=refresh_s),
        reference=policy_result("opt_ts", 1.0),
        bound_s=0.5,
        policies=tuple(policy_result(name, mean_s) for name, mean_s in means.items()),
    )


def test_each_cluster_counts_once_against_its_own_best_rule() -> None:
    results = [
        result_of(20, 1.0, {"opt_ts": 1.0, "lad_ts_plus": 1.1, "random": 2.0, "least_queue": 1.0}),
        result_of(5, 1.0, {"opt_ts": 1.0, "lad_ts_plus": 4.0, "random": 4.0, "least_queue": 8.0}),
    ]
    found = {(one.policy, one.group): one for one in unseen.standings(results)}
    whole = found["lad_ts_plus", "all"]
    assert whole.clusters == 2
    assert whole.over_best_rule == pytest.approx(100 * (1.1**0.5 - 1))
    assert whole.worst == pytest.approx(10.0)
    assert (whole.low, whole.high) == (pytest.approx(0.0), pytest.approx(10.0))
    assert whole.over_opt_ts == pytest.approx(100 * (4.4**0.5 - 1))
    crowded = "10 nodes and more, state 0.5 s and older"
    assert found["lad_ts_plus", crowded].over_best_rule == pytest.approx(10.0)
    assert found["least_queue", "the others"].over_best_rule == pytest.approx(100.0)
    assert "| lad_ts_plus | +10.0 % (+10.0..+10.0) |" in unseen.markdown(list(found.values()))


def test_a_handful_of_devices_that_keep_up_is_a_group_of_its_own() -> None:
    drawn = clusters(8, 40, family="test")
    handful = [
        one.servers <= 12 and float(one.name.split("load=")[1].split()[0]) < 1 for one in drawn
    ]
    assert {one.task_arrivals for one, few in zip(drawn, handful, strict=True) if few} == {
        "slotted",
        "poisson",
    }
    means = {"opt_ts": 1.0, "lad_ts_plus": 2.0, "random": 1.0}
    results = [dataclasses.replace(result_of(5, 1.0, means), scenario=one) for one in drawn]
    group = "at most 12 nodes, load below 1"
    [found] = [
        one
        for one in unseen.standings(results)
        if (one.policy, one.group) == ("lad_ts_plus", group)
    ]
    assert (found.clusters, found.over_best_rule) == (sum(handful), pytest.approx(100.0))


def test_opt_ts_is_no_rule_to_be_compared_with() -> None:
    with pytest.raises(ValueError, match="give a rule"):
        unseen.standings([result_of(5, 1.0, {"opt_ts": 1.0, "lad_ts_plus": 2.0})])


def test_clusters_are_those_of_a_seed_or_of_weights(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"learned")
    assert unseen.drawn(7, None, 3) == (7, clusters(7, 3, family="test"))
    assert unseen.drawn(7, None, 3, "validation") == (7, clusters(7, 3, family="validation"))
    assert unseen.drawn(None, weights, 1)[0] == weights_seed(weights)
    for seed, path in ((None, None), (1, weights), (-1, None)):
        with pytest.raises(ValueError, match="seed"):
            unseen.drawn(seed, path, 1)


def test_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks.compare_policies", "--unseen", "3"]
    options = ["--clusters", "2", "--episodes", "1", "--json", str(out)]
    done = subprocess.run(
        [*command, *options, "--policies", "lad_ts_plus,power_of_two"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "**all: 2 clusters**" in done.stdout
    report = json.loads(out.read_text())
    assert report["settings"]["unseen"] == 3
    assert [one["scenario"]["name"] for one in report["scenarios"]] == [
        one.name for one in clusters(3, 2, family="test")
    ]
    assert {one["policy"] for one in report["standings"]} == {"lad_ts_plus", "power_of_two"}

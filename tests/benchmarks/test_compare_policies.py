"""The comparison's command line: its table, its file, its refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import compare_policies

SMALL = """
servers = 4
tasks_per_slot_max = 5
slots = 10
capacity_range = [1, 6]
"""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["compare_policies", *arguments])
    compare_policies.main()


def test_table_and_file_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario, results = tmp_path / "small.toml", tmp_path / "results.json"
    scenario.write_text(SMALL)
    policies = "opt_ts,least_expected_delay:own=B,use_capacity=false"
    arguments = ("--policies", policies, "--episodes", "1", "--json", str(results))
    run(monkeypatch, "--scenarios", str(scenario), *arguments)
    title, _, head, rule, *rows = capsys.readouterr().out.splitlines()
    written = json.loads(results.read_text())
    (only,) = written["scenarios"]
    assert title.startswith("**small, fcfs, 1 episodes: Opt-TS fcfs ")
    assert {line.count("|") for line in (head, rule, rows[0], rows[1])} == {7}
    for row, entry in zip(rows, only["policies"], strict=False):
        assert row.split("|")[1].strip() == entry["policy"]
        assert f"{entry['delays']['mean_s']:.3f} ± never" in row
    assert only["policies"][0]["gap"] == {"gap": 0.0, "low": None, "high": None}
    assert only["scenario"]["servers"] == 4
    assert {"cpu_model", "commit", "versions"} <= written["machine"].keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policies", "best"], "unknown policy 'best'"),
        (["--policies", "own=B"], "stands before any policy"),
        (["--policies", "lad_ts_published"], "needs a folder of checkpoints"),
        (["--scenarios", "N=39"], "no scenario is called 'N=39'; did you mean"),
        (["--scenarios", "absent.toml"], r"absent\.toml is no readable TOML file"),
        (["--promotion", "15,1"], "promotion is given, but fcfs"),
        (["--discipline", "srpt", "--promotion", "15"], "it must be 2 numbers"),
        (["--episodes", "0"], "a policy, an episode and a seed"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=f"^compare_policies: .*{message}"):
        run(monkeypatch, *arguments)

"""`dedgeai train` as a user meets it: a summary, a resumption, and errors in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_node.cli import main

SCENARIO = "servers = 3\ntasks_per_slot_max = 4\nslots = 5\n"


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(SCENARIO)
    return path


def train(scenario: Path, *arguments: str) -> int:
    try:
        return main(["train", "--scenario", str(scenario), "--no-tensorboard", *arguments])
    except SystemExit as end:  # an argument that the parser refuses
        return int(end.code or 0)


def test_it_trains_seeds_and_sums_them_up(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    common = ("--policy", "dqn", "--seeds", "2", "--out", str(out), "--option", "pool_min=10")
    assert train(scenario, *common, "--episodes", "2") == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["options"] == ["pool_min=10"]
    assert [seed["seed"] for seed in summary["seeds"]] == [0, 1]
    gaps = [seed["gap_last"] for seed in summary["seeds"]]
    assert summary["gap_last_mean"] == pytest.approx(sum(gaps) / 2)
    assert "gap to Opt-TS" in capsys.readouterr().out

    assert train(scenario, *common, "--episodes", "3") == 2
    assert "holds a run already" in capsys.readouterr().err
    assert train(scenario, *common, "--episodes", "3", "--resume") == 0
    rows = json.loads((out / "seed-1" / "episodes.json").read_text())
    assert [row["episode"] for row in rows] == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policy", "ppo"), "dedgeai: unknown algorithm 'ppo'; choose one of lad_ts, lad_ts_"),
        (("--option", "hiden=8"), "'lad_ts' has no option hiden"),
        (("--option", "hidden"), "--option hidden is not KEY=VALUE."),
        (("--seeds", "0"), "argument --seeds: '0' is not a whole number, 1 or more"),
        (("--scenario", "nowhere"), "no scenario is called 'nowhere'"),
    ],
)
def test_a_wrong_argument_is_one_sentence(
    scenario: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert train(scenario, "--out", str(tmp_path / "out"), *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()

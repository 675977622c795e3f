"""`dedgeai simulate` as a person types it, in this process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_node.cli import main

GOLDEN = Path(__file__).parents[1] / "golden"


def test_a_reference_trace_is_replayed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["simulate", "--trace", str(GOLDEN / "reference_trace_small.npz")]) == 0
    said = capsys.readouterr().out
    assert "110" in said
    assert "agrees with" in said
    with np.load(GOLDEN / "reference_trace_small.npz") as archive:
        arrays = dict(archive)
    arrays["decisions"][5, -1] += 2e-9
    np.savez(tmp_path / "late.npz", **arrays)
    assert main(["simulate", "--trace", str(tmp_path / "late.npz")]) == 1
    assert "DEPARTS" in capsys.readouterr().out
    (tmp_path / "late.npz").write_bytes(b"PK")
    assert main(["simulate", "--trace", str(tmp_path / "late.npz")]) == 2
    assert "truncated" in capsys.readouterr().err


def test_policies_are_compared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "N=38"\nservers = 4\nslots = 20\n')
    command = ["simulate", "--scenario", str(path), "--episodes", "2"]
    assert main([*command, "--policy", "opt_ts,random"]) == 0
    fcfs = capsys.readouterr().out.splitlines()
    assert fcfs[0].startswith("mine: 2 episodes")
    assert [line.split()[0] for line in fcfs[2:]] == ["opt_ts", "random"]
    assert "+0.0 +-0.0 %" in fcfs[2]
    order = ["--order", "srpt", "--promotion", "1,1", "--promotion-load", "0.5"]
    assert main([*command, "--policy", "least_marginal_harm:own=2", *order]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("srpt")


def test_tasks_that_are_never_done(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "gone.toml"
    path.write_text("servers = 2\nslots = 5\n[[changes]]\nat_s = 2\nserver = 1\nfactor = 0\n")
    assert main(["simulate", "--scenario", str(path), "--policy", "local", "--seeds", "2"]) == 0
    assert "never" in capsys.readouterr().out


def test_scenarios_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--list"]) == 0
    assert "outage" in capsys.readouterr().out


def test_no_episodes_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["simulate", "--episodes", "0"])
    assert end.value.code == 2
    assert "argument --episodes: '0' is not a whole number, 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scenario", "defualt"], "did you mean 'default'?"),
        (["--scenario", "absent.toml"], "absent.toml"),
        (["--policy", "oracle"], "oracle"),
        (["--policy", "random:seed"], "key=value"),
        (["--order", "lifo"], "fcfs, sjf, srpt"),
        (["--order", "srpt", "--ageing", "slow"], "ageing"),
        (["--promotion", "1,1"], "already"),
        (["--trace", "absent.npz"], "absent.npz"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["simulate", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("dedgeai: ")
    assert words in said
    assert said.count("\n") == 1


def test_the_command_line_loads_no_simulator_for_others() -> None:
    code = "import edge_node.cli, sys; edge_node.cli.parser(); print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""`dedgeai logs`: real files, a real process that follows them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edge_node.cli import main


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    folder = tmp_path / "dedgeai-x"
    for name in ("node-0", "node-1"):
        (folder / name / "run").mkdir(parents=True)
        (folder / name / "node.log").write_text(f"{name} begins\n{name} ready\n")
    (folder / "node-1" / "run" / "worker.log").write_bytes(b"caf\xe9\n")
    return folder


def test_last_lines_of_each_are_told_apart(
    cluster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["logs", "--data", str(cluster), "--lines", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "node-0        | node-0 ready",
        "node-1        | node-1 ready",
        "node-1/worker | caf\ufffd",
    ]
    assert main(["logs", "--data", str(cluster), "node-1/worker"]) == 0
    assert capsys.readouterr().out == "node-1/worker | caf\ufffd\n"
    assert main(["logs", "--data", str(cluster / "node-1"), "node-1/worker"]) == 0
    assert capsys.readouterr().out == "node-1/worker | caf\ufffd\n"
    assert main(["logs", "--data", str(cluster), "node"]) == 2
    assert "There is no log of node in" in capsys.readouterr().err


def test_the_latest_cluster_is_meant(
    cluster: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(cluster.parent))
    assert main(["logs", "node-0", "--lines", "1"]) == 0
    assert capsys.readouterr().out == "node-0 | node-0 ready\n"
    monkeypatch.setattr(tempfile, "tempdir", str(cluster))
    assert main(["logs"]) == 2
    assert "docker compose logs" in capsys.readouterr().err


def test_what_comes_is_followed_also_into_a_new_file(cluster: Path) -> None:
    log = cluster / "node-0" / "node.log"
    arguments = ("logs", "--data", str(cluster), "node-0", "--follow")
    with subprocess.Popen(
        [sys.executable, "-m", "edge_node.cli", *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert [next(lines) for _ in range(2)][-1] == "node-0 | node-0 ready\n"
        with log.open("a") as file:
            file.write("one more\n")
        assert next(lines) == "node-0 | one more\n"
        log.write_text("anew\n")
        assert next(lines) == "node-0 | anew\n"
        process.terminate()

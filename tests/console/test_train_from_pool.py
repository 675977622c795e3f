"""`dedgeai train --from-pool` on a stopped node's folder, and what it refuses."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_node.cli import main
from edge_node.clock import SystemClock
from edge_node.store.connection import StoreSettings
from edge_node.store.embedded_valkey import valkey_command, wait_until_ready
from edge_node.store.experience_pool import ExperiencePool, PoolSettings
from scheduler.checkpoint import load
from scheduler.policy import Outcome
from tests.learning.made_weights import made
from tests.scheduler.learning.lived import lived
from tests.scheduler.learning.test_live_learner import TRUE_B

OPTIONS = ("actor_lr=0.003", "critic_lr=0.01")


@pytest.fixture(scope="module")
def data_folder() -> Iterator[Path]:
    """A stopped node's, with seven hundred decisions in its pool."""
    with tempfile.TemporaryDirectory(prefix="vk") as name:
        path = Path(name) / "s"
        process = subprocess.Popen(valkey_command(Path(name) / "store", path))
        try:
            asyncio.run(wait_until_ready(path, 5.0))
            asyncio.run(fill(f"unix://{path}"))
        finally:
            process.kill()
            process.wait()
        yield Path(name)


async def fill(url: str) -> None:
    settings = PoolSettings(store=StoreSettings(url=url), node_id="node-7")
    pool = ExperiencePool(settings, clock=SystemClock())
    await pool.start()
    for entry in lived(700, true_B=TRUE_B):
        if isinstance(entry, Outcome):
            pool.note_outcome(entry)
        else:
            pool.note_decision(entry.recorded)
    await pool.flush()
    await pool.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights to go on from."""
    return made(tmp_path_factory.mktemp("start"), generation=1).path


def train(*arguments: str) -> int:
    options = [part for option in OPTIONS for part in ("--option", option)]
    return main(["train", "--from-pool", *options, *arguments])


@pytest.mark.system
def test_a_stopped_nodes_pool_becomes_weights_and_stays_as_it_is(
    data_folder: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(data_folder)
    out = tmp_path / "out"
    given = ("--data-folder", str(data_folder), "--start", str(start), "--out", str(out))
    assert train(*given, "--updates", "300") == 0
    said = capsys.readouterr().out
    assert "700" in said  # decisions
    assert "Played again: 700 decisions" in said
    assert "300 of 300 updates" in said
    (path,) = out.iterdir()
    info = load(path, kind="policy").info
    assert info.metrics["updates"] == 300.0
    assert contents(data_folder) == before


@pytest.mark.system
def test_weights_that_gain_nothing_are_not_written(
    data_folder: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = ("--data-folder", str(data_folder), "--start", str(start), "--out", str(out))
    assert train(*given, "--updates", "10") == 1
    assert "No weights are written: not significantly better" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.system
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--from-pool needs either --redis-url or --data-folder."),
        (("--data-folder", "nowhere"), "nowhere is no data folder of a node"),
        (("--redis-url", "unix:///nowhere"), "The task store is not available"),
        (("--data-folder", "DATA", "--node-id", "x"), "too few decisions"),
        (("--data-folder", "DATA", "--option", "hiden=3"), "has no option hiden"),
        (("--policy", "dqn"), "--from-pool trains lad_ts, not dqn."),
    ],
)
def test_a_wrong_argument_is_one_sentence(
    data_folder: Path,
    start: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    given = [str(data_folder) if one == "DATA" else one for one in arguments]
    assert train("--out", str(tmp_path / "out"), "--start", str(start), *given) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()

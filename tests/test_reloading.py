"""What SIGHUP changes in a running node, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_node.config import NodeConfig
from edge_node.config_sources import load_config
from edge_node.reloading import Reloader


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text("steps_default = 15\n")
    return path


def reloader_of(path: Path) -> tuple[Reloader, list[NodeConfig]]:
    reloader = Reloader(lambda: load_config(path, {}))
    told: list[NodeConfig] = []
    reloader.tell(told.append)
    return reloader, told


def test_what_may_change_is_told_and_the_rest_waits(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    reloader, told = reloader_of(path)
    path.write_text('steps_default = 9\nrest_port = 1\npeers = ["b:1"]\n')
    reloader.reload()
    assert [(one.steps_default, one.rest_port, one.peers) for one in told] == [(9, 8080, ("b:1",))]
    assert reloader.config is told[0]
    assert "rest_port has changed and needs a restart" in caplog.text
    assert "steps_default is 9 now, and was 15" in caplog.text


def test_nothing_is_told_when_nothing_has_changed(path: Path) -> None:
    reloader, told = reloader_of(path)
    reloader.reload()
    path.write_text("rest_port = 1\n")
    reloader.reload()
    assert told == []


@pytest.mark.parametrize("text", ["steps_default = 0\n", "steps = 3\nforget_s = 9.0\n", "steps ="])
def test_a_wrong_file_changes_nothing(
    path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    reloader, told = reloader_of(path)
    before = reloader.config
    path.write_text(text)
    reloader.reload()
    path.unlink()
    reloader.reload()
    assert told == []
    assert reloader.config is before
    assert caplog.text.count("settings stay as they are") == 2

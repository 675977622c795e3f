"""systemd units by systemd-analyze, shell scripts by shellcheck and by running them."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .files import DEPLOY, ROOT, compose, passes, tool

pytestmark = pytest.mark.deploy

UNITS = sorted((DEPLOY / "systemd").iterdir())
SCRIPTS = sorted(
    path
    for path in (*DEPLOY.rglob("*"), *(ROOT / ".ci").iterdir())
    if path.is_file() and path.read_bytes()[:2] == b"#!"
)
PROGRAMS = ("usr/sbin/nvpmodel", "usr/bin/jetson_clocks", "usr/bin/docker")


@pytest.fixture
def device_root(tmp_path: Path) -> Path:
    """What the units find on a device, as far as systemd-analyze looks."""
    root = tmp_path / "root"
    system = root / "usr/lib/systemd/system"
    system.mkdir(parents=True)
    for target in Path("/usr/lib/systemd/system").glob("*.target"):
        shutil.copy(target, system)
    for name in ("docker", "nvpmodel"):
        (system / f"{name}.service").write_text(
            "[Service]\nType=oneshot\nExecStart=/usr/bin/docker\n"
        )
    for name in PROGRAMS:
        program = root / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    (root / "opt/dedgeai").mkdir(parents=True)
    shutil.copy(DEPLOY / "restart-unhealthy.sh", root / "opt/dedgeai")
    shutil.copytree(DEPLOY / "systemd", root / "etc/systemd/system")
    return root


def verify(root: Path, unit: str) -> str:
    analyze = tool("systemd-analyze")
    return passes(
        analyze, f"--root={root}", "--man=no", "verify", root / "etc/systemd/system" / unit
    )


@pytest.mark.parametrize("unit", [path.name for path in UNITS])
def test_systemd_accepts_it(unit: str, device_root: Path) -> None:
    assert verify(device_root, unit) == ""


def test_systemd_says_what_is_wrong(device_root: Path) -> None:
    path = device_root / "etc/systemd/system/dedgeai.service"
    path.write_text(path.read_text().replace("TimeoutStopSec", "TimeoutStopSecs"))
    analyze = tool("systemd-analyze")
    done = subprocess.run(
        [analyze, f"--root={device_root}", "--man=no", "verify", str(path)],
        capture_output=True,
        text=True,
    )
    assert "TimeoutStopSecs" in done.stderr


def test_the_unit_waits_for_every_container_to_stop() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd" / "dedgeai.service")
    every = compose("compose.yaml")["services"].values()
    graces = sum(float(one.get("stop_grace_period", "0s")[:-1]) for one in every)
    assert float(unit["Service"]["TimeoutStopSec"]) >= graces
    assert unit["Service"]["WorkingDirectory"] == "/opt/dedgeai"
    assert "dedgeai-power.service" in unit["Unit"]["After"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shellcheck_finds_nothing(script: Path) -> None:
    passes(tool("shellcheck"), "--severity=style", script)
    assert os.access(script, os.X_OK)


def test_only_what_hangs_is_restarted(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text(
        """#!/bin/sh
case "$1" in
ps) echo "$@" >"$NOTES/asked"; printf 'c1\\nc2\\n' ;;
inspect) echo "/dedgeai-worker-1" ;;
restart) echo "$2" >>"$NOTES/restarted" ;;
esac
"""
    )
    docker.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [DEPLOY / "restart-unhealthy.sh"],
        env={"PATH": path, "NOTES": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (tmp_path / "restarted").read_text().split() == ["c1", "c2"]
    assert "health=unhealthy" in (tmp_path / "asked").read_text()
    assert "compose.project=dedgeai" in (tmp_path / "asked").read_text()
    assert done.stdout.startswith("restarting dedgeai-worker-1: its health check fails")

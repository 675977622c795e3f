"""Code that was compiled from other sources is not run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import scheduler.simulator  # noqa: F401 - says where compiled code is kept
from scheduler.compiled_code import folder_of

PACKAGE = {
    "scheduler/__init__.py": "",
    "scheduler/compiled_code.py": Path("scheduler/compiled_code.py").read_text(encoding="utf-8"),
    "scheduler/simulator/__init__.py": Path("scheduler/simulator/__init__.py").read_text(
        encoding="utf-8"
    ),
    "scheduler/simulator/called.py": "from numba import njit\n\n@njit(cache=True)\n"
    "def called() -> int:\n    return 1\n",
    "scheduler/simulator/calling.py": "from numba import njit\n"
    "from scheduler.simulator.called import called\n\n@njit(cache=True)\n"
    "def calling() -> int:\n    return called()\n",
}


def test_it_is_kept_for_these_sources_alone() -> None:
    kept = Path(str(numba.config.__dict__["CACHE_DIR"]))
    assert kept == folder_of(Path("scheduler").resolve())


def test_a_change_of_what_is_called_reaches_who_calls(tmp_path: Path) -> None:
    for name, text in PACKAGE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def called(environment: dict[str, str]) -> int:
        command = "from scheduler.simulator.calling import calling; print(calling())"
        ran = subprocess.run(
            [sys.executable, "-c", command],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return int(ran.stdout)

    environment = {name: value for name, value in os.environ.items() if "NUMBA" not in name}
    assert [called(environment), called(environment)] == [1, 1]
    callee = tmp_path / "scheduler/simulator/called.py"
    callee.write_text(PACKAGE[callee.relative_to(tmp_path).as_posix()].replace("1\n", "22\n"))
    assert called(environment) == 22
    folders = list((tmp_path / "scheduler/__pycache__").glob("compiled-*"))
    assert folders == [folder_of(tmp_path / "scheduler")], "what is old has gone"


def test_who_has_a_place_of_his_own_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from scheduler.compiled_code import keep_by_sources

    monkeypatch.setenv("NUMBA_CACHE_DIR", "/elsewhere")
    keep_by_sources()
    assert os.environ["NUMBA_CACHE_DIR"] == "/elsewhere"

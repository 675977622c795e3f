"""Tries mutants: each in a copy of the tree, never in the tree itself.

Owns the copies and the processes that it starts in them.
"""

from __future__ import annotations

import compileall
import contextlib
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.areas import ROOT, groups_of
from tests.mutants.mutations import Mutant

# A mutant may loop for ever; one that takes this many times as long as the tests do alone has.
PATIENCE = 4.0
TIMEOUT_S_MIN = 20.0
FOLDERS = ("benchmarks", "deploy", "docker", "docs", "edge_node", "proto", "scheduler", "tests")


class AreaFails(RuntimeError):
    """The tests of an area fail without any mutant, so that they would find all."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a mutant: killed, timeout or survived; by which tests; in seconds."""

    outcome: str
    tests: str
    seconds: float


class Copy:
    """A copy of the tree in which one mutant at a time is planted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._alone_s: dict[str, float] = {}
        for name in FOLDERS:
            unwanted = shutil.ignore_patterns("__pycache__", "results")
            shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
        for path in ROOT.iterdir():
            if path.is_file() and path.name != ".git":
                shutil.copy(path, folder / path.name)
        # Checked by content: a mutant is written within the second of what it replaces.
        mode = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(folder, quiet=1, invalidation_mode=mode)

    def prove(self, file: str) -> None:
        """Runs the tests of `file` as it is, once; raises AreaFails."""
        for tests in groups_of(file, self.folder):
            if tests not in self._alone_s:
                start_s = time.monotonic()
                code, said = self._run(tests, timeout_s=1800.0)
                if code != 0:
                    raise AreaFails(f"{tests} fails as it is:\n{said[-3000:]}")
                self._alone_s[tests] = time.monotonic() - start_s

    def try_out(self, file: str, mutant: Mutant) -> Verdict:
        """Plants `mutant` and runs the tests of its file until one fails."""
        path = self.folder / file
        whole = path.read_text("utf-8")
        path.write_text(mutant.source, "utf-8")
        start_s = time.monotonic()
        outcome, tests = "survived", ""
        try:
            for tests in groups_of(file, self.folder):
                timeout_s = max(TIMEOUT_S_MIN, PATIENCE * self._alone_s[tests])
                code, _ = self._run(tests, timeout_s=timeout_s)
                if code != 0:
                    outcome = "timeout" if code is None else "killed"
                    break
        finally:
            path.write_text(whole, "utf-8")
        return Verdict(outcome=outcome, tests=tests, seconds=time.monotonic() - start_s)

    def _run(self, tests: str, *, timeout_s: float) -> tuple[int | None, str]:
        """Exit code of pytest and what it said; None when it took too long."""
        options = ("-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=short")
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, tests],
            cwd=self.folder,
            env={
                **os.environ,
                "PYTHONPATH": f"{self.folder}:{self.folder / 'proto'}",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return None, ""
        else:
            return process.returncode, said
        finally:
            # Its own session: whatever a mutant left running goes with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

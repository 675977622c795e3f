"""Tries mutants: each in a copy of the tree, never in the tree itself.

Owns the copies, the warm process of each, and the pytests that it forks.
"""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import py_compile
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.mutants.areas import ENVIRONMENT, ROOT, groups_of
from tests.mutants.mutations import Mutant

# A mutant may loop for ever; one that takes this many times as long as the tests do alone has.
PATIENCE = 4.0
TIMEOUT_S_MIN = 15.0
PROOF_S_MAX = 1800.0
# For all that a warm process imports, on a busy machine.
IMPORTED_S_MAX = 300.0
FOLDERS = ("benchmarks", "deploy", "docker", "docs", "edge_node", "proto", "scheduler", "tests")


class AreaFails(RuntimeError):
    """The tests of an area fail without any mutant, so that they would find all."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a mutant: killed, timeout or survived; by which tests; in seconds."""

    outcome: str
    tests: str
    seconds: float


@dataclass
class Proven:
    """Tests that pass without a mutant, and for how long they run; shared by all copies."""

    alone_s: dict[str, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Copy:
    """A copy of the tree in which one mutant at a time is planted.

    Args:
        folder: where to.
        proven: what other copies have proven counts here, too.
    """

    def __init__(self, folder: Path, proven: Proven) -> None:
        self.folder = folder
        self._proven = proven
        self._warm: subprocess.Popen[bytes] | None = None
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
            with self._proven.lock:
                if tests in self._proven.alone_s:
                    continue
                start_s = time.monotonic()
                code, said = self._run(tests, timeout_s=PROOF_S_MAX)
                if code != 0:
                    raise AreaFails(f"{tests} fails as it is:\n{said[-3000:]}")
                self._proven.alone_s[tests] = time.monotonic() - start_s

    def try_out(self, file: str, mutant: Mutant) -> Verdict:
        """Plants `mutant` and runs the tests of its file until one fails."""
        path = self.folder / file
        whole = path.read_text("utf-8")
        path.write_text(mutant.source, "utf-8")
        start_s = time.monotonic()
        outcome, tests = "survived", ""
        try:
            for tests in groups_of(file, self.folder):
                timeout_s = max(TIMEOUT_S_MIN, PATIENCE * self._proven.alone_s[tests])
                code, _ = self._run(tests, timeout_s=timeout_s)
                if code != 0:
                    outcome = "timeout" if code is None else "killed"
                    break
        finally:
            path.write_text(whole, "utf-8")
        return Verdict(outcome=outcome, tests=tests, seconds=time.monotonic() - start_s)

    def __enter__(self) -> Copy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the warm process; it begins anew when it is needed."""
        if self._warm is not None:
            self._warm.kill()
            self._warm.communicate()
            self._warm = None

    def _run(self, tests: str, *, timeout_s: float) -> tuple[int | None, str]:
        """Exit code of pytest and what it said; None when it took too long."""
        warm = self._warmed()
        assert warm.stdin is not None
        said = self.folder / "said.txt"
        wanted = {"tests": [tests], "environment": ENVIRONMENT, "said": str(said)}
        warm.stdin.write(f"{json.dumps(wanted)}\n".encode())
        process_id = self._answer(timeout_s=IMPORTED_S_MAX)
        if process_id is None:
            self.close()
            raise RuntimeError("the process that forks the tests has ended")
        code = None
        try:
            code = self._answer(timeout_s=timeout_s)
        finally:
            # Its own session: whatever a mutant left running goes with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process_id, signal.SIGKILL)
            if code is None and self._answer(timeout_s=IMPORTED_S_MAX) is None:
                self.close()
        return code, said.read_text("utf-8", errors="replace") if said.exists() else ""

    def _answer(self, *, timeout_s: float) -> int | None:
        """The next number that the warm process says; None when it says none in time."""
        assert self._warm is not None
        assert self._warm.stdout is not None
        # Unbuffered, so that a second line is still there for the next look.
        if not select.select([self._warm.stdout], [], [], timeout_s)[0]:
            return None
        line = self._warm.stdout.readline()
        return int(line) if line else None

    def _warmed(self) -> subprocess.Popen[bytes]:
        if self._warm is None:
            self._warm = subprocess.Popen(
                [sys.executable, "-m", "tests.mutants.warm"],
                cwd=self.folder,
                env={
                    **os.environ,
                    "PYTHONPATH": f"{self.folder}:{self.folder / 'proto'}",
                    # One thread each: forks and other jobs share the machine.
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
        return self._warm

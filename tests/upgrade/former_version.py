"""Nodes of 0.1.0 beside nodes of this version: the former ones run from a tree out of git."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import free_port

ROOT = Path(__file__).parent.parent.parent
COMMIT = "3eb5782bc2eb2a361bc1f510a1489313c66a0b9a"


def former_tree(folder: Path) -> Path:
    """0.1.0 unpacked into `folder`; skips the test where git does not have it."""
    command = ["git", "-C", str(ROOT), "archive", COMMIT]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("git is not installed, so 0.1.0 cannot be had")
    if done.returncode != 0:
        pytest.skip(f"this tree's history does not reach back to 0.1.0 ({COMMIT[:7]})")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def environment_of(tree: Path) -> dict[str, str]:
    """In which Python finds the packages of `tree` before those that are installed."""
    return {"PYTHONPATH": f"{tree}:{tree / 'proto'}"}


def run_in(tree: Path, *arguments: str) -> str:
    """What a Python with the packages of `tree` prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env={**os.environ, **environment_of(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class MixedCluster(LocalCluster):
    """A cluster whose nodes run from `trees`, None for this version; changes at the next start."""

    def __init__(
        self, settings: Sequence[dict[str, Any]], *, trees: Sequence[Path | None], folder: Path
    ) -> None:
        super().__init__(settings, rest_port=free_port(len(settings)), folder=folder)
        self.trees = list(trees)

    def start_node(self, index: int) -> None:
        """Starts a node of the version that it is to have now."""
        tree = self.trees[index]
        if tree is None:
            super().start_node(index)
            return
        folder = self.folder / self.node_ids[index]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "node.log").open("ab") as node_log:
            self._processes[index] = subprocess.Popen(
                self._command(index),
                # `python -m` looks here first, and so do the children.
                cwd=tree,
                env={**self._environment(index), **environment_of(tree)},
                stdout=node_log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

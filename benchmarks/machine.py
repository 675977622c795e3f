"""Says on what and how a result was taken: machine, versions, commit, time, settings."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

PACKAGES = ("numpy", "torch", "diffusers", "transformers")


def describe() -> dict[str, Any]:
    """Returns what a result file must say about where and when it was made.

    Returns:
        ``cpu_model``, ``cores``, ``memory_gb``, ``platform``, ``python``, ``versions`` (of the
        installed ones among ``PACKAGES``), ``commit`` and ``commit_dirty`` (None outside a
        checkout) and ``time_utc``.
    """
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain")
    return {
        "cpu_model": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": _versions(),
        "commit": commit or None,
        "commit_dirty": None if changes is None else bool(changes),
        "time_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _cpu_model() -> str:
    """Reads the processor's name; on ARM, where the kernel gives none, the architecture."""
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str | None:
    """Runs git in this checkout; None where there is no git, no checkout or no commit yet."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=pathlib.Path(__file__).resolve().parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """The command line as JSON has it; of an absolute path its name, for it is of one machine."""
    return {
        key: (value.name if value.is_absolute() else str(value))
        if isinstance(value, pathlib.Path)
        else value
        for key, value in vars(options).items()
    }

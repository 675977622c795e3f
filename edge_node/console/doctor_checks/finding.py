"""What a check says, in words and in JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail", "skipped"]

_MIB, _GIB = 2**20, 2**30


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at. `--json` shows these fields by these names; they stay.

    Attributes:
        check: what was looked at; several findings may share it, such as one for each peer.
        level: fail keeps a node from working, warn makes it slower or riskier than it must be,
            skipped could not or need not be looked at here.
        seen: what was found.
        remedy: the command or setting that mends it; empty where nothing is to be mended.
    """

    check: str
    level: Level
    seen: str
    remedy: str = ""


def sized(size_bytes: float) -> str:
    """A size for people."""
    if size_bytes < _GIB:
        return f"{size_bytes / _MIB:.0f} MiB"
    return f"{size_bytes / _GIB:.1f} GiB"

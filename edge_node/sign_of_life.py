"""The file by which a process says that it works, for whoever looks at it from another one.

Owns what is in it: a reading of the clock that no step moves, which all processes of a machine
share, and the boot that it counts from. A file's date would go by the clock of the day.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

from edge_node.clock import boot_id

# All in one write of one length, over what is there: that takes no room on a full disk, and nobody
# reads half of it.
_BYTES = 80


def show_life(path: Path) -> None:
    """Says it now; raises OSError where that cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = f"{boot_id() or '-'} {time.monotonic():.3f}".ljust(_BYTES - 1) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.pwrite(descriptor, said.encode(), 0)
    finally:
        os.close(descriptor)


def silence_s(path: Path) -> float:
    """How long ago it was said last; infinite if never since the machine booted."""
    try:
        of_boot, reading = path.read_text(errors="replace").split()
        passed_s = time.monotonic() - float(reading)
    except (OSError, ValueError):
        return math.inf
    return passed_s if of_boot == (boot_id() or "-") and passed_s >= 0.0 else math.inf

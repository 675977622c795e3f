"""A folder on a disk that loses, in a power cut, whatever was not synced; see forgetful_disk.c.

Processes write through to the real file system; those that run with `environment` leave a copy of
whatever they sync. `cut_power` then makes the folder what a disk that lost everything else would
hold: of a file its content at its last sync, of a folder the names at its own last sync. Folders
themselves are always there, as no server syncs the parents of those it makes.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path


class ForgetfulDisk:
    def __init__(self, folder: Path, *, library: Path, kept: Path) -> None:
        """Nothing that is in `folder` by now counts as synced; `kept` is for the copies."""
        self.folder = folder
        self._library = library
        self._kept = kept
        self.slow_down(0.0)

    def slow_down(self, sync_s: float) -> None:
        """Each sync takes so much longer from now on."""
        (self._kept / "sync_ms").write_text(str(round(1000 * sync_s)))

    def environment(self) -> dict[str, str]:
        """For processes that write to it."""
        return {"LD_PRELOAD": str(self._library), "FORGETFUL_DISK_KEPT": str(self._kept)}

    def cut_power(self) -> None:
        """Loses what was not synced; every process that writes there has been killed."""
        for root, _, names in os.walk(self.folder):
            for name in names:
                (Path(root) / name).unlink()
            self._bring_back(Path(root))

    def _bring_back(self, folder: Path) -> None:
        listings = list(self._kept.glob(f"{folder.stat().st_ino}-*"))
        if not listings:
            return
        (listing,) = listings
        for line in listing.read_text().splitlines():
            identity, _, name = line.partition(" ")
            content = self._kept / identity
            if content.exists():
                shutil.copy2(content, folder / name)
            else:
                (folder / name).touch()

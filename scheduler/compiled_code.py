"""Where compiled code is kept between processes: apart for every state of the sources.

numba keeps what it compiled by the file of each function, and does not see when what that function
calls, in another file, has changed: old code went on in silence. So the folder's name is a digest
of all sources here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

_SOURCES = Path(__file__).parent
_VARIABLE = "NUMBA_CACHE_DIR"
_PREFIX = "compiled-"


def keep_by_sources() -> None:
    """Tells numba where, unless the user has, or nothing can be written."""
    if os.environ.get(_VARIABLE):
        return
    folder = folder_of(_SOURCES)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # numba finds a place of its own
    for other in folder.parent.glob(f"{_PREFIX}*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    os.environ[_VARIABLE] = str(folder)  # read when numba is imported, here and in children
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = str(folder)


def folder_of(sources: Path) -> Path:
    """The folder for these sources as they are now."""
    digest = hashlib.sha256()
    for path in sorted(sources.rglob("*.py")):
        digest.update(f"{path.relative_to(sources)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return sources / "__pycache__" / f"{_PREFIX}{digest.hexdigest()[:16]}"

"""What the worker knows of memory: its own share, and which errors mean there was too little.

Owns reading and recognising only; it frees nothing and imports no torch.
"""

from __future__ import annotations

import os
import pathlib
import re

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# Out of memory does not always come as an exception of that name: on a Jetson the allocator's own
# check fails (NvMap error 12, an assertion on NVML_SUCCESS), on a CPU it is a plain RuntimeError.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|NvMapMemAlloc|NVML_SUCCESS"
    r"|not enough memory|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, in any of the shapes that torch gives it."""
    names = {cls.__name__ for cls in type(error).__mro__}
    if names & {"OutOfMemoryError", "MemoryError"}:
        return True
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def resident_bytes() -> int:
    """Resident set of this process."""
    pages = pathlib.Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * _PAGE_BYTES

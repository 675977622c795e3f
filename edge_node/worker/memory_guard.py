"""How many rows the memory allows, before and after it ran out.

Owns reading what is free, the arithmetic of admission and the width that is left after a failed
step. It frees nothing and must not import torch: what torch alone can read is passed in.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Callable

# Good steps after which one more row is tried. A row too many costs about one step, so trying in
# vain costs at most some 2 % of the work.
GOOD_STEPS = 50

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MEMINFO = pathlib.Path("/proc/meminfo")

# Out of memory does not always come as an exception of that name: on a Jetson the allocator's own
# check fails (NvMap error 12, an assertion on NVML_SUCCESS), on a CPU it is a plain RuntimeError.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|NvMapMemAlloc|NVML_SUCCESS"
    r"|not enough memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED",
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


def system_available_bytes(meminfo: pathlib.Path = _MEMINFO) -> int:
    """MemAvailable: what can be had without swapping, with the page cache given back.

    For CPUs and for GPUs that share the machine's memory. There cudaMemGetInfo counts the page
    cache, which the weights were just read through, as taken.
    """
    for line in meminfo.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise OSError(f"{meminfo} has no MemAvailable: set the worker's memory floor to 0 bytes")


def gpu_available_bytes(mem_get_info: Callable[[], tuple[int, int]]) -> Callable[[], int]:
    """Reader of a discrete GPU's free memory, from `torch.cuda.mem_get_info`."""
    return lambda: mem_get_info()[0]


def rows_allowed(
    *, wanted: int, rows_now: int, row_bytes: int, available_bytes: int, floor_bytes: int
) -> int:
    """Rows that may be active: at least one, and no more new ones than fit above the floor.

    Args:
        wanted: rows that the order would have active.
        rows_now: rows that are active, whose memory is taken already.
        row_bytes: taken by one more row; 0 when not known, which allows all.
        available_bytes: what is free now.
        floor_bytes: what is left to everything else on the device.
    """
    if row_bytes <= 0 or wanted <= rows_now:
        return wanted
    fitting = max(0, available_bytes - floor_bytes) // row_bytes
    return max(1, min(wanted, rows_now + fitting))


class AllowedWidth:
    """Rows that may be active as far as failed steps have told: fewer after memory ran out."""

    def __init__(self, rows_max: int, *, good_steps: int = GOOD_STEPS) -> None:
        self.rows = rows_max
        self._rows_max = rows_max
        self._good_steps = good_steps
        self._steps = 0

    def shed(self, rows: int) -> None:
        """A step ran out of memory: at most `rows` from now on."""
        self.rows = max(1, min(rows, self.rows))
        self._steps = 0

    def record_step(self) -> bool:
        """Takes in a good step; whether one more row may be tried now."""
        if self.rows == self._rows_max:
            return False
        self._steps += 1
        if self._steps < self._good_steps:
            return False
        self._steps = 0
        self.rows += 1
        return True

"""How much memory something took at its highest, on the device that it ran on.

Owns measuring only. On a CPU the kernel's own high-water mark of this process is reset and read;
on CUDA the allocator keeps one.
"""

from __future__ import annotations

import ctypes
import gc
import pathlib
from types import TracebackType
from typing import Any

_STATUS_PATH = pathlib.Path("/proc/self/status")
_RESET_PATH = pathlib.Path("/proc/self/clear_refs")
# proc(5): writing 5 resets the peak resident set size.
_RESET_PEAK = "5"


def peak_resident_bytes() -> int:
    """Highest resident set of this process since the mark was last reset."""
    return _told_bytes("VmHWM")


def _told_bytes(name: str) -> int:
    for line in _STATUS_PATH.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"this kernel does not tell {name}")


def _give_back_freed() -> None:
    """Hands freed memory back to the kernel: what stays with the allocator is no room for rows."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc's; other C libraries have none
        trim(0)


class PeakBytes:
    """`with PeakBytes(cuda) as peak: ...`; then `peak.bytes` is the highest use.

    `peak.growth_bytes` is how far that lies above what was in use before: what else the process
    takes or gives back between two watches is not in it.
    """

    def __init__(self, cuda: Any | None) -> None:
        """`cuda` is torch.cuda when the work is done there, None for this process's memory."""
        self._cuda = cuda
        self.bytes = 0
        self.growth_bytes = 0
        self._before_bytes = 0

    def __enter__(self) -> PeakBytes:
        """Begins to watch."""
        if self._cuda is not None:
            self._cuda.reset_peak_memory_stats()
            self._before_bytes = self._cuda.memory_allocated()
        else:
            _give_back_freed()
            self._before_bytes = _told_bytes("VmRSS")
            _RESET_PATH.write_text(_RESET_PEAK, encoding="ascii")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Reads the mark."""
        if self._cuda is not None:
            self._cuda.synchronize()
            self.bytes = self._cuda.max_memory_allocated()
        else:
            self.bytes = peak_resident_bytes()
        self.growth_bytes = max(0, self.bytes - self._before_bytes)

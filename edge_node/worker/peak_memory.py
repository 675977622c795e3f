"""How much memory something took at its highest, on the device that it ran on.

Owns measuring only. On a CPU the kernel's own high-water mark of this process is reset and read;
on CUDA the allocator keeps one.
"""

from __future__ import annotations

import pathlib
from types import TracebackType
from typing import Any

_STATUS_PATH = pathlib.Path("/proc/self/status")
_RESET_PATH = pathlib.Path("/proc/self/clear_refs")
# proc(5): writing 5 resets the peak resident set size.
_RESET_PEAK = "5"


def peak_resident_bytes() -> int:
    """Highest resident set of this process since the mark was last reset."""
    for line in _STATUS_PATH.read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("this kernel does not tell VmHWM")


class PeakBytes:
    """`with PeakBytes(cuda) as peak: ...`; then `peak.bytes` is the highest use, not the growth."""

    def __init__(self, cuda: Any | None) -> None:
        """`cuda` is torch.cuda when the work is done there, None for this process's memory."""
        self._cuda = cuda
        self.bytes = 0

    def __enter__(self) -> PeakBytes:
        """Begins to watch."""
        if self._cuda is not None:
            self._cuda.reset_peak_memory_stats()
        else:
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

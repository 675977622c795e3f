"""Which errors mean that the accelerator is lost to this process.

Owns recognising only. A CUDA context that met a sticky error answers every later call with it: no
drawing can be saved and only a new process helps. Memory that ran out is not such an error.
"""

from __future__ import annotations

import re

from edge_node.worker.memory_guard import is_out_of_memory

_LOST = re.compile(
    r"CUDA (driver )?error:|CUDA-capable device|illegal memory access|misaligned address"
    r"|device-side assert|unspecified launch failure|launch timed out|uncorrectable ECC"
    r"|GPU is lost|fallen off the bus"
    r"|CU(BLAS|DNN|SPARSE|SOLVER|FFT)_STATUS_(INTERNAL_ERROR|EXECUTION_FAILED|MAPPING_ERROR)",
    re.IGNORECASE,
)
# These refuse one call and leave the context as it was. Taking them for a lost device would let a
# single drawing end every worker that it is placed on.
_REFUSED = re.compile(
    r"invalid( \w+)? argument|invalid value|_INVALID_VALUE|_BAD_PARAM|not supported|_NOT_SUPPORTED",
    re.IGNORECASE,
)


class DeviceLost(Exception):
    """The accelerator cannot be used by this process any more."""


def is_device_lost(error: BaseException) -> bool:
    """Whether `error` is sticky: every later call on the accelerator would fail, too."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    text = str(error)
    return bool(_LOST.search(text)) and not _REFUSED.search(text)

"""One worker per accelerator: a file lock that ends with the process that holds it.

Owns taking the lock only; the kernel releases it, whichever way the process ends.
"""

from __future__ import annotations

import fcntl
import os
import pathlib
import time

_RETRY_S = 0.05


class AcceleratorTaken(Exception):
    """Another worker holds the accelerator; the message says which and what to do."""


def hold(path: pathlib.Path, *, wait_s: float) -> int:
    """Takes the lock and returns its file descriptor, which must stay open.

    Waits, because a worker that was just killed needs a moment until its memory is given back.

    Raises:
        AcceleratorTaken: it is still held after `wait_s`, or cannot be asked for.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise AcceleratorTaken(
            f"the lock of the accelerator cannot be had ({problem}): make its folder, or set "
            "worker_lock to another place"
        ) from problem
    give_up_s = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up_s:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                os.close(descriptor)
                raise AcceleratorTaken(
                    f"another worker (process {holder or 'unknown'}) holds {path}: one accelerator "
                    "serves one worker, stop that one or give this one its own --lock"
                ) from None
            time.sleep(_RETRY_S)
        else:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            return descriptor

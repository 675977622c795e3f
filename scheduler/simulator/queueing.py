"""Servers that work off what is placed on them: compiled, exact, first come first served.

Owns the arithmetic of waiting and computing (paper eqs. 2-5); knows neither policies nor links.
A server is a single queue that never idles while it has work. Every function is a numba kernel
over plain arrays. Arrays end in their dimension: N tasks in order of placement, B servers,
K stretches of constant capacity.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@njit(cache=True)
def work_off_s(
    work: float, server: int, start_s: float, since_s_K: FloatArray, capacity_KB: FloatArray
) -> float:
    """Seconds from `start_s` until `server` has done `work`; infinite if it never will."""
    stretch = np.searchsorted(since_s_K, start_s, side="right") - 1
    now_s = start_s
    while True:
        capacity = capacity_KB[stretch, server]
        last = stretch + 1 == len(since_s_K)
        if last or work <= capacity * (since_s_K[stretch + 1] - now_s):
            if work <= 0.0:
                return now_s - start_s
            return now_s - start_s + work / capacity if capacity > 0.0 else np.inf
        work -= capacity * (since_s_K[stretch + 1] - now_s)
        stretch += 1
        now_s = since_s_K[stretch]


@njit(cache=True)
def drain(
    backlog_B: FloatArray,
    from_s: float,
    to_s: float,
    since_s_K: FloatArray,
    capacity_KB: FloatArray,
) -> None:
    """Takes off each backlog, in place, what is worked off from `from_s` to `to_s`."""
    stretch = np.searchsorted(since_s_K, from_s, side="right") - 1
    while from_s < to_s:
        end_s = to_s
        if stretch + 1 < len(since_s_K):
            end_s = min(end_s, since_s_K[stretch + 1])
        for server in range(len(backlog_B)):
            left = backlog_B[server] - capacity_KB[stretch, server] * (end_s - from_s)
            backlog_B[server] = max(left, 0.0)
        from_s = end_s
        stretch += 1


@njit(cache=True)
def serve_fcfs(
    arrival_s_N: FloatArray,
    server_N: IntArray,
    work_N: FloatArray,
    since_s_K: FloatArray,
    capacity_KB: FloatArray,
) -> FloatArray:
    """Waiting and computing of every task, first come first served, seconds, (N,)."""
    backlog_B = np.zeros(capacity_KB.shape[1])
    delay_s_N = np.empty(len(work_N))
    now_s = 0.0
    steady = len(since_s_K) == 1
    for task in range(len(work_N)):
        if arrival_s_N[task] > now_s:
            drain(backlog_B, now_s, arrival_s_N[task], since_s_K, capacity_KB)
            now_s = arrival_s_N[task]
        server = server_N[task]
        backlog_B[server] += work_N[task]
        if steady:
            delay_s_N[task] = backlog_B[server] / capacity_KB[0, server]
        else:
            delay_s_N[task] = work_off_s(backlog_B[server], server, now_s, since_s_K, capacity_KB)
    return delay_s_N

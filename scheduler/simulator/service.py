"""Service delays under an order of service: first come first served, or known sizes first.

Owns when each task is completed once its server is known. The number of denoising steps of a task
is known in advance and a server can switch tasks between two steps, so it need not be first come
first served. Servers never idle while they have work and drain after the last arrival. Arrays end
in their dimension: N tasks of the episode, M tasks of one server in order of placement, B servers,
K stretches of constant capacity.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
from numba import njit
from numpy.typing import NDArray

from scheduler import longest_wait
from scheduler.simulator.queueing import FloatArray, IntArray, drain, serve_fcfs, work_off_s
from scheduler.simulator.workload import Episode

BoolArray = NDArray[np.bool_]
Order = Literal["fcfs", "sjf", "srpt"]
_Heap = list[tuple[float, int]]
_after_arrival = njit()(longest_wait.after_arrival)


class InvalidDiscipline(ValueError):
    """A discipline is impossible; the message says which of its values and why."""


@dataclass(frozen=True, kw_only=True)
class Discipline:
    """In which order a server takes its tasks.

    Attributes:
        order: "fcfs" by time of placement; "sjf" least work first, never interrupted; "srpt"
            least remaining work first, interrupted only between denoising steps. Ties go to the
            task placed first.
        ageing: a; orders by remaining seconds on this server - a x age in seconds instead.
        promotion: (c0 in seconds, c1); a task older than c0 + c1 x its own service time on this
            server at its current capacity is served first, earliest due first.
        promotion_load: beta; adds to c0 beta x the longest wait that first come first served
            has meant on this server lately (`scheduler.longest_wait`), as it stands when the task
            is looked at, not when it came. So one beta serves every load, and no server knows
            when the run ends. Without `promotion`, c0 is 0 and c1 is 1.
    """

    order: Order = "fcfs"
    ageing: float | None = None
    promotion: tuple[float, float] | None = None
    promotion_load: float | None = None

    def __post_init__(self) -> None:
        """Refuses what no server can follow."""
        if self.order not in get_args(Order):
            known = ", ".join(get_args(Order))
            raise InvalidDiscipline(f"order is {self.order!r}; it must be one of {known}")
        for field in ("ageing", "promotion", "promotion_load"):
            value = getattr(self, field)
            if value is not None and self.order == "fcfs":
                raise InvalidDiscipline(f"{field} is given, but fcfs serves by age already")
            numbers = () if value is None else value if field == "promotion" else (value,)
            if not all(math.isfinite(number) and number >= 0 for number in numbers):
                raise InvalidDiscipline(f"{field} is {value!r}; it must be 0 or more")

    @classmethod
    def parse(
        cls,
        order: str,
        *,
        ageing: str | None = None,
        promotion: str | None = None,
        promotion_load: str | None = None,
    ) -> Discipline:
        """A discipline as command lines give it: `parse("srpt", promotion="15,1")`.

        Raises:
            InvalidDiscipline: a value is no number, or the combination is impossible.
        """
        pair = _numbers("promotion", promotion, count=2)
        slope = _numbers("ageing", ageing, count=1)
        beta = _numbers("promotion_load", promotion_load, count=1)
        return cls(
            order=cast(Order, order),
            ageing=None if slope is None else slope[0],
            promotion=None if pair is None else (pair[0], pair[1]),
            promotion_load=None if beta is None else beta[0],
        )


def _numbers(field: str, text: str | None, *, count: int) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        wanted = "a number" if count == 1 else f"{count} numbers with a comma between them"
        raise InvalidDiscipline(f"{field} is {text!r}; it must be {wanted}")
    return numbers


def service_delay_s(episode: Episode, server_N: IntArray, discipline: Discipline) -> FloatArray:
    """Transfer, waiting and computing of every task (paper eq. 2), seconds, (N,).

    As in the paper, the transfer does not delay the start of the service. Infinite for a task
    whose server never comes back.

    Raises:
        ValueError: `server_N` does not give every task one of the servers.
    """
    if server_N.shape != episode.work_N.shape:
        raise ValueError(f"{server_N.shape} placements for {episode.work_N.shape} tasks")
    if episode.tasks and not (server_N.min() >= 0 and server_N.max() < episode.servers):
        raise ValueError(f"a task is placed outside servers 0..{episode.servers - 1}")
    arrival_s_N, work_N = episode.arrival_s_N, episode.work_N
    since_s_K, capacity_KB = episode.since_s_K, episode.capacity_KB
    if discipline.order == "fcfs":
        delay_s_N = serve_fcfs(arrival_s_N, server_N, work_N, since_s_K, capacity_KB)
        return episode.transfer_s(server_N) + delay_s_N
    # Server by server, and on each in order of placement.
    order_N = np.argsort(server_N, kind="stable")
    due_s_N, due_work_N = _promotion(episode, discipline)
    later_s_N = np.zeros(episode.tasks)
    if discipline.promotion_load is not None:
        longest_s_N = longest_wait_s(arrival_s_N, server_N, work_N, since_s_K, capacity_KB)
        later_s_N = discipline.promotion_load * longest_s_N
    parts_N = episode.steps_N if discipline.order == "srpt" else np.ones_like(episode.steps_N)
    done_s_N = np.empty(episode.tasks)
    done_s_N[order_N] = _serve_by_size(
        np.searchsorted(server_N[order_N], np.arange(episode.servers + 1)),
        arrival_s_N[order_N],
        work_N[order_N],
        parts_N[order_N],
        (discipline.ageing or 0.0) * arrival_s_N[order_N],
        due_s_N[order_N],
        due_work_N[order_N],
        later_s_N[order_N],
        since_s_K,
        capacity_KB,
    )
    return episode.transfer_s(server_N) + (done_s_N - arrival_s_N)


def _promotion(episode: Episode, discipline: Discipline) -> tuple[FloatArray, FloatArray]:
    """When each task is due: at due_s_N + due_work_N / capacity; infinite without promotion.

    What `promotion_load` adds changes with time and is not in it.
    """
    if discipline.promotion is None and discipline.promotion_load is None:
        return np.full(episode.tasks, np.inf), np.zeros(episode.tasks)
    c0_s, c1 = discipline.promotion or (0.0, 1.0)
    return episode.arrival_s_N + c0_s, c1 * episode.work_N


@njit(cache=True)
def longest_wait_s(
    arrival_s_N: FloatArray,
    server_N: IntArray,
    work_N: FloatArray,
    since_s_K: FloatArray,
    capacity_KB: FloatArray,
) -> FloatArray:
    """Longest wait lately on the server of each task once the task has come, seconds, (N,).

    Work placed there before the task counts, the task itself does not. No order of service changes
    it, because a server that never idles has the same unfinished work under all of them. A server
    that is away learns nothing.
    """
    backlog_B = np.zeros(capacity_KB.shape[1])
    longest_s_B, seen_s_B = np.zeros(len(backlog_B)), np.zeros(len(backlog_B))
    longest_s_N = np.empty(len(work_N))
    now_s, capacity_B = 0.0, capacity_KB[0]
    for task in range(len(work_N)):
        if arrival_s_N[task] > now_s:
            drain(backlog_B, now_s, arrival_s_N[task], since_s_K, capacity_KB)
            now_s = arrival_s_N[task]
            capacity_B = capacity_KB[np.searchsorted(since_s_K, now_s, side="right") - 1]
        server = server_N[task]
        if capacity_B[server] > 0.0:
            wait_s = backlog_B[server] / capacity_B[server]
            elapsed_s = now_s - seen_s_B[server]
            longest_s_B[server] = _after_arrival(longest_s_B[server], wait_s, elapsed_s)
            seen_s_B[server] = now_s
        longest_s_N[task] = longest_s_B[server]
        backlog_B[server] += work_N[task]
    return longest_s_N


@njit(cache=True)
def _serve_by_size(
    first_B: IntArray,
    arrival_s_N: FloatArray,
    work_N: FloatArray,
    parts_N: IntArray,
    age_key_N: FloatArray,
    due_s_N: FloatArray,
    due_work_N: FloatArray,
    later_s_N: FloatArray,
    since_s_K: FloatArray,
    capacity_KB: FloatArray,
) -> FloatArray:
    """Time at which every task is done, seconds, (N,); each server on its own.

    The tasks of server b are first_B[b]..first_B[b + 1] - 1. A server turns to another task only
    between two of a task's equal `parts_N`. It takes the least remaining seconds + `age_key_N`,
    but first what is due: at due_s_N + due_work_N / capacity, infinite for never, and as much later
    as `later_s_N` says of the task that came last.
    """
    done_s_N = np.full(len(work_N), np.inf)
    for server in range(len(first_B) - 1):
        first, end = first_B[server], first_B[server + 1]
        _serve_one(
            arrival_s_N[first:end],
            work_N[first:end],
            parts_N[first:end],
            age_key_N[first:end],
            due_s_N[first:end],
            due_work_N[first:end],
            later_s_N[first:end],
            server,
            since_s_K,
            capacity_KB,
            done_s_N[first:end],
        )
    return done_s_N


@njit(cache=True)
def _serve_one(
    arrival_s_M: FloatArray,
    work_M: FloatArray,
    parts_M: IntArray,
    age_key_M: FloatArray,
    due_s_M: FloatArray,
    due_work_M: FloatArray,
    later_s_M: FloatArray,
    server: int,
    since_s_K: FloatArray,
    capacity_KB: FloatArray,
    done_s_M: FloatArray,
) -> None:
    """Writes when every task of one server is done; leaves those that never are."""
    part_work_M = work_M / parts_M
    left_M = parts_M.copy()
    key_M = np.full(len(work_M), np.nan)  # nan: does not wait
    has_due_M = np.zeros(len(work_M), np.bool_)
    by_key = [(0.0, 0) for _ in range(0)]
    by_due = [(0.0, 0) for _ in range(0)]
    now_s, stretch, arrived, done = 0.0, -1, 0, 0
    while done < len(work_M):
        if done == arrived:
            now_s = max(now_s, arrival_s_M[arrived])
        now_s, here = _when_up(now_s, server, since_s_K, capacity_KB)
        if now_s == np.inf:
            break
        first = arrived
        while arrived < len(work_M) and arrival_s_M[arrived] <= now_s:
            arrived += 1
        capacity = capacity_KB[here, server]
        if here != stretch:
            # Keys and due times are seconds at this capacity: all of them are counted anew.
            stretch, first = here, 0
            by_key.clear()
            by_due.clear()
            has_due_M[:] = False
        for task in range(first, arrived):
            if left_M[task] > 0:
                key_M[task] = left_M[task] * part_work_M[task] / capacity + age_key_M[task]
                heapq.heappush(by_key, (key_M[task], task))
                _note_due(task, due_s_M[task] + due_work_M[task] / capacity, by_due, has_due_M)
        # Those that waited longer than this from when they were due go first.
        later_s = later_s_M[arrived - 1]
        task = _take(now_s - later_s, key_M, by_key, by_due, has_due_M)
        change_s = since_s_K[stretch + 1] if stretch + 1 < len(since_s_K) else np.inf
        while True:
            now_s += work_off_s(part_work_M[task], server, now_s, since_s_K, capacity_KB)
            left_M[task] -= 1
            if left_M[task] == 0:
                done_s_M[task] = now_s
                done += 1
                break
            arrival = arrived < len(work_M) and arrival_s_M[arrived] <= now_s
            overdue = len(by_due) > 0 and by_due[0][0] <= now_s - later_s
            if arrival or now_s >= change_s or overdue:
                # Something may come before it now; nothing else can, as it only gets shorter.
                key_M[task] = left_M[task] * part_work_M[task] / capacity + age_key_M[task]
                heapq.heappush(by_key, (key_M[task], task))
                _note_due(task, due_s_M[task] + due_work_M[task] / capacity, by_due, has_due_M)
                break


@njit(cache=True)
def _when_up(
    now_s: float, server: int, since_s_K: FloatArray, capacity_KB: FloatArray
) -> tuple[float, int]:
    """First time from `now_s` on at which the server works, and the stretch of it."""
    if now_s == np.inf:
        return now_s, -1
    stretch = np.searchsorted(since_s_K, now_s, side="right") - 1
    while capacity_KB[stretch, server] <= 0.0:
        stretch += 1
        if stretch == len(since_s_K):
            return np.inf, -1
        now_s = since_s_K[stretch]
    return now_s, int(stretch)


@njit(cache=True)
def _note_due(task: int, due_s: float, by_due: _Heap, has_due_M: BoolArray) -> None:
    """Keeps when a task is due, once; entries of tasks already taken stay until they come up."""
    if due_s < np.inf and not has_due_M[task]:
        heapq.heappush(by_due, (due_s, task))
        has_due_M[task] = True


@njit(cache=True)
def _take(
    overdue_s: float, key_M: FloatArray, by_key: _Heap, by_due: _Heap, has_due_M: BoolArray
) -> int:
    """Takes the next of those that wait: due up to `overdue_s` by due time, else least key."""
    while len(by_due) > 0 and by_due[0][0] <= overdue_s:
        task = heapq.heappop(by_due)[1]
        has_due_M[task] = False
        if not np.isnan(key_M[task]):
            key_M[task] = np.nan
            return task
    while True:
        # An entry whose key has changed belongs to a task that was taken in the meantime.
        key, task = heapq.heappop(by_key)
        if key == key_M[task]:
            key_M[task] = np.nan
            return task

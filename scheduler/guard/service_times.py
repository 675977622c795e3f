"""How long tasks really took on each server, by size, against what its capacity lets one expect.

Pure: decisions and outcomes of all nodes go in, in any order. A node's capacity is one number, so a
device that is twice as fast with large tasks only, or slow with them, shows nowhere but here.

A server works on one task at a time, so a task's service is the time from the end before it, or
from its own coming where that is later, to its own end; that holds in any order of service. Tasks
that moved are left out. They lengthen the services of those after them where they went, and tasks
served together are measured wrongly, too, therefore medians. Where the decisions of a node that
places tasks are not known, nothing is: its tasks would lengthen those of others. Nor is anything
where servers take tasks from each other: who did what of them no decision says.
"""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from scheduler.experience import PooledDecision, is_again, task_of
from scheduler.policy import Outcome

# Tasks of one size on one server that a factor takes: most tasks take what others like them took.
TASKS_MIN = 3
# Classes of size for a doubling of work.
CLASSES_PER_DOUBLING = 2
# A size without a factor has that of the nearest one, at most so many classes away.
NEAR = 2
# Beyond, something else went on than drawing.
FACTOR_MAX = 8.0
# Of the tasks that ended, so many may have been taken by servers that nobody chose for them.
TAKEN_SHARE_MAX = 0.05


@dataclass(frozen=True, kw_only=True)
class ServiceFactors:
    """Real over expected service time; 1 where too little is known."""

    by_server_and_size: Mapping[tuple[str, int], float] = field(
        default_factory=lambda: MappingProxyType({})
    )

    def of(self, server: str, work: float) -> float:
        """Of a task of that work there."""
        size = _size(work)
        for away in range(NEAR + 1):
            for near in (size - away, size + away):
                found = self.by_server_and_size.get((server, near))
                if found is not None:
                    return found
        return 1.0


# Where nothing is known.
AS_EXPECTED = ServiceFactors()


@dataclass(kw_only=True)
class _Served:
    node_id: str
    candidates: tuple[str, ...]
    server: str
    placed_unix_s: float
    link_s: float
    work: float
    expected_s: float
    end_unix_s: float | None = None
    moved: bool = False
    taken: bool = False


class ServiceTimes:
    """A window of the cluster's tasks.

    Args:
        tasks_max: kept; the oldest are given up.
    """

    def __init__(self, *, tasks_max: int) -> None:
        self._max = tasks_max
        # By the id of the task.
        self._tasks: OrderedDict[str, _Served] = OrderedDict()
        self._placed_again: OrderedDict[str, None] = OrderedDict()

    @property
    def taken_share(self) -> float:
        """Of the tasks that ended, those that went on at a server which no decision had named."""
        ended = [task.taken for task in self._tasks.values() if task.end_unix_s is not None]
        return sum(ended) / len(ended) if ended else 0.0

    def add(self, entry: PooledDecision | Outcome) -> None:
        """Takes one entry of a pool in; the same may come twice."""
        if isinstance(entry, Outcome):
            self._ended(entry)
            return
        recorded = entry.recorded
        seen, choice = recorded.observation, recorded.decision.choice
        capacity = float(seen.capacity_B[choice])
        # The delay of a task that was placed again is counted from its first placement.
        if is_again(recorded.decision_id):
            self._placed_again[recorded.decision_id] = None
            if len(self._placed_again) > self._max:
                self._placed_again.popitem(last=False)
            return
        task_id = task_of(recorded.decision_id)
        if task_id in self._tasks or not (capacity > 0.0 < seen.work):
            return
        self._tasks[task_id] = _Served(
            node_id=recorded.node_id,
            candidates=seen.node_ids,
            server=seen.node_ids[choice],
            placed_unix_s=recorded.decided_unix_s,
            link_s=float(seen.link_s_B[choice]),
            work=seen.work,
            expected_s=seen.work / capacity,
        )
        if len(self._tasks) > self._max:
            self._tasks.popitem(last=False)

    def _ended(self, outcome: Outcome) -> None:
        """A task that moved has an outcome for each of its placements."""
        task = self._tasks.get(task_of(outcome.decision_id))
        if task is None or not outcome.completed:
            return
        if is_again(outcome.decision_id):
            task.moved = True
            task.taken |= outcome.decision_id not in self._placed_again
        else:
            task.end_unix_s = task.placed_unix_s + outcome.service_delay_s

    def factors(self) -> ServiceFactors:
        """What the window says of servers all of whose tasks it holds."""
        tasks = list(self._tasks.values())
        whole = _whole(tasks)
        if not whole or self.taken_share > TAKEN_SHARE_MAX:
            return AS_EXPECTED
        ended: dict[str, list[tuple[float, _Served]]] = defaultdict(list)
        for task in tasks:
            if task.end_unix_s is not None and task.server in whole and not task.moved:
                ended[task.server].append((task.end_unix_s, task))
        ratios: dict[tuple[str, int], list[float]] = defaultdict(list)
        for server, ends in ended.items():
            before_unix_s = -math.inf
            for end_unix_s, task in sorted(ends, key=lambda one: one[0]):
                began_unix_s = max(before_unix_s, task.placed_unix_s + task.link_s)
                before_unix_s = end_unix_s
                ratio = (end_unix_s - began_unix_s) / task.expected_s
                ratios[server, _size(task.work)].append(ratio)
        return ServiceFactors(
            by_server_and_size={
                key: min(max(float(np.median(found)), 1.0 / FACTOR_MAX), FACTOR_MAX)
                for key, found in ratios.items()
                if len(found) >= TASKS_MIN
            }
        )


def _whole(tasks: list[_Served]) -> set[str]:
    """Servers that all candidates beside them, as they were last, have placed tasks on or could.

    Where nodes draw different models each model has candidates of its own.
    """
    last: dict[str, tuple[str, ...]] = {}
    for task in tasks:
        last.update(dict.fromkeys(task.candidates, task.candidates))
    told = {task.node_id for task in tasks}
    return {server for server, candidates in last.items() if told.issuperset(candidates)}


def _size(work: float) -> int:
    return math.floor(CLASSES_PER_DOUBLING * math.log2(work))

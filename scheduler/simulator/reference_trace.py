"""Replays a recorded run of the authors' code: is this simulator theirs?

Owns the file's layout and its checks. A trace is an npz file of

- `columns` and `decisions`, a name and a column of numbers for each of: slot, origin,
  index_in_slot, input_mbit, density_gcycles_per_step, steps, result_mbit, action,
  service_delay_s; a row for each task, in the order in which tasks were placed
- `queue_at_slot_start_gcycles`: for each task the backlogs of all servers at its slot's start
- `capacity_gcycles_s` and `rate_mbit_s` of all servers.

Arrays end in their dimension: N tasks, B servers.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scheduler.simulator.queueing import FloatArray, IntArray
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.slotted_cluster import SlottedCluster
from scheduler.simulator.workload import Episode, one_model

WHOLE = ("slot", "origin", "index_in_slot", "steps", "action")
SIZES = ("input_mbit", "density_gcycles_per_step", "result_mbit", "service_delay_s")


class InvalidTrace(ValueError):
    """A file is no reference trace; the message names the file and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class ReferenceTrace:
    """A run to compare with.

    Attributes:
        episode: the tasks and servers of the run.
        action_N: where each task was placed.
        service_delay_s_N: its delay there, seconds.
        queue_NB: backlogs at the start of each task's slot, Gcycles.
    """

    episode: Episode
    action_N: IntArray
    service_delay_s_N: FloatArray
    queue_NB: FloatArray


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far a replay is from the trace.

    Attributes:
        tasks: how many were replayed.
        delay_s_max: largest absolute difference of a service delay, seconds.
        queue_s_max: largest absolute difference of a backlog at a slot's start, in seconds of
            its server's capacity.
    """

    tasks: int
    delay_s_max: float
    queue_s_max: float


def replay(trace: ReferenceTrace) -> Difference:
    """Places every task where the trace placed it and compares what comes of it."""
    cluster = SlottedCluster(trace.episode)
    delay_s_max = queue_s_max = 0.0
    while not cluster.done:
        tasks = cluster.tasks
        behind_B = np.abs(trace.queue_NB[tasks] - cluster.backlog_B).max(axis=0, initial=0.0)
        queue_s_max = max(queue_s_max, float((behind_B / trace.episode.capacity_KB[0]).max()))
        late_s_M = np.abs(cluster.place(trace.action_N[tasks]) - trace.service_delay_s_N[tasks])
        delay_s_max = max(delay_s_max, float(late_s_M.max(initial=0.0)))
    return Difference(tasks=trace.episode.tasks, delay_s_max=delay_s_max, queue_s_max=queue_s_max)


def load_trace(path: Path) -> ReferenceTrace:
    """Reads a trace.

    Raises:
        InvalidTrace: the file cannot be read, is truncated, lacks something or holds impossible
            numbers.
    """
    arrays = _arrays(path)
    decisions = arrays["decisions"]
    columns = arrays["columns"].tolist()
    missing = [name for name in (*WHOLE, *SIZES) if name not in columns]
    if missing:
        raise InvalidTrace(f"{path} has no column {', '.join(missing)}")
    if decisions.ndim != 2 or decisions.shape[1] != len(columns) or len(decisions) == 0:
        raise InvalidTrace(f"{path}: decisions are {decisions.shape}, not tasks x {len(columns)}")
    column = {name: decisions[:, columns.index(name)] for name in (*WHOLE, *SIZES)}
    capacity_B, rate_B = arrays["capacity_gcycles_s"], arrays["rate_mbit_s"]
    queue_NB = arrays["queue_at_slot_start_gcycles"]
    if capacity_B.ndim != 1 or rate_B.shape != capacity_B.shape:
        raise InvalidTrace(f"{path}: {capacity_B.shape} capacities and {rate_B.shape} rates")
    if queue_NB.shape != (len(decisions), len(capacity_B)):
        raise InvalidTrace(
            f"{path}: queues are {queue_NB.shape}, not {len(decisions)} tasks x "
            f"{len(capacity_B)} servers"
        )
    _check_numbers(path, column, capacity_B, rate_B, queue_NB)
    whole = {name: column[name].astype(np.int64) for name in WHOLE}
    return ReferenceTrace(
        episode=_episode(path.stem, column, whole, capacity_B, rate_B),
        action_N=whole["action"],
        service_delay_s_N=column["service_delay_s"],
        queue_NB=queue_NB,
    )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Everything that a trace must have, the numbers as float64."""
    if path.exists() and not zipfile.is_zipfile(path):
        raise InvalidTrace(f"{path} is no npz file, or is truncated")
    numbers = ("decisions", "queue_at_slot_start_gcycles", "capacity_gcycles_s", "rate_mbit_s")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in ("columns", *numbers) if name not in archive]
            if missing:
                raise InvalidTrace(f"{path} has no array {', '.join(missing)}")
            found = {name: np.asarray(archive[name], np.float64) for name in numbers}
            return found | {"columns": archive["columns"]}
    except InvalidTrace:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidTrace(f"{path} cannot be read: {error}") from error


def _check_numbers(
    path: Path,
    column: dict[str, FloatArray],
    capacity_B: FloatArray,
    rate_B: FloatArray,
    queue_NB: FloatArray,
) -> None:
    """Refuses what no run can have produced."""
    servers = len(capacity_B)
    named = column | {"capacity_gcycles_s": capacity_B, "rate_mbit_s": rate_B, "queue": queue_NB}
    for name, values in named.items():
        if not np.isfinite(values).all() or (values < 0).any():
            raise InvalidTrace(f"{path}: {name} holds numbers below 0 or that are not finite")
    for name in WHOLE:
        if (column[name] != np.floor(column[name])).any():
            raise InvalidTrace(f"{path}: {name} holds numbers that are not whole")
    for name in ("density_gcycles_per_step", "steps", "capacity_gcycles_s", "rate_mbit_s"):
        if (named[name] == 0).any():
            raise InvalidTrace(f"{path}: {name} holds zeros")
    for name in ("origin", "action"):
        if (column[name] >= servers).any():
            raise InvalidTrace(f"{path}: {name} holds servers beyond 0..{servers - 1}")
    if (np.diff(column["slot"]) < 0).any():
        raise InvalidTrace(f"{path}: the slots fall, so the rows are out of order")


def _episode(
    name: str,
    column: dict[str, FloatArray],
    whole: dict[str, IntArray],
    capacity_B: FloatArray,
    rate_B: FloatArray,
) -> Episode:
    scenario = Scenario(
        name=name,
        servers=len(capacity_B),
        capacities=tuple(capacity_B.tolist()),
        slots=int(whole["slot"][-1]) + 1,
    )
    return Episode(
        scenario=scenario,
        arrival_s_N=column["slot"] * scenario.slot_s,
        slot_N=whole["slot"],
        origin_N=whole["origin"],
        index_N=whole["index_in_slot"],
        input_mbit_N=column["input_mbit"],
        result_mbit_N=column["result_mbit"],
        steps_N=whole["steps"],
        work_N=column["density_gcycles_per_step"] * whole["steps"],
        link_mbit_s_B=rate_B,
        since_s_K=np.zeros(1),
        capacity_KB=capacity_B[np.newaxis],
        believed_KB=capacity_B[np.newaxis],
        **one_model(tasks=len(whole["slot"]), servers=len(capacity_B)),
    )

"""A job as the surface shows it: what its tasks come to, and the tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from edge_node.api import schemas
from edge_node.api.schemas import Json
from edge_node.domain import JobId, TaskRecord, TaskStatus


def job_object(job_id: JobId, records: Sequence[TaskRecord], *, prefix: str = "") -> Json:
    """A job as /v1/jobs shows it; `prefix` as in `task_object`.

    It is over with its last task, and completed if all are; `progress` is the mean, of what is over
    100.
    """
    tasks = [schemas.task_object(record, prefix=prefix) for record in records]
    done = [100 if record.status.is_final else schemas.progress_of(record) for record in records]
    counts = Counter(record.status.value for record in records)
    return {
        "id": job_id,
        "object": "image.job",
        "status": _status_of_all(records).value,
        "progress": sum(done) // len(done),
        "eta_s": max(task["eta_s"] for task in tasks),
        "counts": {status.value: counts[status.value] for status in TaskStatus},
        "tasks": tasks,
    }


def _status_of_all(records: Sequence[TaskRecord]) -> TaskStatus:
    statuses = {record.status for record in records}
    if statuses == {TaskStatus.QUEUED}:
        return TaskStatus.QUEUED
    if any(not status.is_final for status in statuses):
        return TaskStatus.IN_PROGRESS
    ends = (TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.COMPLETED)
    return next(status for status in ends if status in statuses)

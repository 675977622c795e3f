"""Tasks for store tests."""

from __future__ import annotations

from edge_node.domain import (
    Drawing,
    Durability,
    JobId,
    NodeId,
    Task,
    TaskId,
    TaskRecord,
    TaskStatus,
)
from edge_node.prompt_tokens import PromptTokens


def task_id(number: int) -> TaskId:
    return TaskId(f"orin-a-01J{number:023d}")


def task(
    number: int,
    *,
    durability: Durability = Durability.DISK,
    job_id: JobId | None = None,
    prompt: str = "a small boat",
) -> Task:
    drawing = Drawing(
        prompt=prompt,
        width_px=64,
        height_px=64,
        steps=10,
        guidance_scale=5.0,
        seed=2**63 + number,
        model="tiny",
    )
    return Task(
        id=task_id(number),
        job_id=job_id,
        drawing=drawing,
        work=12.5,
        input_bits=800,
        created_unix_s=1000.0 + number,
        durability=durability,
    )


def placed(accepted: Task, *, attempt: int = 1) -> TaskRecord:
    return TaskRecord(
        task=accepted,
        status=TaskStatus.IN_PROGRESS,
        executor=NodeId("orin-b"),
        attempt=attempt,
        started_unix_s=2000.0,
        policy="power_of_two",
    )


def finished(accepted: Task, *, at_unix_s: float = 3000.0) -> TaskRecord:
    return TaskRecord(
        task=accepted,
        status=TaskStatus.COMPLETED,
        executor=NodeId("orin-b"),
        attempt=1,
        started_unix_s=2000.0,
        finished_unix_s=at_unix_s,
        image_bytes=4096,
        queue_s=0.5,
        compute_s=2.25,
        policy_reason="window",
        prompt_tokens=PromptTokens(103, 75),
    )

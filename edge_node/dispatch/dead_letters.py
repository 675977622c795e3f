"""Tasks of this node that were tried and given up: listed and retried for an operator.

Owns what a retry is: a new task with the same drawing, accepted once however often it is asked for.
"""

from __future__ import annotations

from edge_node.attempt_codes import DEAD_LETTER_CODES
from edge_node.dispatch.own_tasks import OwnTasks
from edge_node.domain import TaskId, TaskRecord
from edge_node.erasure import has_words
from edge_node.errors import InvalidRequest, TaskErased
from edge_node.ports import DeadLetters, InitImages
from edge_node.requests import Idempotency

LISTED_MAX = 1000


class DeadLetterDesk:
    """Dead letters of this node.

    Args:
        letters: keeps them.
        own_tasks: accepts what is retried.
        init_images: files of what drawings start from.
    """

    def __init__(
        self, letters: DeadLetters, *, own_tasks: OwnTasks, init_images: InitImages
    ) -> None:
        self._letters = letters
        self._own_tasks = own_tasks
        self._init_images = init_images

    async def read(self) -> list[TaskRecord]:
        """The latest, newest first; raises StoreUnavailable."""
        return await self._letters.dead_letters(count_max=LISTED_MAX)

    async def retry(self, task_id: TaskId) -> TaskRecord:
        """Accepts the drawing anew, as a task of its own, and lists the old one no more.

        Raises:
            TaskNotFound, InvalidRequest: there is no such task, or it was not given up.
            TaskErased: its prompt is no longer kept.
            InitImageGone: what it starts from is no longer kept.
            NodeNotReady, AdmissionRefused, StoreUnavailable: not now.
        """
        record = await self._own_tasks.read_task(task_id)
        if record.error is None or record.error.code not in DEAD_LETTER_CODES:
            raise InvalidRequest(
                f"Task {task_id} is no dead letter: only what was tried and given up can be "
                "retried. GET /v1/dead_letters lists them."
            )
        if not has_words(record):
            raise TaskErased(
                f"Task {task_id} is known, and its prompt was removed after its time "
                "(prompt_keep_s). Submit it anew."
            )
        drawing = record.task.drawing
        named = drawing.init_image_sha256
        submission = await self._own_tasks.submit(
            [drawing],
            durable=True,
            init_image=await self._init_images.read(named) if named else b"",
            priority=record.task.priority,
            client=record.task.client,
            turns=record.task.turns,
            idempotency=Idempotency(key=f"dead letter {task_id}", request_digest=task_id),
        )
        await self._letters.strike_dead_letter(task_id)
        return submission.records[0]

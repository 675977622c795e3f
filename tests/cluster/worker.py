"""A simulated worker process: one drawing after another, a step at a time; it crashes and hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from edge_node.attempt_codes import HANDED_OVER
from edge_node.checkpoint import Checkpoint, Latents
from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptQueued,
    AttemptReport,
    AttemptStarted,
    Drawing,
    Fence,
    Image,
    ModelFingerprint,
    StepFinished,
    TaskId,
    WorkerDescription,
    WorkerLoad,
    WorkModel,
)
from edge_node.errors import WorkerUnavailable
from tests.cluster.disk import PlantedBug

# Longer silence than this of a worker that draws is taken for a hang by its supervision.
HANG_S = 3.0
RESTART_S = 0.4
LATENT_BYTES = 128


class SimulatedWorker:
    """The worker port.

    Args:
        name: of its node; images carry it.
        model: that it says it draws; it would draw any, so that a misplaced task is seen.
        step_s: of a step.
        on_change: told when it comes, goes or takes something.
    """

    def __init__(
        self, name: str, *, model: str, step_s: float, on_change: Callable[[], None]
    ) -> None:
        self.name = name
        self.model = model
        self.step_s = step_s
        self.drawing: dict[tuple[TaskId, Fence], Drawing] = {}
        self.steps_drawn = 0
        self.complaints: list[str] = []
        self.resumed = 0
        self.leaving: dict[tuple[TaskId, Fence], None] = {}
        self.buggy_draws = 0
        self._on_change = on_change
        self._ready = False
        self._hanging = False
        self._waits: dict[asyncio.Future[None], None] = {}
        self._queue: list[asyncio.Future[None]] = []

    def start(self) -> None:
        """Loads; ready soon."""
        asyncio.get_running_loop().call_later(RESTART_S, self._come)

    def _come(self) -> None:
        self._ready, self._hanging = True, False
        self._on_change()

    def crash(self) -> None:
        """The process is gone, and all that it was doing; its supervision starts it again."""
        self._ready = False
        for wait in list(self._waits):
            if not wait.done():
                wait.set_exception(WorkerUnavailable("the worker ended"))
        self._on_change()
        asyncio.get_running_loop().call_later(RESTART_S, self._come)

    def hang(self) -> None:
        """No step is done any more, until its supervision ends the process."""
        self._hanging = True
        asyncio.get_running_loop().call_later(HANG_S, self.crash)

    @property
    def description(self) -> WorkerDescription | None:
        if not self._ready:
            return None
        return WorkerDescription(
            state="ready",
            model=self.model,
            model_fingerprint=ModelFingerprint("f"),
            capacity=1.0 / self.step_s,
            work_model=WorkModel(fixed_steps=1.0, unguided_ratio=0.5, reference_px=64),
            size_px_max=64,
            steps_max=100,
            portable=True,
        )

    @property
    def ready(self) -> bool:
        return self._ready

    @property
    def load(self) -> WorkerLoad | None:
        return None

    async def draw(
        self,
        *,
        task_id: TaskId,
        fence: Fence,
        drawing: Drawing,
        priority: int,
        init_image: bytes,
        deadline_s: float | None,
        client: str,
        checkpoint_steps: int,
        checkpoint: Checkpoint | None,
        age_s: float,
    ) -> AsyncGenerator[AttemptReport, None]:
        if not self._ready:
            raise WorkerUnavailable("the worker is not there yet")
        if self.buggy_draws:
            self.buggy_draws -= 1
            raise PlantedBug("planted")
        assert client == f"client-{drawing.seed % 3}", "drawn for another client than asked"
        assert bool(drawing.init_image_sha256) == bool(init_image), "drawn without its init image"
        assert (task_id, fence) not in self.drawing, f"{task_id}/{fence} is drawn twice"
        self.drawing[task_id, fence] = drawing
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            yield AttemptQueued(position=len(self._queue))
            self._next()
            await self._waiting(turn)
            begun = 0 if checkpoint is None else self._resumed(task_id, fence, drawing, checkpoint)
            yield AttemptStarted(step=begun)
            for step in range(begun + 1, drawing.denoising_steps + 1):
                if (task_id, fence) in self.leaving:
                    yield self._stands_at(task_id, fence, drawing, step - 1, exported=step > 1)
                    yield AttemptFailed(code=HANDED_OVER, message="it stops", retryable=True)
                    return
                await self._step()
                due = bool(checkpoint_steps) and step % checkpoint_steps == 0
                yield self._stands_at(task_id, fence, drawing, step, exported=due)
            await self._step()
            content = f"{task_id}/{fence}/{self.name}/{drawing.seed}".encode()
            image = Image(content=content, format="png", width_px=64, height_px=64)
            yield AttemptFinished(image=image, queue_s=0.0, compute_s=1.0)
        finally:
            del self.drawing[task_id, fence]
            self.leaving.pop((task_id, fence), None)
            self._queue.remove(turn)
            self._next()

    def hand_over(self, task_id: TaskId, fence: Fence) -> None:
        self.leaving[task_id, fence] = None

    def _stands_at(
        self, task_id: TaskId, fence: Fence, drawing: Drawing, step: int, *, exported: bool
    ) -> StepFinished:
        steps = drawing.denoising_steps
        if not exported or step == steps:
            return StepFinished(step=step, steps=steps)
        # What a latent does not say of itself is said here, so that whoever is given it can tell.
        latent = f"{task_id}/{fence}/{drawing.seed}/{step}".encode().ljust(LATENT_BYTES)
        checkpoint = Checkpoint(
            drawing_sha256=drawing.sha256,
            fingerprint="f",
            step=step,
            latents=Latents(dtype="float16", shape_CHW=(1, 1, LATENT_BYTES // 2), latent=latent),
        )
        return StepFinished(step=step, steps=steps, checkpoint=checkpoint)

    def _resumed(
        self, task_id: TaskId, fence: Fence, drawing: Drawing, checkpoint: Checkpoint
    ) -> int:
        said = checkpoint.latents.latent.decode().strip().split("/")
        wanted = [str(task_id), str(drawing.seed), str(checkpoint.step)]
        if [said[0], *said[2:]] != wanted or said[1] == str(fence):
            self.complaints.append(f"{task_id}/{fence} was given the latent of {said}")
        self.resumed += 1
        return checkpoint.step

    def _next(self) -> None:
        if self._queue and not self._queue[0].done():
            self._queue[0].set_result(None)

    async def _step(self) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if not self._hanging:
            loop.call_later(self.step_s, _finish, done)
        await self._waiting(done)
        self.steps_drawn += 1

    async def _waiting(self, future: asyncio.Future[None]) -> None:
        self._waits[future] = None
        try:
            await future
        finally:
            del self._waits[future]


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)

"""A simulated worker process: one drawing after another, a step at a time; it crashes and hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

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
    NodeId,
    StepFinished,
    TaskId,
    WorkerDescription,
    WorkerLoad,
    WorkModel,
)
from edge_node.errors import WorkerUnavailable
from edge_node.shared_rows import BUSY, Leader, RowGiven, RowWanted, patience_s
from tests.cluster.disk import PlantedBug

# Longer silence than this of a worker that draws is taken for a hang by its supervision.
HANG_S = 3.0
RESTART_S = 0.4
LATENT_BYTES = 128
# Of a step, what one of its rows takes.
ROW_SHARE = 0.5
# Of the rows that are computed for others where anything fails, how many are of something else.
LIES_EVERY = 5
# Longer than clocks and queues take.
LITTLE_S = 0.001


class SimulatedWorker:
    """The worker port.

    Args:
        name: of its node; images carry it.
        model: that it says it draws; it would draw any, so that a misplaced task is seen.
        step_s: of a step.
        on_change: told when it comes, goes or takes something.
        honest: whether the rows that it computes for others are what was asked for.
    """

    def __init__(
        self,
        name: str,
        *,
        model: str,
        step_s: float,
        on_change: Callable[[], None],
        honest: bool = True,
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
        self.steps_shared = 0
        self.rows_given = 0
        self._honest = honest
        self._ask: Callable[[RowWanted], Awaitable[RowGiven]] | None = None
        self._leader = Leader()
        self._asking: dict[asyncio.Task[None], None] = {}
        # Until when it computes a row for another one, and for whom it did last, until when.
        self._row_until_s = 0.0
        self._helped: NodeId | None = None
        self._helped_until_s = 0.0
        self._last_given: RowGiven | None = None
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
        self._helped = None
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
                await self._shared_step(task_id, fence, drawing, done=step - 1)
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

    # Rows of steps.

    def share_rows(self, ask: Callable[[RowWanted], Awaitable[RowGiven]]) -> None:
        self._ask = ask

    async def give_row(self, wanted: RowWanted) -> RowGiven:
        """Complains where no node should have asked: beside own work, and for two at once."""
        if not self._ready:
            raise WorkerUnavailable("the worker is not there yet")
        key, now_s = wanted.leader, asyncio.get_running_loop().time()
        if self.drawing:
            self.complaints.append(f"{key} was helped beside {list(self.drawing)}")
            return wanted.refused(BUSY)
        if self._helped not in (None, key) and now_s < self._helped_until_s:
            self.complaints.append(f"{key} was helped beside {self._helped}")
        if now_s < self._row_until_s:
            return wanted.refused(BUSY)
        self._helped, self._helped_until_s = key, now_s + 2.0 * wanted.pair_s
        row_s = ROW_SHARE * self.step_s
        computing = asyncio.create_task(self._takes(row_s))
        await asyncio.sleep(0)
        self._row_until_s = now_s + row_s
        await computing
        velocity = Latents(dtype="float16", shape_CHW=(1, 1, 32), latent=_row_of(wanted))
        self.rows_given += 1
        given, self._last_given = self._last_given, wanted.computed(velocity, took_s=row_s)
        if given is not None and not self._honest and self.rows_given % LIES_EVERY == 0:
            return given
        return self._last_given

    async def _shared_step(
        self, task_id: TaskId, fence: Fence, drawing: Drawing, *, done: int
    ) -> None:
        """As the engine's `SharedSteps` does it, with the machine that ships."""
        loop = asyncio.get_running_loop()
        if self._ask is None or not self._leader.may_ask(now_s=loop.time()):
            await self._step()
            return
        wanted = RowWanted(
            task_id=task_id,
            fence=fence,
            drawing=drawing,
            fingerprint=ModelFingerprint("f"),
            step=done,
            latents=Latents(dtype="float16", shape_CHW=(1, 1, 32), latent=bytes(64)),
            pair_s=self.step_s,
            row_s=ROW_SHARE * self.step_s,
        )
        helped = self._leader.is_helped(task_id, fence)
        self._leader.ask(wanted, now_s=loop.time())
        answered = asyncio.Event()
        asking = asyncio.create_task(self._asked(self._ask, wanted, answered))
        self._asking[asking] = None
        asking.add_done_callback(lambda done: self._asking.pop(done, None))
        if not helped:
            await self._step()
            return
        began_s = loop.time()
        await self._takes(wanted.row_s)
        try:
            async with asyncio.timeout(patience_s(wanted.row_s)):
                await answered.wait()
        except TimeoutError:
            pass
        if loop.time() - began_s > 2.0 * wanted.row_s + LITTLE_S:
            self.complaints.append(f"{task_id}/{fence} waited for a row until {loop.time()}")
        given = self._leader.answer_to(wanted)
        if given is not None and given.velocity is not None:
            if given.velocity.latent != _row_of(wanted):
                told = given.velocity.latent.decode().strip()
                self.complaints.append(f"{task_id}/{fence}, step {done} used the row of {told}")
            self._leader.used()
            self.steps_shared += 1
            self.steps_drawn += 1
            return
        if given is None:
            self._leader.missed(now_s=loop.time())
        await self._takes(wanted.row_s)
        self.steps_drawn += 1

    async def _asked(
        self,
        ask: Callable[[RowWanted], Awaitable[RowGiven]],
        wanted: RowWanted,
        answered: asyncio.Event,
    ) -> None:
        given = await ask(wanted)
        self._leader.answered(given, now_s=asyncio.get_running_loop().time())
        answered.set()

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
        await self._takes(self.step_s)
        self.steps_drawn += 1

    async def _takes(self, seconds: float) -> None:
        """The device computes for so long, after the row for another one that it had begun."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if not self._hanging:
            loop.call_at(max(loop.time(), self._row_until_s) + seconds, _finish, done)
        await self._waiting(done)

    async def _waiting(self, future: asyncio.Future[None]) -> None:
        self._waits[future] = None
        try:
            await future
        finally:
            del self._waits[future]


def _row_of(wanted: RowWanted) -> bytes:
    """What a row does not say of itself is said here, so that whoever uses it can tell."""
    told = f"{wanted.task_id}/{wanted.fence.integer}/{wanted.drawing.seed % 1000}/{wanted.step}"
    return told.encode().ljust(64)


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)

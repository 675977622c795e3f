"""A step engine run in the time that its steps took, and not in that of a shared machine.

The real engine draws with a real denoiser, but its clock only goes on by the CPU seconds of each
call divided by the threads that worked, and jumps over idle stretches. So a neighbour on the same
cores does not count, and hours of light load cost no waiting. Owns the clock and letting requests
arrive by it; what is drawn and printed is others' business.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from PIL import Image as PillowImage

from edge_node.checkpoint import Latents
from edge_node.domain import AttemptFailed, AttemptFinished, Drawing, Fence, TaskId
from edge_node.worker import calibration, queue_order
from edge_node.worker.denoiser import Denoiser, ModelFacts
from edge_node.worker.engine_limits import EngineLimits
from edge_node.worker.image_encoding import Metadata
from edge_node.worker.step_engine import StepEngine

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A drawing and when it arrives, in seconds."""

    drawing: Drawing
    arrival_s: float


@dataclass(kw_only=True)
class Served:
    """What became of a request, in virtual seconds; steps count the calls of `step`.

    Attributes:
        finished_s: when its picture was there.
        arrived_step: calls of `step` begun when it arrived.
        first_step: the call in which it first took part.
    """

    finished_s: float = 0.0
    arrived_step: int = 0
    first_step: int = 0


@dataclass(kw_only=True)
class VirtualClock:
    """Goes on when it is told to."""

    at_s: float = 0.0

    def now_s(self) -> float:
        """Virtual seconds."""
        return self.at_s

    def unix_s(self) -> float:
        """The same: nothing here is told to people."""
        return self.at_s

    def wall_s(self) -> float:
        """The same."""
        return self.at_s


def cpu_seconds(call: Callable[[], Result], *, threads: int) -> tuple[Result, float]:
    """Result of `call`, and the process's CPU seconds in it divided by the threads at work."""
    before_s = time.process_time()
    result = call()
    return result, (time.process_time() - before_s) / threads


class VirtualRun:
    """Serves requests with an engine in virtual time."""

    def __init__(
        self,
        denoiser: Denoiser[Any],
        requests: Sequence[Request],
        *,
        facts: ModelFacts,
        calibrated: calibration.Calibration,
        order: queue_order.Order,
        threads: int,
        fixed_cost: Callable[[str, Sequence[Any]], float] | None = None,
    ) -> None:
        """Prepares a run.

        Args:
            denoiser: loaded.
            requests: in order of arrival.
            facts: what it would tell of itself.
            calibrated: what it would have measured.
            order: of the queue.
            threads: CPU threads that a call of the denoiser keeps busy.
            fixed_cost: seconds of a call ("begin", "step" or "picture") of rows in place of the
                measured ones.
        """
        self._denoiser = denoiser
        self._requests = requests
        self._facts = facts
        self._calibrated = calibrated
        self._threads = threads
        self._fixed_cost = fixed_cost
        self._clock = VirtualClock()
        self._numbers: dict[int, int] = {}
        self._begun: dict[int, int] = {}
        self._next = 0
        self._arriving = threading.Lock()
        self._steps = 0
        self._over = 0
        self.served = [Served() for _ in requests]
        self.failures: list[AttemptFailed] = []
        self._engine: StepEngine[Any] = StepEngine(
            lambda: self,
            limits=EngineLimits(
                queue_max=len(requests) + 1, told=Metadata(parameters=False), order=order
            ),
            clock=self._clock,
            on_change=lambda: None,
        )

    def run(self) -> list[Served]:
        """Serves all requests; what failed is in `failures`."""
        self._engine.start()
        self._until(lambda: self._engine.describe().state == "ready")
        while self._over < len(self._requests):
            self._until(lambda: self._over == self._next)
            if self._next < len(self._requests):
                # Idle: nothing happens before the next arrival.
                self._clock.at_s = max(self._clock.at_s, self._requests[self._next].arrival_s)
                self._let_arrive()
        self._engine.stop(wait_s=60.0)
        return self.served

    # The Denoiser interface.

    def load(self) -> ModelFacts:
        """What was given."""
        return self._facts

    def calibrate(self) -> calibration.Calibration:
        """What was given."""
        return self._calibrated

    def begin(self, drawing: Drawing, init_image: bytes) -> Any:
        """The denoiser's, timed."""
        row = self._timed("begin", (), lambda: self._denoiser.begin(drawing, init_image))
        # Drawings of a run differ in their seeds.
        self._numbers[id(row)] = drawing.seed
        return row

    def step(self, rows: Sequence[Any]) -> None:
        """The denoiser's, timed; then those arrive whose time has come."""
        self._steps += 1
        for row in rows:
            served = self.served[self._numbers[id(row)]]
            served.first_step = served.first_step or self._steps
        self._timed("step", rows, lambda: self._denoiser.step(rows))
        self._let_arrive()

    def export(self, row: Any) -> Latents | None:
        """The denoiser's; nobody asks for it here."""
        return self._denoiser.export(row)

    def resume(self, drawing: Drawing, *, step: int, latents: Latents) -> Any:
        """The denoiser's, timed as a beginning."""
        resume = self._denoiser.resume
        row = self._timed("begin", (), lambda: resume(drawing, step=step, latents=latents))
        self._numbers[id(row)] = drawing.seed
        return row

    def picture(self, row: Any) -> PillowImage.Image:
        """The denoiser's, timed; the request is served with it."""
        picture = self._timed("picture", (row,), lambda: self._denoiser.picture(row))
        self.served[self._numbers[id(row)]].finished_s = self._clock.at_s
        self._let_arrive()
        return picture

    # Time and arrivals.

    def _timed(self, name: str, rows: Sequence[Any], call: Callable[[], Result]) -> Result:
        result, measured_s = cpu_seconds(call, threads=self._threads)
        cost_s = self._fixed_cost(name, rows) if self._fixed_cost else measured_s
        self._clock.at_s += cost_s
        return result

    def _let_arrive(self) -> None:
        # By the engine's thread between steps, and by the caller's when nothing is drawn.
        with self._arriving:
            while (
                self._next < len(self._requests)
                and self._requests[self._next].arrival_s <= self._clock.at_s
            ):
                number = self._next
                self._next += 1
                self.served[number].arrived_step = self._steps
                self._engine.submit(
                    task_id=TaskId(f"benchmark-{number}"),
                    fence=Fence(1, 1),
                    drawing=self._requests[number].drawing,
                    priority=0,
                    on_report=self._reported,
                )

    def _reported(self, report: object) -> None:
        if isinstance(report, AttemptFailed):
            self.failures.append(report)
        if isinstance(report, AttemptFinished | AttemptFailed):
            self._over += 1

    def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            time.sleep(0.0005)

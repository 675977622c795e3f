"""Any mix of requests through the engine draws what each of them draws alone.

Random arrivals, cancels, sizes, steps, strengths and guidance in float64, against the request
alone and against diffusers' pipelines. `DEDGEAI_EXAMPLES` says how many mixes are tried.
"""

from __future__ import annotations

import os
import pathlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from PIL import Image as PillowImage

from edge_node.checkpoint import Latents
from edge_node.clock import SystemClock
from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    Drawing,
    Fence,
    ModelFingerprint,
    TaskId,
)
from edge_node.worker import calibration, queue_order
from edge_node.worker.attempts import Report
from edge_node.worker.denoiser import ModelFacts
from edge_node.worker.engine_limits import EngineLimits
from edge_node.worker.sd3 import Sd3Denoiser
from edge_node.worker.sd3_row import Sd3Row
from edge_node.worker.step_engine import StepEngine
from tests.worker.oracle import INIT_IMAGE, Pipelines, alone, denoiser, init_image

pytestmark = pytest.mark.model

EXAMPLES = int(os.environ.get("DEDGEAI_EXAMPLES", "30"))
TOLERANCE = 1e-9
WAIT_S_MAX = 60.0

sides_px = some.sampled_from((16, 32, 48))
drawings = some.builds(
    Drawing,
    prompt=some.sampled_from(("", "a red circle", "two blue squares on the right")),
    negative_prompt=some.sampled_from(("", "green")),
    width_px=sides_px,
    height_px=sides_px,
    steps=some.integers(1, 6),
    guidance_scale=some.sampled_from((0.0, 1.0, 1.5, 5.0, 12.0)),
    seed=some.integers(0, 3),
    model=some.just(""),
    init_image_sha256=some.sampled_from(("", "", INIT_IMAGE)),
    strength=some.sampled_from((0.4, 0.75, 1.0)),
    masked=some.booleans(),
).filter(lambda one: one.denoising_steps > 0)


@dataclass(frozen=True)
class Request:
    """Arrives before step `arrives` of the run; is cancelled before step `cancelled`, if ever."""

    drawing: Drawing
    arrives: int
    cancelled: int | None
    priority: int


requests = some.builds(
    Request,
    drawing=drawings,
    arrives=some.integers(0, 12),
    cancelled=some.one_of(some.none(), some.none(), some.integers(0, 20)),
    priority=some.sampled_from((0, 0, 0, 1)),
)


class ScriptedRun:
    """A denoiser that is the real one, before whose steps requests arrive and are cancelled."""

    def __init__(
        self, real: Sd3Denoiser, mix: Sequence[Request], *, rows_max: int, order: queue_order.Order
    ) -> None:
        self._real = real
        self._rows_max = rows_max
        self._arrivals: dict[int, int] = {}
        self._steps = 0
        self._script = threading.Lock()
        self._drawings: dict[int, Drawing] = {}
        self.finished: list[tuple[Drawing, torch.Tensor]] = []
        self.reports: dict[int, list[Report]] = {number: [] for number in range(len(mix))}
        self._mix = mix
        self.engine: StepEngine[Sd3Row] = StepEngine(
            lambda: self,
            limits=EngineLimits(order=order),
            clock=SystemClock(),
            on_change=lambda: None,
        )

    # The Denoiser interface.

    def load(self) -> ModelFacts:
        return ModelFacts(
            engine="sd3",
            model="scripted",
            fingerprint=ModelFingerprint("f"),
            size_px_min=16,
            size_px_max=48,
            size_px_multiple=16,
            steps_max=50,
            device="CPU",
        )

    def calibrate(self) -> calibration.Calibration:
        return calibration.calibrated(
            calibration.Measurements(
                reference_px=32,
                guided_s=tuple((rows, 0.004 + 1e-6 * rows) for rows in (1, self._rows_max)),
                unguided_s=0.003,
                fixed_s=0.002,
            ),
            rows_limit=self._rows_max,
        )

    def begin(self, drawing: Drawing, init_image: bytes) -> Sd3Row:
        row = self._real.begin(drawing, init_image)
        self._drawings[id(row)] = drawing
        return row

    def step(self, rows: Sequence[Sd3Row]) -> None:
        self._steps += 1
        self.let_arrive(self._steps)
        self._real.step(rows)

    def export(self, row: Sd3Row) -> Latents | None:
        return self._real.export(row)

    def resume(self, drawing: Drawing, *, step: int, latents: Latents) -> Sd3Row:
        row = self._real.resume(drawing, step=step, latents=latents)
        self._drawings[id(row)] = drawing
        return row

    def picture(self, row: Sd3Row) -> PillowImage.Image:
        self.finished.append((self._drawings[id(row)], row.latent_CHW))
        return PillowImage.new("RGB", (16, 16))

    # The script.

    def let_arrive(self, step: int) -> None:
        # By the engine's thread between steps, and by the test's when nothing is drawn.
        with self._script:
            self._let_arrive(step)

    def _let_arrive(self, step: int) -> None:
        for number, request in enumerate(self._mix):
            if number not in self._arrivals and request.arrives <= step:
                self._arrivals[number] = self.engine.submit(
                    task_id=TaskId(f"a-{number}"),
                    fence=Fence(1, 1),
                    drawing=request.drawing,
                    init_image=init_image(request.drawing),
                    priority=request.priority,
                    on_report=self.reports[number].append,
                )
            if request.cancelled is not None and request.cancelled <= step:
                self._cancelled_at(number)

    def run(self) -> None:
        """Until every request is over, or was cancelled."""
        self.engine.start()
        self._until(lambda: self.engine.describe().state == "ready")
        while len(self._arrivals) < len(self._mix):
            # Between busy spells nobody steps, so the next to arrive is let in from here.
            self._until(lambda: self.engine.load().running + self.engine.load().queued == 0)
            self._steps += 1
            self.let_arrive(self._steps)
        self._until(self._all_over)
        assert self.engine.stop(wait_s=WAIT_S_MAX)

    def _all_over(self) -> bool:
        """Reports come on a thread of their own, a little after the work."""
        load = self.engine.load()
        return load.running + load.queued == 0 and all(
            request.cancelled is not None or self.ends(number)
            for number, request in enumerate(self._mix)
        )

    def ends(self, number: int) -> list[Report]:
        over = (AttemptFinished, AttemptFailed)
        return [one for one in self.reports[number] if isinstance(one, over)]

    def _cancelled_at(self, number: int) -> None:
        if number in self._arrivals:
            self.engine.cancel(self._arrivals[number])

    def _until(self, condition: Callable[[], bool]) -> None:
        give_up_s = time.monotonic() + WAIT_S_MAX
        while not condition():
            assert time.monotonic() < give_up_s, "the run does not end"
            time.sleep(0.0005)


@pytest.fixture(scope="module")
def exact(random_sd3_folder: pathlib.Path) -> Sd3Denoiser:
    return denoiser(random_sd3_folder, "float64")


@pytest.fixture(scope="module")
def oracle(random_sd3_folder: pathlib.Path) -> Pipelines:
    return Pipelines(random_sd3_folder, torch.float64, unrounded=True)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(
    mix=some.lists(requests, min_size=1, max_size=16),
    rows_max=some.integers(1, 16),
    discipline=some.sampled_from(("fcfs", "sjf", "srpt")),
)
def test_any_mix_draws_what_each_draws_alone(
    exact: Sd3Denoiser,
    oracle: Pipelines,
    mix: list[Request],
    rows_max: int,
    discipline: queue_order.Discipline,
) -> None:
    run = ScriptedRun(exact, mix, rows_max=rows_max, order=queue_order.Order(discipline=discipline))
    run.run()
    for drawing, latent_CHW in run.finished:
        assert (latent_CHW - alone(exact, drawing).latent_CHW).abs().max() <= TOLERANCE
        assert (latent_CHW - oracle.latent(drawing)).abs().max() <= TOLERANCE
    for number, request in enumerate(mix):
        ends = run.ends(number)
        assert not any(isinstance(end, AttemptFailed) for end in ends), ends
        assert len(ends) == 1 or (request.cancelled is not None and not ends)

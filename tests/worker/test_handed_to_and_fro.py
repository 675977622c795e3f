"""Many drawings that are interrupted at random, by one engine after the other: all end the same."""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
import queue
import random

import numpy as np
import pytest
from PIL import Image as PillowImage

from edge_node.attempt_codes import HANDED_OVER
from edge_node.checkpoint import Checkpoint
from edge_node.clock import SystemClock
from edge_node.domain import AttemptFailed, AttemptFinished, Drawing, Fence, StepFinished, TaskId
from edge_node.worker.attempts import Report
from edge_node.worker.engine_limits import EngineLimits
from edge_node.worker.sd3_row import Sd3Row
from edge_node.worker.step_engine import StepEngine
from tests.worker.oracle import INIT_IMAGE, alone, denoiser, drawing, init_image

pytestmark = pytest.mark.model
DRAWINGS = int(os.environ.get("DRAWINGS", "60"))
WAIT_S = 60.0


class Journey:
    """One drawing on its way from engine to engine."""

    def __init__(self, number: int, one: Drawing, rng: random.Random) -> None:
        self.number, self.drawing, self.rng = number, one, rng
        self.fence = Fence(1, 1)
        self.checkpoint: Checkpoint | None = None
        self.steps: list[int] = []

    def run(self, engines: list[StepEngine[Sd3Row]]) -> AttemptFinished:
        """Interrupts it at random steps: handed over, or killed after the last checkpoint."""
        while True:
            reports: queue.Queue[Report] = queue.Queue()
            engine = self.rng.choice(engines)
            arrival = engine.submit(
                task_id=TaskId(f"a-{self.number}"),
                fence=self.fence,
                drawing=self.drawing,
                init_image=init_image(self.drawing),
                priority=0,
                checkpoint_steps=2,
                checkpoint=self.checkpoint,
                on_report=reports.put,
            )
            ended = self._followed(engine, arrival, reports)
            if isinstance(ended, AttemptFinished):
                return ended
            self.fence = Fence(1, self.fence.attempt + 1)

    def _followed(
        self, engine: StepEngine[Sd3Row], arrival: int, reports: queue.Queue[Report]
    ) -> AttemptFinished | None:
        until = self.rng.randint(1, self.drawing.denoising_steps + 1)
        while True:
            report = reports.get(timeout=WAIT_S)
            if isinstance(report, StepFinished):
                self.steps.append(report.step)
                self.checkpoint = report.checkpoint or self.checkpoint
                if report.step == until and self.rng.random() < 0.5:
                    engine.cancel(arrival)
                    return None
                if report.step == until:
                    engine.hand_over(arrival)
            if isinstance(report, AttemptFailed):
                assert report.code == HANDED_OVER, report
                return None
            if isinstance(report, AttemptFinished):
                return report


def drawings(rng: random.Random) -> list[Drawing]:
    made = []
    for seed in range(DRAWINGS):
        one = drawing(seed=seed, steps=rng.randint(3, 9), guidance_scale=rng.choice((1.0, 5.0)))
        if seed % 3 == 0:
            one = dataclasses.replace(one, init_image_sha256=INIT_IMAGE, strength=0.7)
        made.append(one)
    return made


def test_whatever_interrupts_them_drawings_end_as_if_alone(
    random_sd3_folder: pathlib.Path,
) -> None:
    rng = random.Random(1)
    lone = denoiser(random_sd3_folder, "float32")
    engines = [
        StepEngine(
            lambda one=one: one,  # type: ignore[misc]
            limits=EngineLimits(memory_floor_bytes=0),
            clock=SystemClock(),
            on_change=lambda: None,
        )
        for one in (denoiser(random_sd3_folder, "float32") for _ in range(2))
    ]
    for engine in engines:
        engine.start()
    ready = [wait_until_ready(engine) for engine in engines]
    assert all(ready)
    interrupted = 0
    for number, one in enumerate(drawings(rng)):
        journey = Journey(number, one, rng)
        image = journey.run(engines).image
        interrupted += journey.fence.attempt > 1
        with PillowImage.open(io.BytesIO(image.content)) as opened:
            pixels = np.asarray(opened.convert("RGB"), dtype=int)
        expected = np.asarray(lone.picture(alone(lone, one)), dtype=int)
        assert np.abs(pixels - expected).max() <= 1, (one, journey.steps)
    assert interrupted > DRAWINGS / 4
    stopped = [engine.stop(wait_s=WAIT_S) for engine in engines]
    assert all(stopped)


def wait_until_ready(engine: StepEngine[Sd3Row]) -> bool:
    waited = queue.SimpleQueue[None]()
    for _ in range(int(WAIT_S / 0.05)):
        if engine.describe().state == "ready":
            return True
        try:
            waited.get(timeout=0.05)
        except queue.Empty:
            continue
    return False

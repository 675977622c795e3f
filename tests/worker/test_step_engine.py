"""The denoising loop with a scripted denoiser: who steps with whom, and what failures cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from PIL import Image as PillowImage

from edge_node.clock import SystemClock
from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptQueued,
    AttemptStarted,
    Drawing,
    ModelFingerprint,
    StepFinished,
    TaskId,
)
from edge_node.errors import WorkerUnavailable
from edge_node.worker import calibration
from edge_node.worker.memory import is_out_of_memory
from edge_node.worker.step_engine import (
    EngineLimits,
    ModelFacts,
    ModelUnusable,
    Report,
    StepEngine,
    preview_steps,
)


@dataclass
class ScriptedDenoiser:
    """Rows are drawings; prompts say what goes wrong."""

    rows_max: int = 3
    load_error: Exception | None = None
    batches: list[list[int]] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)

    def load(self) -> ModelFacts:
        if self.load_error:
            raise self.load_error
        return ModelFacts(
            engine="sd3",
            model="scripted",
            fingerprint=ModelFingerprint("f"),
            size_px_min=16,
            size_px_max=64,
            size_px_multiple=16,
            steps_max=50,
            device="none",
        )

    def calibrate(self) -> calibration.Calibration:
        durations_s = tuple((rows, 0.001 * (1 + rows)) for rows in range(1, self.rows_max + 1))
        return calibration.calibrated(
            calibration.Measurements(
                reference_px=64, guided_s=durations_s, unguided_s=0.001, fixed_s=0.002
            )
        )

    def begin(self, drawing: Drawing, init_image: bytes) -> Drawing:
        if drawing.prompt == "fails at the beginning":
            raise ValueError("bad prompt")
        return drawing

    def step(self, rows: Sequence[Drawing]) -> None:
        self.go_on.wait(5.0)
        self.batches.append([row.seed for row in rows])
        if any(row.prompt == "fails in a step" for row in rows):
            raise ValueError("bad step")
        if any(row.prompt == "too big" for row in rows):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def picture(self, row: Drawing) -> PillowImage.Image:
        if row.prompt == "fails at the end":
            raise ValueError("bad decode")
        return PillowImage.new("RGB", (row.width_px, row.height_px))


def drawing(**changes: object) -> Drawing:
    base = {
        "prompt": "a fox",
        "width_px": 64,
        "height_px": 64,
        "steps": 3,
        "guidance_scale": 5.0,
        "seed": 1,
        "model": "",
    }
    return Drawing(**{**base, **changes})


class Bench:
    """An engine, what it reported by task, and how many tasks are over."""

    def __init__(self, denoiser: ScriptedDenoiser, **limits: object) -> None:
        self.denoiser = denoiser
        self.reports: dict[str, list[Report]] = {}
        self.engine: StepEngine[Drawing] = StepEngine(
            lambda: denoiser,
            limits=EngineLimits(**limits),
            clock=SystemClock(),
            on_change=lambda: None,
        )
        self.engine.start()

    def submit(self, name: str, *, attempt: int = 1, priority: int = 0, **changes: object) -> int:
        self.reports[name] = []
        return self.engine.submit(
            task_id=TaskId(name),
            attempt=attempt,
            drawing=drawing(**changes),
            priority=priority,
            on_report=self.reports[name].append,
        )

    def until(self, condition: Callable[[], object]) -> None:
        give_up_s = time.monotonic() + 5.0
        while not condition():
            assert time.monotonic() < give_up_s, f"waited in vain: {self.reports}"
            time.sleep(0.002)

    def last_report(self, name: str) -> Report:
        over = (AttemptFinished, AttemptFailed)
        self.until(lambda: self.reports[name] and isinstance(self.reports[name][-1], over))
        return self.reports[name][-1]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(ScriptedDenoiser())
    made.until(lambda: made.engine.describe().state == "ready")
    yield made
    made.denoiser.go_on.set()
    made.until(lambda: made.engine.load().running == 0)
    assert made.engine.load().backlog == pytest.approx(0.0), "work is left though nothing runs"
    assert made.engine.stop(wait_s=5.0)


def test_rows_of_a_size_share_steps_in_queue_order(bench: Bench) -> None:
    for seed in range(5):
        bench.submit(f"a-{seed}", seed=seed, steps=2 + seed % 2)
    bench.denoiser.go_on.set()
    for seed in range(5):
        assert isinstance(bench.last_report(f"a-{seed}"), AttemptFinished)
    widths = [len(batch) for batch in bench.denoiser.batches]
    assert max(widths) == 3
    assert sum(widths) == 2 + 3 + 2 + 3 + 2
    first_seen = list(dict.fromkeys(seed for batch in bench.denoiser.batches for seed in batch))
    assert first_seen == [0, 1, 2, 3, 4]


def test_another_size_waits_for_its_turn_and_holds_back_those_behind(bench: Bench) -> None:
    bench.submit("a-0", seed=0)
    bench.submit("a-1", seed=1, width_px=32)
    bench.submit("a-2", seed=2)
    bench.denoiser.go_on.set()
    bench.last_report("a-2")
    assert [0] in bench.denoiser.batches
    assert all(len({seed == 1 for seed in batch}) == 1 for batch in bench.denoiser.batches)
    assert bench.denoiser.batches.index([1]) < bench.denoiser.batches.index([2])


def test_reports_come_in_order_with_positions_and_previews(bench: Bench) -> None:
    bench.submit("a-0", width_px=32)
    bench.submit("a-1", previews=1)
    bench.submit("a-2", priority=1)
    bench.denoiser.go_on.set()
    finished = bench.last_report("a-1")
    assert isinstance(finished, AttemptFinished)
    assert finished.image.content.startswith(b"\x89PNG")
    kinds = [type(report) for report in bench.reports["a-1"]]
    assert kinds[-5:] == [AttemptStarted, *[StepFinished] * 3, AttemptFinished]
    positions = [r.position for r in bench.reports["a-1"] if isinstance(r, AttemptQueued)]
    assert 2 in positions, "the one of higher priority went before it"
    steps = [report for report in bench.reports["a-1"] if isinstance(report, StepFinished)]
    assert [bool(step.preview) for step in steps] == [True, False, False]


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("fails at the beginning", "draw_failed"),
        ("fails in a step", "draw_failed"),
        ("too big", "out_of_memory"),
        ("fails at the end", "draw_failed"),
    ],
)
def test_a_bad_drawing_fails_alone_and_the_worker_goes_on(
    bench: Bench, prompt: str, code: str
) -> None:
    bench.submit("a-0", seed=0)
    bench.submit("a-1", seed=1, prompt=prompt)
    bench.submit("a-2", seed=2)
    bench.denoiser.go_on.set()
    failed = bench.last_report("a-1")
    assert isinstance(failed, AttemptFailed)
    assert (failed.code, failed.retryable) == (code, True)
    assert isinstance(bench.last_report("a-0"), AttemptFinished)
    assert isinstance(bench.last_report("a-2"), AttemptFinished)
    bench.submit("a-3")
    assert isinstance(bench.last_report("a-3"), AttemptFinished)


def test_cancelling_between_steps_frees_row_and_backlog(bench: Bench) -> None:
    arrival = bench.submit("a-0", steps=50)
    bench.until(lambda: bench.engine.load().running == 1)
    assert bench.engine.load().backlog == pytest.approx(51.0)
    waiting = bench.submit("a-1", width_px=32, steps=5)
    bench.until(lambda: bench.engine.load().queued == 1)
    bench.engine.cancel(waiting)
    assert bench.engine.load().queued == 0
    bench.engine.cancel(arrival)
    bench.denoiser.go_on.set()
    bench.until(lambda: bench.engine.load().running == 0)
    assert len(bench.denoiser.batches) <= 1
    bench.engine.cancel(arrival)


def test_backlog_counts_down_with_the_steps(bench: Bench) -> None:
    bench.denoiser.go_on.set()
    bench.submit("a-0", steps=3, guidance_scale=1.0, width_px=32)
    bench.last_report("a-0")
    bench.until(lambda: bench.engine.load().running == 0)
    assert bench.engine.load().steps_done == 3


def test_pace_is_a_floor_on_the_time_of_a_work_unit() -> None:
    denoiser = ScriptedDenoiser()
    denoiser.go_on.set()
    bench = Bench(denoiser, pace_s=0.02)
    bench.until(lambda: bench.engine.describe().state == "ready")
    assert bench.engine.describe().pace_s == 0.02
    before_s = time.monotonic()
    bench.submit("a-0", steps=4)
    bench.submit("a-1", steps=4)
    bench.last_report("a-0")
    bench.last_report("a-1")
    # 2 x (4 steps + 1 step's worth of decoding), whether the two shared their steps or not.
    assert time.monotonic() - before_s >= 10 * 0.02
    assert bench.engine.stop(wait_s=5.0)


def test_what_cannot_be_loaded_is_described_and_refuses() -> None:
    for error, detail in (
        (ModelUnusable("copy it again"), "copy it again"),
        (KeyError("x"), "KeyError"),
    ):
        bench = Bench(ScriptedDenoiser(load_error=error))
        bench.until(lambda bench=bench: bench.engine.describe().state == "failed")
        assert detail in bench.engine.describe().detail
        with pytest.raises(WorkerUnavailable, match=detail):
            bench.submit("a-0")
        assert bench.engine.stop(wait_s=5.0)


def test_previews_are_evenly_spaced_and_never_the_last_step() -> None:
    assert preview_steps(steps=10, previews=0) == set()
    assert preview_steps(steps=10, previews=1) == {5}
    assert preview_steps(steps=12, previews=3) == {3, 6, 9}
    assert preview_steps(steps=4, previews=9) == {1, 2, 3}
    assert preview_steps(steps=1, previews=3) == set()


def test_out_of_memory_is_known_in_all_its_shapes() -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    for error in (
        OutOfMemoryError("CUDA"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp"),
    ):
        assert is_out_of_memory(error)
    for error in (ValueError("out of memory"), RuntimeError("shapes do not match")):
        assert not is_out_of_memory(error)

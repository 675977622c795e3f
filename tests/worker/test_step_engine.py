"""The denoising loop with a scripted denoiser: who steps with whom, and what failures cost."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from edge_node.attempt_codes import HANDED_OVER
from edge_node.checkpoint import Checkpoint, CheckpointRefused, Latents
from edge_node.clock import Clock, SystemClock
from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptQueued,
    AttemptStarted,
    Drawing,
    Fence,
    ModelFingerprint,
    StepFinished,
    TaskId,
    WorkerDescription,
)
from edge_node.errors import InvalidRequest, NotFinite, StaleAttempt, WorkerUnavailable
from edge_node.places import PLACES_TOLD_MAX
from edge_node.worker import calibration, travelling
from edge_node.worker.active_rows import ENCODING_MAX
from edge_node.worker.attempts import Report, preview_steps
from edge_node.worker.denoiser import ModelFacts, ModelUnusable
from edge_node.worker.device_errors import DeviceLost
from edge_node.worker.engine_limits import EngineLimits
from edge_node.worker.memory_guard import GOOD_STEPS
from edge_node.worker.places_told import POSITIONS_INTERVAL_S
from edge_node.worker.queue_order import Order
from edge_node.worker.step_engine import StepEngine

FINAL = (AttemptFinished, AttemptFailed)
SRPT = Order(discipline="srpt")


@dataclass
class ScriptedRow:
    """A drawing and what has been done of it."""

    drawing: Drawing
    steps_done: int = 0


class ScriptedTensors:
    """What a step that ran out of memory had taken of it."""


@dataclass
class ScriptedDenoiser:
    """Prompts say what goes wrong. Steps wait for permits, or for `go_on`.

    `entered` are the seeds of every step that was begun, `batches` of those that went on.
    """

    rows_max: int = 3
    load_error: Exception | None = None
    decodes_beside: bool = False
    memory_rows: int = 99
    row_bytes: int = 0
    available_bytes: int = 0
    step_s: float = 0.0
    begun: list[int] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    entered: list[list[int]] = field(default_factory=list)
    batches: list[list[int]] = field(default_factory=list)
    decoded_on: list[str] = field(default_factory=list)
    permits: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go_on: threading.Event = field(default_factory=threading.Event)
    decode: threading.Event = field(default_factory=threading.Event)
    tensors: weakref.ref[ScriptedTensors] | None = None

    def __post_init__(self) -> None:
        self.decode.set()

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
            decodes_beside=self.decodes_beside,
            available_bytes=lambda: self.available_bytes,
        )

    def calibrate(self) -> calibration.Calibration:
        durations_s = tuple((rows, 0.001 * (1 + rows)) for rows in range(1, self.rows_max + 1))
        return calibration.calibrated(
            calibration.Measurements(
                reference_px=64,
                guided_s=durations_s,
                unguided_s=0.001,
                fixed_s=0.002,
                row_bytes=self.row_bytes,
            )
        )

    def begin(self, drawing: Drawing, init_image: bytes) -> ScriptedRow:
        self.begun.append(drawing.seed)
        if drawing.prompt == "fails at the beginning":
            raise ValueError("bad prompt")
        if drawing.prompt == "cannot be drawn":
            raise InvalidRequest("the init image is no PNG")
        return ScriptedRow(drawing)

    def step(self, rows: Sequence[ScriptedRow]) -> None:
        seeds = [row.drawing.seed for row in rows]
        self.entered.append(seeds)
        assert len({row.drawing.width_px for row in rows}) == 1, "one size in a step"
        give_up_s = time.monotonic() + 5.0
        while not (self.go_on.is_set() or self.permits.acquire(timeout=0.002)):
            assert time.monotonic() < give_up_s, "nobody lets this step go on"
        self.batches.append(seeds)
        time.sleep(self.step_s)
        prompts = {row.drawing.prompt for row in rows}
        if "fails in a step" in prompts:
            raise ValueError("bad step")
        if "loses the device" in prompts:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        assert self.tensors is None or self.tensors() is None, "the failed step's are still held"
        if "too big" in prompts or len(rows) > self.memory_rows:
            tensors = ScriptedTensors()
            self.tensors = weakref.ref(tensors)
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        for row in rows:
            row.steps_done += 1

    def export(self, row: ScriptedRow) -> Latents | None:
        if row.drawing.prompt == "is not finite":
            return None
        seed = row.drawing.seed.to_bytes(1, "little")
        return Latents(dtype="float16", shape_CHW=(1, 1, 1), latent=seed * 2)

    def resume(self, drawing: Drawing, *, step: int, latents: Latents) -> ScriptedRow:
        if latents.latent[0] != drawing.seed:
            raise CheckpointRefused("it has another seed")
        self.resumed.append(drawing.seed)
        return ScriptedRow(drawing, steps_done=step)

    def picture(self, row: ScriptedRow) -> PillowImage.Image:
        drawing = row.drawing
        assert row.steps_done <= drawing.steps, "a step too many"
        if row.steps_done == drawing.steps:
            self.decoded_on.append(threading.current_thread().name)
            assert self.decode.wait(5.0), "nobody lets this image be decoded"
            if drawing.prompt == "fails at the end":
                raise ValueError("bad decode")
            if drawing.prompt == "is no picture":
                raise NotFinite("The latent is not finite.")
            if drawing.prompt == "loses the device at the end":
                raise RuntimeError("CUDA error: unspecified launch failure")
        return PillowImage.new("RGB", (drawing.width_px, drawing.height_px))


def drawing(**changes: Any) -> Drawing:
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


@dataclass
class SetClock:
    """Shows what it is set to."""

    seconds: float = 1000.0

    def now_s(self) -> float:
        return self.seconds

    unix_s = now_s


class Bench:
    """An engine, and what it reported by task and attempt."""

    def __init__(
        self, denoiser: ScriptedDenoiser, *, clock: Clock | None = None, **limits: Any
    ) -> None:
        self.denoiser = denoiser
        self.reports: dict[str, list[Report]] = {}
        self.cancelled: set[str] = set()
        self.arrivals: dict[str, int] = {}
        self.engine: StepEngine[ScriptedRow] = StepEngine(
            lambda: denoiser,
            limits=EngineLimits(**limits),
            clock=clock or SystemClock(),
            on_change=lambda: None,
        )
        self.engine.start()

    def submit(
        self,
        name: str,
        *,
        attempt: int = 1,
        priority: int = 0,
        deadline_s: float | None = None,
        client: str = "",
        checkpoint_steps: int = 0,
        checkpoint: Checkpoint | None = None,
        age_s: float = 0.0,
        **changes: Any,
    ) -> None:
        key = name if attempt == 1 else f"{name} again {attempt}"
        self.reports[key] = []
        self.arrivals[key] = self.engine.submit(
            task_id=TaskId(name),
            fence=Fence(1, attempt),
            drawing=drawing(**changes),
            priority=priority,
            deadline_s=deadline_s,
            client=client,
            checkpoint_steps=checkpoint_steps,
            checkpoint=checkpoint,
            age_s=age_s,
            on_report=self.reports[key].append,
        )

    def cancel(self, name: str) -> None:
        self.cancelled.add(name)
        self.engine.cancel(self.arrivals[name])

    def until(self, condition: Callable[[], object]) -> None:
        give_up_s = time.monotonic() + 10.0
        while not condition():
            assert time.monotonic() < give_up_s, f"waited in vain: {self.reports}"
            time.sleep(0.002)

    def until_entered(self, steps: int) -> list[int]:
        """Waits until so many steps were begun; the seeds of the last."""
        self.until(lambda: len(self.denoiser.entered) >= steps)
        assert len(self.denoiser.entered) == steps
        return self.denoiser.entered[-1]

    def step(self) -> list[int]:
        """Lets the step under way go on; the seeds of the one that is begun then."""
        before = len(self.denoiser.entered)
        self.denoiser.permits.release()
        return self.until_entered(before + 1)

    def checkpoints(self, name: str) -> list[Checkpoint]:
        steps = [one for one in self.reports[name] if isinstance(one, StepFinished)]
        found = [one.checkpoint for one in steps if one.checkpoint is not None]
        assert [one.checkpoint.step for one in steps if one.checkpoint] == [
            one.step for one in steps if one.checkpoint
        ]
        return found

    def last_report(self, name: str) -> Report:
        self.until(lambda: self.reports[name] and isinstance(self.reports[name][-1], FINAL))
        return self.reports[name][-1]

    def check_images(self, *names: str) -> None:
        for name in names:
            assert isinstance(self.last_report(name), AttemptFinished), self.reports[name]

    def check_failure(self, name: str, code: str, *, retryable: bool) -> None:
        failed = self.last_report(name)
        assert isinstance(failed, AttemptFailed)
        assert (failed.code, failed.retryable) == (code, retryable)

    def check_all_told(self) -> None:
        """Every attempt ends exactly once, starts at most once and takes no step twice."""
        for name, reports in self.reports.items():
            if name not in self.cancelled:
                self.last_report(name)
            assert sum(isinstance(report, FINAL) for report in reports) <= 1, (name, reports)
            assert sum(isinstance(report, AttemptStarted) for report in reports) <= 1
            steps = [report.step for report in reports if isinstance(report, StepFinished)]
            begun = next((one.step for one in reports if isinstance(one, AttemptStarted)), 0)
            # The last one may be told once more, with the checkpoint of a drawing that leaves.
            told = list(dict.fromkeys(steps))
            assert told == list(range(begun + 1, begun + len(told) + 1)), (name, reports)


@contextlib.contextmanager
def serving(denoiser: ScriptedDenoiser, **options: Any) -> Iterator[Bench]:
    made = Bench(denoiser, **options)
    made.until(lambda: made.engine.describe().state == "ready")
    yield made
    denoiser.go_on.set()
    denoiser.decode.set()
    made.until(lambda: made.engine.load().running == made.engine.load().queued == 0)
    assert made.engine.load().backlog == pytest.approx(0.0), "work is left though nothing runs"
    made.check_all_told()
    assert made.engine.stop(wait_s=5.0)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with serving(ScriptedDenoiser()) as made:
        yield made


@pytest.fixture
def one_row() -> Iterator[Bench]:
    with serving(ScriptedDenoiser(rows_max=1), order=SRPT) as made:
        yield made


def test_rows_of_a_size_share_steps_in_queue_order(bench: Bench) -> None:
    for seed in range(5):
        bench.submit(f"a-{seed}", seed=seed, steps=2 + seed % 2)
    bench.denoiser.go_on.set()
    bench.check_images(*bench.reports)
    widths = [len(batch) for batch in bench.denoiser.batches]
    assert max(widths) == 3
    assert sum(widths) == 2 + 3 + 2 + 3 + 2
    assert bench.denoiser.begun == [0, 1, 2, 3, 4]


def test_who_comes_joins_the_next_step(bench: Bench) -> None:
    bench.submit("a-0", seed=0, steps=9)
    bench.until_entered(1)
    bench.submit("a-1", seed=1)
    assert bench.step() == [0, 1]


def test_sizes_take_turns(bench: Bench) -> None:
    bench.submit("a-0", seed=0)
    bench.until_entered(1)
    bench.submit("a-1", seed=1, width_px=32)
    bench.submit("a-2", seed=2)
    seen = [bench.step() for _ in range(5)]
    assert seen == [[1], [0, 2], [1], [0, 2], [1]]


def test_a_third_size_waits_for_those_that_have_waited_longer(bench: Bench) -> None:
    bench.submit("a-0", seed=0, steps=9)
    bench.until_entered(1)
    bench.submit("a-1", seed=1, steps=9, width_px=32)
    assert bench.step() == [1]
    bench.submit("a-2", seed=2, steps=9, width_px=16)
    assert [bench.step() for _ in range(5)] == [[0], [2], [1], [0], [2]]


def test_a_shorter_drawing_parks_a_longer_one_which_goes_on_where_it_was(one_row: Bench) -> None:
    one_row.submit("a-0", seed=0, steps=9)
    one_row.until_entered(1)
    one_row.submit("a-1", seed=1, steps=2)
    assert [one_row.step() for _ in range(4)] == [[1], [1], [0], [0]]
    assert one_row.engine.load().running == 1
    one_row.denoiser.go_on.set()
    one_row.check_images("a-0", "a-1")
    assert one_row.denoiser.begun == [0, 1]
    assert one_row.denoiser.batches == [[0], [1], [1], *[[0]] * 8]
    kinds = [type(report) for report in one_row.reports["a-0"]]
    assert kinds == [AttemptQueued, AttemptStarted, *[StepFinished] * 9, AttemptFinished]


def test_priority_interrupts_but_only_as_far_as_latents_may_be_parked() -> None:
    with serving(ScriptedDenoiser(rows_max=1), parked_max=1) as bench:
        bench.submit("a-0", seed=0, steps=2)
        bench.until_entered(1)
        bench.submit("a-1", seed=1, steps=2, priority=1)
        assert bench.step() == [1]
        assert (bench.engine.load().running, bench.engine.load().queued) == (2, 0)
        bench.submit("a-2", seed=2, steps=1, priority=2)
        assert [bench.step() for _ in range(3)] == [[1], [2], [0]]
        bench.denoiser.go_on.set()
        bench.check_images("a-0", "a-1", "a-2")


def test_reports_come_in_order_with_positions_and_previews() -> None:
    with serving(ScriptedDenoiser(rows_max=1)) as bench:
        bench.submit("a-0", width_px=32)
        bench.until_entered(1)
        bench.submit("a-1", previews=1)
        bench.submit("a-2", priority=-1)
        time.sleep(POSITIONS_INTERVAL_S)
        bench.submit("a-3", priority=1)
        bench.denoiser.go_on.set()
        finished = bench.last_report("a-1")
        assert isinstance(finished, AttemptFinished)
        assert finished.image.content.startswith(b"\x89PNG")
        kinds = [type(report) for report in bench.reports["a-1"]]
        assert kinds[-5:] == [AttemptStarted, *[StepFinished] * 3, AttemptFinished]
        positions = [r.position for r in bench.reports["a-1"] if isinstance(r, AttemptQueued)]
        assert positions[:2] == [1, 2], "the one of higher priority went before it"
        steps = [report for report in bench.reports["a-1"] if isinstance(report, StepFinished)]
        assert [bool(step.preview) for step in steps] == [True, False, False]


def test_time_queued_ends_with_the_first_step_and_computing_goes_on_while_parked() -> None:
    clock = SetClock()
    with serving(ScriptedDenoiser(rows_max=1), order=SRPT, clock=clock) as bench:
        bench.submit("a-0", seed=0, steps=5)
        bench.until_entered(1)
        bench.submit("a-1", seed=1, steps=6)
        bench.submit("a-2", seed=2, steps=1)
        assert bench.step() == [2]
        clock.seconds += 7.0
        assert bench.step() == [0]
        bench.last_report("a-2")  # encoded beside the steps: by now
        clock.seconds += 1.0
        bench.denoiser.go_on.set()
        times_s = []
        for name in ("a-0", "a-1", "a-2"):
            report = bench.last_report(name)
            assert isinstance(report, AttemptFinished)
            times_s.append((report.queue_s, report.compute_s))
        assert times_s == [(0.0, 8.0), (8.0, 0.0), (0.0, 7.0)]


@pytest.mark.parametrize(
    ("prompt", "code", "retryable"),
    [
        ("fails at the beginning", "draw_failed", True),
        ("cannot be drawn", "invalid_request", False),
        ("fails in a step", "draw_failed", True),
        ("too big", "out_of_memory", True),
        ("fails at the end", "draw_failed", True),
        ("is no picture", "not_finite", True),
    ],
)
@pytest.mark.parametrize("decodes_beside", [False, True])
def test_a_bad_drawing_fails_alone_and_the_worker_goes_on(
    prompt: str, code: str, retryable: bool, decodes_beside: bool
) -> None:
    with serving(ScriptedDenoiser(decodes_beside=decodes_beside)) as bench:
        bench.submit("a-0", seed=0)
        bench.submit("a-1", seed=1, prompt=prompt)
        bench.submit("a-2", seed=2)
        bench.denoiser.go_on.set()
        bench.check_failure("a-1", code, retryable=retryable)
        bench.check_images("a-0", "a-2")
        bench.submit("a-3")
        bench.check_images("a-3")


def test_cancelling_between_steps_frees_row_and_backlog(bench: Bench) -> None:
    bench.submit("a-0", seed=0, steps=50)
    bench.until_entered(1)
    assert bench.engine.load().backlog == pytest.approx(51.0)
    bench.submit("a-1", seed=1, width_px=32, steps=5)
    assert bench.engine.load().queued == 1
    bench.cancel("a-1")
    assert bench.engine.load().queued == 0
    bench.cancel("a-0")
    assert bench.engine.load().backlog == 0.0
    assert bench.engine.load().running == 1, "its row is in a step until that ends"
    bench.denoiser.permits.release()
    bench.until(lambda: bench.engine.load().running == 0)
    assert bench.denoiser.batches == [[0]]
    bench.cancel("a-0")


def test_a_parked_drawing_is_cancelled_without_another_step(one_row: Bench) -> None:
    one_row.submit("a-0", seed=0, steps=9)
    one_row.until_entered(1)
    one_row.submit("a-1", seed=1, steps=3)
    assert one_row.step() == [1]
    one_row.cancel("a-0")
    assert one_row.step() == [1]
    assert one_row.engine.load().running == 1
    one_row.denoiser.go_on.set()
    one_row.check_images("a-1")
    assert one_row.denoiser.batches == [[0], *[[1]] * 3]


def test_a_later_attempt_ends_the_earlier_at_every_stage() -> None:
    with serving(ScriptedDenoiser(rows_max=1, decodes_beside=True)) as bench:
        bench.denoiser.decode.clear()
        bench.submit("a-0", seed=0, steps=1)
        bench.submit("a-1", seed=1)
        bench.submit("a-2", seed=2)
        bench.until_entered(1)
        assert bench.step() == [1]
        for name in ("a-0", "a-1", "a-2"):
            bench.submit(name, attempt=2)
            bench.check_failure(name, "stale_attempt", retryable=False)
            with pytest.raises(StaleAttempt):
                bench.submit(name, attempt=1)
            del bench.reports[name]
        bench.denoiser.go_on.set()
        bench.denoiser.decode.set()
        bench.check_images("a-0 again 2", "a-1 again 2", "a-2 again 2")


def test_an_attempt_that_comes_again_takes_its_own_place() -> None:
    # Its node has lost the stream, and sends it once more.
    with serving(ScriptedDenoiser(rows_max=1)) as bench:
        bench.submit("a-0", seed=0, attempt=2)
        bench.until_entered(1)
        first = bench.reports.pop("a-0 again 2")
        bench.submit("a-0", seed=1, attempt=2)
        assert bench.engine.load().backlog == pytest.approx(4.0), "it is counted once"
        assert bench.step() == [1]
        bench.denoiser.go_on.set()
        bench.check_images("a-0 again 2")
        (superseded,) = [report for report in first if isinstance(report, FINAL)]
        assert isinstance(superseded, AttemptFailed)
        assert (superseded.code, superseded.retryable) == ("stale_attempt", False)
        # One that is done may come again, too: its image was lost on the way.
        del bench.reports["a-0 again 2"]
        bench.submit("a-0", seed=2, attempt=2)
        bench.check_images("a-0 again 2")


def test_far_back_in_the_queue_a_place_is_told_once(bench: Bench) -> None:
    bench.submit("a-x", steps=50, width_px=32)
    bench.until_entered(1)
    last = PLACES_TOLD_MAX + 3
    for number in range(1, last + 1):
        bench.submit(f"a-{number}", priority=-number)

    def told(number: int) -> list[int]:
        return [r.position for r in bench.reports[f"a-{number}"] if isinstance(r, AttemptQueued)]

    bench.until(lambda: told(last) == [last])
    time.sleep(POSITIONS_INTERVAL_S)
    bench.cancel("a-1")
    assert told(5) == [5, 4]
    bench.cancel("a-2")
    bench.cancel("a-3")
    time.sleep(POSITIONS_INTERVAL_S)
    bench.cancel("a-4")
    # Everyone has come four places nearer: those who are near now hear of it, though not of each.
    assert told(last) == [last, PLACES_TOLD_MAX - 1]
    assert told(5) == [5, 4, 1]
    bench.denoiser.go_on.set()


def test_changes_of_places_that_were_not_told_at_once_are_told_before_the_next_step() -> None:
    with serving(ScriptedDenoiser(rows_max=1)) as bench:
        bench.submit("a-0", steps=50)
        bench.until_entered(1)
        bench.submit("a-1", priority=-1)
        bench.submit("a-2")
        assert bench.reports["a-1"] == [AttemptQueued(position=1)]
        time.sleep(POSITIONS_INTERVAL_S)
        bench.step()
        bench.until(lambda: bench.reports["a-1"][1:] == [AttemptQueued(position=2)])
        bench.cancel("a-0")
        bench.denoiser.go_on.set()


def test_backlog_counts_down_with_the_steps(bench: Bench) -> None:
    bench.submit("a-0", steps=3, guidance_scale=1.0, width_px=32)
    bench.until_entered(1)
    left = [bench.engine.load().backlog]
    for _ in range(2):
        bench.step()
        left.append(bench.engine.load().backlog)
    # Half the area, half for being unguided, and a step's worth of fixed cost.
    assert left == pytest.approx([1.25, 1.0, 0.75])
    bench.denoiser.go_on.set()
    bench.last_report("a-0")
    assert bench.engine.load().steps_done == 3


# Deadlines.


def test_a_drawing_ends_with_its_deadline_waiting_or_running() -> None:
    clock = SetClock()
    with serving(ScriptedDenoiser(rows_max=1), clock=clock) as bench:
        bench.submit("a-0", seed=0, deadline_s=5.0)
        bench.until_entered(1)
        bench.submit("a-1", seed=1, deadline_s=4.0)
        bench.submit("a-2", seed=2)
        clock.seconds += 4.5
        assert bench.step() == [0]
        bench.check_failure("a-1", "deadline_exceeded", retryable=False)
        clock.seconds += 0.5
        assert bench.step() == [2]
        bench.check_failure("a-0", "deadline_exceeded", retryable=False)
        assert bench.engine.load().running == 1


def test_a_drawing_that_is_done_too_late_is_not_decoded() -> None:
    clock = SetClock()
    with serving(ScriptedDenoiser(), clock=clock) as bench:
        bench.submit("a-0", steps=1, deadline_s=5.0)
        bench.until_entered(1)
        clock.seconds += 5.0
        bench.denoiser.go_on.set()
        bench.check_failure("a-0", "deadline_exceeded", retryable=False)
        assert bench.denoiser.decoded_on == []


def test_a_pressing_deadline_goes_first_and_then_is_met() -> None:
    # A work unit takes 2 ms here: 4 of them are left when 8 ms remain and others wait.
    clock = SetClock()
    with serving(ScriptedDenoiser(rows_max=1), clock=clock) as bench:
        bench.submit("a-0", seed=0)
        bench.until_entered(1)
        bench.submit("a-1", seed=1)
        bench.submit("a-2", seed=2, deadline_s=0.016)
        assert bench.step() == [2]
        assert [bench.step() for _ in range(3)] == [[2], [2], [0]]
        bench.check_images("a-2")


def test_a_deadline_passes_though_nothing_else_happens() -> None:
    with serving(ScriptedDenoiser(rows_max=1, decodes_beside=True)) as bench:
        bench.denoiser.decode.clear()
        bench.denoiser.go_on.set()
        for seed in range(ENCODING_MAX):
            bench.submit(f"a-{seed}", steps=1)
        bench.until(lambda: bench.engine.load().running == ENCODING_MAX)
        bench.submit("a-9", deadline_s=0.05)
        bench.check_failure("a-9", "deadline_exceeded", retryable=False)


# Decoding.


def test_decoding_beside_the_loop_leaves_the_row_to_others() -> None:
    with serving(ScriptedDenoiser(rows_max=1, decodes_beside=True)) as bench:
        bench.denoiser.decode.clear()
        bench.submit("a-0", seed=0, steps=1)
        bench.submit("a-1", seed=1, steps=2)
        bench.until_entered(1)
        assert [bench.step() for _ in range(2)] == [[1], [1]]
        load = bench.engine.load()
        assert (load.running, load.backlog) == (2, pytest.approx(3.0)), "1 step and 2 decodings"
        bench.denoiser.decode.set()
        bench.check_images("a-0")
        bench.denoiser.go_on.set()
        bench.check_images("a-1")
        assert {name.split("_")[0] for name in bench.denoiser.decoded_on} == {"decoding"}


def test_nothing_begins_while_too_many_are_decoded() -> None:
    with serving(ScriptedDenoiser(rows_max=1, decodes_beside=True)) as bench:
        bench.denoiser.decode.clear()
        bench.denoiser.go_on.set()
        for seed in range(ENCODING_MAX + 2):
            bench.submit(f"a-{seed}", seed=seed, steps=1)
        bench.until(lambda: bench.engine.load().running == ENCODING_MAX)
        time.sleep(0.05)
        assert bench.engine.load().queued == 2
        assert len(bench.denoiser.entered) == ENCODING_MAX
        bench.denoiser.decode.set()
        bench.check_images(*bench.reports)


@pytest.mark.parametrize(
    ("decodes_beside", "pace_s"), [(False, 0.0), (True, 0.001)], ids=["emulated", "paced"]
)
def test_one_device_does_one_thing_at_a_time(decodes_beside: bool, pace_s: float) -> None:
    with serving(ScriptedDenoiser(decodes_beside=decodes_beside), pace_s=pace_s) as bench:
        bench.denoiser.go_on.set()
        bench.submit("a-0")
        bench.check_images("a-0")
        assert bench.denoiser.decoded_on == ["step-engine"]


def test_a_cancelled_drawing_is_not_decoded() -> None:
    with serving(ScriptedDenoiser(rows_max=1, decodes_beside=True)) as bench:
        bench.denoiser.decode.clear()
        bench.denoiser.go_on.set()
        bench.submit("a-0", steps=1)
        bench.submit("a-1", steps=1)
        bench.until(lambda: bench.engine.load().running == 2)
        for name in ("a-0", "a-1"):
            bench.cancel(name)
        assert bench.engine.load().backlog == 0.0
        bench.denoiser.decode.set()
        bench.until(lambda: bench.engine.load().running == 0)
        assert len(bench.denoiser.decoded_on) == 1
        assert not any(isinstance(r, FINAL) for r in bench.reports["a-0"] + bench.reports["a-1"])


# Memory.


def test_when_memory_runs_out_the_later_half_is_parked_and_nothing_is_lost() -> None:
    with serving(ScriptedDenoiser(rows_max=4, memory_rows=2)) as bench:
        bench.submit("a-x", seed=9, steps=1)
        bench.until_entered(1)
        for seed in range(4):
            bench.submit(f"a-{seed}", seed=seed, steps=2)
        seen = [bench.step() for _ in range(4)]
        assert seen == [[0, 1, 2, 3], [0, 1], [0, 1], [2, 3]]
        bench.denoiser.go_on.set()
        bench.check_images(*bench.reports)


def test_the_width_comes_back_after_good_steps() -> None:
    with serving(ScriptedDenoiser(rows_max=4, memory_rows=1)) as bench:
        for seed in range(24):
            bench.submit(f"a-{seed}", seed=seed, steps=20)
        bench.until_entered(1)
        assert [bench.step() for _ in range(9)][-1] == [0]
        bench.denoiser.memory_rows = 99
        bench.denoiser.go_on.set()
        bench.check_images(*bench.reports)
        widths = [len(batch) for batch in bench.denoiser.batches[9:]]
        assert max(widths) == 4
        grown = [widths.index(width) for width in (2, 3, 4)]
        assert GOOD_STEPS - 10 < grown[0] == grown[1] - GOOD_STEPS == grown[2] - 2 * GOOD_STEPS


def test_a_lone_row_that_runs_out_of_memory_is_tried_once_more() -> None:
    with serving(ScriptedDenoiser()) as bench:
        bench.submit("a-0", seed=0, steps=9)
        bench.until_entered(1)
        bench.submit("a-1", seed=1, width_px=32, prompt="too big")
        assert [bench.step() for _ in range(4)] == [[1], [1], [0], [0]]
        bench.check_failure("a-1", "out_of_memory", retryable=True)


def test_memory_that_is_short_for_a_moment_costs_no_drawing() -> None:
    with serving(ScriptedDenoiser(rows_max=1, memory_rows=0)) as bench:
        bench.submit("a-0", seed=0)
        bench.until_entered(1)
        assert bench.step() == [0]
        bench.denoiser.memory_rows = 99
        bench.denoiser.go_on.set()
        bench.check_images("a-0")


def test_rows_join_as_memory_allows() -> None:
    denoiser = ScriptedDenoiser(rows_max=4, row_bytes=100, available_bytes=1000)
    with serving(denoiser, memory_floor_bytes=900) as bench:
        for seed in range(4):
            bench.submit(f"a-{seed}", seed=seed, steps=9)
        bench.until_entered(1)
        assert bench.step() == [0, 1], "one more than the one that always may"
        denoiser.available_bytes = 900
        assert bench.step() == [0, 1]
        denoiser.available_bytes = 1000
        assert bench.step() == [0, 1, 2]


# A lost device.


@pytest.mark.parametrize("prompt", ["loses the device", "loses the device at the end"])
@pytest.mark.parametrize("decodes_beside", [False, True])
def test_a_lost_device_ends_all_drawings_and_the_thread(
    prompt: str, decodes_beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    with serving(ScriptedDenoiser(rows_max=2, decodes_beside=decodes_beside)) as bench:
        bench.denoiser.decode.clear()
        bench.submit("a-0", seed=0, steps=1, prompt=prompt)
        bench.submit("a-1", seed=1, steps=50)
        bench.submit("a-2", seed=2, width_px=32)
        bench.until_entered(1)
        bench.denoiser.decode.set()
        bench.denoiser.go_on.set()
        for name in bench.reports:
            bench.check_failure(name, "device_lost", retryable=True)
        bench.until(lambda: raised)
        assert raised[0].exc_type is DeviceLost
        assert "CUDA error" in bench.engine.describe().detail
        with pytest.raises(WorkerUnavailable, match="started anew"):
            bench.submit("a-3")
        del bench.reports["a-3"]


# Everything at once.


@pytest.mark.parametrize(
    ("order", "decodes_beside"),
    [
        (Order(), True),
        (Order(discipline="sjf", promotion=(0.02, 1.0)), False),
        (Order(discipline="srpt", ageing=0.5), True),
        (Order(discipline="srpt", promotion=(0.02, 1.0)), False),
    ],
    ids=str,
)
def test_no_attempt_is_lost(order: Order, decodes_beside: bool) -> None:
    rng = np.random.default_rng(11)
    denoiser = ScriptedDenoiser(rows_max=3, decodes_beside=decodes_beside, step_s=0.001)
    denoiser.go_on.set()
    prompts = ["a fox"] * 12 + ["fails in a step", "fails at the end", "too big"]
    with serving(denoiser, order=order, parked_max=2, queue_max=1000) as bench:
        attempts: dict[str, int] = {}
        for seed in range(150):
            name = f"a-{rng.integers(0, 100)}"
            attempts[name] = attempts.get(name, 0) + 1
            bench.submit(
                name,
                attempt=attempts[name],
                priority=int(rng.choice([0, 0, 0, 1])),
                deadline_s=float(rng.uniform(0.0, 0.2)) if rng.random() < 0.2 else None,
                seed=seed,
                prompt=str(rng.choice(prompts)),
                steps=int(rng.integers(1, 12)),
                width_px=int(rng.choice([32, 64])),
                previews=int(rng.integers(0, 2)),
            )
            if rng.random() < 0.2:
                bench.cancel(str(rng.choice(list(bench.reports))))
            denoiser.memory_rows = int(rng.choice([1, 2, 99]))
            time.sleep(float(rng.uniform(0.0, 0.004)))
        bench.until(lambda: bench.engine.load().queued == 0)
    last = [reports[-1] for reports in bench.reports.values()]
    codes = {report.code for report in last if isinstance(report, AttemptFailed)}
    assert codes >= {"draw_failed", "stale_attempt", "deadline_exceeded"}
    assert len(denoiser.begun) == len(set(denoiser.begun)), "no row is begun twice"


def test_each_arrival_measures_what_promotion_follows() -> None:
    denoiser = ScriptedDenoiser()
    order = Order(discipline="srpt", promotion_load=3.0)
    with serving(denoiser, order=order) as bench:
        for number in range(3):
            bench.submit(f"a-{number}", steps=5 - number)
        rows = bench.engine._ready_rows
        held_s = [attempt.entry.left_s for attempt in rows._book.to_draw()]
        assert len(held_s) == 3, "no step is done before the denoiser may go on"
        wait_s = sum(sorted(held_s)[1:]) / rows._calibration.rows_max
        assert rows.order.promotion is not None
        # What is forgotten between two arrivals in a row is 1 s in 20.
        assert rows.order.promotion[0] == pytest.approx(3.0 * wait_s, abs=0.01)
        denoiser.go_on.set()
        bench.until(lambda: bench.engine.load().running == bench.engine.load().queued == 0)


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
        bench.until(
            lambda bench=bench: bench.engine.describe().state == "failed"  # type: ignore[misc]
        )
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


def test_another_clients_first_waits_for_what_is_drawn_and_not_for_a_queue() -> None:
    with serving(ScriptedDenoiser(rows_max=1)) as bench:
        for seed in range(6):
            bench.submit(f"a-{seed}", seed=seed, client="a")
        bench.until_entered(1)
        for seed in (100, 101):
            bench.submit(f"b-{seed}", seed=seed, client="b")
        bench.denoiser.go_on.set()
        bench.check_images(*bench.reports)
    assert bench.denoiser.begun == [0, 100, 1, 101, 2, 3, 4, 5]


def checkpoint(step: int, *, seed: int = 1, **changes: Any) -> Checkpoint:
    """Of the drawing as the bench submits it."""
    return Checkpoint(
        drawing_sha256=drawing(seed=seed, **changes).sha256,
        fingerprint="f",
        step=step,
        latents=Latents(dtype="float16", shape_CHW=(1, 1, 1), latent=bytes([seed, seed])),
    )


def test_checkpoints_are_told_as_often_as_asked_for_and_not_of_the_end(bench: Bench) -> None:
    bench.denoiser.go_on.set()
    bench.submit("never", steps=6)
    bench.submit("each other", steps=6, checkpoint_steps=2, previews=1)
    bench.submit("is none", steps=6, checkpoint_steps=1, prompt="is not finite")
    bench.check_images("never", "each other", "is none")
    assert bench.checkpoints("never") == bench.checkpoints("is none") == []
    assert [one.step for one in bench.checkpoints("each other")] == [2, 4]
    assert bench.checkpoints("each other")[1] == checkpoint(4, steps=6)


def test_a_drawing_goes_on_from_a_checkpoint_and_has_less_to_do(one_row: Bench) -> None:
    one_row.submit("whole", seed=1)
    one_row.until_entered(1)
    one_row.submit("resumed", seed=2, checkpoint=checkpoint(2, seed=2))
    model = one_row.engine.describe().work_model
    left = model.work(drawing()) - 2.0
    backlog = one_row.engine.load().backlog
    assert backlog == pytest.approx(model.work(drawing()) + left)
    one_row.denoiser.go_on.set()
    one_row.check_images("whole", "resumed")
    assert one_row.denoiser.resumed == [2]
    assert one_row.denoiser.begun == [1]
    assert AttemptStarted(step=2) in one_row.reports["resumed"]
    assert sum(2 in seeds for seeds in one_row.denoiser.batches) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        checkpoint(2, steps=4),
        checkpoint(3),
        dataclasses.replace(checkpoint(1), fingerprint="another model"),
        dataclasses.replace(
            checkpoint(2), latents=Latents(dtype="float16", shape_CHW=(1, 1, 1), latent=b"xx")
        ),
    ],
    ids=["another drawing's", "nothing left", "another model's", "refused by the denoiser"],
)
def test_what_cannot_be_gone_on_from_is_drawn_from_its_beginning(
    bench: Bench, wrong: Checkpoint
) -> None:
    bench.denoiser.go_on.set()
    bench.submit("one", checkpoint=wrong)
    bench.check_images("one")
    assert (bench.denoiser.begun, bench.denoiser.resumed) == ([1], [])
    assert AttemptStarted(step=0) in bench.reports["one"]


def test_a_drawing_is_handed_over_after_the_step_under_way(one_row: Bench) -> None:
    one_row.submit("drawn", steps=5)
    one_row.submit("waits", seed=2, steps=40)
    one_row.until_entered(1)
    one_row.step()
    one_row.engine.hand_over(one_row.arrivals["drawn"])
    one_row.engine.hand_over(one_row.arrivals["waits"])
    one_row.denoiser.permits.release()
    one_row.check_failure("drawn", HANDED_OVER, retryable=True)
    one_row.check_failure("waits", HANDED_OVER, retryable=True)
    assert [one.step for one in one_row.checkpoints("drawn")] == [2]
    assert one_row.checkpoints("waits") == []
    assert sum(1 in seeds for seeds in one_row.denoiser.batches) == 2


def test_what_was_begun_elsewhere_and_asked_for_before_parks_what_is_drawn() -> None:
    with serving(ScriptedDenoiser(rows_max=1), order=Order()) as bench:
        bench.submit("young", steps=6)
        bench.until_entered(1)
        begun = checkpoint(3, seed=2, steps=6)
        bench.submit("old", seed=2, steps=6, age_s=60.0, checkpoint=begun)
        bench.submit("waits", seed=3, steps=6, age_s=90.0)
        assert [bench.step() for _ in range(5)] == [[2], [2], [2], [1], [1]]


def test_what_is_done_but_for_its_picture_is_not_handed_over() -> None:
    with serving(ScriptedDenoiser(decodes_beside=True)) as bench:
        bench.denoiser.decode.clear()
        bench.denoiser.go_on.set()
        bench.submit("done", steps=1)
        bench.until(lambda: bench.denoiser.decoded_on)
        bench.engine.hand_over(bench.arrivals["done"])
        bench.denoiser.decode.set()
        bench.check_images("done")


def test_what_cannot_take_its_steps_along_is_drawn_to_its_end(one_row: Bench) -> None:
    one_row.submit("stays", prompt="is not finite", steps=4)
    one_row.until_entered(1)
    one_row.step()
    one_row.engine.hand_over(one_row.arrivals["stays"])
    one_row.denoiser.go_on.set()
    one_row.check_images("stays")


def test_a_checkpoint_is_of_the_variant_that_the_drawing_names() -> None:
    served = WorkerDescription(
        state="ready",
        model_fingerprint=ModelFingerprint("f"),
        variants=(("with a LoRA", ModelFingerprint("v")),),
    )
    one = drawing(model="with a LoRA")
    of_the_model = dataclasses.replace(checkpoint(1), drawing_sha256=one.sha256)
    of_the_variant = dataclasses.replace(of_the_model, fingerprint="v")
    assert travelling.usable(of_the_model, drawing=one, served=served) is None
    assert travelling.usable(of_the_variant, drawing=one, served=served) is of_the_variant

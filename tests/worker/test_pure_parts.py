"""Sampling, cache, calibration, memory and encoding, by values."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image as PillowImage

from edge_node.domain import Drawing, Fence, TaskId, WorkModel
from edge_node.worker import calibration, emulated, image_encoding, memory_guard
from edge_node.worker.active_rows import ActiveRows
from edge_node.worker.attempts import FENCED_TASKS_MAX, Attempt, AttemptBook
from edge_node.worker.device_errors import is_device_lost
from edge_node.worker.prompt_cache import PromptCache
from edge_node.worker.queue_order import Order

DRAWING = Drawing(
    prompt="a fox",
    negative_prompt="a dog",
    width_px=512,
    height_px=512,
    steps=28,
    guidance_scale=7.0,
    seed=1,
    model="asked-for",
)


@pytest.mark.model
@pytest.mark.parametrize("shift", [1.0, 3.0, 2.2])
def test_sigmas_are_those_of_diffusers_to_the_bit(shift: float) -> None:
    import diffusers
    import torch

    from edge_node.worker import sampling

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    for steps in (1, 2, 7, 10, 28, 50):
        scheduler.set_timesteps(steps)
        ours = sampling.flow_schedule(dict(scheduler.config), steps=steps)
        assert ours.steps == steps
        assert torch.equal(ours.sigma_S, scheduler.sigmas)
        assert torch.equal(ours.timestep_S, scheduler.timesteps)
    assert sampling.unsupported_settings({"use_karras_sigmas": True}) == ["use_karras_sigmas"]


@pytest.mark.model
def test_noise_depends_on_its_own_seed_only() -> None:
    import torch

    from edge_node.worker import sampling

    noise = [
        sampling.noise((4, 8, 8), generator=sampling.noise_generator(seed), dtype=torch.float32)
        for seed in (2**64 - 1, 3, 2**64 - 1)
    ]
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])


def test_the_prompt_cache_is_bounded_and_keeps_the_empty_prompt() -> None:
    cache: PromptCache[str, str] = PromptCache(bytes_max=100, kept="")
    cache.put("", "nothing", size_bytes=40)
    cache.put("a", "A", size_bytes=30)
    cache.put("b", "B", size_bytes=30)
    assert cache.get("a") == "A"
    cache.put("c", "C", size_bytes=30)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == ("A", None, "C")
    cache.put("huge", "H", size_bytes=101)
    assert cache.get("huge") is None
    cache.put("big", "B", size_bytes=90)
    assert cache.get("big") is None
    assert cache.get("") == "nothing"
    assert cache.bytes_held <= 100
    cache.put("", "other", size_bytes=10)
    assert (cache.get(""), cache.bytes_held) == ("other", 10)


def measured(**changes: Any) -> calibration.Measurements:
    base = {
        "reference_px": 64,
        "guided_s": ((1, 0.10), (2, 0.14), (4, 0.28)),
        "unguided_s": 0.06,
        "fixed_s": 0.25,
        "size_step_s": ((128, 128, 0.5),),
    }
    return calibration.Measurements(**{**base, **changes})


def test_calibration_by_hand() -> None:
    result = calibration.calibrated(measured())
    assert result.rows_max == 2, "four rows gain nothing over two"
    assert result.capacity == pytest.approx(2 / 0.14)
    assert result.work_model.fixed_steps == pytest.approx(2.5)
    assert result.work_model.unguided_ratio == pytest.approx(0.6)
    assert result.work_model.size_costs == ((128, 128, pytest.approx(5.0)),)
    assert result.step_s(rho=2.0, width=1.5) == pytest.approx(2 * 0.12)
    assert result.step_s(rho=1.0, width=0.6) == pytest.approx(0.06)
    assert calibration.calibrated(measured(), rows_limit=1).rows_max == 1


def test_three_percent_decide_the_width() -> None:
    assert calibration.chosen_width(((1, 1.00), (2, 1.95))) == 1
    assert calibration.chosen_width(((1, 1.00), (2, 1.90))) == 2


def test_pace_bounds_capacity_and_makes_batches_pointless() -> None:
    result = calibration.calibrated(measured(), pace_s=0.5)
    assert result.rows_max == 1
    assert result.capacity == pytest.approx(2.0)
    assert result.work_model == calibration.calibrated(measured()).work_model


def test_size_cost_follows_the_measured_size_or_the_area() -> None:
    work_model = WorkModel(
        fixed_steps=2.0, unguided_ratio=0.6, reference_px=256, size_costs=((512, 512, 5.0),)
    )
    assert work_model.rho(width_px=512, height_px=512) == pytest.approx(5.0)
    model_without = WorkModel(fixed_steps=2.0, unguided_ratio=0.6, reference_px=256)
    assert model_without.rho(width_px=512, height_px=512) == pytest.approx(4.0)


def test_tracked_capacity_follows_speed_and_not_width() -> None:
    result = calibration.calibrated(measured())
    tracker = calibration.CapacityTracker(dataclasses.replace(result, tracking_s=1.0))
    for _ in range(100):
        tracker.record_step(rho=1.0, width=1.0, measured_s=0.10)
    assert tracker.capacity == pytest.approx(result.capacity)
    for _ in range(100):
        tracker.record_step(rho=1.0, width=1.0, measured_s=0.20)
    assert tracker.capacity == pytest.approx(result.capacity / 2, rel=0.01)


def test_a_changed_power_mode_is_known_after_a_few_steps_and_a_hiccup_is_none() -> None:
    result = calibration.calibrated(measured())
    for factor, steps in ((8.5, 3), (2.0, 3), (0.5, 3), (1.2, 14)):
        tracker = calibration.CapacityTracker(result)
        for _ in range(50):
            tracker.record_step(rho=1.0, width=1.0, measured_s=0.10)
        for _ in range(steps):
            tracker.record_step(rho=1.0, width=1.0, measured_s=0.10 * factor)
        assert tracker.capacity == pytest.approx(result.capacity / factor, rel=0.02)
    tracker = calibration.CapacityTracker(result)
    for number in range(100):
        hiccup = 10.0 if number % 20 == 5 else 1.0
        tracker.record_step(rho=1.0, width=1.0, measured_s=0.10 * hiccup)
    assert tracker.capacity == pytest.approx(result.capacity, rel=0.05)


class MeasuredEngine:
    """Draws nothing, takes no time and runs out of memory at three rows."""

    growth_bytes = 0

    def begin(self, drawing: Drawing, init_image: Any) -> Drawing:
        return drawing

    def step(self, rows: Sequence[Drawing]) -> None:
        if len(rows) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.growth_bytes = max(self.growth_bytes, 1000 + 300 * len(rows))

    def watch(self) -> contextlib.AbstractContextManager[calibration.Peak]:
        self.growth_bytes = 0
        return contextlib.nullcontext(self)


@dataclass
class CountingClock:
    """Every reading is one second after the one before."""

    seconds: float = 0.0

    def now_s(self) -> float:
        self.seconds += 1.0
        return self.seconds

    unix_s = wall_s = now_s


def test_calibration_stays_within_memory_and_says_what_a_row_takes() -> None:
    engine = MeasuredEngine()
    result = calibration.measure(
        engine,
        finish=lambda row: None,
        reference_px=64,
        widths=(1, 2, 3, 4),
        sizes_px=(),
        clock=CountingClock(),
        budget_s=1e6,
        watch=engine.watch,
    )
    assert [rows for rows, _ in result.guided_s] == [1, 2]
    assert result.row_bytes == 300
    assert calibration.calibrated(result).row_bytes == 300


def test_memory_admits_rows_above_the_floor_and_always_one() -> None:
    def allowed(wanted: int, rows_now: int, available_bytes: int, row_bytes: int = 100) -> int:
        return memory_guard.rows_allowed(
            wanted=wanted,
            rows_now=rows_now,
            row_bytes=row_bytes,
            available_bytes=available_bytes,
            floor_bytes=1000,
        )

    assert allowed(4, 1, 1250) == 3
    assert allowed(4, 1, 9999) == 4
    assert allowed(4, 2, 1099) == 2, "those that are active stay"
    assert allowed(4, 0, 0) == 1
    assert allowed(2, 3, 0) == 2
    assert allowed(4, 0, 0, row_bytes=0) == 4, "rows of no known size"


def test_the_width_shrinks_when_memory_runs_out_and_grows_by_one() -> None:
    width = memory_guard.AllowedWidth(4, good_steps=3)
    assert not any(width.record_step() for _ in range(9))
    width.shed(2)
    width.shed(1)
    assert width.rows == 1
    assert [width.record_step() for _ in range(9)] == [False, False, True] * 3
    assert width.rows == 4
    assert not width.record_step()


def test_available_memory_is_the_kernels_or_the_gpus(tmp_path: pathlib.Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemFree: 2 kB\nMemAvailable:   5 kB\n")
    assert memory_guard.system_available_bytes(meminfo) == 5 * 1024
    assert memory_guard.system_available_bytes() > 0
    meminfo.write_text("MemTotal: 9 kB\n")
    with pytest.raises(OSError, match="memory floor"):
        memory_guard.system_available_bytes(meminfo)
    assert memory_guard.gpu_available_bytes(lambda: (3, 8))() == 3


def test_out_of_memory_is_known_in_all_its_shapes() -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    for error in (
        OutOfMemoryError("CUDA"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ):
        assert memory_guard.is_out_of_memory(error)
        assert not is_device_lost(error)
    for other in (ValueError("out of memory"), RuntimeError("shapes do not match")):
        assert not memory_guard.is_out_of_memory(other)


def test_sticky_errors_mean_a_lost_device_and_refused_calls_do_not() -> None:
    for text in (
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: device-side assert triggered",
        "CUDA error: unspecified launch failure",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED_CUDART",
        "CUDA driver error: unknown error",
    ):
        assert is_device_lost(RuntimeError(text)), text
    for error in (
        RuntimeError("CUDA error: invalid argument"),
        RuntimeError("CUDA error: invalid configuration argument"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("CUDA error: an illegal memory access was encountered"),
    ):
        assert not is_device_lost(error), error


def test_the_emulated_mode_that_is_assumed_meets_the_papers_image_time() -> None:
    orin = emulated.profile(emulated.PAPER_MODE)
    mean_s = sum(z * orin.guided_step_s + orin.decode_s for z in range(10, 20)) / 10
    assert mean_s == pytest.approx(18.3)
    slowest_first = [emulated.profile(name).guided_step_s for name in emulated.FP16_TFLOPS][::-1]
    assert all(a > b for a, b in itertools.pairwise(slowest_first))


def test_a_placeholder_names_itself_and_follows_its_seed() -> None:
    device = emulated.EmulatedDenoiser(
        emulated.profile("orin-64gb-maxn"), model_name="m", time_scale=1e6
    )
    calibrated = device.calibrate()
    assert calibrated.rows_max == 1
    assert calibrated.work_model.fixed_steps == pytest.approx(2.51 / 3.435)
    rows = [device.begin(Drawing(**{**vars(DRAWING), "seed": seed}), b"") for seed in (1, 2, 1)]
    pictures = [device.picture(row).tobytes() for row in rows]
    assert pictures[0] == pictures[2] != pictures[1]
    assert device.load().emulated_device == "orin-64gb-maxn x1e+06"


@pytest.mark.parametrize("image_format", image_encoding.FORMATS)
def test_formats_are_what_they_say(image_format: str) -> None:
    content = image_encoding.encode(
        PillowImage.new("RGB", (32, 16), "red"), image_format=image_format
    )
    with PillowImage.open(io.BytesIO(content)) as opened:
        assert (opened.format, opened.size) == (image_format.upper(), (32, 16))


def told_by(image_format: str, told: image_encoding.Metadata, task_id: str = "a-1") -> bytes:
    texts = image_encoding.texts_of(
        DRAWING, told=told, task_id=TaskId(task_id), model="served", emulated_device="orin"
    )
    picture = PillowImage.new("RGB", (8, 8))
    return image_encoding.encode(picture, image_format=image_format, texts=texts)


def test_png_tells_its_parameters_unless_told_not_to() -> None:
    with PillowImage.open(io.BytesIO(told_by("png", image_encoding.Metadata()))) as opened:
        assert opened.info == {
            "parameters": "a fox\nNegative prompt: a dog\nSteps: 28, Sampler: Euler, CFG scale: 7, "
            "Seed: 1, Size: 512x512, Model: served",
            "task_id": "a-1",
            "emulated_device": "orin",
        }
    nothing = image_encoding.Metadata(parameters=False, task_ids=False)
    with PillowImage.open(io.BytesIO(told_by("png", nothing))) as bare:
        assert bare.info == {}


@pytest.mark.parametrize("image_format", image_encoding.FORMATS)
def test_equal_drawings_are_equal_files_without_task_ids(image_format: str) -> None:
    for parameters in (True, False):
        told = image_encoding.Metadata(parameters=parameters, task_ids=False)
        assert told_by(image_format, told, "a-1") == told_by(image_format, told, "a-2")
    told = image_encoding.Metadata()
    assert told_by(image_format, told, "a-1") != told_by(image_format, told, "a-2")


@dataclass
class VirtualTime:
    """Passes when somebody sleeps, and not before."""

    now_s: float = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> VirtualTime:
    """The emulated device's, in place of the machine's."""
    made = VirtualTime()
    monkeypatch.setattr(emulated, "time", made)
    return made


def test_host_work_between_steps_is_no_time_of_an_emulated_device(
    virtual_time: VirtualTime,
) -> None:
    device = emulated.EmulatedDenoiser(
        emulated.profile("orin-64gb-maxn"), model_name="m", time_scale=20.0
    )
    row = device.begin(DRAWING, b"")
    step_s = emulated.profile("orin-64gb-maxn").guided_step_s / 20.0
    for number in range(1, 11):
        device.step([row])
        assert virtual_time.now_s == pytest.approx(100.0 + number * step_s)
        virtual_time.sleep(0.004)
    # Longer than the device could have been kept busy with: it was idle, and has all of a step.
    virtual_time.sleep(emulated.OVERLAP_S_MAX)
    idle_s = virtual_time.now_s
    device.step([row])
    assert virtual_time.now_s - idle_s == pytest.approx(step_s)


def test_an_emulated_device_becomes_what_its_mode_file_names(
    tmp_path: pathlib.Path, virtual_time: VirtualTime
) -> None:
    mode_path = tmp_path / "mode"
    device = emulated.EmulatedDenoiser(
        emulated.profile("orin-64gb-maxn"), model_name="m", mode_path=mode_path
    )
    row = device.begin(DRAWING, b"")
    for name in ("", "orin-64gb-15w", "orin-64gb-50w"):
        if name:
            mode_path.write_text(name)
            # Of two writes within one tick of the file system's clock the second is not seen.
            virtual_time.sleep(1.0)
            os.utime(mode_path, (virtual_time.now_s, virtual_time.now_s))
        begun_s = virtual_time.now_s
        device.step([row])
        expected_s = emulated.profile(name or "orin-64gb-maxn").guided_step_s
        assert virtual_time.now_s - begun_s == pytest.approx(expected_s)


def test_what_made_a_picture_another_one_is_told() -> None:
    drawing = Drawing(**{**vars(DRAWING), "init_image_sha256": "ab", "strength": 0.25})
    text = image_encoding.parameters_text(drawing, model="m", choices=("taesd3", "step_cache=0.05"))
    assert text.endswith(
        "Model: m, Denoising strength: 0.25, Approximations: taesd3 step_cache=0.05"
    )


def test_a_prompt_beyond_latin_survives() -> None:
    drawing = Drawing(**{**vars(DRAWING), "prompt": "狐 🦊", "negative_prompt": ""})
    texts = image_encoding.texts_of(
        drawing, told=image_encoding.Metadata(), task_id=TaskId("a-1"), model="m"
    )
    picture = PillowImage.new("RGB", (8, 8))
    content = image_encoding.encode(picture, image_format="png", texts=texts)
    with PillowImage.open(io.BytesIO(content)) as opened:
        assert opened.info["parameters"].startswith("狐 🦊\nSteps: 28")


def test_good_steps_before_memory_ran_out_count_no_more() -> None:
    width = memory_guard.AllowedWidth(4, good_steps=3)
    width.shed(3)
    assert [width.record_step(), width.record_step()] == [False, False]
    width.shed(2)
    assert [width.record_step() for _ in range(3)] == [False, False, True]
    assert width.rows == 3
    width.shed(9)
    assert width.rows == 3, "more rows than are allowed ran out: no reason to allow them"
    width.shed(0)
    assert width.rows == 1, "one is always tried"


@pytest.mark.parametrize(("rho", "width", "expected_s"), [(5.0, 1.0, 0.5), (0.25, 2.0, 0.035)])
def test_a_step_of_another_size_says_as_much_of_the_devices_speed(
    rho: float, width: float, expected_s: float
) -> None:
    result = calibration.calibrated(measured())
    tracker = calibration.CapacityTracker(dataclasses.replace(result, tracking_s=1.0))
    for _ in range(100):
        tracker.record_step(rho=rho, width=width, measured_s=expected_s)
    assert tracker.capacity == pytest.approx(result.capacity)
    for _ in range(100):
        tracker.record_step(rho=rho, width=width, measured_s=2 * expected_s)
    assert tracker.capacity == pytest.approx(result.capacity / 2, rel=0.01)


# The rows that take turns, without an engine.


def attempt_of(arrival: int, **changes: object) -> Attempt[str]:
    fields = {**vars(DRAWING), "width_px": 64, "height_px": 64, "steps": 4, **changes}
    return Attempt(
        task_id=TaskId(f"a-{arrival}"),
        fence=Fence(1, 1),
        arrival=arrival,
        drawing=Drawing(**fields),
        init_image=b"",
        priority=0,
        submitted_s=float(arrival),
        deadline_s=None,
        client="",
        work_model=CALIBRATION.work_model,
        unit_s=0.14,
        on_report=lambda report: None,
    )


# 0.1 s for a row of 64 px and 0.14 for two; 128 px cost 5 times as much, unguided .6.
CALIBRATION = calibration.calibrated(measured())


def rows_of(book: AttemptBook[str], *, available_bytes: int = 0, **changes: Any) -> ActiveRows[str]:
    return ActiveRows(
        book,
        order=Order(),
        calibration=dataclasses.replace(CALIBRATION, tracking_s=1.0, **changes),
        parked_max=8,
        floor_bytes=0,
        available_bytes=lambda: available_bytes,
    )


def held(*attempts: Attempt[str]) -> AttemptBook[str]:
    book: AttemptBook[str] = AttemptBook()
    for attempt in attempts:
        book.add(attempt)
        book.begin(attempt, now_s=10.0)
    return book


@pytest.mark.parametrize(
    ("drawings", "expected_s"),
    [
        ([{}], 0.1),
        ([{}, {}], 0.14),
        ([{"width_px": 128, "height_px": 128}], 0.5),
        ([{"guidance_scale": 1.0}], 0.06),
        ([{"width_px": 32, "height_px": 32}, {"width_px": 32, "height_px": 32}], 0.035),
    ],
)
def test_capacity_follows_the_device_whatever_it_draws(
    drawings: list[dict[str, object]], expected_s: float
) -> None:
    batch = [attempt_of(number, **changes) for number, changes in enumerate(drawings)]
    rows = rows_of(held(*batch))
    for _ in range(4):
        rows.record_step(batch, measured_s=expected_s)
    assert rows.capacity == pytest.approx(CALIBRATION.capacity)
    assert [attempt.steps_done for attempt in batch] == [4] * len(batch)
    for _ in range(20):
        rows.record_step(batch, measured_s=4 * expected_s)
    assert rows.capacity == pytest.approx(CALIBRATION.capacity / 4, rel=0.01)


def test_what_waits_is_counted_anew_once_the_device_has_become_slower() -> None:
    waiting, drawn = attempt_of(2), attempt_of(1)
    book = held(drawn)
    book.add(waiting)
    rows = rows_of(book)
    service_s = waiting.entry.service_s
    for _ in range(20):
        rows.record_step([drawn], measured_s=0.2)
    assert waiting.entry.service_s == service_s
    rows.choose(20.0)
    assert waiting.entry.service_s == pytest.approx(2 * service_s, rel=0.01)
    assert rows.unit_s == pytest.approx(2 * 0.14, rel=0.01), "so is what comes next"


def test_rows_of_a_larger_size_take_more_memory() -> None:
    large = {"width_px": 128, "height_px": 128}
    book = held(*(attempt_of(number, **large) for number in range(2)))
    # Four times the area of the reference: 400 bytes for the second row.
    for available_bytes, allowed in ((399, 1), (400, 2)):
        rows = rows_of(book, available_bytes=400 + available_bytes, row_bytes=100)
        rows.choose(20.0)
        assert len(rows.in_turn()) == allowed, available_bytes


def test_memory_that_ran_out_parks_the_later_half_until_one_is_left_and_tries_that_twice() -> None:
    batch = [attempt_of(number) for number in range(3)]
    rows = rows_of(held(*batch), rows_max=3)
    rest = rows.shed(batch)
    assert rest == batch[:2]
    rest = rows.shed(rest)
    assert rest == batch[:1] == rows.in_turn()
    assert rows.shed(rest) == rest, "once more: others may have held the memory"
    assert rows.shed(rest) == []
    rows.record_step(rest, measured_s=0.1)
    assert rows.shed(rest) == rest, "it went well in between"


# The drawings that are held.


def test_the_fence_forgets_the_tasks_that_were_seen_longest_ago() -> None:
    book: AttemptBook[str] = AttemptBook()
    for arrival in range(FENCED_TASKS_MAX):
        again = attempt_of(arrival)
        again.fence = Fence(1, 2)
        book.add(again)
        book.release(again)
    assert book.is_stale(TaskId("a-0"), Fence(1, 1))
    book.add(attempt_of(0))
    book.add(attempt_of(FENCED_TASKS_MAX))
    assert not book.is_stale(TaskId("a-1"), Fence(1, 1)), "forgotten"
    assert book.is_stale(TaskId("a-2"), Fence(1, 1))
    assert not book.is_stale(TaskId("a-2"), Fence(1, 2)), "the same attempt may come again"

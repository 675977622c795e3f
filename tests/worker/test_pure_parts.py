"""Sampling, order, cache, calibration and encoding, by values."""

from __future__ import annotations

import io
import itertools

import pytest
from PIL import Image as PillowImage

from edge_node.domain import Drawing, TaskId, WorkModel
from edge_node.worker import calibration, emulated, image_encoding, queue_order
from edge_node.worker.prompt_cache import PromptCache

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
        sampling.initial_noise((4, 8, 8), seed=seed, dtype=torch.float32)
        for seed in (2**64 - 1, 3, 2**64 - 1)
    ]
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])


def waiting(arrival: int, *, priority: int = 0, side_px: int = 64) -> queue_order.Waiting:
    return queue_order.Waiting(arrival=arrival, priority=priority, size_px=(side_px, side_px))


def arrivals(chosen: list[queue_order.Waiting]) -> list[int]:
    return [one.arrival for one in chosen]


def test_first_come_first_served_within_a_priority() -> None:
    queue = [waiting(3), waiting(1), waiting(4, priority=2), waiting(2, priority=-1)]
    assert arrivals(queue_order.in_order(queue)) == [4, 1, 3, 2]
    assert queue_order.positions(queue) == {4: 1, 1: 2, 3: 3, 2: 4}


def test_only_the_head_of_the_queue_joins_and_only_at_its_size() -> None:
    queue = [waiting(1), waiting(2), waiting(3, side_px=32), waiting(4)]
    join = queue_order.joining
    assert arrivals(join(queue, running_size_px=None, places=8)) == [1, 2]
    assert arrivals(join(queue, running_size_px=None, places=1)) == [1]
    assert arrivals(join(queue, running_size_px=(32, 32), places=8)) == []
    assert arrivals(join(queue, running_size_px=(64, 64), places=0)) == []
    assert join([], running_size_px=None, places=8) == []


def test_the_prompt_cache_is_bounded_and_keeps_the_empty_prompt() -> None:
    cache: PromptCache[str] = PromptCache(bytes_max=100)
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


def measured(**changes: object) -> calibration.Measurements:
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
    assert calibration.size_cost(work_model, DRAWING) == pytest.approx(5.0)
    model_without = WorkModel(fixed_steps=2.0, unguided_ratio=0.6, reference_px=256)
    assert calibration.size_cost(model_without, DRAWING) == pytest.approx(4.0)


def test_tracked_capacity_follows_speed_and_not_width() -> None:
    result = calibration.calibrated(measured())
    tracker = calibration.CapacityTracker(result, tracking_s=1.0)
    for _ in range(100):
        tracker.record_step(rho=1.0, width=1.0, measured_s=0.10)
    assert tracker.capacity == pytest.approx(result.capacity)
    for _ in range(100):
        tracker.record_step(rho=1.0, width=1.0, measured_s=0.20)
    assert tracker.capacity == pytest.approx(result.capacity / 2, rel=0.01)


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


def test_png_tells_its_parameters_unless_told_not_to() -> None:
    picture = PillowImage.new("RGB", (8, 8))
    metadata = image_encoding.png_metadata(
        DRAWING, task_id=TaskId("a-1"), model="served", emulated_device="orin"
    )
    content = image_encoding.encode(picture, image_format="png", metadata=metadata)
    with PillowImage.open(io.BytesIO(content)) as opened:
        assert opened.info == {
            "parameters": "a fox\nNegative prompt: a dog\nSteps: 28, Sampler: Euler, CFG scale: 7, "
            "Seed: 1, Size: 512x512, Model: served",
            "task_id": "a-1",
            "emulated_device": "orin",
        }
    with PillowImage.open(io.BytesIO(image_encoding.encode(picture, image_format="png"))) as bare:
        assert bare.info == {}


def test_a_prompt_beyond_latin_survives() -> None:
    drawing = Drawing(**{**vars(DRAWING), "prompt": "狐 🦊", "negative_prompt": ""})
    metadata = image_encoding.png_metadata(drawing, task_id=TaskId("a-1"), model="m")
    content = image_encoding.encode(
        PillowImage.new("RGB", (8, 8)), image_format="png", metadata=metadata
    )
    with PillowImage.open(io.BytesIO(content)) as opened:
        assert opened.info["parameters"].startswith("狐 🦊\nSteps: 28")

"""A guided step whose rows are computed on two devices ends as one that was computed on one."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from typing import Any

import numpy as np
import pytest
import torch

from edge_node.checkpoint import CheckpointRefused, Latents
from edge_node.domain import Drawing
from edge_node.worker import emulated, tiny_sd3
from edge_node.worker.approximations import Approximations
from edge_node.worker.denoiser import PairDenoiser, Side
from edge_node.worker.sd3 import Sd3Denoiser
from edge_node.worker.sd3_row import Sd3Row
from tests.worker.oracle import INIT_IMAGE, alone, denoiser, drawing, init_image

pytestmark = pytest.mark.model

DRAWINGS = {
    "guided": drawing(steps=7),
    "negative prompt": drawing(steps=6, negative_prompt="a blue square", seed=4),
    "wide": drawing(prompt="a wide picture, " * 30, width_px=48, height_px=16, steps=5),
    "image to image": drawing(init_image_sha256=INIT_IMAGE, strength=0.6, steps=9),
    "masked": drawing(init_image_sha256=INIT_IMAGE, masked=True, strength=0.7, steps=8),
}
INTERVAL, CACHE = (0.3, 0.8), 0.9
OPTIONS: dict[str, dict[str, Any]] = {
    "exact": {},
    "step cache": {"approximations": Approximations(step_cache=CACHE)},
    "guidance interval": {"approximations": Approximations(guidance_interval=INTERVAL)},
    "long prompts": {"long_prompts": "chunks"},
}


def halved(one: Drawing, *, here: Sd3Denoiser, there: Sd3Denoiser) -> tuple[Sd3Row, int]:
    """The row of a drawing whose pairs were halved wherever they are any, and how many these were.

    What happens on the other device goes by bytes alone.
    """
    row = here.begin(one, init_image(one))
    pairs = 0
    for step in range(one.denoising_steps):
        latents = here.before_pair(row)
        if latents is None:
            here.step([row])
            continue
        pairs += 1
        assisting = there.assisting(one, step=step, latents=latents)
        unconditional = there.velocity_of(assisting, "unconditional")
        conditional = here.velocity_of(row, "conditional")
        assert conditional is not None
        assert unconditional is not None
        here.apply(row, conditional=conditional, unconditional=unconditional)
    return row, pairs


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype_name", ["float64", "float32"])
def test_halved_steps_end_as_whole_ones(
    random_sd3_folder: pathlib.Path, options: str, dtype_name: str
) -> None:
    here, there = (denoiser(random_sd3_folder, dtype_name, **OPTIONS[options]) for _ in range(2))
    for name, one in DRAWINGS.items():
        whole = alone(here, one)
        row, pairs = halved(one, here=here, there=there)
        if options in ("exact", "long prompts"):
            assert pairs == one.denoising_steps
        else:
            assert pairs < one.denoising_steps, "what is not computed is not asked for"
        assert pairs > 0
        if dtype_name == "float64":
            assert (row.latent_CHW - whole.latent_CHW).abs().max() <= 1e-9, name
            assert (row.clean_CHW - whole.clean_CHW).abs().max() <= 1e-9, name
        pixels, expected = (np.asarray(here.picture(r), dtype=int) for r in (row, whole))
        assert np.abs(pixels - expected).max() <= 1, name


def test_the_shipped_model_is_drawn_by_two() -> None:
    here, there = (denoiser(tiny_sd3.model_folder(), "float32") for _ in range(2))
    one = drawing(prompt="a red circle", width_px=64, height_px=64, steps=6)
    expected = np.asarray(here.picture(alone(here, one)), dtype=int)
    row, _ = halved(one, here=here, there=there)
    assert np.abs(np.asarray(here.picture(row), dtype=int) - expected).max() <= 1


def test_either_side_may_be_computed_here(random_sd3_folder: pathlib.Path) -> None:
    """What another one owes is computed here, and the step ends as a whole one."""
    worker = denoiser(random_sd3_folder, "float64")
    one = drawing(steps=2)
    whole, row = worker.begin(one, b""), worker.begin(one, b"")
    worker.step([whole])
    sides: dict[Side, Latents] = {}
    for side in ("unconditional", "conditional"):
        velocity = worker.velocity_of(row, side)
        assert velocity is not None
        sides[side] = velocity
    assert sides["unconditional"] != sides["conditional"]
    worker.apply(row, **sides)
    assert (row.latent_CHW - whole.latent_CHW).abs().max() <= 1e-9
    assert row.step == 1


def test_a_drawing_without_guidance_has_no_pairs(random_sd3_folder: pathlib.Path) -> None:
    worker = denoiser(random_sd3_folder, "float32")
    assert worker.before_pair(worker.begin(drawing(guidance_scale=1.0), b"")) is None


def test_one_who_helps_encodes_the_negative_prompt_alone(random_sd3_folder: pathlib.Path) -> None:
    here, there = (denoiser(random_sd3_folder, "float32") for _ in range(2))
    one = drawing(prompt="of the leader alone", negative_prompt="of both")
    latents = here.before_pair(here.begin(one, b""))
    assert latents is not None
    there.velocity_of(there.assisting(one, step=0, latents=latents), "unconditional")
    encoded = there.conditions._prompts
    assert encoded.get(("of both", 1)) is not None
    assert encoded.get(("of the leader alone", 1)) is None


LIES: dict[str, dict[str, Any]] = {
    "another type": {"dtype": "float16", "latent": bytes(2048)},
    "another shape": {"shape_CHW": (16, 4, 16)},
    "too few bytes": {"latent": bytes(4095)},
    "not finite": {"latent": np.full(1024, np.inf, dtype=np.float32).tobytes()},
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_no_velocity_is_refused_and_the_row_as_before(
    random_sd3_folder: pathlib.Path, lie: str
) -> None:
    worker = denoiser(random_sd3_folder, "float32")
    row = worker.begin(drawing(), b"")
    good = worker.velocity_of(row, "conditional")
    assert good is not None
    assert good.shape_CHW == (16, 8, 8)
    before_CHW = row.latent_CHW.clone()
    changes = LIES[lie]
    with pytest.raises(CheckpointRefused):
        worker.apply(row, conditional=good, unconditional=dataclasses.replace(good, **changes))
    assert torch.equal(row.latent_CHW, before_CHW)
    assert (row.step, row.velocity_CHW) == (0, None)


def test_what_is_not_finite_is_not_sent(random_sd3_folder: pathlib.Path) -> None:
    worker = denoiser(random_sd3_folder, "float32")
    row = worker.begin(drawing(), b"")
    row.latent_CHW = torch.full_like(row.latent_CHW, math.nan)
    assert worker.before_pair(row) is None
    assert worker.velocity_of(row, "conditional") is None


def test_a_row_of_a_pair_takes_an_emulated_device_its_unguided_share() -> None:
    step_s = 0.2
    profile = emulated.profile("orin-64gb-maxn")
    device: PairDenoiser[Any] = emulated.EmulatedDenoiser(
        profile, model_name="m", time_scale=profile.guided_step_s / step_s
    )
    one = drawing(width_px=512, height_px=512, steps=3)
    row = device.begin(one, b"")
    latents = device.before_pair(row)
    assert latents is not None
    assert latents.size_bytes == 16 * 64 * 64 * 2
    before_s = time.monotonic()
    velocity = device.velocity_of(device.assisting(one, step=0, latents=latents), "unconditional")
    took_s = time.monotonic() - before_s
    assert velocity is not None
    assert emulated.UNGUIDED_RATIO * step_s * 0.9 <= took_s < step_s
    device.apply(row, conditional=velocity, unconditional=velocity)
    assert row.steps_done == 1
    with pytest.raises(CheckpointRefused):
        device.apply(
            row,
            conditional=velocity,
            unconditional=dataclasses.replace(velocity, latent=velocity.latent[1:]),
        )
    unguided = device.begin(dataclasses.replace(one, guidance_scale=1.0), b"")
    assert device.before_pair(unguided) is None

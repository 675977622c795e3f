"""A row that leaves between two steps ends elsewhere as one that stayed; others are refused."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import Any

import numpy as np
import pytest
import torch

from edge_node.checkpoint import TENSOR_BYTES_MAX, Checkpoint, CheckpointRefused, Latents
from edge_node.domain import Drawing
from edge_node.worker import emulated, latent_bytes, tiny_sd3
from edge_node.worker.approximations import Approximations
from edge_node.worker.sd3 import Sd3Denoiser
from edge_node.worker.sd3_row import Sd3Row
from tests.worker.oracle import INIT_IMAGE, alone, denoiser, drawing, init_image

pytestmark = pytest.mark.model

DRAWINGS = {
    "guided": drawing(steps=7),
    "unguided": drawing(guidance_scale=1.0, steps=5, seed=3),
    "wide": drawing(prompt="a wide picture, " * 30, width_px=48, height_px=16, steps=5),
    "image to image": drawing(init_image_sha256=INIT_IMAGE, strength=0.6, steps=9),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "exact": {},
    "step cache": {"approximations": Approximations(step_cache=0.9)},
    "guidance interval": {"approximations": Approximations(guidance_interval=(0.3, 0.8))},
}


def travelled(one: Drawing, *, at: int, there: Sd3Denoiser, here: Sd3Denoiser) -> Sd3Row:
    """The row of a drawing that goes on here after `at` of its steps."""
    row = there.begin(one, init_image(one))
    for _ in range(at):
        there.step([row])
    latents = there.export(row)
    assert latents is not None
    assert not latents.what_is_wrong()
    gone_on = here.resume(one, step=at, latents=latents)
    beside = here.begin(dataclasses.replace(one, seed=99), init_image(one))
    for _ in range(at, one.denoising_steps):
        here.step([gone_on, beside])
    return gone_on


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype_name", ["float64", "float32"])
def test_a_row_that_travelled_ends_as_one_that_stayed(
    random_sd3_folder: pathlib.Path, options: str, dtype_name: str
) -> None:
    there, here = (denoiser(random_sd3_folder, dtype_name, **OPTIONS[options]) for _ in range(2))
    for name, one in DRAWINGS.items():
        stayed = alone(there, one)
        pixels = np.asarray(there.picture(stayed), dtype=int)
        for at in range(1, one.denoising_steps):
            ended = travelled(one, at=at, there=there, here=here)
            if dtype_name == "float64":
                assert (ended.latent_CHW - stayed.latent_CHW).abs().max() <= 1e-9, (name, at)
            moved = np.asarray(here.picture(ended), dtype=int)
            assert np.abs(moved - pixels).max() <= 1, (name, at)


def test_the_shipped_model_goes_on_elsewhere() -> None:
    there, here = (denoiser(tiny_sd3.model_folder(), "float32") for _ in range(2))
    one = drawing(prompt="a red circle", width_px=64, height_px=64, steps=6)
    pixels = np.asarray(there.picture(alone(there, one)), dtype=int)
    ended = travelled(one, at=2, there=there, here=here)
    assert np.abs(np.asarray(here.picture(ended), dtype=int) - pixels).max() <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_numbers_come_back_as_they_left(dtype: torch.dtype) -> None:
    latent_CHW, velocity_CHW = torch.randn(2, 4, 3, 5, dtype=torch.float64).to(dtype)
    latents = latent_bytes.to_latents(latent_CHW, velocity_CHW, change=0.25)
    assert latents is not None
    assert latents.size_bytes == 2 * 4 * 3 * 5 * dtype.itemsize
    back = latent_bytes.to_tensors(
        latents, shape_CHW=(4, 3, 5), dtype=dtype, device=torch.device("cpu")
    )
    assert back[1] is not None
    assert torch.equal(back[0], latent_CHW)
    assert torch.equal(back[1], velocity_CHW)


def test_what_is_not_finite_does_not_leave(random_sd3_folder: pathlib.Path) -> None:
    worker = denoiser(random_sd3_folder, "float32")
    row = worker.begin(drawing(), b"")
    worker.step([row])
    row.latent_CHW = torch.full_like(row.latent_CHW, math.nan)
    assert worker.export(row) is None


GOOD = Latents(dtype="float32", shape_CHW=(16, 8, 8), latent=bytes(4096))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dtype": "int8"}, "its numbers are 'int8'"),
        ({"dtype": "float16", "latent": bytes(2048)}, "float32 of"),
        ({"shape_CHW": (16, 64)}, "its shape"),
        ({"shape_CHW": (16, 8, -8)}, "its shape"),
        ({"shape_CHW": (16, 4, 16)}, "where float32 of"),
        ({"latent": bytes(4095)}, "4095 and 0 bytes"),
        ({"velocity": bytes(8)}, "4096 and 8 bytes"),
        ({"latent": np.full(1024, np.inf, dtype=np.float32).tobytes()}, "not finite"),
        ({"velocity": np.full(1024, np.nan, dtype=np.float32).tobytes()}, "not finite"),
        ({"change": math.nan}, "its change"),
        ({"change": -1.0}, "its change"),
        ({"shape_CHW": (2**12, 2**12, 2**12), "latent": b""}, f"not at most {TENSOR_BYTES_MAX}"),
    ],
)
def test_what_are_no_latents_of_the_model_is_refused(
    random_sd3_folder: pathlib.Path, changes: dict[str, Any], why: str
) -> None:
    worker = denoiser(random_sd3_folder, "float32")
    worker.resume(drawing(), step=1, latents=GOOD)
    with pytest.raises(CheckpointRefused, match=why):
        worker.resume(drawing(), step=1, latents=dataclasses.replace(GOOD, **changes))


def test_a_checkpoint_is_of_one_drawing_and_has_a_step_left() -> None:
    one = drawing(steps=4)
    at_2 = Checkpoint(drawing_sha256=one.sha256, fingerprint="f", step=2, latents=GOOD)
    assert not at_2.what_is_wrong(drawing_sha256=one.sha256, steps=4)
    other = dataclasses.replace(one, seed=one.seed + 1)
    assert "another drawing" in at_2.what_is_wrong(drawing_sha256=other.sha256, steps=4)
    for step in (0, 4, 5):
        wrong = dataclasses.replace(at_2, step=step)
        assert "after step" in wrong.what_is_wrong(drawing_sha256=one.sha256, steps=4)


def test_a_drawing_is_told_apart_by_all_that_its_latent_depends_on() -> None:
    one = drawing()
    files: dict[str, Any] = {"image_format": "webp", "image_quality": 3, "previews": 2}
    assert dataclasses.replace(one, **files).sha256 == one.sha256
    others: dict[str, Any] = {
        **{"prompt": "x", "negative_prompt": "x", "width_px": 64, "height_px": 64, "steps": 9},
        **{"guidance_scale": 5.5, "seed": 2, "model": "x", "init_image_sha256": "x"},
        **{"strength": 0.5, "masked": True},
    }
    told = {dataclasses.replace(one, **{name: value}).sha256 for name, value in others.items()}
    assert len(told | {one.sha256}) == len(others) + 1
    assert {field.name for field in dataclasses.fields(one)} == {*files, *others}


def test_an_emulated_drawing_goes_on_elsewhere_and_weighs_what_it_would() -> None:
    there, here = (
        emulated.EmulatedDenoiser(
            emulated.profile("orin-64gb-maxn"), model_name="m", time_scale=1000.0
        )
        for _ in range(2)
    )
    one = drawing(width_px=512, height_px=512, steps=3)
    row = there.begin(one, b"")
    there.step([row])
    latents = there.export(row)
    assert latents.size_bytes == 16 * 64 * 64 * 2
    gone_on = here.resume(one, step=1, latents=latents)
    assert gone_on.steps_done == 1
    with pytest.raises(CheckpointRefused):
        here.resume(dataclasses.replace(one, width_px=256), step=1, latents=latents)

"""What a mask keeps, by hand; that it draws as diffusers does is test_sd3.py's."""

from __future__ import annotations

import io
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from edge_node.checkpoint import CheckpointRefused
from edge_node.domain import Drawing
from edge_node.worker import sampling
from edge_node.worker.inpainting import KeptPart, kept_share
from edge_node.worker.sd3 import Sd3Denoiser
from tests.worker.oracle import INIT_IMAGE, denoiser, drawing

SCHEDULE = sampling.flow_schedule({"shift": 3.0}, steps=4)


def png(alpha_HW: np.ndarray) -> bytes:
    picture = PillowImage.new("RGB", alpha_HW.shape[::-1], "red")
    picture.putalpha(PillowImage.fromarray(alpha_HW.astype(np.uint8)))
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def test_a_place_of_the_latent_is_kept_as_far_as_its_pixels_are() -> None:
    alpha_HW = np.zeros((8, 12))
    alpha_HW[:, :4] = 255  # whole
    alpha_HW[:4, 4:6] = 255  # half of one
    alpha_HW[4:, 8:] = 51  # feathered
    share_1HW = kept_share(png(alpha_HW), scale_px=4)
    assert share_1HW[0].tolist() == [
        pytest.approx([1.0, 0.5, 0.0]),
        pytest.approx([1.0, 0.0, 0.2]),
    ]


def test_what_is_kept_is_put_back_with_the_noise_of_its_step() -> None:
    kept = KeptPart(
        share_1HW=torch.tensor([[[1.0, 0.25, 0.0]]]),
        clean_CHW=torch.full((2, 1, 3), 8.0),
        noise_CHW=torch.full((2, 1, 3), -4.0),
    )
    latent_CHW = torch.full((2, 1, 3), 100.0)
    for step in range(SCHEDULE.steps + 1):
        sigma = float(SCHEDULE.sigma_S[step])
        then = sigma * -4.0 + (1 - sigma) * 8.0
        put_CHW = kept.put_back(latent_CHW, schedule=SCHEDULE, step=step)
        for channel in put_CHW:
            assert channel[0].tolist() == pytest.approx([then, 0.25 * then + 75.0, 100.0])
    assert float(SCHEDULE.sigma_S[SCHEDULE.steps]) == 0.0, "after the last step it is clean"


@pytest.fixture(scope="module")
def exact(random_sd3_folder: pathlib.Path) -> Sd3Denoiser:
    return denoiser(random_sd3_folder, "float64")


def half_kept(one: Drawing, seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    shape = (one.height_px, one.width_px, 3)
    picture = PillowImage.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
    alpha_HW = np.zeros(shape[:2], dtype=np.uint8)
    alpha_HW[:, : one.width_px // 2] = 255
    picture.putalpha(PillowImage.fromarray(alpha_HW))
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def test_what_is_kept_ends_as_it_was_and_the_rest_does_not(exact: Sd3Denoiser) -> None:
    one = drawing(init_image_sha256=INIT_IMAGE, strength=1.0, masked=True)
    row = exact.begin(one, half_kept(one))
    assert row.kept is not None
    for step in range(one.steps):
        exact.step([row])
        middle = row.latent_CHW.shape[2] // 2
        # What is kept, in previews too, from the first step on.
        shown_CHW, clean_CHW = row.clean_CHW[..., :middle], row.kept.clean_CHW[..., :middle]
        assert torch.equal(shown_CHW, clean_CHW), step
        assert not torch.equal(row.clean_CHW[..., middle:], row.kept.clean_CHW[..., middle:])
    assert torch.equal(row.latent_CHW[..., :middle], row.kept.clean_CHW[..., :middle])


def test_the_prompt_changes_what_is_drawn_anew_alone(exact: Sd3Denoiser) -> None:
    latents = []
    for prompt in ("a red circle", "a blue star"):
        one = drawing(
            prompt=prompt, init_image_sha256=INIT_IMAGE, strength=1.0, masked=True, steps=3
        )
        row = exact.begin(one, half_kept(one))
        for _ in range(one.steps):
            exact.step([row])
        latents.append(row.latent_CHW)
    differs_HW = (latents[0] - latents[1]).abs().sum(0) > 0
    middle = differs_HW.shape[1] // 2
    assert not differs_HW[:, :middle].any()
    assert differs_HW[:, middle:].all()


def test_it_does_not_travel_without_its_init_image(exact: Sd3Denoiser) -> None:
    one = drawing(init_image_sha256=INIT_IMAGE, strength=1.0, masked=True)
    row = exact.begin(one, half_kept(one))
    exact.step([row])
    assert exact.export(row) is None
    plain = exact.begin(drawing(), b"")
    exact.step([plain])
    latents = exact.export(plain)
    assert latents is not None
    with pytest.raises(CheckpointRefused, match="mask"):
        exact.resume(one, step=1, latents=latents)

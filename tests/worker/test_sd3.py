"""The worker's drawings against diffusers' own pipelines, and mixed batches against lone rows."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from edge_node.domain import Drawing
from edge_node.errors import InvalidRequest, NotFinite
from edge_node.worker import tiny_sd3, torch_device
from edge_node.worker.approximations import Approximations
from edge_node.worker.denoiser import ModelUnusable
from edge_node.worker.sd3 import Sd3Denoiser
from edge_node.worker.sd3_row import Sd3Row
from tests.worker.oracle import INIT_IMAGE, Pipelines, alone, denoiser, drawing, init_image

pytestmark = pytest.mark.model

SHIPPED = {"width_px": 64, "height_px": 64, "steps": 4}
DRAWINGS = (
    drawing(),
    drawing(negative_prompt="blue", seed=2**63 + 11, steps=9, guidance_scale=2.5),
    drawing(prompt="green", guidance_scale=1.0, steps=4),
    drawing(prompt="", guidance_scale=0.0, steps=1),
    drawing(prompt="a wide picture, " * 30, width_px=48, height_px=16, steps=3),
    drawing(init_image_sha256=INIT_IMAGE, strength=0.6, steps=7),
    drawing(init_image_sha256=INIT_IMAGE, strength=1.0, steps=3, guidance_scale=12.0),
    drawing(init_image_sha256=INIT_IMAGE, strength=1.0, masked=True),
    drawing(init_image_sha256=INIT_IMAGE, strength=0.6, masked=True, steps=7, guidance_scale=1.0),
    drawing(init_image_sha256=INIT_IMAGE, strength=0.15, steps=10, guidance_scale=1.0, seed=3),
)


@pytest.fixture(scope="module")
def exact(random_sd3_folder: pathlib.Path) -> Sd3Denoiser:
    return denoiser(random_sd3_folder, "float64")


@pytest.fixture(scope="module")
def oracle(random_sd3_folder: pathlib.Path) -> Pipelines:
    return Pipelines(random_sd3_folder, torch.float64, unrounded=True)


@pytest.mark.parametrize("one", DRAWINGS)
def test_latents_equal_the_pipelines_in_float64(
    oracle: Pipelines, exact: Sd3Denoiser, one: Drawing
) -> None:
    latent_CHW = alone(exact, one).latent_CHW
    assert (latent_CHW - oracle.latent(one)).abs().max() <= 1e-9


def test_images_equal_the_pipelines_in_float32(random_sd3_folder: pathlib.Path) -> None:
    pipe = Pipelines(random_sd3_folder, torch.float32, unrounded=False)
    worker = denoiser(random_sd3_folder, "float32")
    for one in DRAWINGS:
        ours = np.asarray(worker.picture(alone(worker, one)), dtype=int)
        assert np.abs(ours - pipe.picture(one)).max() <= 1


def test_the_shipped_model_draws_as_the_pipeline_does() -> None:
    folder = tiny_sd3.model_folder()
    pipe = Pipelines(folder, torch.float32, unrounded=False)
    worker = denoiser(folder, "float32")
    one = drawing(prompt="a large red circle on a blue background", **SHIPPED)
    ours = np.asarray(worker.picture(alone(worker, one)), dtype=int)
    assert np.abs(ours - pipe.picture(one)).max() <= 1


def test_every_step_in_float32_is_as_the_unfolded_one(random_sd3_folder: pathlib.Path) -> None:
    """From equal inputs, so that what is judged is one step's rounding and not its growth."""
    worker = denoiser(random_sd3_folder, "float32")
    transformer = worker.transformer
    one = drawing(steps=8, guidance_scale=7.0)
    row = worker.begin(one, b"")
    for step in range(one.steps):
        before_CHW = row.latent_CHW
        worker.step([row])
        contexts_BTJ = torch.stack(
            [worker.conditions.clip_tokens(prompt)[0] for prompt in row.prompts]
        )
        with torch.inference_mode():
            velocity_BCHW = transformer(
                hidden_states=before_CHW.expand(2, -1, -1, -1),
                timestep=row.schedule.timestep_S[step].expand(2),
                encoder_hidden_states=torch.nn.functional.pad(contexts_BTJ, (0, 0, 0, 256)),
                pooled_projections=torch.stack(
                    [worker.conditions.encoded(prompt).pooled_P for prompt in row.prompts]
                ),
                return_dict=False,
            )[0]
        velocity_CHW = velocity_BCHW[0] + 7.0 * (velocity_BCHW[1] - velocity_BCHW[0])
        change = row.schedule.sigma_S[step + 1] - row.schedule.sigma_S[step]
        expected_CHW = before_CHW + change * velocity_CHW
        error = (row.latent_CHW - expected_CHW).abs().max() / expected_CHW.abs().max()
        assert error <= 1e-5


def test_the_papers_context_is_the_clip_tokens_alone(random_sd3_folder: pathlib.Path) -> None:
    worker = denoiser(random_sd3_folder, "float64", context_mode="paper")
    one = drawing(guidance_scale=1.0, steps=1)
    row = worker.begin(one, b"")
    before_CHW = row.latent_CHW
    worker.step([row])
    with torch.inference_mode():
        velocity_CHW = worker.transformer(
            hidden_states=before_CHW[None],
            timestep=row.schedule.timestep_S[:1],
            encoder_hidden_states=worker.conditions.clip_tokens(one.prompt)[0][None],
            pooled_projections=worker.conditions.encoded(one.prompt).pooled_P[None],
            return_dict=False,
        )[0][0]
    assert torch.equal(row.schedule.sigma_S[1:], torch.zeros(1))
    expected_CHW = before_CHW - row.schedule.sigma_S[0] * velocity_CHW
    assert (row.latent_CHW - expected_CHW).abs().max() <= 1e-12


def run_joining_and_leaving(
    worker: Sd3Denoiser, drawings: Sequence[Drawing], joins_at: Sequence[int]
) -> list[Sd3Row]:
    rows = [worker.begin(one, init_image(one)) for one in drawings]
    ends_at = [at + one.denoising_steps for at, one in zip(joins_at, drawings, strict=True)]
    for tick in range(max(ends_at)):
        worker.step(
            [
                row
                for row, begins, ends in zip(rows, joins_at, ends_at, strict=True)
                if begins <= tick < ends
            ]
        )
    return rows


def test_rows_do_not_depend_on_their_batch_mates(exact: Sd3Denoiser) -> None:
    drawings = [
        drawing(seed=1, steps=7, guidance_scale=5.0),
        drawing(seed=2, steps=3, guidance_scale=1.0, prompt="blue"),
        drawing(seed=3, steps=11, guidance_scale=7.5, negative_prompt="red"),
        drawing(seed=4, steps=5, guidance_scale=1.5, init_image_sha256=INIT_IMAGE, strength=0.8),
    ]
    mixed = run_joining_and_leaving(exact, drawings, joins_at=(0, 2, 1, 5))
    for one, row in zip(drawings, mixed, strict=True):
        assert (alone(exact, one).latent_CHW - row.latent_CHW).abs().max() <= 1e-9


def test_a_preview_shows_what_the_picture_will_be() -> None:
    worker = denoiser(tiny_sd3.model_folder(), "float32")
    one = drawing(prompt="a large red circle on a blue background", **{**SHIPPED, "steps": 12})
    row = worker.begin(one, b"")
    for _ in range(one.steps - 1):
        worker.step([row])
    preview = np.asarray(worker.picture(row), dtype=float)
    worker.step([row])
    picture = np.asarray(worker.picture(row), dtype=float)
    assert preview.shape == picture.shape == (64, 64, 3)
    # A latent cell is 4 pixels wide here: finer than that a linear preview knows nothing.
    cells, expected = (one.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3)) for one in (preview, picture))
    assert np.corrcoef(cells.ravel(), expected.ravel())[0, 1] > 0.9
    assert np.abs(cells - expected).mean() < 25


def test_a_clean_estimate_ends_as_the_latent(exact: Sd3Denoiser) -> None:
    row = alone(exact, drawing(steps=5))
    assert torch.equal(row.clean_CHW, row.latent_CHW)


def test_seed_decides_and_nothing_else_is_random(exact: Sd3Denoiser) -> None:
    first, again = (alone(exact, drawing(seed=5)).latent_CHW for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, alone(exact, drawing(seed=6)).latent_CHW)


def test_calibration_tells_costs_of_this_model(random_sd3_folder: pathlib.Path) -> None:
    calibration = denoiser(random_sd3_folder, "float32").calibrate()
    assert calibration.capacity > 0
    assert calibration.work_model.reference_px == 32
    assert calibration.work_model.fixed_steps > 0
    assert 0 < calibration.work_model.unguided_ratio <= 1
    assert calibration.work_model.init_image_steps > 0
    assert calibration.row_bytes > 0


def test_numbers_that_are_not_finite_stop_the_start(random_sd3_folder: pathlib.Path) -> None:
    worker = denoiser(random_sd3_folder, "float32")
    with torch.no_grad():
        worker.transformer.proj_out.bias[0] = float("nan")
    with pytest.raises(ModelUnusable, match=r"not finite: choose another --dtype"):
        worker.calibrate()


def overflowing(worker: Sd3Denoiser, factor: float) -> Sd3Denoiser:
    """The VAE's first activations are beyond float16, which ends at 65504."""
    with torch.no_grad():
        worker._vae.decoder.conv_in.weight.mul_(factor)
    return worker


def test_a_decoding_that_overflows_is_done_again_in_float32() -> None:
    worker = denoiser(tiny_sd3.model_folder(), "float16")
    row = alone(worker, drawing(**SHIPPED))
    usual = np.asarray(worker.picture(row), dtype=float)
    # Group normalization takes the factor out again, where it can be computed at all.
    again = np.asarray(overflowing(worker, 6e4).picture(row), dtype=float)
    assert again.std() > 1.0
    assert np.abs(again - usual).mean() < 40.0


@pytest.mark.parametrize("where", ["latent", "pixels"])
def test_what_is_no_picture_fails_and_is_never_black(where: str) -> None:
    worker = denoiser(tiny_sd3.model_folder(), "float16")
    row = alone(worker, drawing(**SHIPPED))
    if where == "latent":
        row.latent_CHW = row.latent_CHW * float("nan")
    else:
        with torch.no_grad():
            worker._vae.decoder.conv_out.bias[0] = float("inf")
    with pytest.raises(NotFinite, match="is not finite"):
        worker.picture(row)


def test_a_decoding_that_is_not_finite_stops_the_start(random_sd3_folder: pathlib.Path) -> None:
    worker = denoiser(random_sd3_folder, "float32")
    with torch.no_grad():
        worker._vae.decoder.conv_out.bias[0] = float("inf")
    with pytest.raises(ModelUnusable, match=r"an image decoded in .* choose another --dtype"):
        worker.calibrate()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_wanted_and_gone_is_no_cpu() -> None:
    assert torch_device.wanted("cpu") == torch_device.wanted("auto") == torch.device("cpu")
    with pytest.raises(ModelUnusable, match="device = cuda, and torch finds no GPU") as lost:
        torch_device.wanted("cuda")
    assert lost.value.fault == "gpu_lost"


def test_an_init_image_of_another_size_is_refused(exact: Sd3Denoiser) -> None:
    one = drawing(init_image_sha256=INIT_IMAGE, strength=0.5)
    other = drawing(init_image_sha256=INIT_IMAGE, width_px=48)
    with pytest.raises(InvalidRequest, match=r"init image is \(48, 32\)"):
        exact.begin(one, init_image(other))


def test_choices_that_change_pictures_change_the_fingerprint(
    random_sd3_folder: pathlib.Path,
) -> None:
    choices: tuple[dict[str, Any], ...] = (
        {},
        {"context_mode": "paper"},
        {"approximations": Approximations(step_cache=0.1)},
        {"approximations": Approximations(guidance_interval=(0.2, 0.9))},
    )
    workers = [denoiser(random_sd3_folder, "float32", **choice) for choice in choices]
    assert len({worker.load().fingerprint for worker in workers}) == len(choices)


def test_a_guidance_interval_guides_only_inside(random_sd3_folder: pathlib.Path) -> None:
    everywhere, nowhere = (
        denoiser(
            random_sd3_folder, "float64", approximations=Approximations(guidance_interval=bounds)
        )
        for bounds in ((0.0, 1.0), (0.0, 1e-6))
    )
    exact = denoiser(random_sd3_folder, "float64")
    guided, unguided = drawing(), drawing(guidance_scale=1.0)
    same = alone(everywhere, guided).latent_CHW - alone(exact, guided).latent_CHW
    assert same.abs().max() <= 1e-12
    other = alone(nowhere, guided).latent_CHW - alone(exact, unguided).latent_CHW
    assert other.abs().max() <= 1e-12


def test_a_step_cache_computes_fewer_steps_and_stays_near(
    random_sd3_folder: pathlib.Path,
) -> None:
    exact = denoiser(random_sd3_folder, "float32")
    cached = denoiser(random_sd3_folder, "float32", approximations=Approximations(step_cache=0.9))
    one = drawing(steps=16)
    calls = []
    cached.transformer.pos_embed.register_forward_hook(lambda *_: calls.append(1))
    latent_CHW = alone(cached, one).latent_CHW
    assert len(calls) < one.steps
    expected_CHW = alone(exact, one).latent_CHW
    assert (latent_CHW - expected_CHW).abs().mean() < 0.5 * expected_CHW.abs().mean()


LONG = "a red circle on the left of a blue square " * 20


@pytest.fixture(scope="module")
def chunking(random_sd3_folder: pathlib.Path) -> Sd3Denoiser:
    return denoiser(random_sd3_folder, "float64", long_prompts="chunks")


def test_a_short_prompt_is_drawn_to_the_same_bit_with_and_without_chunks(
    exact: Sd3Denoiser, chunking: Sd3Denoiser
) -> None:
    one = drawing(guidance_scale=5.0)
    assert torch.equal(alone(chunking, one).latent_CHW, alone(exact, one).latent_CHW)


def test_a_long_prompt_is_taken_in_chunks_or_cut(exact: Sd3Denoiser, chunking: Sd3Denoiser) -> None:
    counted = exact.conditions.prompt_tokens(LONG)
    assert (counted.drawn, counted.cut) == (75, counted.counted - 75)
    assert chunking.conditions.prompt_tokens(LONG) == (counted.counted, min(counted.counted, 600))
    chunks = chunking.conditions.chunks(["", LONG])
    assert chunks == min(8, -(-counted.counted // 75)) > 2
    assert exact.conditions.chunks([LONG]) == 1
    with torch.inference_mode():
        context_TJ, pooled_P = chunking.conditions.clip_tokens(LONG, chunks)
        first_TJ, first_P = exact.conditions.clip_tokens(LONG)
        empty_TJ, _ = exact.conditions.clip_tokens("")
        padded_TJ, _ = chunking.conditions.clip_tokens("", chunks)
    # Each piece as a prompt by itself; the first is what is left of a prompt that is cut.
    assert torch.allclose(context_TJ[:77], first_TJ)
    assert torch.allclose(pooled_P, first_P)
    assert len(context_TJ) == 77 * chunks
    assert not torch.allclose(context_TJ[77:154], first_TJ)
    assert torch.allclose(padded_TJ, empty_TJ.repeat(chunks, 1))


def test_drawings_of_unlike_length_share_steps_and_come_out_as_alone(
    chunking: Sd3Denoiser,
) -> None:
    wanted = [
        drawing(prompt=LONG, guidance_scale=5.0, seed=1),
        drawing(guidance_scale=5.0, seed=2),
        drawing(prompt=LONG, guidance_scale=1.0, seed=3),
    ]
    rows = [chunking.begin(one, b"") for one in wanted]
    for _ in range(wanted[0].steps):
        chunking.step(rows)
    for one, row in zip(wanted, rows, strict=True):
        assert torch.allclose(row.latent_CHW, alone(chunking, one).latent_CHW, atol=1e-9)
    # Beyond what a prompt that is cut is left with.
    other = drawing(prompt=f"{LONG[:300]} a star {LONG[308:]}", guidance_scale=1.0, seed=3)
    assert not torch.allclose(alone(chunking, other).latent_CHW, rows[2].latent_CHW)


def test_chunks_are_named_in_images_and_told_apart(
    exact: Sd3Denoiser, chunking: Sd3Denoiser
) -> None:
    cut, chunked = exact.load(), chunking.load()
    assert (cut.approximations, chunked.approximations) == ((), ("long_prompts=chunks",))
    assert cut.fingerprint != chunked.fingerprint

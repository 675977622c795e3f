"""The worker's drawings against diffusers' own pipeline, and mixed batches against lone rows."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import diffusers
import numpy as np
import pytest
import torch

from edge_node.clock import SystemClock
from edge_node.domain import Drawing
from edge_node.worker import tiny_sd3
from edge_node.worker.model_folder import check_folder, fingerprint
from edge_node.worker.sd3 import Sd3Denoiser, Sd3Row
from edge_node.worker.step_engine import ModelUnusable

pytestmark = pytest.mark.model


class UnroundedScheduler(diffusers.FlowMatchEulerDiscreteScheduler):
    """diffusers rounds every sample to float32 between steps, which hides float64 differences."""

    def step(self, model_output, timestep, sample, return_dict=True, **_):
        if self.step_index is None:
            self._init_step_index(timestep)
        change = self.sigmas[self.step_index + 1] - self.sigmas[self.step_index]
        self._step_index += 1
        return (sample + change * model_output,)


def drawing(**changes: object) -> Drawing:
    base = {
        "prompt": "a red circle on the left",
        "width_px": 32,
        "height_px": 32,
        "steps": 6,
        "guidance_scale": 5.0,
        "seed": 1,
        "model": "",
    }
    return Drawing(**{**base, **changes})


def denoiser(folder: pathlib.Path, dtype_name: str) -> Sd3Denoiser:
    loaded = Sd3Denoiser(folder, clock=SystemClock(), dtype_name=dtype_name)
    loaded.load()
    return loaded


@pytest.fixture(scope="module")
def exact(random_sd3_folder: pathlib.Path) -> Sd3Denoiser:
    return denoiser(random_sd3_folder, "float64")


def pipeline(folder: pathlib.Path, dtype: torch.dtype, scheduler_class: type) -> object:
    pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(
        folder,
        text_encoder_3=None,
        tokenizer_3=None,
        dtype=dtype,
        local_files_only=True,
        scheduler=scheduler_class.from_pretrained(folder, subfolder="scheduler"),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def by_pipeline(pipe: object, one: Drawing, output_type: str) -> object:
    return pipe(
        prompt=one.prompt,
        negative_prompt=one.negative_prompt,
        width=one.width_px,
        height=one.height_px,
        num_inference_steps=one.steps,
        guidance_scale=one.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(one.seed),
        output_type=output_type,
    ).images[0]


def alone(worker: Sd3Denoiser, one: Drawing) -> Sd3Row:
    row = worker.begin(one, b"")
    for _ in range(one.steps):
        worker.step([row])
    return row


DRAWINGS = (
    drawing(),
    drawing(negative_prompt="blue", seed=2**63 + 11, steps=9, guidance_scale=2.5),
    drawing(prompt="green", guidance_scale=1.0, steps=4),
    drawing(prompt="", guidance_scale=0.0, steps=1),
    drawing(prompt="a wide picture, " * 30, width_px=48, height_px=16, steps=3),
)


@pytest.mark.parametrize("one", DRAWINGS)
def test_latents_equal_the_pipelines_in_float64(
    random_sd3_folder: pathlib.Path, exact: Sd3Denoiser, one: Drawing
) -> None:
    pipe = pipeline(random_sd3_folder, torch.float64, UnroundedScheduler)
    expected_CHW = by_pipeline(pipe, one, "latent")
    latent_CHW = alone(exact, one).latent_CHW
    assert (latent_CHW - expected_CHW).abs().max() <= 1e-9


def test_images_equal_the_pipelines_in_float32(random_sd3_folder: pathlib.Path) -> None:
    pipe = pipeline(random_sd3_folder, torch.float32, diffusers.FlowMatchEulerDiscreteScheduler)
    worker = denoiser(random_sd3_folder, "float32")
    for one in DRAWINGS:
        expected = np.asarray(by_pipeline(pipe, one, "pil"), dtype=int)
        ours = np.asarray(worker.picture(alone(worker, one)), dtype=int)
        assert ours.shape == expected.shape
        assert np.abs(ours - expected).max() <= 1


def test_the_shipped_model_draws_as_the_pipeline_does() -> None:
    folder = tiny_sd3.model_folder()
    if not (folder / "model_index.json").is_file():
        pytest.skip("the tiny SD3 is not trained in this checkout")
    pipe = pipeline(folder, torch.float32, diffusers.FlowMatchEulerDiscreteScheduler)
    worker = denoiser(folder, "float32")
    one = drawing(prompt="a large red circle on a blue background", **SHIPPED)
    ours = np.asarray(worker.picture(alone(worker, one)), dtype=int)
    assert np.abs(ours - np.asarray(by_pipeline(pipe, one, "pil"), dtype=int)).max() <= 1


SHIPPED = {"width_px": 64, "height_px": 64, "steps": 4}


def run_joining_and_leaving(
    worker: Sd3Denoiser, drawings: Sequence[Drawing], joins_at: Sequence[int]
) -> list[Sd3Row]:
    rows = [worker.begin(one, b"") for one in drawings]
    for tick in range(max(at + one.steps for at, one in zip(joins_at, drawings, strict=True))):
        batch = [
            row
            for row, one, at in zip(rows, drawings, joins_at, strict=True)
            if at <= tick < at + one.steps
        ]
        worker.step(batch)
    return rows


def test_rows_do_not_depend_on_their_batch_mates(exact: Sd3Denoiser) -> None:
    drawings = [
        drawing(seed=1, steps=7, guidance_scale=5.0),
        drawing(seed=2, steps=3, guidance_scale=1.0, prompt="blue"),
        drawing(seed=3, steps=11, guidance_scale=7.5, negative_prompt="red"),
        drawing(seed=4, steps=5, guidance_scale=1.5, prompt="a square"),
    ]
    mixed = run_joining_and_leaving(exact, drawings, joins_at=(0, 2, 1, 5))
    for one, row in zip(drawings, mixed, strict=True):
        assert (alone(exact, one).latent_CHW - row.latent_CHW).abs().max() <= 1e-9


def test_a_clean_estimate_ends_as_the_latent(exact: Sd3Denoiser) -> None:
    row = alone(exact, drawing(steps=5))
    assert torch.equal(row.clean_CHW, row.latent_CHW)
    halfway = exact.begin(drawing(steps=5), b"")
    exact.step([halfway])
    assert exact.picture(halfway).size == (32, 32)


def test_seed_decides_and_nothing_else_is_random(exact: Sd3Denoiser) -> None:
    first, again = (alone(exact, drawing(seed=5)).latent_CHW for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, alone(exact, drawing(seed=6)).latent_CHW)


def test_calibration_tells_costs_of_this_model(random_sd3_folder: pathlib.Path) -> None:
    worker = denoiser(random_sd3_folder, "float32")
    calibration = worker.calibrate()
    assert calibration.capacity > 0
    assert calibration.work_model.reference_px == 32
    assert calibration.work_model.fixed_steps > 0
    assert 0 < calibration.work_model.unguided_ratio <= 1


def test_fingerprint_follows_weights_not_place(
    random_sd3_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    copied = _copy(random_sd3_folder, tmp_path / "copy")
    assert fingerprint(copied) == fingerprint(random_sd3_folder)
    weights_path = next((copied / "vae").glob("*.safetensors"))
    content = bytearray(weights_path.read_bytes())
    content[-1] ^= 1
    weights_path.write_bytes(content)
    assert fingerprint(copied) != fingerprint(random_sd3_folder)


def test_a_truncated_copy_is_named(random_sd3_folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copied = _copy(random_sd3_folder, tmp_path / "copy")
    weights_path = next((copied / "transformer").glob("*.safetensors"))
    weights_path.write_bytes(weights_path.read_bytes()[:-100])
    with pytest.raises(ModelUnusable, match=r"transformer.*incomplete, copy it again"):
        check_folder(copied)
    weights_path.write_bytes(b"\x10")
    with pytest.raises(ModelUnusable, match="copy it again"):
        check_folder(copied)


def test_a_wrong_folder_says_what_to_do(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ModelUnusable, match="does not exist: point --model at"):
        check_folder(tmp_path / "nothing")
    with pytest.raises(ModelUnusable, match=r"has no model_index\.json"):
        check_folder(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ModelUnusable, match="holds a FluxPipeline"):
        check_folder(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    with pytest.raises(ModelUnusable, match="lacks scheduler"):
        check_folder(tmp_path)


def _copy(folder: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    import shutil

    return pathlib.Path(shutil.copytree(folder, target))

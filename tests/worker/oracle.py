"""diffusers' own pipelines as the judges of ours, and the small things that tests of both need."""

from __future__ import annotations

import functools
import io
import pathlib
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image as PillowImage
from PIL import ImageOps

from edge_node.clock import SystemClock
from edge_node.domain import Drawing
from edge_node.worker import model_files, sd3_parts
from edge_node.worker.sd3 import Sd3Denoiser, Sd3Options
from edge_node.worker.sd3_row import Sd3Row

# Any name will do for the worker, which is handed the bytes; one says that there is an image.
INIT_IMAGE = "0" * 64
# Pixels of a side that the autoencoders of the tests make one of.
BLOCK_PX = 8


class UnroundedScheduler(diffusers.FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """diffusers rounds every sample to float32 between steps, which hides float64 differences."""

    def step(
        self, model_output: Any, timestep: Any, sample: Any, return_dict: bool = True, **_: Any
    ) -> tuple[Any]:
        if self.step_index is None:
            self._init_step_index(timestep)
        change = self.sigmas[self.step_index + 1] - self.sigmas[self.step_index]
        self._step_index += 1
        return (sample + change * model_output,)


def drawing(**changes: Any) -> Drawing:
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


def init_image(one: Drawing) -> bytes:
    """A PNG of the drawing's size, or nothing where it has no init image.

    A mask's edges are those of blocks of pixels that share a place of the latent.
    """
    if not one.init_image_sha256:
        return b""
    rng = np.random.default_rng(one.seed % 2**32)
    pixels_HW3 = rng.integers(0, 256, (one.height_px, one.width_px, 3), dtype=np.uint8)
    picture = PillowImage.fromarray(pixels_HW3)
    if one.masked:
        blocks = rng.integers(0, 2, (one.height_px // BLOCK_PX, one.width_px // BLOCK_PX))
        kept_HW = np.kron(blocks, np.full((BLOCK_PX, BLOCK_PX), 255)).astype(np.uint8)
        picture.putalpha(PillowImage.fromarray(kept_HW))
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()


def denoiser(folder: pathlib.Path, dtype_name: str, **options: Any) -> Sd3Denoiser:
    files = model_files.find(folder)
    loaded = Sd3Denoiser(
        lambda device, dtype: sd3_parts.load_parts(files, device=device, dtype=dtype),
        options=Sd3Options(model_name=folder.name, dtype_name=dtype_name, **options),
        clock=SystemClock(),
    )
    loaded.load()
    return loaded


def alone(worker: Sd3Denoiser, one: Drawing) -> Sd3Row:
    row = worker.begin(one, init_image(one))
    for _ in range(one.denoising_steps):
        worker.step([row])
    return row


class Pipelines:
    """StableDiffusion3Pipeline and its siblings that start from images, over the same modules."""

    def __init__(self, folder: pathlib.Path, dtype: torch.dtype, *, unrounded: bool) -> None:
        scheduler_class = (
            UnroundedScheduler if unrounded else diffusers.FlowMatchEulerDiscreteScheduler
        )
        self.text: Any = diffusers.StableDiffusion3Pipeline.from_pretrained(
            folder,
            text_encoder_3=None,
            tokenizer_3=None,
            dtype=dtype,
            local_files_only=True,
            scheduler=scheduler_class.from_pretrained(folder, subfolder="scheduler"),
        )
        self._image: Any = diffusers.StableDiffusion3Img2ImgPipeline(**self.text.components)
        self._inpaint: Any = diffusers.StableDiffusion3InpaintPipeline(**self.text.components)
        for pipe in (self.text, self._image, self._inpaint):
            pipe.set_progress_bar_config(disable=True)
        self.latent = functools.lru_cache(maxsize=4096)(self._latent)

    def picture(self, one: Drawing) -> np.ndarray:
        return np.asarray(self._run(one, "pil"), dtype=int)

    def _latent(self, one: Drawing) -> torch.Tensor:
        latent: torch.Tensor = self._run(one, "latent")
        return latent

    def _run(self, one: Drawing, output_type: str) -> Any:
        options: dict[str, Any] = {
            "prompt": one.prompt,
            "negative_prompt": one.negative_prompt,
            "width": one.width_px,
            "height": one.height_px,
            "num_inference_steps": one.steps,
            "guidance_scale": one.guidance_scale,
            "generator": torch.Generator("cpu").manual_seed(one.seed),
            "output_type": output_type,
        }
        if not one.init_image_sha256:
            return self.text(**options).images[0]
        picture = PillowImage.open(io.BytesIO(init_image(one)))
        if one.masked:
            anew = ImageOps.invert(picture.getchannel("A"))
            options |= {"mask_image": anew, "image": picture.convert("RGB")}
            options["output_type"] = "latent"
            latent = self._inpaint(**options, strength=one.strength).images[0]
            return latent if output_type == "latent" else self._decoded(latent)
        return self._image(**options, image=picture, strength=one.strength).images[0]

    def _decoded(self, latent: torch.Tensor) -> Any:
        """As its siblings do: diffusers 0.42's for masks forgets the autoencoder's shift."""
        vae = self.text.vae
        unscaled = latent[None] / vae.config.scaling_factor + vae.config.shift_factor
        with torch.inference_mode():
            decoded = vae.decode(unscaled, return_dict=False)[0]
        return self.text.image_processor.postprocess(decoded)[0]

"""Stable Diffusion 3 without its T5 encoder: the only module that imports diffusers.

Owns loading a diffusers folder, encoding prompts, calling the transformer and decoding latents.
It never reaches for a hub, and it keeps no queue: the step engine decides what is drawn when.
Latents and tensors are in the folder's own layout: B rows, C channels, H and W latent cells.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers
from PIL import Image as PillowImage

from edge_node.clock import Clock
from edge_node.domain import Drawing
from edge_node.worker import calibration, image_encoding, sampling
from edge_node.worker.model_folder import fingerprint
from edge_node.worker.prompt_cache import PromptCache
from edge_node.worker.step_engine import ModelFacts, ModelUnusable

# The reference size of work units is the model's own, but at most the one of design.md.
REFERENCE_PX_MAX = 512
# Sides up to this multiple of the model's own still give pictures worth having.
SIDE_RATIO_MAX = 1.5
# What clients are promised, whatever a model's own multiple is.
SIZE_PX_MULTIPLE = 16
STEPS_MAX = 100
PROMPT_CACHE_BYTES_MAX = 64 * 2**20
# diffusers' context without T5: the CLIP tokens and as many zero rows as T5 would have filled.
ZERO_ROWS = 256
# Widths and sizes that are not reached within it are left out.
CALIBRATION_BUDGET_S = 8.0
WIDTHS = (1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """context_TJ: 77 CLIP tokens padded to the joint width; pooled_P: both pooled outputs."""

    context_TJ: torch.Tensor
    pooled_P: torch.Tensor

    @property
    def size_bytes(self) -> int:
        """Memory held."""
        return self.context_TJ.nbytes + self.pooled_P.nbytes


@dataclass(kw_only=True)
class Sd3Row:
    """One drawing between two steps.

    Attributes:
        conditions: (negative and) positive prompt; two when guided, in the pipeline's order.
        schedule: noise levels of this row's own number of steps.
        guidance_scale: used when there are two conditions.
        latent_CHW: changes with every step.
        clean_CHW: estimate of the final latent; equals it after the last step.
        steps_done: index of the next step.
    """

    conditions: tuple[EncodedPrompt, ...]
    schedule: sampling.FlowSchedule
    guidance_scale: float
    latent_CHW: torch.Tensor
    clean_CHW: torch.Tensor
    steps_done: int = 0


class Sd3Denoiser:
    """Draws with the modules of a diffusers StableDiffusion3 folder."""

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        clock: Clock,
        model_name: str | None = None,
        dtype_name: str = "auto",
        pace_s: float = 0.0,
        rows_limit: int | None = None,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._model_name = model_name or folder.resolve().name
        self._dtype_name = dtype_name
        self._pace_s = pace_s
        self._rows_limit = rows_limit
        self._prompts: PromptCache[EncodedPrompt] = PromptCache(bytes_max=PROMPT_CACHE_BYTES_MAX)
        self._schedules: dict[int, sampling.FlowSchedule] = {}

    def load(self) -> ModelFacts:
        """Loads all parts and proves that the device computes."""
        self._device = _working_device()
        self._dtype = _dtype_for(self._device, self._dtype_name)
        self._load_parts()
        self._scale_px = 2 ** (len(self._vae.config.block_out_channels) - 1)
        config = self._transformer.config
        side_px = config.sample_size * self._scale_px
        position_px = config.pos_embed_max_size * config.patch_size * self._scale_px
        multiple_px = math.lcm(self._scale_px * config.patch_size, SIZE_PX_MULTIPLE)
        self._side_px = side_px
        self._reference_px = min(REFERENCE_PX_MAX, side_px)
        return ModelFacts(
            engine="sd3",
            model=self._model_name,
            fingerprint=fingerprint(self._folder),
            size_px_min=multiple_px,
            size_px_max=min(position_px, int(SIDE_RATIO_MAX * side_px))
            // multiple_px
            * multiple_px,
            size_px_multiple=multiple_px,
            steps_max=STEPS_MAX,
            device=_device_name(self._device),
        )

    def calibrate(self) -> calibration.Calibration:
        """Measures steps of several widths and sizes, and the fixed cost."""
        sizes_px = {self._side_px, self._reference_px // 2} - {self._reference_px}
        measurements = calibration.measure(
            self,
            finish=lambda row: image_encoding.encode(self.picture(row), image_format="png"),
            reference_px=self._reference_px,
            widths=[w for w in WIDTHS if self._rows_limit is None or w <= self._rows_limit],
            sizes_px=[(side, side) for side in sorted(sizes_px)],
            clock=self._clock,
            budget_s=CALIBRATION_BUDGET_S,
        )
        return calibration.calibrated(
            measurements, pace_s=self._pace_s, rows_limit=self._rows_limit
        )

    def begin(self, drawing: Drawing, init_image: bytes) -> Sd3Row:
        """Row with its prompts encoded and its noise drawn from its own seed."""
        conditions = [self._encoded(drawing.prompt)]
        if drawing.guidance_scale > 1.0:
            conditions.insert(0, self._encoded(drawing.negative_prompt))
        if drawing.steps not in self._schedules:
            self._schedules[drawing.steps] = sampling.flow_schedule(
                dict(self._scheduler.config), steps=drawing.steps
            )
        noise_CHW = sampling.initial_noise(
            (
                self._transformer.config.in_channels,
                drawing.height_px // self._scale_px,
                drawing.width_px // self._scale_px,
            ),
            seed=drawing.seed,
            dtype=self._dtype,
        ).to(self._device)
        return Sd3Row(
            conditions=tuple(conditions),
            schedule=self._schedules[drawing.steps],
            guidance_scale=drawing.guidance_scale,
            latent_CHW=noise_CHW,
            clean_CHW=noise_CHW,
        )

    @torch.inference_mode()
    def step(self, rows: Sequence[Sd3Row]) -> None:
        """One transformer call for all rows and their conditions, then each row's own update."""
        # Negative prompts first, as the pipeline does: a lone row is then the very same call.
        calls = [(row, row.conditions[0]) for row in rows if len(row.conditions) == 2]
        guided_rows = len(calls)
        calls += [(row, row.conditions[-1]) for row in rows]
        context_BTJ = torch.stack([condition.context_TJ for _, condition in calls])
        velocity_BCHW = self._transformer(
            hidden_states=torch.stack([row.latent_CHW for row, _ in calls]),
            timestep=torch.stack([row.schedule.timestep_S[row.steps_done] for row, _ in calls]).to(
                self._device
            ),
            encoder_hidden_states=torch.nn.functional.pad(context_BTJ, (0, 0, 0, ZERO_ROWS)),
            pooled_projections=torch.stack([condition.pooled_P for _, condition in calls]),
            return_dict=False,
        )[0]
        if self._device.type == "cuda":
            # An error of the kernels must surface here, where the rows are still untouched.
            torch.cuda.synchronize()
        unconditional = iter(velocity_BCHW[:guided_rows])
        for row, conditional_CHW in zip(rows, velocity_BCHW[guided_rows:], strict=True):
            velocity_CHW = conditional_CHW
            if len(row.conditions) == 2:
                velocity_CHW = sampling.guided(
                    next(unconditional), conditional_CHW, guidance_scale=row.guidance_scale
                )
            row.clean_CHW = sampling.clean_estimate(
                row.latent_CHW, velocity_CHW, schedule=row.schedule, step=row.steps_done
            )
            row.latent_CHW = sampling.euler_step(
                row.latent_CHW, velocity_CHW, schedule=row.schedule, step=row.steps_done
            )
            row.steps_done += 1

    @torch.inference_mode()
    def picture(self, row: Sd3Row) -> PillowImage.Image:
        """Decoded image: of the latent after the last step, of its clean estimate before."""
        finished = row.steps_done == row.schedule.steps
        latent_1CHW = (row.latent_CHW if finished else row.clean_CHW)[None]
        config = self._vae.config
        decoded_1CHW = self._vae.decode(
            latent_1CHW / config.scaling_factor + config.shift_factor, return_dict=False
        )[0]
        pixels_HWC = (decoded_1CHW[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).float().cpu()
        bytes_HWC = (pixels_HWC * 255).round().to(torch.uint8).contiguous()
        height_px, width_px, _ = bytes_HWC.shape
        return PillowImage.frombytes("RGB", (width_px, height_px), bytes_HWC.numpy().tobytes())

    # Prompts.

    def _encoded(self, prompt: str) -> EncodedPrompt:
        known = self._prompts.get(prompt)
        if known is None:
            known = self._encode(prompt)
            self._prompts.put(prompt, known, size_bytes=known.size_bytes)
        return known

    @torch.inference_mode()
    def _encode(self, prompt: str) -> EncodedPrompt:
        """Both CLIPs side by side, padded to the joint width, as StableDiffusion3Pipeline."""
        hidden_1TD, pooled_1D = [], []
        for tokenizer, encoder in self._clips:
            tokens = tokenizer(
                prompt,
                padding="max_length",
                max_length=self._clips[0][0].model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            output = encoder(tokens.input_ids.to(self._device), output_hidden_states=True)
            hidden_1TD.append(output.hidden_states[-2])
            pooled_1D.append(output[0])
        clip_TD = torch.cat(hidden_1TD, dim=-1)[0]
        width = self._transformer.config.joint_attention_dim
        return EncodedPrompt(
            context_TJ=torch.nn.functional.pad(clip_TD, (0, width - clip_TD.shape[-1])),
            pooled_P=torch.cat(pooled_1D, dim=-1)[0],
        )

    # Loading.

    def _load_parts(self) -> None:
        transformers.utils.logging.disable_progress_bar()
        diffusers.utils.logging.disable_progress_bar()
        self._scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(
            self._folder, subfolder="scheduler", local_files_only=True
        )
        unsupported = sampling.unsupported_settings(self._scheduler.config)
        if unsupported:
            raise ModelUnusable(
                f"the scheduler of {self._folder} sets {', '.join(unsupported)}, which this worker "
                "does not follow: use a model with plain flow-matching Euler steps"
            )
        self._transformer = self._loaded(diffusers.SD3Transformer2DModel, part="transformer")
        self._vae = self._loaded(diffusers.AutoencoderKL, part="vae")
        self._clips = [
            (
                transformers.CLIPTokenizer.from_pretrained(
                    self._folder / f"tokenizer{suffix}", local_files_only=True
                ),
                self._loaded(
                    transformers.CLIPTextModelWithProjection, part=f"text_encoder{suffix}"
                ),
            )
            for suffix in ("", "_2")
        ]

    def _loaded(self, module_class: Any, *, part: str) -> Any:
        # transformers renamed the option long before diffusers did.
        option = (
            "dtype" if issubclass(module_class, transformers.PreTrainedModel) else "torch_dtype"
        )
        module = module_class.from_pretrained(
            self._folder / part,
            **{option: self._dtype},
            local_files_only=True,
            use_safetensors=True,
        )
        return module.to(self._device, self._dtype).eval().requires_grad_(False)


def _working_device() -> torch.device:
    """The accelerator, if it really computes: `is_available` alone is no proof on a Jetson."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    try:
        torch.ones(2, device="cuda").sum().item()
    except Exception as error:
        raise ModelUnusable(
            f"the GPU is there but does not compute ({error}): check that the driver and this "
            "build of torch belong together"
        ) from error
    return torch.device("cuda")


def _dtype_for(device: torch.device, name: str) -> torch.dtype:
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"

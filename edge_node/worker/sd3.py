"""Stable Diffusion 3 without its T5 encoder, drawn step by step.

Owns the rows' arithmetic: what one denoising step of rows of mixed ages is, where a row begins,
and how its picture comes out. It keeps no queue (the step engine decides what is drawn when) and
loads nothing itself (sd3_parts does). Latents end in B rows, C channels, H and W latent cells.
"""

from __future__ import annotations

import dataclasses
import io
import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from PIL import Image as PillowImage

from edge_node.checkpoint import CheckpointRefused, Latents
from edge_node.clock import Clock
from edge_node.domain import Drawing, ModelFingerprint
from edge_node.errors import InvalidRequest, NotFinite
from edge_node.worker import (
    calibration,
    decoding,
    image_encoding,
    latent_bytes,
    latent_preview,
    memory_guard,
    sampling,
    sd3_parts,
    torch_device,
)
from edge_node.worker.approximations import CACHE_EDGE_STEPS, Approximations, served_fingerprint
from edge_node.worker.conditions import CHUNKS_MAX, Conditions
from edge_node.worker.denoiser import ModelFacts, ModelUnusable, Side
from edge_node.worker.inpainting import KeptPart, kept_share
from edge_node.worker.lora_fusing import FusedParts
from edge_node.worker.peak_memory import PeakBytes
from edge_node.worker.sd3_parts import Sd3Parts
from edge_node.worker.sd3_row import Sd3Row
from edge_node.worker.variants import Arrangement, ready_variant

# The reference size of work units is the model's own, but at most SD3-medium's.
REFERENCE_PX_MAX = 512
# Sides up to this multiple of the model's own still give pictures worth having.
SIDE_RATIO_MAX = 1.5
# What clients are promised, whatever a model's own multiple is.
SIZE_PX_MULTIPLE = 16
STEPS_MAX = 100
# Context rows of zeros: diffusers pads with as many as T5 would have filled; the paper's authors
# pass the CLIPs' 77 tokens alone.
ZERO_ROWS = {"sd3": 256, "paper": 0}
# Widths and sizes that are not reached within it are left out.
CALIBRATION_BUDGET_S = 8.0
WIDTHS = (1, 2, 4, 8)

ContextMode = Literal["sd3", "paper"]
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Sd3Options:
    """How a model is run.

    Attributes:
        model_name: to serve under.
        device: "cuda", "cpu", or "auto": a GPU where there is one.
        dtype_name: a torch dtype, or "auto": float16 on a GPU, float32 on a CPU.
        context_mode: "sd3" as diffusers draws, "paper" as the paper's authors did.
        long_prompts: "cut" as diffusers does, "chunks" as A1111 does.
        compiled: whether blocks are compiled and calls captured as CUDA graphs; None: on a GPU.
        approximations: lossy choices.
        pace_s, rows_limit: an operator's, for calibration.
        deterministic: a GPU computes the same each time.
    """

    model_name: str
    dtype_name: str = "auto"
    device: str = "auto"
    context_mode: ContextMode = "sd3"
    long_prompts: Literal["cut", "chunks"] = "cut"
    compiled: bool | None = None
    approximations: Approximations = field(default_factory=Approximations)
    pace_s: float = 0.0
    rows_limit: int | None = None
    deterministic: bool = False


class Sd3Denoiser:
    """Draws with the modules of an SD3 model."""

    def __init__(
        self,
        load_parts: Callable[[torch.device, torch.dtype], Sd3Parts],
        *,
        options: Sd3Options,
        clock: Clock,
    ) -> None:
        self._load_parts = load_parts
        self._options = options
        self._clock = clock
        self._schedules: dict[int, sampling.FlowSchedule] = {}

    # The Denoiser interface.

    def load(self) -> ModelFacts:
        """Loads all parts and proves that the device computes."""
        self._device = torch_device.wanted(self._options.device)
        self._dtype = torch_device.dtype_for(self._device, self._options.dtype_name)
        if self._options.deterministic:
            torch_device.repeat_itself(self._device)
        torch_device.prove_computing(self._device, self._dtype)
        parts = self._load_parts(self._device, self._dtype)
        unsupported = sampling.unsupported_settings(parts.scheduler_config)
        if unsupported:
            raise ModelUnusable(
                f"the model's scheduler sets {', '.join(unsupported)}, which this worker does not "
                "follow: use a model with plain flow-matching Euler steps"
            )
        self._scheduler_config = parts.scheduler_config
        self._vae = parts.vae
        self._channels = parts.transformer.config.in_channels
        self._scale_px = 2 ** (len(self._vae.config.block_out_channels) - 1)
        self._arrange(parts)
        return self._facts(parts)

    def calibrate(self) -> calibration.Calibration:
        """Proves a step finite, and measures steps of several widths and sizes, memory and c."""
        self._prove_finite()
        limit = self._options.rows_limit
        cuda = torch.cuda if self._device.type == "cuda" else None
        sizes_px = {self._side_px, self._reference_px // 2} - {self._reference_px}
        measurements = calibration.measure(
            self,
            finish=lambda row: image_encoding.encode(self.picture(row), image_format="png"),
            reference_px=self._reference_px,
            widths=[width for width in WIDTHS if limit is None or width <= limit],
            sizes_px=[(side, side) for side in sorted(sizes_px)],
            clock=self._clock,
            budget_s=CALIBRATION_BUDGET_S,
            watch=lambda: PeakBytes(cuda),
        )
        calibrated = calibration.calibrated(
            measurements, pace_s=self._options.pace_s, rows_limit=limit
        )
        init_image_steps = self._init_image_s() / measurements.guided_s[0][1]
        return dataclasses.replace(
            calibrated,
            work_model=dataclasses.replace(
                calibrated.work_model, init_image_steps=init_image_steps
            ),
        )

    @torch.inference_mode()
    def begin(self, drawing: Drawing, init_image: bytes) -> Sd3Row:
        """Row with its prompts encoded and its noise drawn from its own seed."""
        generator = sampling.noise_generator(drawing.seed)
        first_step = drawing.steps - drawing.denoising_steps
        clean_CHW = None
        if drawing.init_image_sha256:
            # Drawn from the generator before the noise, as StableDiffusion3Img2ImgPipeline does.
            clean_CHW = self._init_latent(_pixels(init_image, drawing=drawing), generator)
        latent_CHW = sampling.noise(
            self._shape_CHW(drawing), generator=generator, dtype=self._dtype
        ).to(self._device)
        row = self._row(drawing, latent_CHW, step=first_step)
        if clean_CHW is not None:
            row.latent_CHW = row.clean_CHW = sampling.noised(
                clean_CHW, latent_CHW, schedule=row.schedule, step=first_step
            )
        if clean_CHW is not None and drawing.masked:
            share_1HW = kept_share(init_image, scale_px=self._scale_px)
            row.kept = KeptPart(
                share_1HW=share_1HW.to(self._device, self._dtype),
                clean_CHW=clean_CHW,
                noise_CHW=latent_CHW,
            )
        return row

    @torch.inference_mode()
    def export(self, row: Sd3Row) -> Latents | None:
        """Its latent, and where steps are skipped what the next one may use again.

        None also where a mask keeps a part, which is made of the init image.
        """
        if row.kept is not None:
            return None
        if self._options.approximations.step_cache is None:
            return latent_bytes.to_latents(row.latent_CHW)
        return latent_bytes.to_latents(row.latent_CHW, row.velocity_CHW, change=row.change)

    @torch.inference_mode()
    def resume(self, drawing: Drawing, *, step: int, latents: Latents) -> Sd3Row:
        """Row with its prompts encoded, which goes on after `step` of its denoising steps."""
        if drawing.masked:
            raise CheckpointRefused("what its mask keeps is made of the init image")
        latent_CHW, velocity_CHW = latent_bytes.to_tensors(
            latents, shape_CHW=self._shape_CHW(drawing), dtype=self._dtype, device=self._device
        )
        done = drawing.steps - drawing.denoising_steps + step
        row = self._row(drawing, latent_CHW, step=done)
        if velocity_CHW is not None:
            row.velocity_CHW, row.change = velocity_CHW, latents.change
        return row

    @torch.inference_mode()
    def step(self, rows: Sequence[Sd3Row]) -> None:
        """One transformer call for all rows and their prompts, then each row's own update."""
        computed = [row for row in rows if not self._reuses_velocity(row)]
        velocities = self._giving_memory_back(lambda: self._velocities_by_call(computed))
        for row in rows:
            # Of a row that was not computed the change is unknown, so it will be next time.
            row.change = math.inf
        for row, velocity_CHW in zip(computed, velocities, strict=True):
            row.take(velocity_CHW, compare=self._compares)
        for row in rows:
            row.advance()

    # A guided step in two.

    @torch.inference_mode()
    def before_pair(self, row: Sd3Row) -> Latents | None:
        """The latent, where the next step is of two prompts and is computed."""
        if len(row.prompts) < 2 or not self._guides(row) or self._reuses_velocity(row):
            return None
        return latent_bytes.to_latents(row.latent_CHW)

    @torch.inference_mode()
    def assisting(self, drawing: Drawing, *, step: int, latents: Latents) -> Sd3Row:
        """Row of the negative prompt alone, before a step of a drawing that is drawn elsewhere."""
        latent_CHW, _ = latent_bytes.to_tensors(
            latents, shape_CHW=self._shape_CHW(drawing), dtype=self._dtype, device=self._device
        )
        done = drawing.steps - drawing.denoising_steps + step
        return self._row(drawing, latent_CHW, step=done, sides=("unconditional",))

    @torch.inference_mode()
    def velocity_of(self, row: Sd3Row, side: Side) -> Latents | None:
        """Velocity of the row at one of its prompts."""
        prompt = row.prompts[0] if side == "unconditional" else row.prompts[-1]
        velocity_1CHW = self._giving_memory_back(lambda: self._transformed([(row, prompt)]))
        return latent_bytes.to_latents(velocity_1CHW[0])

    @torch.inference_mode()
    def apply(self, row: Sd3Row, *, conditional: Latents, unconditional: Latents) -> None:
        """Guides and advances with velocities that were computed apart."""
        shape_CHW = tuple(row.latent_CHW.shape)
        (conditional_CHW, _), (unconditional_CHW, _) = (
            latent_bytes.to_tensors(
                one, shape_CHW=shape_CHW, dtype=self._dtype, device=self._device
            )
            for one in (conditional, unconditional)
        )
        velocity_CHW = sampling.guided(
            unconditional_CHW, conditional_CHW, guidance_scale=row.guidance_scale
        )
        row.take(velocity_CHW, compare=self._compares)
        row.advance()

    @torch.inference_mode()
    def picture(self, row: Sd3Row) -> PillowImage.Image:
        """Decoded image after the last step; before it, a linear preview of the clean estimate."""
        if row.step < row.schedule.steps:
            return self._preview.picture(row.clean_CHW, scale_px=self._scale_px)
        if self._device.type != "cuda":
            return self._decoder.picture(row.latent_CHW)
        # Beside the loop's steps, on a stream of this thread's own.
        aside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.default_stream())
        with torch.cuda.stream(aside):
            return self._decoder.picture(row.latent_CHW)

    # Rows.

    def _row(
        self,
        drawing: Drawing,
        latent_CHW: torch.Tensor,
        *,
        step: int,
        sides: Sequence[Side] = ("unconditional", "conditional"),
    ) -> Sd3Row:
        """A row before `step` of its schedule, with the prompts of its sides encoded."""
        guided = drawing.guidance_scale > 1.0
        prompts = (drawing.negative_prompt, drawing.prompt) if guided else (drawing.prompt,)
        schedule = self._schedule(drawing.steps)
        variant = self._variants.get(drawing.model, self._own)
        for prompt in prompts[: len(sides)]:
            variant.conditions.modulations(prompt, schedule)
        return Sd3Row(
            prompts=prompts,
            variant=variant,
            chunks=variant.conditions.chunks(prompts),
            schedule=schedule,
            guidance_scale=drawing.guidance_scale,
            latent_CHW=latent_CHW,
            clean_CHW=latent_CHW,
            step=step,
        )

    def _shape_CHW(self, drawing: Drawing) -> tuple[int, int, int]:
        height_px, width_px = drawing.height_px, drawing.width_px
        return self._channels, height_px // self._scale_px, width_px // self._scale_px

    # Steps.

    def _velocities_by_call(self, rows: Sequence[Sd3Row]) -> list[torch.Tensor]:
        """Of all rows; those of one variant and length of context share a call."""
        groups: dict[tuple[int, int], list[Sd3Row]] = {}
        for row in rows:
            groups.setdefault((id(row.variant), row.chunks), []).append(row)
        if len(groups) == 1:
            return self._velocities(rows)
        found: dict[int, torch.Tensor] = {}
        for group in groups.values():
            for row, velocity_CHW in zip(group, self._velocities(group), strict=True):
                # A replayed graph may overwrite what another has given.
                found[id(row)] = velocity_CHW.clone()
        return [found[id(row)] for row in rows]

    def _velocities(self, rows: Sequence[Sd3Row]) -> list[torch.Tensor]:
        guided = [len(row.prompts) == 2 and self._guides(row) for row in rows]
        # Negative prompts first, as the pipeline does: a lone row is then the very same call.
        calls = [(row, row.prompts[0]) for row, twice in zip(rows, guided, strict=True) if twice]
        guided_rows = len(calls)
        calls += [(row, row.prompts[-1]) for row in rows]
        velocity_BCHW = self._transformed(calls)
        unconditional = iter(velocity_BCHW[:guided_rows])
        velocities = []
        for row, twice, conditional_CHW in zip(
            rows, guided, velocity_BCHW[guided_rows:], strict=True
        ):
            velocity_CHW = conditional_CHW
            if twice:
                velocity_CHW = sampling.guided(
                    next(unconditional), conditional_CHW, guidance_scale=row.guidance_scale
                )
            velocities.append(velocity_CHW)
        return velocities

    def _transformed(self, calls: Sequence[tuple[Sd3Row, str]]) -> torch.Tensor:
        """Velocities of rows at prompts, which are of one variant, (B, C, H, W)."""
        variant = calls[0][0].variant
        velocity_BCHW = variant.call(
            torch.stack([row.latent_CHW for row, _ in calls]),
            torch.stack(
                [variant.conditions.encoded(prompt, row.chunks).context_KD for row, prompt in calls]
            ),
            torch.stack(
                [
                    variant.conditions.modulations(prompt, row.schedule)[row.step]
                    for row, prompt in calls
                ]
            ),
        )
        if self._device.type == "cuda":
            # An error of the kernels must surface here, where the rows are still untouched.
            torch.cuda.synchronize()
        return velocity_BCHW

    def _guides(self, row: Sd3Row) -> bool:
        return self._options.approximations.guides(float(row.schedule.sigma_S[row.step]))

    def _reuses_velocity(self, row: Sd3Row) -> bool:
        bound = self._options.approximations.step_cache
        inner = CACHE_EDGE_STEPS <= row.step < row.schedule.steps - CACHE_EDGE_STEPS
        return bound is not None and inner and row.change < bound

    @property
    def _compares(self) -> bool:
        return self._options.approximations.step_cache is not None

    def _schedule(self, steps: int) -> sampling.FlowSchedule:
        if steps not in self._schedules:
            self._schedules[steps] = sampling.flow_schedule(self._scheduler_config, steps=steps)
        return self._schedules[steps]

    def _giving_memory_back(self, call: Callable[[], Result]) -> Result:
        """What `call` gives; if memory runs out, as much of it is free as can be."""
        try:
            return call()
        except Exception as error:
            if memory_guard.is_out_of_memory(error):
                # Its frames hold the tensors that did not fit together.
                traceback.clear_frames(error.__traceback__)
                self._release()
            raise

    def _release(self) -> None:
        """What memory can be given back at once, when it has run out."""
        for variant in (self._own, *self._variants.values()):
            variant.release()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    # Pictures.

    def _init_latent(
        self, pixels_1CHW: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        """Latent of a picture; a draw from the encoder's posterior when there is a generator."""
        posterior = self._vae.encode(pixels_1CHW.to(self._device, self._dtype)).latent_dist
        latent_1CHW = posterior.mean
        if generator is not None:
            drawn = sampling.noise(tuple(latent_1CHW.shape), generator=generator, dtype=self._dtype)
            latent_1CHW = latent_1CHW + posterior.std * drawn.to(self._device)
        config = self._vae.config
        latent_CHW: torch.Tensor = (latent_1CHW[0] - config.shift_factor) * config.scaling_factor
        return latent_CHW

    # Loading and calibrating.

    @torch.inference_mode()
    def _arrange(self, parts: Sd3Parts) -> None:
        config = parts.transformer.config
        approximations = self._options.approximations
        decoder = self._vae
        if approximations.taesd3 is not None:
            decoder = sd3_parts.tiny_decoder(
                approximations.taesd3, device=self._device, dtype=self._dtype
            )
        self._decoder = decoding.Decoder(decoder, device=self._device, dtype=self._dtype)
        if approximations.int8_weights:
            if parts.variants:
                raise ModelUnusable(
                    "int8_weights and lora_folder do not go together, as variants share weights: "
                    "leave one of them out"
                )
            sd3_parts.quantize_linears(parts.transformer)
        on_gpu = self._device.type == "cuda"
        arrangement = Arrangement(
            zero_rows=ZERO_ROWS[self._options.context_mode],
            chunks_max=CHUNKS_MAX if self._options.long_prompts == "chunks" else 1,
            compiled=on_gpu if self._options.compiled is None else self._options.compiled,
            graphed=on_gpu,
        )
        self.transformer = parts.transformer
        self._own = ready_variant(parts.transformer, parts.clips, arrangement)
        self._variants = {
            self._named(one): ready_variant(one.transformer, one.clips, arrangement)
            for one in parts.variants
        }
        self._side_px = config.sample_size * self._scale_px
        self._reference_px = min(REFERENCE_PX_MAX, self._side_px)
        self._preview = latent_preview.fitted(
            lambda pictures_B3HW: self._init_latent(pictures_B3HW, None)[None],
            scale_px=self._scale_px,
            device=self._device,
            dtype=self._dtype,
        )

    @property
    def conditions(self) -> Conditions:
        """Of the model's own weights."""
        return self._own.conditions

    def _named(self, with_lora: FusedParts) -> str:
        return f"{self._options.model_name}+{with_lora.name}"

    def _served_fingerprint(self, weights: ModelFingerprint) -> ModelFingerprint:
        return served_fingerprint(
            weights,
            context_mode=self._options.context_mode,
            long_prompts=self._options.long_prompts,
            approximations=self._options.approximations,
        )

    @property
    def _choices(self) -> tuple[str, ...]:
        """All that makes pictures differ from diffusers', by name."""
        mode = self._options.context_mode
        own_context = () if mode == "sd3" else (f"context_mode={mode}",)
        own_length = ("long_prompts=chunks",) if self._options.long_prompts == "chunks" else ()
        return (*own_context, *own_length, *self._options.approximations.names)

    def _facts(self, parts: Sd3Parts) -> ModelFacts:
        config = parts.transformer.config
        position_px = config.pos_embed_max_size * config.patch_size * self._scale_px
        multiple_px = math.lcm(self._scale_px * config.patch_size, SIZE_PX_MULTIPLE)
        largest_px = min(position_px, int(SIDE_RATIO_MAX * self._side_px))
        return ModelFacts(
            engine="sd3",
            model=self._options.model_name,
            fingerprint=self._served_fingerprint(parts.fingerprint),
            variants=tuple(
                (self._named(one), self._served_fingerprint(one.fingerprint))
                for one in parts.variants
            ),
            size_px_min=multiple_px,
            size_px_max=largest_px // multiple_px * multiple_px,
            size_px_multiple=multiple_px,
            steps_max=STEPS_MAX,
            device=torch_device.name_of(self._device),
            approximations=self._choices,
            decodes_beside=self._device.type == "cuda" or torch_device.has_spare_core(),
            available_bytes=torch_device.available_bytes(self._device),
            prompt_tokens=self.conditions.prompt_tokens,
        )

    def _prove_finite(self) -> None:
        """A guided step of each variant and a decoding, whose numbers must be numbers."""
        side_px = self._reference_px
        another = (
            "choose another --dtype (bfloat16 has the range of float32), or copy the weights again"
        )
        for name in (*self._variants, ""):
            probe = Drawing(
                prompt="a first step",
                width_px=side_px,
                height_px=side_px,
                steps=1,
                guidance_scale=5.0,
                seed=0,
                model=name,
            )
            row = self.begin(probe, b"")
            self.step([row])
            if not bool(torch.isfinite(row.latent_CHW).all()):
                drawn = f", with {name}" if name else ""
                raise ModelUnusable(
                    f"a denoising step in {self._dtype} gave numbers that are not finite{drawn}: "
                    f"{another}"
                )
        try:
            self.picture(row)
        except NotFinite:
            raise ModelUnusable(
                f"an image decoded in {self._dtype} has numbers that are not finite: {another}"
            ) from None

    def _init_image_s(self) -> float:
        """Seconds to encode an init image of the reference size; the best of two."""
        side_px = self._reference_px
        pixels_1CHW = torch.zeros(1, 3, side_px, side_px)
        durations_s = []
        for _ in range(2):
            before_s = self._clock.now_s()
            self._init_latent(pixels_1CHW, None).cpu()
            durations_s.append(self._clock.now_s() - before_s)
        return min(durations_s)


def _pixels(init_image: bytes, *, drawing: Drawing) -> torch.Tensor:
    """Pixels from -1 to 1 in the arithmetic of diffusers' VaeImageProcessor, (1, 3, H, W)."""
    picture = PillowImage.open(io.BytesIO(init_image)).convert("RGB")
    wanted = (drawing.width_px, drawing.height_px)
    if picture.size != wanted:
        raise InvalidRequest(
            f"the init image is {picture.size} where the drawing is {wanted}", param="init_image"
        )
    pixels_HW3 = np.asarray(picture, dtype=np.float32) / 255.0
    return torch.from_numpy(pixels_HW3).permute(2, 0, 1)[None] * 2.0 - 1.0

"""An emulated device: takes the time that a profile says and returns a labelled placeholder.

Owns the profiles and where their numbers come from. Nothing here was measured on the devices it
names, every picture says EMULATED, and every description carries the profile's name. It must not
import torch: many of these workers share one machine. A time scale divides what the device would
take and nothing else: deadlines and the c0 of a promotion stay seconds of the wall clock.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import pathlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from edge_node.checkpoint import CheckpointRefused, Latents
from edge_node.domain import Drawing, ModelFingerprint
from edge_node.worker import calibration
from edge_node.worker.denoiser import ModelFacts, Side

REFERENCE_PX = 512
SIZE_PX_MIN, SIZE_PX_MAX, SIZE_PX_MULTIPLE = 256, 1024, 16
STEPS_MAX = 100
# Of SD3-medium: channels of its latent, and pixels per side of each of its cells.
LATENT_CHANNELS, LATENT_PX = 16, 8

# Counted from SD3-medium's layers, docs/facts.md: one guided 512x512 step with the zero rows of the
# context folded, and one VAE decode of 512x512.
GUIDED_STEP_TFLOP = 3.435
DECODE_TFLOP = 2.51
# Dense fp16 TFLOPS of the 64 GB module by power mode, docs/facts.md.
FP16_TFLOPS = {
    "orin-64gb-maxn": 42.6,
    "orin-64gb-50w": 26.7,
    "orin-64gb-30w": 10.0,
    "orin-64gb-15w": 5.0,
}
# The paper's Table V: 18.3 s for one image on its Orins, with steps uniform in 10..19, hence 14.5
# on average. It does not state the power mode. ASSUMPTION: the factory default of 30 W; then the
# share of the documented peak that is reached follows, 0.286, and is taken for every mode.
# (At MAXN the same 18.3 s would mean a share of 0.067, at 15 W one of 0.57.)
PAPER_IMAGE_S = 18.3
PAPER_STEPS_MEAN = 14.5
PAPER_MODE = "orin-64gb-30w"
UTILISATION = (
    (PAPER_STEPS_MEAN * GUIDED_STEP_TFLOP + DECODE_TFLOP) / PAPER_IMAGE_S / FP16_TFLOPS[PAPER_MODE]
)
# Host work between two steps that a device would not have waited for: wall seconds.
OVERLAP_S_MAX = 0.01
# An unguided step has one row instead of two, and a GPU this small is busy with either.
UNGUIDED_RATIO = 0.5


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Durations of a device in seconds: one guided 512x512 step, and one VAE decode of 512x512."""

    name: str
    guided_step_s: float
    decode_s: float


def profile(name: str) -> Profile:
    """Profile by name, which must be in `FP16_TFLOPS`."""
    effective_tflops = FP16_TFLOPS[name] * UTILISATION
    return Profile(
        name=name,
        guided_step_s=GUIDED_STEP_TFLOP / effective_tflops,
        decode_s=DECODE_TFLOP / effective_tflops,
    )


@dataclass(kw_only=True)
class EmulatedRow:
    """A drawing that only grows older."""

    drawing: Drawing
    steps_done: int = 0


class EmulatedDenoiser:
    """Sleeps where a device would compute; durations are those of the profile over a scale.

    A device is busy while its host does something else, so what this machine needs between two
    calls is part of the next one's time, up to `OVERLAP_S_MAX`; more counts as idleness.
    """

    def __init__(
        self,
        device_profile: Profile,
        *,
        model_name: str,
        time_scale: float = 1.0,
        pace_s: float = 0.0,
        rows_limit: int | None = None,
        mode_path: pathlib.Path | None = None,
    ) -> None:
        """Emulates a device.

        Args:
            device_profile: what it takes at first, and what is calibrated.
            model_name: to serve under.
            time_scale: divides all durations.
            pace_s: least duration of a work unit.
            rows_limit: most rows that share a step.
            mode_path: file that names a profile whenever the device is to become another one, as
                by throttling or a change of power mode; looked at before every step.
        """
        self._model_name = model_name
        self._time_scale = time_scale
        self._mode_path = mode_path
        self._mode_changed_ns = 0
        self._become(device_profile)
        self._pace_s = pace_s
        self._rows_limit = rows_limit
        self._busy_until_s = 0.0
        self._label = device_profile.name
        if time_scale != 1.0:
            self._label += f" x{time_scale:g}"

    def load(self) -> ModelFacts:
        """There is nothing to load."""
        digest = hashlib.sha256(f"emulated {self._model_name}".encode()).hexdigest()
        return ModelFacts(
            engine="emulated",
            model=self._model_name,
            fingerprint=ModelFingerprint(digest),
            size_px_min=SIZE_PX_MIN,
            size_px_max=SIZE_PX_MAX,
            size_px_multiple=SIZE_PX_MULTIPLE,
            steps_max=STEPS_MAX,
            device=f"emulated {self._label}",
            emulated_device=self._label,
        )

    def calibrate(self) -> calibration.Calibration:
        """The profile's own durations.

        Throughput is the same at every width (an Orin gains next to nothing from batches: MLPerf
        SDXL offline is 1.01 times its single stream), so the chosen width is one row.
        """
        calibrated = calibration.calibrated(
            calibration.Measurements(
                reference_px=REFERENCE_PX,
                guided_s=((1, self._step_s),),
                unguided_s=UNGUIDED_RATIO * self._step_s,
                fixed_s=self._decode_s,
            ),
            pace_s=self._pace_s,
            rows_limit=self._rows_limit,
        )
        return dataclasses.replace(calibrated, tracking_s=calibrated.tracking_s / self._time_scale)

    def begin(self, drawing: Drawing, init_image: bytes) -> EmulatedRow:
        """A prompt costs nothing here: both CLIPs together are some 4 % of one step."""
        return EmulatedRow(drawing=drawing)

    def export(self, row: EmulatedRow) -> Latents:
        """Zeros, as many as SD3-medium has, so that they weigh on memory and links as there."""
        shape_CHW = _latent_shape(row.drawing)
        return Latents(dtype="float16", shape_CHW=shape_CHW, latent=bytes(2 * math.prod(shape_CHW)))

    def resume(self, drawing: Drawing, *, step: int, latents: Latents) -> EmulatedRow:
        """A drawing that is `step` steps old."""
        shape_CHW = _latent_shape(drawing)
        wrong = latents.what_is_wrong()
        if wrong or (latents.dtype, latents.shape_CHW) != ("float16", shape_CHW):
            raise CheckpointRefused(wrong or f"it has {latents.shape_CHW}, not {shape_CHW}")
        return EmulatedRow(drawing=drawing, steps_done=step)

    def step(self, rows: Sequence[EmulatedRow]) -> None:
        """Takes as long as the rows' area and guidance say."""
        self._look_at_mode()
        costs = (1.0 if row.drawing.guidance_scale > 1.0 else UNGUIDED_RATIO for row in rows)
        self._take(self._step_s * _area_ratio(rows[0].drawing) * sum(costs))
        for row in rows:
            row.steps_done += 1

    def before_pair(self, row: EmulatedRow) -> Latents | None:
        """Of a guided drawing as many zeros as SD3-medium's latent."""
        return self.export(row) if row.drawing.guidance_scale > 1.0 else None

    def assisting(self, drawing: Drawing, *, step: int, latents: Latents) -> EmulatedRow:
        """As `resume`: there is one kind of row."""
        return self.resume(drawing, step=step, latents=latents)

    def velocity_of(self, row: EmulatedRow, side: Side) -> Latents:
        """Takes what an unguided step takes, and gives zeros."""
        self._look_at_mode()
        self._take(self._step_s * _area_ratio(row.drawing) * UNGUIDED_RATIO)
        return self.export(row)

    def apply(self, row: EmulatedRow, *, conditional: Latents, unconditional: Latents) -> None:
        """A step older; what is no velocity is refused, as a real device does."""
        for one in (conditional, unconditional):
            self.resume(row.drawing, step=row.steps_done, latents=one)
        row.steps_done += 1

    def picture(self, row: EmulatedRow) -> PillowImage.Image:
        """Placeholder that names itself; its colours follow the seed and its bar the steps."""
        drawing = row.drawing
        steps = drawing.denoising_steps
        width_px, height_px = drawing.width_px, drawing.height_px
        red, green, blue = hashlib.sha256(f"{drawing.seed} {drawing.prompt}".encode()).digest()[:3]
        # A palette is a quarter of the work of painting and encoding, which no time scale shortens.
        picture = PillowImage.new("P", (width_px, height_px))
        draw = ImageDraw.Draw(picture)
        draw.rectangle((0, 0, width_px, height_px), fill=(red // 2, green // 2, blue // 2))
        done_px = width_px * row.steps_done // steps
        bar = (0, height_px - height_px // 16, done_px, height_px)
        draw.rectangle(bar, fill=(red // 2 + 128, green // 2 + 128, blue // 2 + 128))
        margin_px, text_px = width_px // 16, width_px // 20
        _write(draw, "EMULATED", at=(margin_px, height_px // 3), size_px=width_px // 8)
        _write(draw, self._label, at=(margin_px, height_px // 2), size_px=text_px)
        progress = f"seed {drawing.seed}, step {row.steps_done} of {steps}"
        _write(draw, progress, at=(margin_px, height_px // 2 + 3 * text_px // 2), size_px=text_px)
        if row.steps_done == steps:
            # The device would decode now; painting the placeholder is part of that time.
            self._take(self._decode_s * _area_ratio(drawing))
        return picture

    def _become(self, device_profile: Profile) -> None:
        self._step_s = device_profile.guided_step_s / self._time_scale
        self._decode_s = device_profile.decode_s / self._time_scale

    def _look_at_mode(self) -> None:
        if self._mode_path is None or not self._mode_path.exists():
            return
        changed_ns = self._mode_path.stat().st_mtime_ns
        if changed_ns != self._mode_changed_ns:
            self._mode_changed_ns = changed_ns
            self._become(profile(self._mode_path.read_text(encoding="ascii").strip()))

    def _take(self, duration_s: float) -> None:
        """Lets the device be busy for `duration_s` and returns when it would be done."""
        now_s = time.monotonic()
        going_on = now_s - self._busy_until_s <= OVERLAP_S_MAX
        self._busy_until_s = (self._busy_until_s if going_on else now_s) + duration_s
        time.sleep(max(0.0, self._busy_until_s - now_s))


def _write(draw: ImageDraw.ImageDraw, text: str, *, at: tuple[int, int], size_px: int) -> None:
    """A line in white, letter by letter: to shape it anew takes longer than all other painting."""
    x_px, y_px = float(at[0]), at[1]
    for letter in text:
        glyph, width_px = _glyph(letter, size_px)
        draw.bitmap((round(x_px), y_px), glyph, fill="white")
        x_px += width_px


@functools.lru_cache(maxsize=1024)
def _glyph(letter: str, size_px: int) -> tuple[PillowImage.Image, float]:
    """A letter as a mask, and how far behind it the next one begins."""
    font = _font(size_px)
    width_px = font.getlength(letter)
    mask = PillowImage.new("1", (math.ceil(width_px) + 1, 2 * size_px))
    ImageDraw.Draw(mask).text((0, 0), letter, font=font, fill=1)
    return mask, width_px


@functools.lru_cache(maxsize=16)
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size_px)


def _latent_shape(drawing: Drawing) -> tuple[int, int, int]:
    return LATENT_CHANNELS, drawing.height_px // LATENT_PX, drawing.width_px // LATENT_PX


def _area_ratio(drawing: Drawing) -> float:
    return drawing.width_px * drawing.height_px / REFERENCE_PX**2

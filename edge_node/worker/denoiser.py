"""What the step engine draws with, as an interface, and which drawings it takes.

Owns the methods of a denoiser and the facts that it tells of itself. It must import neither
torch nor the engine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from PIL import Image as PillowImage

from edge_node.checkpoint import Latents
from edge_node.domain import Drawing, ModelFingerprint, WorkerDescription
from edge_node.errors import InvalidRequest, ModelNotFound, WorkerUnavailable
from edge_node.prompt_tokens import NOT_COUNTED, PromptTokens
from edge_node.worker import image_encoding, memory_guard
from edge_node.worker.calibration import Calibration

Row = TypeVar("Row")

# A row of a guided step: told of the prompt, or of the negative prompt.
Side = Literal["conditional", "unconditional"]


class ModelUnusable(Exception):
    """The model cannot be served; the message says what to do about it.

    `fault` names kinds of which operators are alerted in their own words; empty for others.
    """

    fault = ""


class GpuLost(ModelUnusable):
    """The GPU that is wanted is not there."""

    fault = "gpu_lost"


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a loaded model is and can draw; most fields as in `WorkerDescription`.

    Attributes:
        decodes_beside: `picture` of a finished row may run while another thread is in `step`, and
            gains by it. Not for emulated devices, which must not do two things at once, nor for
            CPUs without a spare core.
        available_bytes: reads how much memory further rows could take.
        approximations: lossy choices of the operator, by name; they go into images' metadata.
        variants: what else it draws with other weights, by name and fingerprint.
        prompt_tokens: counts a prompt as the model's tokenizer does; called where `begin` is.
    """

    engine: str
    model: str
    fingerprint: ModelFingerprint
    size_px_min: int
    size_px_max: int
    size_px_multiple: int
    steps_max: int
    device: str
    emulated_device: str = ""
    decodes_beside: bool = False
    available_bytes: Callable[[], int] = memory_guard.system_available_bytes
    approximations: tuple[str, ...] = ()
    variants: tuple[tuple[str, ModelFingerprint], ...] = ()
    prompt_tokens: Callable[[str], PromptTokens] = lambda _: NOT_COUNTED


class Denoiser(Protocol[Row]):
    """What turns noise into pictures: a real SD3 or an emulated device."""

    def load(self) -> ModelFacts:
        """Loads everything; raises ModelUnusable when it cannot serve."""
        ...

    def calibrate(self) -> Calibration:
        """Warms up and says what work costs here."""
        ...

    def begin(self, drawing: Drawing, init_image: bytes) -> Row:
        """Row of a new drawing: prompt encoded, noise drawn, a PNG to start from encoded.

        An InvalidRequest says that no device can draw it.
        """
        ...

    def step(self, rows: Sequence[Row]) -> None:
        """One denoising step of all `rows`, which are of one size; changes all or none.

        When memory runs out it frees its caches before it raises.
        """
        ...

    def export(self, row: Row) -> Latents | None:
        """All that `resume` needs of a row between two steps, in bytes of their own.

        None for a row whose numbers are not finite, which is worth nothing elsewhere, and for one
        that needs more than these to go on.
        """
        ...

    def resume(self, drawing: Drawing, *, step: int, latents: Latents) -> Row:
        """Row that goes on where `export` left it after `step`, perhaps on another device.

        It ends as the one that stayed does, within rounding. The init image is not needed again.
        A CheckpointRefused says that these are no latents for this model.
        """
        ...

    def picture(self, row: Row) -> PillowImage.Image:
        """Image of the row: the final one after the last step, before it a cheap estimate.

        The final one is asked for on another thread, while `step` runs, if the facts say
        `decodes_beside`.
        """
        ...


class PairDenoiser(Denoiser[Row], Protocol[Row]):
    """One whose guided step may be computed in two halves, each on a device of its own.

    With classifier-free guidance a step is two rows through the transformer that know nothing of
    each other: one is told of the prompt, one of the negative prompt.
    """

    def before_pair(self, row: Row) -> Latents | None:
        """What another device needs for one of the two rows of the next step: the latent.

        None where the next step is no pair, as when it is not guided or not computed at all, and
        where numbers are not finite.
        """
        ...

    def assisting(self, drawing: Drawing, *, step: int, latents: Latents) -> Row:
        """Row for the unconditional velocity of one step of a drawing that is drawn elsewhere.

        Args:
            drawing: guided; its init image is not needed.
            step: of its denoising steps done.
            latents: what `before_pair` gave.

        Raises:
            CheckpointRefused: these are no latents for this model.
        """
        ...

    def velocity_of(self, row: Row, side: Side) -> Latents | None:
        """Velocity of one of the two rows of the next step; changes nothing.

        Takes half a step, about. None where numbers are not finite. Frees as `step` does.
        """
        ...

    def apply(self, row: Row, *, conditional: Latents, unconditional: Latents) -> None:
        """Does with both velocities what `step` does: the same within rounding.

        Raises:
            CheckpointRefused: one of them is no velocity of this row; the row is as before.
        """
        ...


def describing(facts: ModelFacts, before: WorkerDescription) -> WorkerDescription:
    """What is known of the worker once the model is loaded."""
    return dataclasses.replace(
        before,
        state="warming_up",
        engine=facts.engine,
        model=facts.model,
        model_fingerprint=facts.fingerprint,
        size_px_min=facts.size_px_min,
        size_px_max=facts.size_px_max,
        size_px_multiple=facts.size_px_multiple,
        steps_max=facts.steps_max,
        masks=True,
        variants=facts.variants,
        emulated_device=facts.emulated_device,
        device=facts.device,
        portable=True,
    )


def refuse_unless_drawable(drawing: Drawing, served: WorkerDescription) -> None:
    """Returns if the worker that `served` describes can draw it.

    Raises:
        WorkerUnavailable: the model is not ready.
        InvalidRequest, ModelNotFound: it can never draw this.
    """
    if served.state != "ready":
        raise WorkerUnavailable(served.detail or f"the worker is {served.state}: try again soon")
    names = (served.model, *(name for name, _ in served.variants))
    if drawing.model not in ("", *names):
        raise ModelNotFound(f"this worker serves {', '.join(names)}, not {drawing.model}")
    for name, side_px in (("width_px", drawing.width_px), ("height_px", drawing.height_px)):
        if side_px % served.size_px_multiple or not (
            served.size_px_min <= side_px <= served.size_px_max
        ):
            raise InvalidRequest(
                f"{name} is {side_px}: give a multiple of {served.size_px_multiple} from "
                f"{served.size_px_min} to {served.size_px_max}",
                param=name,
            )
    if not 1 <= drawing.steps <= served.steps_max:
        raise InvalidRequest(
            f"steps is {drawing.steps}: give 1 to {served.steps_max}", param="steps"
        )
    if drawing.image_format not in image_encoding.FORMATS:
        raise InvalidRequest(
            f"image_format is {drawing.image_format!r}: give one of "
            f"{', '.join(image_encoding.FORMATS)}",
            param="image_format",
        )

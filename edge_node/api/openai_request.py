"""What clients of OpenAI's API mean: their requests made into ours before these are checked.

Owns the reading of fields that others write otherwise (numbers as text, names of other servers,
empty text for nothing) and what names, sizes and qualities of OpenAI's models stand for here. What
cannot have been meant stays as it is, so that the check names it.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edge_node.api.init_image import fitted_size_px
from edge_node.api.schemas import ImageGenerationRequest
from edge_node.config import NodeConfig
from edge_node.requests import DrawingLimits

WantedT = TypeVar("WantedT", bound=ImageGenerationRequest)

_SIZE = re.compile(r"([0-9]{1,5})\s*[x*×]\s*([0-9]{1,5})")
# Of other servers with this surface, by the names of OpenAI's extensions.
_OTHER_NAMES = {"steps": "num_inference_steps", "cfg_scale": "guidance_scale"}
_FORMATS = {"jpg": "jpeg"}
_RANDOM_SEED = -1
# Of OpenAI's models those that answer with addresses where nothing is said; the others send images.
_WITH_ADDRESSES = "dall-e-*"


@dataclass(frozen=True, kw_only=True)
class Habits:
    """The settings by which requests are read; see `request_config.py`."""

    model_aliases: tuple[str, ...]
    size_policy: str
    quality_steps: Mapping[str, float]

    @classmethod
    def of(cls, config: NodeConfig) -> Habits:
        """From the node's settings."""
        return cls(
            model_aliases=config.model_aliases,
            size_policy=config.size_policy,
            quality_steps={word.lower(): of for word, of in config.quality_steps.items()},
        )

    def is_alias(self, name: str) -> bool:
        """Whether the name stands for the default model."""
        return any(fnmatch.fnmatchcase(name, alias) for alias in self.model_aliases)

    @property
    def alias_names(self) -> tuple[str, ...]:
        """Those that can be listed: names, not patterns."""
        return tuple(alias for alias in self.model_aliases if "*" not in alias)


@dataclass(frozen=True, kw_only=True)
class Adapted(Generic[WantedT]):
    """A request in terms of the model that will draw it.

    Attributes:
        notes: what is otherwise than was asked for, in sentences.
        asked_size: where another is drawn; else empty.
    """

    wanted: WantedT
    notes: tuple[str, ...] = ()
    asked_size: str = ""


def meant(document: object) -> object:
    """The document with its fields as our own are named and typed; anything else as it is."""
    if not isinstance(document, Mapping):
        return document
    given = {name: value for name, value in document.items() if value != "" or name == "prompt"}
    for name, own in _OTHER_NAMES.items():
        if name in given:
            given.setdefault(own, given.pop(name))
    width, height = given.pop("width", None), given.pop("height", None)
    if given.get("size") is None and (width is not None or height is not None):
        width = height if width is None else width
        height = width if height is None else height
        given["size"] = f"{whole(width)}x{whole(height)}"
    for name, read in _READINGS.items():
        if name in given:
            given[name] = read(given[name])
    if given.get("seed") == _RANDOM_SEED:
        del given["seed"]
    return given


def adapted(wanted: WantedT, limits: DrawingLimits, habits: Habits) -> Adapted[WantedT]:
    """Names, sizes and qualities of other models in terms of the one that is meant.

    From here on the request names it, so that nothing is resolved a second time.
    """
    change: dict[str, Any] = {}
    notes = []
    asked_size = ""
    if wanted.model is None or habits.is_alias(wanted.model):
        change = {"model": limits.model, **_answer_meant(wanted, habits)}
    share = habits.quality_steps.get(wanted.quality or "")
    if wanted.quality not in (None, "auto") and share is None and habits.quality_steps:
        known = ", ".join(habits.quality_steps)
        notes.append(f"`quality` {wanted.quality[:40]!r} is none of {known}; it changed nothing.")
    if wanted.num_inference_steps is None and share is not None:
        steps = round(limits.steps_default * share)
        change["num_inference_steps"] = min(max(1, steps), limits.steps_max)
    if wanted.size is not None and habits.size_policy == "nearest":
        drawn = _nearest(wanted.size, limits)
        if drawn not in ("", wanted.size):
            asked_size, change["size"] = wanted.size, drawn
            notes.append(f"{limits.model} does not draw {wanted.size}; these are {drawn}.")
    if wanted.background == "transparent":
        notes.append(f"{limits.model} draws no transparency; the background is opaque.")
    return Adapted(
        wanted=wanted.model_copy(update=change) if change else wanted,
        notes=tuple(notes),
        asked_size=asked_size,
    )


def drawn_before(wanted: WantedT, habits: Habits) -> Adapted[WantedT]:
    """A request whose images are accepted already, whoever could draw them now."""
    return Adapted(wanted=wanted.model_copy(update=_answer_meant(wanted, habits)))


def _answer_meant(wanted: ImageGenerationRequest, habits: Habits) -> dict[str, Any]:
    """How the images are wanted by whoever names an alias and says nothing of it."""
    name = wanted.model or ""
    with_addresses = habits.is_alias(name) and fnmatch.fnmatchcase(name, _WITH_ADDRESSES)
    if with_addresses and wanted.response_format is None:
        return {"response_format": "url"}
    return {}


def _nearest(size: str, limits: DrawingLimits) -> str:
    """A size that is drawn, of like aspect and never larger than allowed; empty for no size."""
    match = _SIZE.fullmatch(size)
    sides_px = (int(match[1]), int(match[2])) if match else (0, 0)
    if 0 in sides_px:
        return ""
    low_px, high_px, multiple_px = limits.size_px_min, limits.size_px_max, limits.size_px_multiple
    if not all(low_px <= side <= high_px and side % multiple_px == 0 for side in sides_px):
        sides_px = fitted_size_px(sides_px, limits)
    return f"{sides_px[0]}x{sides_px[1]}"


def whole(value: object) -> object:
    """A whole number, however it was written."""
    if isinstance(value, str):
        value = _number(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _number(value: object) -> object:
    """A number that was written as text."""
    if not isinstance(value, str):
        return value
    try:
        return int(value)
    except ValueError:
        pass
    try:
        number = float(value)
    except ValueError:
        return value
    return number if math.isfinite(number) else value


def _switch(value: object) -> object:
    if not isinstance(value, str):
        return value
    return {"true": True, "false": False}.get(value.strip().lower(), value)


def _word(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _image_format(value: object) -> object:
    word = _word(value)
    return _FORMATS.get(word, word) if isinstance(word, str) else word


def _size(value: object) -> object:
    word = _word(value)
    match = _SIZE.fullmatch(word) if isinstance(word, str) else None
    return word if match is None else f"{match[1]}x{match[2]}"


_READINGS: dict[str, Callable[[object], object]] = {
    **dict.fromkeys(("n", "partial_images", "num_inference_steps", "output_compression"), whole),
    **dict.fromkeys(("seed", "priority"), whole),
    **dict.fromkeys(("guidance_scale", "strength", "deadline_s"), _number),
    **dict.fromkeys(("response_format", "quality", "background"), _word),
    "output_format": _image_format,
    "size": _size,
    "stream": _switch,
}

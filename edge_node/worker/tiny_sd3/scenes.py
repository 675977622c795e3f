"""Captioned scenes: what the tiny SD3 is trained on and asked to draw.

Owns the vocabulary (sizes, colours, shapes, positions, backgrounds), the drawing of a scene as a
64x64 image, its captions, and which scenes are held out of training. It must not import torch:
the demo draws prompts from it. The pixel classifier, ``edge_node/console/scene_classifier.py``,
shares no code with this module on purpose.

A batch of scenes is an integer array ``codes_BA`` with one row per scene and the columns
``[objects, background, (size, colour, shape, position) x 2]``; the second group is -1 for a scene
of one object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IMAGE_PX = 64

SIZES = ("small", "large")
SHAPES = ("circle", "square", "triangle", "star")
POSITIONS = ("left", "right", "top", "bottom", "centre")
COLOURS = (
    "red",
    "orange",
    "yellow",
    "green",
    "cyan",
    "blue",
    "purple",
    "pink",
    "black",
    "white",
)
COLOUR_RGB = (
    (220, 30, 30),
    (255, 135, 0),
    (250, 225, 30),
    (30, 150, 50),
    (40, 210, 220),
    (35, 70, 215),
    (130, 40, 170),
    (255, 145, 195),
    (15, 15, 15),
    (245, 245, 245),
)

# Radius of the circle of each size; the other shapes are scaled to look as large.
RADIUS_PX = (6.5, 9.0)
CENTRE_XY_PX = ((12.0, 32.0), (52.0, 32.0), (32.0, 12.0), (32.0, 52.0), (32.0, 32.0))
JITTER_PX = 1.5
SIZE_JITTER = 0.05
GAP_PX_MIN = 0.8
# One attribute combination in this many is held out of training.
HELD_OUT_ONE_IN = 10

CODE_COLUMNS = 10

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One flat object.

    Attributes:
        size: One of ``SIZES``.
        colour: One of ``COLOURS``; differs from the background and from the other object.
        shape: One of ``SHAPES``.
        position: One of ``POSITIONS``; differs from the other object's.
    """

    size: str
    colour: str
    shape: str
    position: str


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A background colour and one or two objects."""

    background: str
    objects: tuple[SceneObject, ...]


def scene_of(code_A: npt.NDArray[np.int64]) -> Scene:
    """Returns the scene that one row of ``codes_BA`` stands for."""
    groups = [code_A[2 + 4 * i : 6 + 4 * i] for i in range(int(code_A[0]))]
    return Scene(
        background=COLOURS[code_A[1]],
        objects=tuple(
            SceneObject(
                size=SIZES[g[0]], colour=COLOURS[g[1]], shape=SHAPES[g[2]], position=POSITIONS[g[3]]
            )
            for g in groups
        ),
    )


def code_of(scene: Scene) -> npt.NDArray[np.int64]:
    """Returns the row of ``codes_BA`` that stands for the scene."""
    code_A = np.full(CODE_COLUMNS, -1, dtype=np.int64)
    code_A[:2] = len(scene.objects), COLOURS.index(scene.background)
    for i, item in enumerate(scene.objects):
        code_A[2 + 4 * i : 6 + 4 * i] = (
            SIZES.index(item.size),
            COLOURS.index(item.colour),
            SHAPES.index(item.shape),
            POSITIONS.index(item.position),
        )
    return code_A


def held_out(codes_BA: Codes) -> npt.NDArray[np.bool_]:
    """Says which scenes training never sees.

    The combination of attributes is numbered, with the two objects in sorted order so that naming
    them the other way round changes nothing, and the number is hashed (splitmix64's finaliser).

    Returns:
        Booleans, shape (B,); about one in ``HELD_OUT_ONE_IN`` is true.
    """
    numbers_B2 = np.zeros((len(codes_BA), 2), dtype=np.uint64)
    for i in range(2):
        size, colour, shape, position = codes_BA[:, 2 + 4 * i : 6 + 4 * i].T
        number_B = ((size * 10 + colour) * 4 + shape) * 5 + position + 1
        numbers_B2[:, i] = np.where(codes_BA[:, 0] > i, number_B, 0)
    numbers_B2.sort(axis=1)
    mixed_B = (numbers_B2[:, 0] * np.uint64(401) + numbers_B2[:, 1]) * np.uint64(10)
    mixed_B += codes_BA[:, 1].astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed_B = (mixed_B ^ (mixed_B >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed_B = (mixed_B ^ (mixed_B >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed_B ^= mixed_B >> np.uint64(31)
    return np.asarray(mixed_B % np.uint64(HELD_OUT_ONE_IN) == 0)


def sample_codes(
    rng: np.random.Generator, count: int, *, objects: int, want_held_out: bool = False
) -> Codes:
    """Draws ``count`` scenes at random, all with the given number of objects.

    Args:
        rng: Source of randomness.
        count: Number of scenes, B.
        objects: 1 or 2.
        want_held_out: False for the scenes of training, true for those kept from it.

    Returns:
        ``codes_BA``.
    """
    kept: list[Codes] = []
    missing = count
    while missing > 0:
        draws = max(64, missing * (HELD_OUT_ONE_IN * 2 if want_held_out else 2))
        codes_BA = np.full((draws, CODE_COLUMNS), -1, dtype=np.int64)
        colours_B3 = rng.random((draws, len(COLOURS))).argsort(axis=1)[:, :3]
        positions_B2 = rng.random((draws, len(POSITIONS))).argsort(axis=1)[:, :2]
        codes_BA[:, 0] = objects
        codes_BA[:, 1] = colours_B3[:, 0]
        for i in range(objects):
            codes_BA[:, 2 + 4 * i] = rng.integers(len(SIZES), size=draws)
            codes_BA[:, 3 + 4 * i] = colours_B3[:, 1 + i]
            codes_BA[:, 4 + 4 * i] = rng.integers(len(SHAPES), size=draws)
            codes_BA[:, 5 + 4 * i] = positions_B2[:, i]
        codes_BA = codes_BA[held_out(codes_BA) == want_held_out][:missing]
        kept.append(codes_BA)
        missing -= len(codes_BA)
    return np.concatenate(kept)


def sample_scene(rng: np.random.Generator, *, objects: int, want_held_out: bool = False) -> Scene:
    """Draws one scene at random; see ``sample_codes``."""
    return scene_of(sample_codes(rng, 1, objects=objects, want_held_out=want_held_out)[0])


# ---------------------------------------------------------------- captions


POSITION_PHRASES = {
    "left": ("on the left", "on the left", "at the left"),
    "right": ("on the right", "on the right", "at the right"),
    "top": ("at the top", "at the top", "on top"),
    "bottom": ("at the bottom", "at the bottom", "on the bottom"),
    "centre": ("in the centre", "in the center", "in the middle", "at the centre"),
}
SIZE_WORDS = {"small": ("small", "small", "little"), "large": ("large", "large", "big")}

# {0} and {1} are objects with their positions, {b} the background with its article.
ONE_OBJECT_PHRASINGS = (
    "{0} on {b} background",
    "{0} on {b} background",
    "{b} background with {0}",
    "{0}, {b} background",
    "on {b} background, {0}",
)
TWO_OBJECT_PHRASINGS = (
    "{0} and {1} on {b} background",
    "{0} and {1} on {b} background",
    "{b} background with {0} and {1}",
    "{0}, {1}, {b} background",
    "on {b} background, {0} and {1}",
)


def _with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def caption(
    scene: Scene, rng: np.random.Generator | None = None, *, omit_probability: float = 0.0
) -> str:
    """Describes a scene in words.

    Args:
        scene: What to describe.
        rng: Chooses the phrasing and the synonyms; without it the plainest of each is taken.
        omit_probability: Chance, for each size, each position and the background, to go unsaid.

    Returns:
        For example "a large red circle on the left on a white background".
    """

    def choose(options: Sequence[str]) -> str:
        return options[0] if rng is None else options[int(rng.integers(len(options)))]

    def said() -> bool:
        return rng is None or omit_probability == 0.0 or rng.random() >= omit_probability

    objects = []
    for item in scene.objects:
        words = f"{item.colour} {item.shape}"
        if said():
            words = f"{choose(SIZE_WORDS[item.size])} {words}"
        words = _with_article(words)
        if said():
            words = f"{words} {choose(POSITION_PHRASES[item.position])}"
        objects.append(words)
    if not said():
        return " and ".join(objects)
    phrasings = ONE_OBJECT_PHRASINGS if len(objects) == 1 else TWO_OBJECT_PHRASINGS
    return choose(phrasings).format(*objects, b=_with_article(scene.background))


def scene_words() -> tuple[str, ...]:
    """Returns every word that a caption can hold, sorted; each is one token of the tokenizer."""
    words: set[str] = {"a", "an", "and", ","}
    words.update(COLOURS, SHAPES)
    for synonyms in SIZE_WORDS.values():
        words.update(synonyms)
    for phrases in POSITION_PHRASES.values():
        words.update(word for phrase in phrases for word in phrase.split())
    for phrase in ONE_OBJECT_PHRASINGS + TWO_OBJECT_PHRASINGS:
        words.update(w.strip(",") for w in phrase.split() if "{" not in w)
    return tuple(sorted(words))


# ---------------------------------------------------------------- drawing


def _distance_px(
    shape: int,
    x_BHW: npt.NDArray[np.float32],
    y_BHW: npt.NDArray[np.float32],
    radius_B11: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Signed distance to a shape's edge around the origin, y down; negative inside."""
    name = SHAPES[shape]
    if name == "circle":
        return np.asarray(np.hypot(x_BHW, y_BHW) - radius_B11, dtype=np.float32)
    if name == "square":
        reach_BHW = np.maximum(np.abs(x_BHW), np.abs(y_BHW))
        return np.asarray(reach_BHW - np.float32(0.9) * radius_B11, dtype=np.float32)
    if name == "triangle":
        outer_B11 = np.float32(1.2) * radius_B11
        # The box around an upright triangle is centred, not its corners' mean.
        y_BHW = y_BHW - np.float32(0.25) * outer_B11
        slanted_BHW = np.float32(np.sqrt(0.75)) * np.abs(x_BHW) - np.float32(0.5) * y_BHW
        away_BHW = np.maximum(y_BHW, slanted_BHW) - np.float32(0.5) * outer_B11
        return np.asarray(away_BHW, dtype=np.float32)
    # Fold the star onto one half of one of its five points and measure to that half's edge.
    outer_B11 = np.float32(1.2) * radius_B11
    inner_B11 = np.float32(0.48) * outer_B11
    sector = np.float32(2 * np.pi / 5)
    y_BHW = y_BHW - np.float32(0.05) * outer_B11
    angle_BHW = np.arctan2(x_BHW, -y_BHW)
    folded_BHW = np.abs(np.mod(angle_BHW + sector / 2, sector) - sector / 2)
    reach_BHW = np.hypot(x_BHW, y_BHW)
    half = sector / 2
    edge_u_B11 = inner_B11 * np.cos(half) - outer_B11
    edge_v_B11 = inner_B11 * np.sin(half)
    length_B11 = np.hypot(edge_u_B11, edge_v_B11)
    u_BHW = reach_BHW * np.cos(folded_BHW) - outer_B11
    v_BHW = reach_BHW * np.sin(folded_BHW)
    cross_BHW = u_BHW * edge_v_B11 - v_BHW * edge_u_B11
    return np.asarray(cross_BHW / length_B11, dtype=np.float32)


def _place(
    rng: np.random.Generator, codes_BA: Codes
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Draws jittered centres (B, 2, 2) and radii (B, 2) of objects that do not overlap."""
    count = len(codes_BA)
    groups_B24 = codes_BA[:, 2:].reshape(count, 2, 4)
    radius_B2 = np.asarray(RADIUS_PX)[groups_B24[:, :, 0]]
    radius_B2 = radius_B2 * (1 + rng.uniform(-SIZE_JITTER, SIZE_JITTER, size=(count, 2)))
    nominal_B22 = np.asarray(CENTRE_XY_PX)[groups_B24[:, :, 3]]
    centre_B22 = nominal_B22.copy()
    open_B = np.ones(count, dtype=bool)
    for _ in range(8):
        tried_B22 = nominal_B22 + rng.uniform(-JITTER_PX, JITTER_PX, size=(count, 2, 2))
        apart_B = np.abs(tried_B22[:, 0] - tried_B22[:, 1]).max(axis=1)
        fits_B = apart_B >= 1.05 * radius_B2.sum(axis=1) + GAP_PX_MIN
        take_B = open_B & (fits_B | (codes_BA[:, 0] == 1))
        centre_B22[take_B] = tried_B22[take_B]
        open_B &= ~take_B
    return centre_B22.astype(np.float32), radius_B2.astype(np.float32)


def draw(codes_BA: Codes, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draws a batch of scenes with jittered places and sizes and softened edges.

    Args:
        codes_BA: The scenes.
        rng: Source of the jitter.

    Returns:
        ``images_BHW3``, 64x64 RGB.
    """
    count = len(codes_BA)
    rgb = np.asarray(COLOUR_RGB, dtype=np.float32)
    images_BHW3 = np.empty((count, IMAGE_PX, IMAGE_PX, 3), dtype=np.float32)
    images_BHW3[:] = rgb[codes_BA[:, 1]][:, None, None]
    centre_B22, radius_B2 = _place(rng, codes_BA)
    grid_W = np.arange(IMAGE_PX, dtype=np.float32) + np.float32(0.5)
    for i in range(2):
        _, colour_B, shape_B, _ = codes_BA[:, 2 + 4 * i : 6 + 4 * i].T
        for shape in range(len(SHAPES)):
            rows = np.flatnonzero((codes_BA[:, 0] > i) & (shape_B == shape))
            if not len(rows):
                continue
            shift_B2 = centre_B22[rows, i]
            x_BHW = np.broadcast_to(
                grid_W[None, None, :] - shift_B2[:, 0, None, None], (len(rows), IMAGE_PX, IMAGE_PX)
            )
            y_BHW = np.broadcast_to(
                grid_W[None, :, None] - shift_B2[:, 1, None, None], (len(rows), IMAGE_PX, IMAGE_PX)
            )
            away_BHW = _distance_px(shape, x_BHW, y_BHW, radius_B2[rows, i][:, None, None])
            cover_BHW1 = np.clip(0.5 - away_BHW, 0, 1)[..., None]
            paint_B113 = rgb[colour_B[rows]][:, None, None]
            images_BHW3[rows] += cover_BHW1 * (paint_B113 - images_BHW3[rows])
    return np.asarray(images_BHW3 + 0.5, dtype=np.uint8)

"""Reads a scene from pixels alone: background, and each object's colour, shape, position, size.

Shares no code with the drawing of the scenes in ``edge_node/worker/tiny_sd3``: the colours and
the places are restated here from the model card, shapes are told apart by area,
extent and angular moments. numpy only.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PALETTE = {
    "red": (220, 30, 30),
    "orange": (255, 135, 0),
    "yellow": (250, 225, 30),
    "green": (30, 150, 50),
    "cyan": (40, 210, 220),
    "blue": (35, 70, 215),
    "purple": (130, 40, 170),
    "pink": (255, 145, 195),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
}
NAMES = tuple(PALETTE)
PALETTE_RGB: Floats = np.array(list(PALETTE.values()), dtype=np.float64)

OBJECT_ATTRIBUTES = ("colour", "shape", "position", "size")

# An object has at least this many pixels (of 64x64) whose four neighbours share its colour.
CORE_PX_MIN = 9
# How strongly an outline repeats three, four or five times around its centre: the angular moment
# of that order over squared area, here of the ideal outlines.
FOLDS = {"triangle": (3, 0.121), "square": (4, 0.0475), "star": (5, 0.106)}
# An outline that reaches less than this share of each of those is a circle.
FOLD_SHARE_MIN = 0.3
# Area over bounding box: square 1, circle .79, triangle .5, star .45. Less is no square.
FILL_SQUARE_MIN = 0.76
# Area in pixels of 64x64 that parts small from large: geometric mean of the two.
AREA_LARGE_MIN_PX = {"square": 189.0, "circle": 184.0, "triangle": 109.0, "star": 119.0}
# Offsets from the middle, as shares of the side.
CENTRE_OFFSET_MAX = 0.14
OFF_AXIS_MAX = 0.16


@dataclass(frozen=True, kw_only=True)
class SeenObject:
    """One object as the pixels show it.

    Attributes:
        colour: Nearest of the ten colours.
        shape: circle, square, triangle or star.
        position: left, right, top, bottom, centre, or elsewhere.
        size: small or large.
        area_px: Area in pixels of a 64x64 image.
        fill: Area over bounding box.
        folds: Per shape of ``FOLDS``, the share of the ideal moment that this outline reaches.
    """

    colour: str
    shape: str
    position: str
    size: str
    area_px: float
    fill: float
    folds: dict[str, float]


class WantedScene(Protocol):
    """What a caption says; its objects have the attributes of SeenObject that can be judged."""

    @property
    def background(self) -> str:
        """Name of the background's colour."""
        ...

    @property
    def objects(self) -> Sequence[object]:
        """Each with a colour, shape, position and size."""
        ...


@dataclass(frozen=True, kw_only=True)
class SeenScene:
    """Background colour and objects, the largest first."""

    background: str
    objects: tuple[SeenObject, ...]


def classify(image_HW3: npt.NDArray[np.uint8]) -> SeenScene:
    """Reads a scene from a square RGB image.

    Args:
        image_HW3: The image, 0..255; 64x64 is the reference size.

    Returns:
        What is seen. An image that is no scene gives some background and any number of objects.
    """
    pixels_HW3 = np.asarray(image_HW3, dtype=np.float64)
    labels_HW = nearest_colour(pixels_HW3)
    border = np.ones(labels_HW.shape, dtype=bool)
    border[2:-2, 2:-2] = False
    background = int(np.bincount(labels_HW[border], minlength=len(NAMES)).argmax())
    ground_3 = np.median(pixels_HW3[border & (labels_HW == background)], axis=0)
    scale = (labels_HW.shape[0] / 64) ** 2
    cores = [
        core_HW
        for core_HW in components(interior(labels_HW), labels_HW)
        if labels_HW[core_HW][0] != background and core_HW.sum() >= CORE_PX_MIN * scale
    ]
    owner_HW = nearest_core(cores, labels_HW.shape)
    seen = [
        describe(pixels_HW3, ground_3, core_HW, owner_HW == i) for i, core_HW in enumerate(cores)
    ]
    seen.sort(key=lambda item: -item.area_px)
    return SeenScene(background=NAMES[background], objects=tuple(seen))


def nearest_colour(pixels_HW3: Floats) -> npt.NDArray[np.int64]:
    """Returns the index in ``NAMES`` of the colour nearest to each pixel."""
    away_HWC = ((pixels_HW3[:, :, None] - PALETTE_RGB) ** 2).sum(axis=-1)
    labels_HW: npt.NDArray[np.int64] = away_HWC.argmin(axis=-1)
    return labels_HW


def interior(labels_HW: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Marks the pixels whose four neighbours have their label: no softened edge is one."""
    padded = np.pad(labels_HW, 1, mode="edge")
    same_HW = np.ones(labels_HW.shape, dtype=bool)
    for shifted in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        same_HW &= shifted == labels_HW
    return same_HW


def components(
    mask_HW: npt.NDArray[np.bool_], labels_HW: npt.NDArray[np.int64]
) -> list[npt.NDArray[np.bool_]]:
    """Returns the masks of the four-connected regions of one label within ``mask_HW``."""
    height, width = mask_HW.shape
    left_HW = mask_HW.copy()
    found = []
    for start in zip(*np.nonzero(mask_HW), strict=True):
        if not left_HW[start]:
            continue
        region_HW = np.zeros_like(mask_HW)
        queue = deque([start])
        left_HW[start] = False
        while queue:
            y, x = queue.popleft()
            region_HW[y, x] = True
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= v < height and 0 <= u < width
                if inside and left_HW[v, u] and labels_HW[v, u] == labels_HW[start]:
                    left_HW[v, u] = False
                    queue.append((v, u))
        found.append(region_HW)
    return found


def nearest_core(
    cores: list[npt.NDArray[np.bool_]], shape: tuple[int, ...]
) -> npt.NDArray[np.int64]:
    """Returns for each pixel which core is nearest, -1 where none is within a sixth of a side."""
    owner_HW = np.full(shape, -1, dtype=np.int64)
    best_HW = np.full(shape, shape[0] / 6)
    grid_HW2 = np.moveaxis(np.indices(shape), 0, -1)
    for i, core_HW in enumerate(cores):
        points_N2 = np.argwhere(core_HW)
        away_HW = np.sqrt(
            ((grid_HW2[:, :, None] - points_N2) ** 2).sum(axis=-1).min(axis=-1).astype(np.float64)
        )
        nearer_HW = away_HW < best_HW
        owner_HW[nearer_HW] = i
        best_HW[nearer_HW] = away_HW[nearer_HW]
    return owner_HW


def describe(
    pixels_HW3: Floats,
    ground_3: Floats,
    core_HW: npt.NDArray[np.bool_],
    owned_HW: npt.NDArray[np.bool_],
) -> SeenObject:
    """Measures one object: how far each pixel has gone from ground to paint is its coverage."""
    paint_3 = np.median(pixels_HW3[core_HW], axis=0)
    colour = int(((PALETTE_RGB - paint_3) ** 2).sum(axis=-1).argmin())
    axis_3 = paint_3 - ground_3
    cover_HW = ((pixels_HW3 - ground_3) @ axis_3) / max(float(axis_3 @ axis_3), 1.0)
    cover_HW = np.where(owned_HW, np.clip((cover_HW - 0.1) / 0.8, 0, 1), 0)
    height, width = cover_HW.shape
    y_H, x_W = np.arange(height) + 0.5, np.arange(width) + 0.5
    area = float(cover_HW.sum())
    centre_x = float((cover_HW * x_W).sum() / area)
    centre_y = float((cover_HW * y_H[:, None]).sum() / area)
    x_HW, y_HW = np.meshgrid(x_W - centre_x, y_H - centre_y)
    angle_HW, weight_HW = np.arctan2(y_HW, x_HW), cover_HW * (x_HW**2 + y_HW**2)
    folds = {
        name: abs(complex((weight_HW * np.exp(1j * order * angle_HW)).sum())) / area**2 / ideal
        for name, (order, ideal) in FOLDS.items()
    }
    # The extent counts the share of the outermost rows and columns that is covered.
    extent_x, extent_y = float(cover_HW.max(axis=0).sum()), float(cover_HW.max(axis=1).sum())
    fill = area / (extent_x * extent_y)
    shape = name_shape(folds, fill=fill)
    area_px = area * (64 / height) ** 2
    return SeenObject(
        colour=NAMES[colour],
        shape=shape,
        position=name_position(centre_x / width - 0.5, centre_y / height - 0.5),
        size="large" if area_px >= AREA_LARGE_MIN_PX[shape] else "small",
        area_px=area_px,
        fill=round(fill, 3),
        folds={name: round(share, 3) for name, share in folds.items()},
    )


def name_shape(folds: dict[str, float], *, fill: float) -> str:
    """Names the shape whose symmetry is the strongest, or a circle where none is strong."""
    candidates = [name for name in folds if name != "square" or fill >= FILL_SQUARE_MIN]
    best = max(candidates, key=lambda name: folds[name])
    return best if folds[best] >= FOLD_SHARE_MIN else "circle"


def name_position(offset_x: float, offset_y: float) -> str:
    """Names the place from the centroid's offset, in shares of the side."""
    if max(abs(offset_x), abs(offset_y)) < CENTRE_OFFSET_MAX:
        return "centre"
    if min(abs(offset_x), abs(offset_y)) > OFF_AXIS_MAX:
        return "elsewhere"
    if abs(offset_x) > abs(offset_y):
        return "left" if offset_x < 0 else "right"
    return "top" if offset_y < 0 else "bottom"


def judge(scene: WantedScene, seen: SeenScene) -> dict[str, list[bool]]:
    """Says what is right, with seen objects matched to wanted ones as favourably as possible.

    Returns:
        Per object attribute one verdict for each wanted object; per caption attribute one verdict.
        ``all`` is background, number of objects, and every colour, shape and position.
    """
    wanted = scene.objects
    best = [[False] * len(OBJECT_ATTRIBUTES) for _ in wanted]
    places = [*seen.objects[:4], *[None] * len(wanted)]
    for matched in itertools.permutations(places, len(wanted)):
        verdicts = [
            [
                found is not None and getattr(found, name) == getattr(want, name)
                for name in OBJECT_ATTRIBUTES
            ]
            for want, found in zip(wanted, matched, strict=True)
        ]
        if sum(map(sum, verdicts)) > sum(map(sum, best)):
            best = verdicts
    columns = dict(zip(OBJECT_ATTRIBUTES, map(list, zip(*best, strict=True)), strict=True))
    background = seen.background == scene.background
    count = len(seen.objects) == len(wanted)
    right = background and count and all(all(verdict[:3]) for verdict in best)
    sized = right and all(columns["size"])
    return columns | {
        "background": [background],
        "count": [count],
        "all": [right],
        "all_and_size": [sized],
    }

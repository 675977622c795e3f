"""Where drawn images are saved: checked before anything is asked of a node.

Owns what `--out` may be: a file whose extension says the format, with {n}, {seed} and {id} in its
name where there are several.
"""

from __future__ import annotations

import itertools
import os
import string
from collections.abc import Sequence
from pathlib import Path

from edge_node.errors import InvalidRequest

FORMATS = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}
DEFAULT_STEM = "image"
_FIELDS = ("n", "seed", "id")


class ImagePaths:
    """Files for the images of one request, one for each seed.

    Args:
        out: of the command line; None for the first free of image.png, image-2.png, ...
        seeds: of the images, in their order.
        force: whether a file that is there may be overwritten.
        drawn_as: the format of images that are drawn already.

    Raises:
        InvalidRequest: an image could not be saved there; with what to do.
    """

    def __init__(
        self,
        out: str | None,
        seeds: Sequence[int],
        *,
        force: bool,
        drawn_as: str = "",
    ) -> None:
        self._seeds = tuple(seeds)
        self._force = force
        self._pattern = (
            _free(len(seeds), drawn_as or "png") if out is None else _numbered(out, len(seeds))
        )
        suffix = Path(self._pattern).suffix.lower()
        if suffix not in FORMATS:
            raise InvalidRequest(
                f"{out} ends with no format of an image: let --out end with {', '.join(FORMATS)}."
            )
        self.format = FORMATS[suffix]
        if drawn_as not in ("", self.format):
            raise InvalidRequest(f"{out} is no name of a {drawn_as}, which it is: see --out.")
        # The id comes later; it makes a name that is not there yet.
        for path in (self.path(index, task_id="ID") for index in range(len(seeds))):
            self._check(path)

    def path(self, index: int, *, task_id: str) -> Path:
        """Of the image with that index, from 0."""
        return Path(self._pattern.format(n=index + 1, seed=self._seeds[index], id=task_id))

    def save(self, index: int, content: bytes, *, task_id: str) -> Path:
        """Writes an image; returns where.

        Raises:
            InvalidRequest: the file came to be there meanwhile.
        """
        path = self.path(index, task_id=task_id)
        try:
            with path.open("wb" if self._force else "xb") as file:
                file.write(content)
        except FileExistsError:
            raise InvalidRequest(
                f"{path} is there by now: dedgeai tasks fetch {task_id} --out OTHER.png saves it."
            ) from None
        return path

    def _check(self, path: Path) -> None:
        folder, why = path.parent, ""
        if path.is_dir():
            why = "it is a folder"
        elif not folder.is_dir():
            why = f"{folder} is not a folder" if folder.exists() else f"there is no folder {folder}"
        elif path.exists() and not self._force:
            raise InvalidRequest(
                f"{path} is there already: --force overwrites it, or name another."
            )
        elif not os.access(path if path.exists() else folder, os.W_OK):
            why = "this user may not write there"
        if why:
            raise InvalidRequest(f"{path} cannot be written ({why}): name another with --out.")


def _numbered(out: str, images: int) -> str:
    """The pattern; several images without a field get a number before the extension."""
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(out) if name is not None}
        out.format(n=1, seed=0, id="ID")
    except (ValueError, LookupError, AttributeError):
        raise InvalidRequest(
            f"{out} is no name for images: --out takes {{n}}, {{seed}} and {{id}} in it."
        ) from None
    if images > 1 and not fields:
        path = Path(out)
        return str(path.with_name(f"{path.stem}-{{n}}{path.suffix}"))
    if images > 1 and fields <= {""}:
        raise InvalidRequest(f"{out} is one file for {images} images: put {{n}} in its name.")
    return out


def _free(images: int, image_format: str) -> str:
    """The first pattern like image.png none of whose files is there."""
    suffix = "jpg" if image_format == "jpeg" else image_format
    for count in itertools.count(1):
        stem = DEFAULT_STEM if count == 1 else f"{DEFAULT_STEM}-{count}"
        pattern = f"{stem}.{suffix}" if images == 1 else f"{stem}-{{n}}.{suffix}"
        if not any(Path(pattern.format(n=n + 1)).exists() for n in range(images)):
            return pattern
    raise AssertionError("there is always a next one")

"""Where drawn images are saved: checked before anything is asked of a node.

Owns what `--out` may be: a file whose extension says the format, with {n}, {seed} and {id} in its
name where there are several.
"""

from __future__ import annotations

import itertools
import os
import re
import string
from collections.abc import Sequence
from pathlib import Path

from edge_node.errors import InvalidRequest

FORMATS = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}
DEFAULT_STEM = "image"
_FIELDS = {"n", "seed", "id"}
# Whatever else Python would make of a field gives two images one name, or none.
_DIGITS = re.compile(r"(0?[1-9]\d?)?")


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
            endings = " or ".join(one for one, name in FORMATS.items() if name == drawn_as)
            raise InvalidRequest(f"The image is a {drawn_as}: let --out end with {endings}.")
        # The id comes later; it makes a name that is not there yet.
        for path in (self.path(index, task_id="ID") for index in range(len(seeds))):
            self._check(path)

    def path(self, index: int, *, task_id: str) -> Path:
        """Of the image with that index, from 0."""
        return Path(self._pattern.format(n=index + 1, seed=self._seeds[index], id=task_id))

    def save(self, index: int, content: bytes, *, task_id: str) -> Path:
        """Writes an image; returns where.

        Raises:
            InvalidRequest: the file came to be there meanwhile, or cannot be written any more.
        """
        path = self.path(index, task_id=task_id)
        other = f"dedgeai tasks fetch {task_id} --out OTHER{path.suffix} saves it."
        try:
            file = path.open("wb" if self._force else "xb")
        except FileExistsError:
            raise InvalidRequest(f"{path} is there by now: {other}") from None
        except OSError as problem:
            raise InvalidRequest(
                f"{path} cannot be written ({problem.strerror}): {other}"
            ) from None
        try:
            with file:
                file.write(content)
        except OSError as problem:
            # Half an image would stand in the way of the whole one.
            path.unlink(missing_ok=True)
            raise InvalidRequest(
                f"{path} cannot be written ({problem.strerror}): {other}"
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
        parts = [part for part in string.Formatter().parse(out) if part[1] is not None]
    except ValueError:
        parts = [("", "", "", None)]
    fields = {name for _, name, _, _ in parts}
    plain = all(not how and _DIGITS.fullmatch(width or "") for _, _, width, how in parts)
    if not plain or not fields <= _FIELDS or any(one[1] == "id" and one[2] for one in parts):
        raise InvalidRequest(
            f"{out:.80} is no name for images: --out takes {{n}}, {{seed}} and {{id}} in it, and "
            "{n:03} where a number has three digits."
        )
    if images > 1 and not fields:
        path = Path(out)
        return str(path.with_name(f"{path.stem}-{{n}}{path.suffix}"))
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

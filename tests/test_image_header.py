"""The format and size that an image's first bytes tell, as Pillow writes them."""

from __future__ import annotations

import io

import pytest
from PIL import Image as PillowImage

from edge_node.image_header import ImageHeader, image_header


def encoded(image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    mode = "RGBA" if options.pop("alpha", False) else "RGB"
    PillowImage.new(mode, (72, 40), "red").save(buffer, image_format.upper(), **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("png", {}),
        ("jpeg", {}),
        ("jpeg", {"progressive": True, "exif": b"Exif\0\0" + bytes(2000)}),
        ("webp", {}),
        ("webp", {"lossless": True}),
        ("webp", {"alpha": True, "exif": b"Exif\0\0" + bytes(20)}),
    ],
)
def test_what_is_written_is_read(image_format: str, options: dict[str, object]) -> None:
    content = encoded(image_format, **options)
    assert image_header(content) == ImageHeader(image_format, 72, 40)
    for cut in (0, 3, 11, 15, 19, 22):
        assert image_header(content[:cut]) is None


@pytest.mark.parametrize("content", [b"", b"<script>", b"GIF89a" + bytes(30), b"\xff\xd8\xff" * 90])
def test_what_is_none_of_the_three_is_none(content: bytes) -> None:
    assert image_header(content) is None

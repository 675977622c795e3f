"""What an upload must be, and the PNG that becomes of it."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_node.api.init_image import decoding_bytes, fitted_size_px, own_size_px, png_of_size
from edge_node.errors import InvalidRequest
from tests.api.memory_front_desk import LIMITS
from tests.api.uploaded import decoded, encoded, halves, noise

PIXELS_MAX = 1_000_000
# Stable Diffusion 3's.
LARGE = replace(LIMITS, size_px_min=256, size_px_max=1536, size_px_multiple=16)
RED, BLUE = (255, 0, 0), (0, 0, 255)
PNG = encoded(noise(64, 64))
JPEG = encoded(noise(64, 64), "JPEG")
WEBP = encoded(noise(64, 64), "WEBP")


def drawn_from(content: bytes, size_px: tuple[int, int]) -> Image.Image:
    own_size_px(content, pixels_max=PIXELS_MAX, param="image")
    return decoded(png_of_size(content, size_px=size_px, param="image"))


@pytest.mark.parametrize(
    ("own_px", "fitted_px"),
    [
        ((512, 512), (512, 512)),
        ((768, 512), (768, 512)),
        ((500, 333), (496, 336)),
        ((4000, 3000), (1536, 1152)),
        ((3000, 4000), (1152, 1536)),
        ((100, 100), (256, 256)),
        ((100, 150), (256, 384)),
        ((1, 1), (256, 256)),
        # Too narrow for both limits.
        ((8000, 100), (1536, 256)),
        ((10, 5000), (256, 1536)),
    ],
)
def test_the_size_of_a_drawing_follows_its_image(
    own_px: tuple[int, int], fitted_px: tuple[int, int]
) -> None:
    assert fitted_size_px(own_px, LARGE) == fitted_px


def test_a_fitted_size_is_within_the_limits_and_keeps_the_aspect_ratio() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        low_px, multiple_px = rng.randint(1, 300), rng.choice((8, 16, 64))
        limits = replace(
            LIMITS,
            size_px_min=low_px,
            size_px_max=low_px + multiple_px + rng.randint(0, 1500),
            size_px_multiple=multiple_px,
        )
        own_px = rng.randint(1, 9000), rng.randint(1, 9000)
        fitted_px = fitted_size_px(own_px, limits)
        for side_px in fitted_px:
            assert limits.size_px_min <= side_px <= limits.size_px_max, (own_px, limits)
            assert side_px % multiple_px == 0, (own_px, limits)
        # Each side is at most half a multiple from its exact place, unless a limit stops it.
        free = all(low_px + multiple_px < s < limits.size_px_max - multiple_px for s in fitted_px)
        if free:
            ratio = own_px[0] / own_px[1]
            least = (fitted_px[0] - multiple_px / 2) / (fitted_px[1] + multiple_px / 2)
            most = (fitted_px[0] + multiple_px / 2) / (fitted_px[1] - multiple_px / 2)
            assert least <= ratio <= most, (own_px, fitted_px, limits)


def test_it_is_scaled_to_the_drawings_size() -> None:
    made = drawn_from(encoded(halves(96, 64)), (64, 32))
    assert (made.size, made.mode) == ((64, 32), "RGB")
    assert (made.getpixel((2, 16)), made.getpixel((61, 16))) == (RED, BLUE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_it_is_upright_as_a_camera_meant_it(orientation: int, image_format: str) -> None:
    # Stored so that turning it by its orientation gives the picture below.
    picture = Image.new("RGB", (96, 64), "green")
    picture.paste(RED, (0, 0, 48, 32))  # top left
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = picture.transpose(undo[orientation]) if orientation in undo else picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(stored, image_format, exif=exif, quality=95)
    assert own_size_px(content, pixels_max=PIXELS_MAX, param="image") == (96, 64)
    made = drawn_from(content, (96, 64))
    corners = [made.getpixel(at) for at in ((8, 8), (88, 8), (8, 56), (88, 56))]
    reds = [pixel[0] > 200 for pixel in corners if isinstance(pixel, tuple)]
    assert reds == [True, False, False, False]


def test_what_is_transparent_becomes_white() -> None:
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (32, 0, 64, 64))
    palette = Image.new("P", (64, 64), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(0, (0, 0, 32, 64))
    contents = [
        encoded(clear),
        encoded(clear, "WEBP", lossless=True),
        encoded(palette, transparency=0),
    ]
    for content in contents:
        made = drawn_from(content, (64, 64))
        assert (made.getpixel((8, 32)), made.getpixel((56, 32))) == ((255, 255, 255), BLUE)


def test_other_kinds_of_pixels_keep_their_colours() -> None:
    deep = Image.fromarray(np.full((64, 64), 0x8000, dtype=np.uint16))
    grey = Image.new("L", (64, 64), 128)
    for content in (encoded(deep), encoded(grey), encoded(grey.convert("CMYK"), "JPEG")):
        pixel = drawn_from(content, (64, 64)).getpixel((32, 32))
        assert pixel == pytest.approx((128, 128, 128), abs=3)
    large = encoded(halves(1600, 600), "JPEG", quality=95)
    assert drawn_from(large, (64, 32)).getpixel((2, 16)) == pytest.approx(RED, abs=6)


def test_a_jpeg_loses_nothing_that_the_drawing_has_room_for() -> None:
    made = drawn_from(JPEG, (64, 64))
    assert made.tobytes() == decoded(JPEG).tobytes()


@pytest.mark.parametrize("size_px", [(64, 32), (2000, 700), (331, 1200)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_scaled_in_pieces_it_is_as_scaled_whole(mode: str, size_px: tuple[int, int]) -> None:
    picture = noise(160, 90).resize((1601, 907), Image.Resampling.BICUBIC).convert("RGBA")
    picture.putalpha(noise(1601, 907, seed=1).convert("L"))
    picture = picture.convert(mode)
    whole = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    whole = whole.resize(size_px, Image.Resampling.LANCZOS)
    expected = Image.new("RGB", size_px, "white")
    expected.paste(whole, mask=whole.getchannel("A") if whole.mode == "RGBA" else None)
    made = decoded(png_of_size(encoded(picture), size_px=size_px, param="image"))
    apart = np.abs(np.asarray(made, dtype=int) - np.asarray(expected, dtype=int))
    assert apart.max() <= 2
    assert (apart > 0).mean() < 0.01, "but for rounding"


PEAK = """
import resource, sys
from edge_node.api import init_image
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

def peak(side_px, content):
    for _ in range(2):
        init_image.png_of_size(content, size_px=(side_px, side_px), param="image")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

buffer = __import__("io").BytesIO()
Image.effect_noise((700, 700), 50).convert("RGBA").save(buffer, "PNG")
before = peak(512, buffer.getvalue())
print(peak(64, sys.stdin.buffer.read()) - before)
"""


@pytest.mark.parametrize(
    ("mode", "image_format", "options", "bytes_a_pixel"),
    [
        ("RGB", "PNG", {}, 4),
        ("RGBA", "PNG", {}, 4),
        ("P", "PNG", {}, 1),
        ("P", "GIF", {}, 1),
        ("I;16", "PNG", {}, 2),
        ("RGB", "JPEG", {}, 0.0625),
        ("RGB", "JPEG", {"progressive": True, "subsampling": 0}, 6.0625),
        ("CMYK", "JPEG", {"progressive": True, "subsampling": 0}, 8.0625),
        ("RGB", "WEBP", {"method": 0}, 20),
        ("RGBA", "WEBP", {"method": 0, "lossless": True, "quality": 0}, 20),
    ],
)
def test_decoding_takes_no_more_memory_than_its_header_tells(
    mode: str, image_format: str, options: dict[str, Any], bytes_a_pixel: float
) -> None:
    side_px = 2000
    if mode == "I;16":
        picture = Image.fromarray(np.full((side_px, side_px), 0x8000, dtype=np.uint16))
    else:
        picture = noise(100, 100).resize((side_px, side_px)).convert(mode)
    content = encoded(picture, image_format, **options)
    told = decoding_bytes(content, size_px=(64, 64), param="image")
    assert told == pytest.approx(bytes_a_pixel * side_px**2, rel=0.01)
    done = subprocess.run(
        [sys.executable, "-c", PEAK], input=content, capture_output=True, check=True, timeout=60
    )
    # Beside the file, and what it always takes.
    assert int(done.stdout) - 2 * len(content) < told + 8 * 2**20


def test_its_metadata_stays_behind() -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    content = encoded(halves(), "JPEG", exif=exif, comment="where I live")
    assert b"where I live" in content
    assert b"where I live" not in png_of_size(content, size_px=(96, 64), param="image")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"not an image at all" * 20,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        PNG[: len(PNG) // 2],
        JPEG[: len(JPEG) // 2],
        WEBP[: len(WEBP) // 2],
        PNG[:20] + bytes(10) + PNG[30:],
        encoded(halves(), "BMP"),
        encoded(halves(), "TIFF"),
    ],
    ids=lambda content: repr(content[:12]),
)
def test_what_is_no_whole_image_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(InvalidRequest, match="whole PNG, JPEG, WebP or GIF") as refused:
        drawn_from(content, (64, 64))
    assert refused.value.param == "image"
    assert "BytesIO" not in refused.value.message


def test_damaged_bytes_are_refused_or_drawn_and_nothing_else() -> None:
    rng = random.Random(7)
    refusals = []
    for whole in (PNG, JPEG, WEBP) * 100:
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            damaged[rng.randrange(min(len(damaged), 400))] = rng.randrange(256)
        try:
            assert drawn_from(bytes(damaged), (32, 48)).size == (32, 48)
        except InvalidRequest as refusal:
            refusals.append(refusal.param)
    assert len(refusals) > 50
    assert set(refusals) == {"image"}


@pytest.mark.parametrize(
    ("width_px", "said"),
    [
        (1_000_001, "1000001x1 pixels; at most 1000000 are decoded"),
        # Of these Pillow warns, and refuses them.
        (120_000_000, "image"),
        (400_000_000, "image"),
    ],
)
def test_a_small_file_of_very_many_pixels_is_not_decoded(width_px: int, said: str) -> None:
    bomb = bytearray(encoded(Image.new("1", (64, 64))))
    bomb[16:24] = width_px.to_bytes(4) + (1).to_bytes(4)  # in the PNG's header
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4)
    with pytest.raises(InvalidRequest, match=said) as refused:
        own_size_px(bytes(bomb), pixels_max=PIXELS_MAX, param="image")
    assert refused.value.param == "image"


def test_pillow_comes_with_the_first_upload_only() -> None:
    code = (
        "import sys, edge_node.api.app, edge_node.api.init_image as made\n"
        "before = 'PIL' in sys.modules\n"
        "made.own_size_px(sys.stdin.buffer.read(), pixels_max=10**6, param='image')\n"
        "print(before, 'PIL' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=PNG, capture_output=True, check=True, timeout=60
    )
    assert done.stdout.split() == [b"False", b"True"]


def test_the_png_is_the_same_for_the_same_image() -> None:
    made = {png_of_size(JPEG, size_px=(48, 48), param="image") for _ in range(3)}
    assert len(made) == 1
    assert io.BytesIO(made.pop()).read(8) == b"\x89PNG\r\n\x1a\n"

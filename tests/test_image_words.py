"""Words in files of images, as the worker writes them, and files without them."""

from __future__ import annotations

import io

import pytest
from PIL import Image as PillowImage

from edge_node.image_words import EXIF_IFD, USER_COMMENT, without_parameters
from edge_node.worker.image_encoding import EXIF_BYTES_MAX, FORMATS, encode

PICTURE = PillowImage.linear_gradient("L").convert("RGB")
PROMPTS = ("a boat", "ein Schiff \N{SAILBOAT} 🦊", "a lone \ud800 surrogate")


def written(image_format: str, prompt: str, **texts: str) -> bytes:
    given = {"parameters": prompt, "task_id": "a-1", "emulated_device": "orin", **texts}
    return encode(PICTURE, image_format=image_format, texts=given)


def words_of(content: bytes) -> str:
    """As viewers read them."""
    with PillowImage.open(io.BytesIO(content)) as image:
        if image.format == "PNG":
            return str(image.info.get("parameters", ""))
        comment: bytes = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
    return comment.removeprefix(b"UNICODE\0").decode("utf-16-be", "surrogatepass").strip("\0")


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("prompt", PROMPTS[:2])
def test_words_are_read_by_viewers_and_leave_alone(image_format: str, prompt: str) -> None:
    content = written(image_format, prompt)
    assert words_of(content) == prompt
    left = without_parameters(content)
    assert words_of(left) == ""
    for encoding in ("utf-8", "utf-16-be"):
        assert prompt.encode(encoding) not in left
    with PillowImage.open(io.BytesIO(left)) as image, PillowImage.open(io.BytesIO(content)) as was:
        assert image.tobytes() == was.tobytes()
        if image_format == "png":
            assert image.info == {"task_id": "a-1", "emulated_device": "orin"}
        else:
            assert image.getexif()[0x0110] == "orin"
            assert image.getexif().get_ifd(EXIF_IFD)[0xA420] == "a-1"
    assert without_parameters(left) == left


@pytest.mark.parametrize("image_format", ["webp", "jpeg"])
def test_a_lone_surrogate_is_no_crash(image_format: str) -> None:
    assert words_of(written(image_format, PROMPTS[2])) == PROMPTS[2]


def test_parameters_that_a_segment_cannot_hold_are_left_out_whole() -> None:
    content = written("jpeg", "x" * (EXIF_BYTES_MAX // 2))
    assert words_of(content) == ""
    with PillowImage.open(io.BytesIO(content)) as image:
        assert image.getexif().get_ifd(EXIF_IFD)[0xA420] == "a-1"
    longest = "x" * (EXIF_BYTES_MAX // 2 - 100)
    assert words_of(written("jpeg", longest)) == longest


@pytest.mark.parametrize("image_format", FORMATS)
def test_what_has_no_words_stays_as_it_is(image_format: str) -> None:
    content = encode(PICTURE, image_format=image_format, texts={"task_id": "a-1"})
    assert without_parameters(content) == content
    bare = encode(PICTURE, image_format=image_format)
    assert without_parameters(bare) == bare
    assert b"Exif" not in bare


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_file_that_is_cut_short_breaks_nothing(image_format: str) -> None:
    content = written(image_format, "a boat")
    for end in range(0, 900):
        assert len(without_parameters(content[:end])) <= end


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n\0\0\1\0tEXt"])
def test_what_is_no_whole_png_stays_as_it_is(content: bytes) -> None:
    assert without_parameters(content) == content

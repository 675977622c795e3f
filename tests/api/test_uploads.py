"""What uploads may take in memory, and the process in which large ones are decoded."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
from PIL import Image

from edge_node.api import image_decoder, init_image
from edge_node.api.uploads import SentImage, Upload, Uploads
from edge_node.errors import AdmissionRefused, InvalidRequest
from tests.api.served import UPLOADS
from tests.api.uploaded import encoded, halves, noise

LARGE = encoded(noise(300, 200).resize((3000, 2000)), compress_level=1)
SIZE_PX = (96, 64)
SENT: list[IO[bytes]] = []
ROOMY = replace(UPLOADS, decoding_bytes_max=2**28)


def in_process(content: bytes) -> bytes:
    return asyncio.run(image_decoder.png_of_size(sent(content), size_px=SIZE_PX, param="image"))


def sent(content: bytes) -> IO[bytes]:
    """As a place keeps it, in memory until a process is to read it."""
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115
    SENT.append(file)
    file.write(content)
    return file


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while SENT:
        SENT.pop().close()


def test_a_large_image_is_decoded_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [
        init_image.png_of_size(one, size_px=SIZE_PX, param="image")
        for one in (LARGE, encoded(halves()))
    ]

    async def made() -> list[bytes]:
        held = Uploads(ROOMY)
        return [
            await held.png_of_size(
                Upload(image=SentImage(file=sent(one), param="image"), strength=None),
                size_px=SIZE_PX,
            )
            for one in (LARGE, encoded(halves()))
        ]

    elsewhere: list[int] = []
    real = image_decoder.png_of_size

    async def noted(file: IO[bytes], **options: Any) -> bytes:
        elsewhere.append(file.seek(0, 2))
        return await real(file, **options)

    monkeypatch.setattr(image_decoder, "png_of_size", noted)
    assert asyncio.run(made()) == expected
    assert elsewhere == [len(LARGE)]


def test_what_takes_more_memory_to_decode_than_it_may_is_refused() -> None:
    # As a file it is small, and its pixels are few enough.
    bomb = encoded(Image.new("RGB", (1600, 1200)), "WEBP", lossless=True)
    upload = Upload(image=SentImage(file=sent(bomb), param="image"), strength=None)

    async def story() -> None:
        assert await Uploads(UPLOADS).own_size_px(upload) == (1600, 1200)
        with pytest.raises(
            InvalidRequest, match="takes 38400000 bytes of memory to decode"
        ) as refused:
            await Uploads(UPLOADS).png_of_size(upload, size_px=SIZE_PX)
        assert refused.value.param == "image"
        assert await Uploads(ROOMY).png_of_size(upload, size_px=SIZE_PX)

    asyncio.run(story())


def test_uploads_are_held_within_their_bytes_together() -> None:
    held = Uploads(replace(UPLOADS, at_once_max=5, held_bytes_max=100))
    with held.place() as first, held.place() as second, held.place() as third:
        first.take(300)  # alone it may be larger
        with pytest.raises(AdmissionRefused, match="of 100 bytes together"):
            second.take(1)
        first.release()
        second.take(60)
        second.take(60)  # counts once
        with pytest.raises(AdmissionRefused):
            third.take(41)
        third.take(40)
    with held.place() as after:
        after.take(100)


def test_a_damaged_image_is_refused_by_its_process_in_the_same_words() -> None:
    with pytest.raises(InvalidRequest) as here:
        init_image.png_of_size(LARGE[:-5000], size_px=SIZE_PX, param="image")
    with pytest.raises(InvalidRequest) as there:
        in_process(LARGE[:-5000])
    assert (there.value.message, there.value.param) == (here.value.message, "image")


@pytest.mark.parametrize(
    ("end", "error", "said"),
    [
        ("kill -SEGV $$", InvalidRequest, "its decoder ended with SIGSEGV"),
        ("kill -XCPU $$", InvalidRequest, "its decoder ended with SIGXCPU"),
        ("echo odd >&2; exit 1", InvalidRequest, "its decoder ended with odd"),
        ("kill -KILL $$", AdmissionRefused, "no memory to decode `image` now"),
    ],
)
def test_a_decoder_that_dies_takes_its_image_with_it_and_nothing_else(
    end: str, error: type[Exception], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = tmp_path / "python"
    dying.write_text(f"#!/bin/sh\ncat > /dev/null\n{end}\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    with pytest.raises(error, match=said):
        in_process(LARGE)


def test_a_request_that_is_given_up_ends_its_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid_file = tmp_path / "pid"
    endless = tmp_path / "python"
    endless.write_text(f"#!/bin/sh\necho $$ > {pid_file}\nexec sleep 60\n")
    endless.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(endless))

    async def story() -> None:
        decoding = asyncio.create_task(
            image_decoder.png_of_size(sent(LARGE), size_px=SIZE_PX, param="image")
        )
        async with asyncio.timeout(10):
            while not pid_file.exists() or not pid_file.read_text():
                await asyncio.sleep(0.01)
        decoding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await decoding
        assert not Path("/proc", pid_file.read_text().strip()).exists()

    asyncio.run(story())


def test_a_system_without_memory_is_not_blamed_on_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder's own process, which the system gives too few addresses for a large one."""
    large = encoded(noise(300, 200).resize((9000, 6000)), compress_level=1)
    bounded = tmp_path / "python"
    bounded.write_text(f'#!/bin/sh\nulimit -v 180000\nexec {sys.executable} "$@"\n')
    bounded.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bounded))
    assert in_process(encoded(halves())).startswith(b"\x89PNG")
    with pytest.raises(AdmissionRefused, match="no memory to decode `image` now"):
        in_process(large)

"""Every usual format of a caption file, and clear words about a useless one."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_node.console.captions import SAMPLE, read_captions
from edge_node.errors import InvalidRequest

FORMATS = {
    "plain": "a dog runs\n\n  two   cats sleep \n",
    "token": "1.jpg#0\ta dog runs\n1.jpg#1\ttwo cats sleep\n",
    "kaggle": 'image,caption\n1.jpg,a dog runs\n1.jpg,"two cats sleep"\n',
    "windows": "a dog runs\r\ntwo cats sleep\r\n",
}


@pytest.mark.parametrize("text", FORMATS.values(), ids=FORMATS.keys())
def test_reads_every_format(tmp_path: Path, text: str) -> None:
    path = tmp_path / "captions.txt"
    path.write_text(text)
    assert read_captions(path) == ("a dog runs", "two cats sleep")


def test_commas_in_a_quoted_caption_stay(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_text('image,caption\n1.jpg,"a dog, a cat"\n')
    assert read_captions(path) == ("a dog, a cat",)


def test_without_a_file_there_is_a_sample() -> None:
    assert read_captions(None) == SAMPLE
    assert len(set(SAMPLE)) == len(SAMPLE) >= 20


def test_a_missing_or_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no caption file"):
        read_captions(tmp_path / "absent.txt")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    with pytest.raises(InvalidRequest, match="holds no captions"):
        read_captions(empty)

"""What a worker leaves beside its socket when it does not come up."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from edge_node import start_note
from edge_node.start_note import WITHOUT_A_WORD, StartNote


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "w.sock"


def note_of(socket_path: Path) -> StartNote:
    note = start_note.read(socket_path)
    assert note is not None
    return note


def test_why_a_start_ended_is_kept_until_one_comes_up(socket_path: Path) -> None:
    assert start_note.read(socket_path) is None
    start_note.begin(socket_path)
    assert (note_of(socket_path).sentence, note_of(socket_path).has_failed) == ("", False)
    start_note.tell(socket_path, "no lock is there.\nmore", permanent=False)
    note = note_of(socket_path)
    assert note.sentence == "it ended at its start: no lock is there"
    assert (note.has_failed, note.under_way) == (False, False)
    assert 0.0 <= time.monotonic() - note.ended_s < 10.0
    start_note.begin(socket_path)
    assert (note_of(socket_path).reason, note_of(socket_path).under_way) == (note.reason, True)
    start_note.tell(socket_path, "no lock", permanent=False)
    note = note_of(socket_path)
    assert note.sentence == "it ended 2 times in a row at its start: no lock"
    assert note.has_failed
    start_note.forget(socket_path)
    assert start_note.read(socket_path) is None
    start_note.tell(socket_path, "a crash after it had come up", permanent=False)
    assert start_note.read(socket_path) is None
    assert list(socket_path.parent.iterdir()) == []


def test_an_end_without_a_word_is_told_by_the_next_start(socket_path: Path) -> None:
    for times in (0, 1, 2):
        start_note.begin(socket_path)
        assert (note_of(socket_path).deaths, note_of(socket_path).has_failed) == (times, times > 1)
    assert note_of(socket_path).reason == WITHOUT_A_WORD


def test_what_nobody_but_an_operator_can_mend_is_told_after_one(socket_path: Path) -> None:
    start_note.begin(socket_path)
    start_note.tell(socket_path, "there is no such option", permanent=True)
    assert note_of(socket_path).has_failed
    assert note_of(socket_path).sentence == "there is no such option"
    start_note.tell_before_begin(socket_path, "the folder cannot be made")
    assert note_of(socket_path).sentence == "the folder cannot be made"


@pytest.mark.parametrize(
    "changed",
    [
        {"boot": "another"},
        {"ended_s": time.monotonic() + 1e6},
        {"ended_s": float("nan")},
        {"deaths": "many"},
        {"deaths": float("inf")},
        {"reason": None, "deaths": None},
    ],
)
def test_a_note_of_another_boot_or_of_nobody_is_none(
    socket_path: Path, changed: dict[str, object]
) -> None:
    start_note.begin(socket_path)
    start_note.tell(socket_path, "no lock", permanent=False)
    (path,) = socket_path.parent.iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    assert start_note.read(socket_path) is None
    for garbage in (b"", b"\0" * 80, b"[]", b"3", b'{"boot": 3}'):
        path.write_bytes(garbage)
        assert start_note.read(socket_path) is None


def test_where_nothing_can_be_written_the_start_goes_on(tmp_path: Path) -> None:
    socket_path = tmp_path / "missing" / "w.sock"
    start_note.begin(socket_path)
    start_note.tell(socket_path, "no lock", permanent=False)
    start_note.tell_before_begin(socket_path, "no lock")
    start_note.forget(socket_path)
    assert start_note.read(socket_path) is None

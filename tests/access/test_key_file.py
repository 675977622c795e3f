"""The file of keys, while a node reads it and somebody changes it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from edge_node.access.key_file import KeyFile, change, path_of, read
from edge_node.access.keys import ANYBODY, KeyList, Scope
from edge_node.config import NodeConfig
from edge_node.errors import InvalidRequest


def given_out(path: Path, name: str) -> str:
    texts = []

    def add(keys: KeyList) -> KeyList:
        longer, text = keys.with_new(name, scopes={Scope.READ}, now_unix_s=1.0)
        texts.append(text)
        return longer

    change(path, add)
    return texts[0]


def test_keys_are_asked_for_from_the_first_one_on(tmp_path: Path) -> None:
    path = tmp_path / "data" / "keys.json"
    known = KeyFile(path)
    assert known.client(None) == known.client("anything") == ANYBODY
    alice = given_out(path, "alice")
    assert path.stat().st_mode & 0o777 == 0o600
    known.look()
    assert known.asked_for
    assert known.client(None) is None
    assert known.client("anything") is None
    assert known.client(alice) is not None
    change(path, lambda keys: keys.without("alice", now_unix_s=2.0))
    known.look()
    assert known.client(alice) is None
    assert known.client(None) is None, "that the last key is revoked opens nothing"


def test_whatever_becomes_of_the_file_opens_nothing(tmp_path: Path, caplog: Any) -> None:
    path = tmp_path / "keys.json"
    alice = given_out(path, "alice")
    known = KeyFile(path)
    for ruin in (lambda: path.write_bytes(b"{"), path.unlink, lambda: path.mkdir()):
        ruin()
        known.look()
        known.look()
        assert known.client(None) is None
        assert known.client(alice) is not None
    assert caplog.text.count("the keys stay as they are") == 3, "said once each time"
    path.rmdir()
    bob = given_out(path, "bob")
    known.look()
    assert known.client(bob) is not None
    assert known.client(alice) is None


def test_a_node_does_not_start_with_keys_that_it_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(b"garbage")
    with pytest.raises(InvalidRequest, match=r"keys.json cannot be read .* Restore the file"):
        KeyFile(path)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        given_out(path, "alice")
    assert path.read_bytes() == b"garbage"


def test_two_who_add_at_once_both_do(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    threads = [
        threading.Thread(target=given_out, args=(path, f"client {number}")) for number in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys = read(path)
    assert keys.version == len(keys.keys) == 12
    assert [one.name for one in tmp_path.iterdir()] == ["keys.json"]


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match="cannot be written"):
        given_out(tmp_path / "file" / "keys.json", "alice")


def test_its_place_is_the_data_folder_unless_it_is_set(tmp_path: Path) -> None:
    assert path_of(NodeConfig(data_folder=tmp_path)) == tmp_path / "keys.json"
    assert path_of(NodeConfig(keys_file=tmp_path / "k")) == tmp_path / "k"

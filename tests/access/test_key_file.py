"""The file of keys, while a node reads it and somebody changes it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from edge_node.access.key_file import KeyFile, change, path_of, read
from edge_node.access.keys import ANYBODY, NO_KEYS, KeyList, Scope
from edge_node.access.signed_list import NotSigned, SignedKeys
from edge_node.config import NodeConfig
from edge_node.errors import InvalidRequest
from tests.access.signing import authority_in, key_file, listed, signed, verify_by


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


def test_of_two_signed_lists_the_greater_stands_wherever_it_comes_from(
    tmp_path: Path, caplog: Any
) -> None:
    authority = authority_in(tmp_path)
    path = tmp_path / "keys.json"
    seventh, eighth = signed(authority, 7, "alice"), signed(authority, 8, "alice")
    path.write_bytes(seventh)
    known = key_file(tmp_path, authority)
    assert known.held == known.passed_on
    assert (known.held.version, known.signed()) == (7, seventh)
    assert asyncio.run(known.offer(eighth)).version == 8
    assert known.held.version == 8
    assert path.read_bytes() == eighth, "so that it is in force after a restart"
    assert asyncio.run(known.offer(seventh)).version == 7
    assert known.held.version == 8
    path.write_bytes(seventh)
    known.look()
    assert (known.held.version, path.read_bytes()) == (8, eighth)
    assert "are older (version 7, not 8)" in caplog.text
    assert key_file(tmp_path, authority).held.version == 8
    path.write_bytes(signed(authority, 9))
    known.look()
    assert known.held.version == 9


def test_of_two_lists_of_one_version_all_nodes_choose_the_same(tmp_path: Path) -> None:
    authority = authority_in(tmp_path)
    one, other = signed(authority, 7, "alice"), signed(authority, 7, "bob")
    found = []
    for number, texts in enumerate(((one, other), (other, one))):
        folder = tmp_path / str(number)
        folder.mkdir()
        known = key_file(folder, authority)
        for text in texts:
            asyncio.run(known.offer(text))
        found.append(known.held)
    assert found[0] == found[1]


def test_a_list_that_nobody_signed_changes_nothing(tmp_path: Path, caplog: Any) -> None:
    authority = authority_in(tmp_path)
    path = tmp_path / "keys.json"
    known = key_file(tmp_path, authority)
    mine = listed(99, "mallory")[0].encode()
    with pytest.raises(NotSigned):
        asyncio.run(known.offer(mine))
    path.write_bytes(mine)
    known.look()
    assert not known.asked_for
    assert "authority has signed" in caplog.text
    with pytest.raises(InvalidRequest, match="authority has signed"):
        key_file(tmp_path, authority)
    seventh = signed(authority, 7, "alice")
    asyncio.run(known.offer(seventh))
    for ruin in (lambda: path.write_bytes(mine), lambda: path.write_bytes(b"{"), path.unlink):
        ruin()
        known.look()
        assert known.held.version == 7
        assert path.read_bytes() == seventh, "it is put back"
    path.unlink()
    path.mkdir()
    known.look()
    assert known.held.version == 7
    assert sorted(one.name for one in tmp_path.iterdir()) == ["certs", "keys.json"]


def test_where_nobody_signs_nothing_is_taken_from_others(tmp_path: Path) -> None:
    known = KeyFile(tmp_path / "keys.json")
    with pytest.raises(NotSigned, match="tls_folder"):
        asyncio.run(known.offer(signed(authority_in(tmp_path), 7)))
    given_out(tmp_path / "keys.json", "alice")
    known.look()
    assert known.asked_for
    assert (known.passed_on, known.signed()) == (NO_KEYS, b"")


def test_what_the_authority_signs_no_more_is_in_force_and_not_passed_on(tmp_path: Path) -> None:
    authority = authority_in(tmp_path)
    told: list[int] = []

    def verify(text: bytes) -> SignedKeys:
        return verify_by(authority)(text)

    known = KeyFile(tmp_path / "keys.json", verify=verify)
    known.tell(lambda held: told.append(held.version))
    asyncio.run(known.offer(signed(authority, 7, "alice")))
    authority.renew_itself()
    asyncio.run(known.check_again())
    assert known.passed_on.version == 7
    authority.forget_former()
    for _ in range(2):
        asyncio.run(known.check_again())
    assert known.asked_for
    assert known.held.version == 7
    assert (known.passed_on, known.signed()) == (NO_KEYS, b"")
    asyncio.run(known.offer(signed(authority, 8, "alice")))
    assert known.passed_on.version == 8
    assert told == [0, 7, 0, 8]

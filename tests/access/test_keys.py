"""Keys: what is given out, what is kept of it, and what it allows."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from edge_node.access.keys import (
    ANYBODY,
    KEYS_MAX,
    KeyLimits,
    KeyList,
    Scope,
    UnreadableKeys,
)
from edge_node.access.signed_list import SIGNED_BYTES_MAX

OWN = {Scope.GENERATE, Scope.READ}


def test_a_key_is_known_until_it_is_revoked_and_nothing_else_ever() -> None:
    keys, alice = KeyList.empty().with_new("alice", scopes=OWN, now_unix_s=1.0)
    keys, bob = keys.with_new("bob", scopes={Scope.OPERATE}, now_unix_s=2.0)
    asking = keys.client(alice)
    assert asking is not None
    assert (asking.id, asking.scopes) == (keys.keys[0].id, OWN)
    assert keys.client(bob) != asking
    alice_id, bob_id = keys.keys[0].id, keys.keys[1].id
    mixed = alice.replace(alice_id, bob_id)
    for text in ("", "x", alice[:-1], alice + "x", alice.upper(), f" {alice}", mixed, alice_id):
        assert keys.client(text) is None
    assert KeyList.empty().client(alice) is None
    less = keys.without("alice", now_unix_s=3.0)
    assert less.client(alice) is None
    assert less.client(bob) == keys.client(bob)
    assert [one.version for one in (keys, less)] == [2, 3]
    assert less.without(bob_id, now_unix_s=4.0).client(bob) is None


def test_what_is_kept_makes_no_key() -> None:
    keys, text = KeyList.empty().with_new("alice", scopes=OWN, now_unix_s=1.0)
    kept = keys.encode().decode()
    secret = text.split("_", 2)[2]  # it may hold underscores itself
    assert secret not in kept
    assert KeyList.decode(kept.encode()) == keys
    other = KeyList(version=keys.version, secret=KeyList.empty().secret, keys=keys.keys)
    assert other.client(text) is None, "a digest is of no use under another secret"


def test_two_keys_are_never_alike() -> None:
    keys, texts = KeyList.empty(), set()
    for number in range(50):
        keys, text = keys.with_new(f"client {number}", scopes=OWN, now_unix_s=1.0)
        texts.add(text)
    assert len(texts) == 50
    assert len({key.id for key in keys.keys}) == 50


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda keys: keys.with_new("", scopes=OWN, now_unix_s=1.0), "1 to 64 printable"),
        (lambda keys: keys.with_new("a" * 65, scopes=OWN, now_unix_s=1.0), "1 to 64 printable"),
        (lambda keys: keys.with_new("a\nb", scopes=OWN, now_unix_s=1.0), "1 to 64 printable"),
        (lambda keys: keys.with_new("alice", scopes=OWN, now_unix_s=1.0), "revoke it first"),
        (lambda keys: keys.with_new("bob", scopes=(), now_unix_s=1.0), "allows something"),
        (lambda keys: keys.without("bob", now_unix_s=1.0), "no key in force"),
        (
            lambda keys: keys.without("alice", now_unix_s=1.0).without("alice", now_unix_s=2.0),
            "no key in force",
        ),
    ],
)
def test_what_makes_no_sense_changes_nothing(
    change: Callable[[KeyList], object], said: str
) -> None:
    keys, _ = KeyList.empty().with_new("alice", scopes=OWN, now_unix_s=1.0)
    with pytest.raises(ValueError, match=said):
        change(keys)


def test_a_name_is_free_again_once_its_key_is_revoked() -> None:
    keys, former = KeyList.empty().with_new("alice", scopes=OWN, now_unix_s=1.0)
    keys, present = keys.without("alice", now_unix_s=2.0).with_new(
        "alice", scopes=OWN, now_unix_s=3.0
    )
    assert keys.client(former) is None
    assert keys.client(present) is not None
    assert keys.without("alice", now_unix_s=4.0).client(present) is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"format": 2}',
        b'{"format": 1, "version": 1, "secret": "xy", "keys": []}',
        b'{"format": 1, "version": 1, "secret": "00", "keys": [{"id": "a"}]}',
        b'{"format": 1, "version": 1, "secret": "00", "keys": null}',
    ],
)
def test_a_damaged_list_is_none(text: bytes) -> None:
    with pytest.raises(UnreadableKeys):
        KeyList.decode(text)


def test_who_operates_may_everything_of_everybody() -> None:
    keys, text = KeyList.empty().with_new("alice", scopes={Scope.READ}, now_unix_s=1.0)
    keys, operating = keys.with_new("bob", scopes={Scope.OPERATE}, now_unix_s=1.0)
    alice, bob = keys.client(text), keys.client(operating)
    assert alice is not None
    assert bob is not None
    assert [alice.may(scope) for scope in Scope] == [False, True, False]
    assert all(bob.may(scope) and ANYBODY.may(scope) for scope in Scope)
    assert alice.owns(alice.id)
    assert not alice.owns(bob.id)
    assert not alice.owns("")
    assert bob.owns(alice.id)
    assert ANYBODY.owns(alice.id)


def test_limits_are_kept_changed_and_checked() -> None:
    keys, text = KeyList.empty().with_new(
        "alice", scopes={Scope.READ}, now_unix_s=1.0, limits=KeyLimits(images_per_day=5)
    )
    client = KeyList.decode(keys.encode()).client(text)
    assert client is not None
    assert client.limits == KeyLimits(images_per_day=5)
    other = KeyLimits(requests_per_minute=60, open_tasks_max=3)
    changed = KeyList.decode(keys.with_limits("alice", other).encode())
    assert changed.version == keys.version + 1
    client = changed.client(text)
    assert client is not None
    assert client.limits == other
    with pytest.raises(ValueError, match="no key in force"):
        keys.with_limits("bob", other)
    for wrong in (0, -1, 10**10):
        with pytest.raises(ValueError, match="give 1 to"):
            KeyLimits(open_tasks_max=wrong)
    former = json.loads(keys.encode())
    del former["keys"][0]["limits"]
    assert KeyList.decode(json.dumps(former).encode()).keys[0].limits == KeyLimits()


def test_a_list_is_bounded_and_who_was_revoked_first_makes_room() -> None:
    keys, texts = KeyList.empty(), []
    for number in range(KEYS_MAX):
        keys, text = keys.with_new(f"client {number}", scopes=OWN, now_unix_s=1.0)
        texts.append(text)
    assert len(keys.encode()) < SIGNED_BYTES_MAX / 2
    with pytest.raises(ValueError, match="revoke one first"):
        keys.with_new("one more", scopes=OWN, now_unix_s=2.0)
    for which, revoked_unix_s in (("client 7", 5.0), ("client 3", 4.0)):
        keys = keys.without(which, now_unix_s=revoked_unix_s)
    keys, one_more = keys.with_new("one more", scopes=OWN, now_unix_s=6.0)
    assert len(keys.keys) == KEYS_MAX
    names = {key.name for key in keys.keys}
    assert "client 7" in names
    assert "client 3" not in names
    assert keys.client(texts[3]) is keys.client(texts[7]) is None
    assert keys.client(one_more) is not None
    assert keys.client(texts[0]) is not None

"""A cluster's authority, and lists that it signs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edge_node.access.key_file import KeyFile, Verify
from edge_node.access.keys import KeyList, Scope
from edge_node.access.signed_list import verified
from edge_node.console.certs import Authority

CLUSTER = "lab"


def authority_in(folder: Path, cluster_name: str = CLUSTER) -> Authority:
    return Authority.begin(folder / "certs", cluster_name=cluster_name)


def listed(version: int, *names: str) -> tuple[KeyList, list[str]]:
    """A list of that version, and the keys of those who are on it."""
    keys, texts = KeyList(version=version - len(names), secret="5e" * 32), []
    for name in names:
        keys, text = keys.with_new(name, scopes={Scope.READ}, now_unix_s=1.0)
        texts.append(text)
    return keys, texts


def signed(authority: Authority, version: int, *names: str) -> bytes:
    return authority.sign_keys(listed(version, *names)[0].encode())


def verify_by(authority: Authority) -> Verify:
    return partial(verified, authorities=authority.authorities, cluster_name=CLUSTER)


def key_file(folder: Path, authority: Authority) -> KeyFile:
    return KeyFile(folder / "keys.json", verify=verify_by(authority))

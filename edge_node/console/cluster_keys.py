"""The list of API keys of a cluster, where its authority is: changed, signed, and handed to a node.

Owns `keys.json` in the authority's folder, of which there is one: what another copy of the folder
signs later takes its place everywhere. A copy is beside every node's certificate, so that a node
that is set up begins with it; nodes pass it on among themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import httpx

from edge_node.access import key_file
from edge_node.access.keys import KeyList, Scope, UnreadableKeys
from edge_node.access.signed_list import LIST_NAME, SIGNED_BYTES_MAX, NotSigned, verified
from edge_node.client.connection import trusted
from edge_node.console.certs import Authority
from edge_node.errors import InvalidRequest

# The operator's, as a deployment begins.
FIRST_NAME, FIRST_KEY = "operator", "operator.key"
_ANSWER_S_MAX = 10.0


class ClusterKeys:
    """The list in an authority's folder."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self.path = authority.folder / LIST_NAME

    def read(self) -> KeyList | None:
        """The list; None before there is one. Raises InvalidRequest where it cannot be used."""
        return self._opened(self.path.read_bytes()) if self.path.exists() else None

    def change(self, changed: Callable[[KeyList], KeyList]) -> None:
        """Puts another list in the place of this one, signed.

        Raises:
            InvalidRequest: the file cannot be read or written.
            ValueError: of `changed`.
        """

        def signed(former: bytes | None) -> tuple[KeyList, bytes]:
            known = KeyList.empty() if former is None else self._opened(former)
            # The time, so that a list begun anew where the former is lost comes after it, too.
            version = max(known.version + 1, int(time.time()))
            keys = replace(changed(known), version=version)
            text = self._authority.sign_keys(keys.encode())
            if len(text) > SIGNED_BYTES_MAX:
                raise ValueError("the list would be larger than nodes take: give shorter names")
            return keys, text

        key_file.rewrite(self.path, signed)
        self._authority.tell_keys()

    def give_first(self) -> Path | None:
        """Gives out a key for everything where there is no list; returns the file that holds it.

        None where there is a list already.
        """
        if self.path.exists():
            return None
        path = self._authority.folder / FIRST_KEY
        keys, text = KeyList.empty().with_new(
            FIRST_NAME, scopes={Scope.OPERATE}, now_unix_s=time.time()
        )
        # Before the list: a list that nobody has a key of would shut everybody out.
        path.touch(mode=0o600)
        path.write_text(text + "\n")
        self.change(lambda known: keys)
        return path

    def sign_again(self) -> bool:
        """Signs the list anew, for the authority is another; whether there is one."""
        if not self.path.exists():
            return False
        self.change(lambda keys: keys)
        return True

    def write_to(self, path: Path) -> None:
        """Puts the list where a node on this machine looks for it. Raises InvalidRequest."""
        text = self.path.read_bytes()
        key_file.rewrite(path, lambda former: (self._opened(text), text))

    def hand_to(self, urls: Iterable[str]) -> None:
        """Brings the list to nodes by their REST surfaces; one that takes it passes it on.

        Raises:
            InvalidRequest: one did not take it; those before did.
        """
        text = self.path.read_text()
        with httpx.Client(timeout=_ANSWER_S_MAX, trust_env=False, verify=trusted()) as http:
            for url in urls:
                try:
                    answer = http.put(f"{url.rstrip('/')}/v1/keys", json={"signed_list": text})
                    refused = _why(answer) if answer.status_code != httpx.codes.OK else ""
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    refused = f"it does not answer: {error}"
                if refused:
                    raise InvalidRequest(
                        f"The list is signed, and {url} did not take it: {refused.rstrip('.')}. "
                        f"Hand it to any node with: dedgeai keys push --to URL."
                    )

    def _opened(self, text: bytes) -> KeyList:
        authority = self._authority
        try:
            return verified(
                text, authorities=authority.authorities, cluster_name=authority.cluster_name
            ).keys
        except (NotSigned, UnreadableKeys) as problem:
            raise InvalidRequest(
                f"The API keys in {self.path} cannot be used ({problem}). Restore the file from a "
                "backup or from a node's keys_file; or remove it, which revokes all keys."
            ) from None


def _why(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"it answered with {answer.status_code}"

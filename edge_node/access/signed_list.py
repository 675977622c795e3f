"""A list of keys that a cluster's authority has signed, as nodes pass it on.

The signature is a certificate: the authority gives it to one list, whose digest is its name,
`spiffe://<cluster>/keys/<sha256>`. So whoever trusts the authority can tell, with OpenSSL and its
ca.pem alone; and no node's certificate can stand in, for it has another name and may give none.
Its key comes with it and is of no use: the certificate is good for nothing but its list, as it has
no host's name by which anybody is called, and is not for who calls.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from edge_node.access.keys import KeyList, KeysHeld
from edge_node.handshake import told_by_itself, uris_of

# Of the file, beside the authority and beside each certificate that it gave.
LIST_NAME = "keys.json"
# Of a list with its signature; a thousand keys take less than half of it.
SIGNED_BYTES_MAX = 2**20
_SIGNATURE_BYTES_MAX = 8192
_BEGIN = b"\n-----BEGIN "


class NotSigned(ValueError):
    """Nobody who may has signed this list."""


@dataclass(frozen=True, kw_only=True)
class SignedKeys:
    """A list whose signature is good; `text` is both, as they are passed on."""

    keys: KeyList
    held: KeysHeld
    text: bytes


def list_uri(cluster_name: str, sha256: str) -> str:
    """The name of a list in its certificate."""
    return f"spiffe://{cluster_name}/keys/{sha256}"


def joined(listed: bytes, signature: bytes) -> bytes:
    """A list and its signature as one text."""
    return listed + b"\n" + signature


def is_signed(text: bytes) -> bool:
    """Whether a text looks like a list with a signature; neither is looked into."""
    return _BEGIN in text


def verified(text: bytes, *, authorities: str, cluster_name: str) -> SignedKeys:
    """The list in a text, once its signature was found to be good.

    Args:
        text: of `joined`.
        authorities: PEM of those who may sign.
        cluster_name: whose keys it has to be.

    Raises:
        NotSigned: it has no signature, or none of theirs for this list.
        UnreadableKeys: it is signed, and cannot be read; perhaps it is of a later version.
    """
    listed, begin, rest = text.partition(_BEGIN)
    signature = begin[1:] + rest
    if not signature:
        raise NotSigned("it is not signed")
    if len(text) > SIGNED_BYTES_MAX or len(signature) > _SIGNATURE_BYTES_MAX:
        raise NotSigned("it is larger than any list that is signed")
    sha256 = hashlib.sha256(listed).hexdigest()
    if list_uri(cluster_name, sha256) not in _names(signature, authorities):
        raise NotSigned("it is signed, but not as it stands, or as a list of another cluster")
    keys = KeyList.decode(listed)
    return SignedKeys(keys=keys, held=KeysHeld(keys.version, sha256), text=text)


def _names(signature: bytes, authorities: str) -> list[str]:
    # OpenSSL reads certificates from files; this one is in memory, and gone with its descriptor.
    descriptor = os.memfd_create("signature", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(signature)
        path = Path(f"/proc/self/fd/{descriptor}")
        told = told_by_itself(path, None, authorities=authorities, both_ways=False)
    except (OSError, ValueError) as problem:
        why = getattr(problem, "reason", None) or problem
        raise NotSigned(f"its signature is not good: {why}") from None
    finally:
        os.close(descriptor)
    return uris_of(told)

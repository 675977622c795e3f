"""What a certificate says of itself, after a handshake with itself in memory.

So key, chain, dates and uses are found to go together by what looks at them on the wire: OpenSSL,
which Python brings. Nothing is opened but the files that are named.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any


def told_by_itself(
    chain: Path,
    key: Path | None,
    *,
    authorities: str,
    both_ways: bool,
    pinned: bool = False,
) -> dict[str, Any]:
    """The names and dates of a certificate that one of the authorities has given.

    Args:
        chain: PEM of the certificate.
        key: PEM of its key; None where it is in `chain`, too.
        authorities: PEM of those that are trusted.
        both_ways: whether it has to be good for who calls, beside who is called.
        pinned: whether one of `authorities` may be the certificate itself.

    Raises:
        OSError, ValueError: it cannot be used, or is none of theirs. ssl.SSLError is an OSError.
    """
    sides = []
    for purpose in (ssl.Purpose.SERVER_AUTH, ssl.Purpose.CLIENT_AUTH):
        context = ssl.create_default_context(purpose, cadata=authorities)
        context.check_hostname = False
        if pinned:
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        asked = both_ways or purpose is ssl.Purpose.SERVER_AUTH
        context.verify_mode = ssl.CERT_REQUIRED if asked else ssl.CERT_NONE
        if both_ways or purpose is ssl.Purpose.CLIENT_AUTH:
            # An encrypted key is an error; without a password here, OpenSSL would ask the terminal.
            context.load_cert_chain(str(chain), None if key is None else str(key), password="")
        sides.append(context)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = sides[0].wrap_bio(to_client, to_server)
    server = sides[1].wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):  # a flight each way, twice
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    told = client.getpeercert()
    if not told:
        raise ValueError("a handshake with itself fails")
    return dict(told)


def uris_of(told: dict[str, Any]) -> list[str]:
    """The URIs among a certificate's names."""
    return [value for kind, value in told.get("subjectAltName", ()) if kind == "URI"]

"""How a client reaches a node: its address, an API key, and whose certificates are believed."""

from __future__ import annotations

import os
import ssl

from edge_node.client_variables import AUTHORITIES_VARIABLE, KEY_VARIABLE
from edge_node.errors import InvalidRequest

DEFAULT_URL = "http://127.0.0.1:8080"


def key_header(api_key: str | None = None) -> dict[str, str]:
    """The header with an API key, by default the one in the environment; empty without one."""
    key = os.environ.get(KEY_VARIABLE, "") if api_key is None else api_key
    return {"Authorization": f"Bearer {key}"} if key else {}


def trusted() -> ssl.SSLContext | bool:
    """Whose certificates are believed: the public's, or those of a PEM file.

    Raises:
        InvalidRequest: the file that the environment names is none.
    """
    file = os.environ.get(AUTHORITIES_VARIABLE, "")
    if not file:
        return True
    try:
        return ssl.create_default_context(cafile=file)
    except (OSError, ValueError) as problem:
        raise InvalidRequest(
            f"{AUTHORITIES_VARIABLE} is {file}, which cannot be used: {problem}. Name a PEM file "
            "with the authority of the nodes' REST certificates, such as a cluster's ca.pem."
        ) from None

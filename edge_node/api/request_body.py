"""Reading a request: its JSON within a byte limit, its Idempotency-Key, its client's presence."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fastapi import Request

from edge_node.api.error_responses import RequestTooLarge
from edge_node.errors import InvalidRequest
from edge_node.ports import Idempotency

_KEY_CHARS_MAX = 255


async def read_json(request: Request, *, bytes_max: int) -> Any:
    """The body as JSON.

    Raises:
        RequestTooLarge: it is longer than `bytes_max`; no more than that is kept.
        InvalidRequest: it is no JSON. NaN and Infinity, which JSON does not have and some clients
            send, pass here, so that the check of the field can name it.
    """
    body = bytearray()
    received_bytes = 0
    async for chunk in request.stream():
        # The rest is read and thrown away: a client that is cut off would not read its answer.
        received_bytes += len(chunk)
        if received_bytes <= bytes_max:
            body += chunk
    if received_bytes > bytes_max:
        raise RequestTooLarge(f"The body has more than the {bytes_max} bytes that are allowed.")
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError) as problem:
        raise InvalidRequest(f"The body is not valid JSON: {problem}.") from None


def idempotency_of(request: Request, document: Any) -> Idempotency | None:
    """The Idempotency-Key of a request, bound to its path and body; None without one.

    Raises:
        InvalidRequest: the key is empty or too long.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 1 <= len(key) <= _KEY_CHARS_MAX:
        raise InvalidRequest(
            f"The Idempotency-Key must have 1 to {_KEY_CHARS_MAX} characters.",
            param="Idempotency-Key",
        )
    canonical = json.dumps([request.url.path, document], sort_keys=True)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return Idempotency(key=key, request_digest=digest)


async def hung_up(request: Request) -> None:
    """Returns when the client has closed the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass

"""PUT /v1/keys: whoever operates the cluster hands a signed list of keys to one of its nodes.

It needs no key, as there may be none yet, and none can be trusted where one is revoked: the list
proves itself by its signature, and an older one is not taken.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from edge_node.access.keys import UnreadableKeys
from edge_node.access.signed_list import NotSigned
from edge_node.api.direct_route import DirectRoute
from edge_node.api.request_body import read_json
from edge_node.api.surface import surface_of
from edge_node.errors import DEdgeAIError, InvalidRequest

router = APIRouter(route_class=DirectRoute)


class KeysRefused(DEdgeAIError):
    """The authority of this cluster has not signed the list."""

    code = "keys_refused"
    http_status = 403
    grpc_status = "PERMISSION_DENIED"


class KeysOutOfDate(DEdgeAIError):
    """A later list is in force."""

    code = "keys_out_of_date"
    http_status = 409
    grpc_status = "FAILED_PRECONDITION"


@router.put("/v1/keys", response_model=None)
async def take_keys(request: Request) -> JSONResponse:
    """Takes a signed list of API keys, and passes it on to all other nodes."""
    surface = surface_of(request)
    body = await read_json(request, limits=surface.body_limits)
    text = body.get("signed_list") if isinstance(body, dict) else None
    if not isinstance(text, str):
        raise InvalidRequest(
            "Send the signed list as a text: dedgeai keys push does.", param="signed_list"
        )
    if surface.keys is None:
        raise KeysRefused("This node takes no keys.")
    try:
        offered = await surface.keys.offer(text.encode(errors="replace"))
    except NotSigned as problem:
        raise KeysRefused(f"The list does not count: {problem}.") from None
    except UnreadableKeys as problem:
        raise InvalidRequest(
            f"The list is signed and cannot be read ({problem}): bring the node up to date first.",
            param="signed_list",
        ) from None
    held = surface.keys.held
    if offered != held:
        raise KeysOutOfDate(
            f"A later list is in force, version {held.version} and not {offered.version}: it was "
            "signed elsewhere. Change keys in the folder that signed it."
        )
    return JSONResponse({"object": "key_list", "version": held.version})

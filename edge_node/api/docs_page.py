"""The API for people at `/docs`: Swagger UI over /openapi.json, from this node alone.

Its files are those of the package fastapi-offline, which is not imported. Owns which of them are
sent, and what a browser lets them do. As the page at `/` it holds nobody's data and needs no key;
what is tried out does.
"""

from __future__ import annotations

import functools
import html
import importlib.util
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edge_node.api.addressing import path_prefix_of
from edge_node.api.direct_route import DirectRoute
from edge_node.api.error_responses import error_response
from edge_node.api.page import NoSuchFile, sent

router = APIRouter(route_class=DirectRoute, include_in_schema=False)

FOLDER = Path(__file__).parent / "docs"
PACKAGE = "fastapi_offline"
# Swagger UI writes styles into its elements. Images are those in its own style sheet, and drawn
# ones that are looked at.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


@router.get("/docs", response_model=None)
def read_docs(request: Request) -> Response:
    """The page; in a thread, as it reads a file."""
    text = (FOLDER / "index.html").read_text()
    text = text.replace("{prefix}", html.escape(path_prefix_of(request)))
    response = sent(request, text.encode(), suffix=".html")
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    return response


@router.get("/docs/{name}", response_model=None)
def read_file(name: str, request: Request) -> Response:
    """A file that it is made of."""
    path = files().get(name)
    if path is None:
        return error_response(
            NoSuchFile(f"There is nothing at {request.url.path}."), path=request.url.path
        )
    return sent(request, path.read_bytes(), suffix=path.suffix)


@functools.cache
def files() -> dict[str, Path]:
    """All files of the page by their names; without the package only our own."""
    found = {"start.js": FOLDER / "start.js"}
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.origin is not None:
        static = Path(spec.origin).parent / "static"
        found |= {name: static / name for name in ("swagger-ui-bundle.js", "swagger-ui.css")}
    return {name: path for name, path in found.items() if path.is_file()}

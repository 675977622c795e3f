"""The page at `/`: the files of `edge_node/web` as they are, for browsers.

Owns which files there are, how they are sent, and what a browser lets the page do: run what comes
from this node, and ask this node, or another of the cluster where this one is gone. The page holds
nobody's data, so it needs no key; what it shows, it asks for as any client does. Files are read
when they are asked for.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import html
import re
from collections.abc import Iterable
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edge_node.api.addressing import path_prefix_of
from edge_node.api.direct_route import DirectRoute
from edge_node.api.error_responses import error_response
from edge_node.api.surface import surface_of
from edge_node.errors import DEdgeAIError

router = APIRouter(route_class=DirectRoute, include_in_schema=False)

FOLDER = Path(__file__).parent.parent / "web"
PREFIX = "/web/"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
# What other nodes say of themselves becomes part of a header.
_ORIGIN = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]{1,253})(:\d{1,5})?")
_BASE = '<base href="/">'
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src {asked}; base-uri 'self'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types lit-html"
)


class NoSuchFile(DEdgeAIError):
    """The page has no file of that name."""

    code = "not_found"
    http_status = 404
    grpc_status = "NOT_FOUND"


@router.get("/", response_model=None)
def read_page(request: Request) -> Response:
    """The page itself; in a thread, as it reads a file."""
    content = files()["index.html"].read_text()
    base = f'<base href="{html.escape(path_prefix_of(request))}/">'
    peers = surface_of(request).front_desk.cluster().peers
    told = (peer.state.rest_url for peer in peers if peer.state is not None)
    response = sent(request, content.replace(_BASE, base).encode(), suffix=".html")
    response.headers["Content-Security-Policy"] = policy(told)
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    return response


@router.get(PREFIX + "{name:path}", response_model=None)
def read_file(name: str, request: Request) -> Response:
    """A file that the page is made of."""
    path = files().get(name)
    if path is None or path.suffix not in _MEDIA_TYPES:
        return error_response(
            NoSuchFile(f"There is nothing at {request.url.path}."), path=request.url.path
        )
    return sent(request, path.read_bytes(), suffix=path.suffix)


@functools.cache
def files() -> dict[str, Path]:
    """All files of the page by their names under `PREFIX`."""
    found = (path for path in FOLDER.rglob("*") if path.is_file())
    return {path.relative_to(FOLDER).as_posix(): path for path in found}


def policy(rest_urls: Iterable[str]) -> str:
    """The page's Content-Security-Policy; it may ask this node, and those at `rest_urls`."""
    origins = {found[0] for url in rest_urls if (found := _ORIGIN.match(url))}
    return _POLICY.format(asked=" ".join(["'self'", *sorted(origins)]))


def sent(request: Request, content: bytes, *, suffix: str) -> Response:
    """The content, packed where that is understood, or word that it is still the same."""
    etag = f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'
    # Asked again each time, as a node may be brought to another version under an open page.
    headers = {"Cache-Control": "no-cache", "ETag": etag, "Vary": "Accept-Encoding"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        content = gzip.compress(content, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(content, media_type=_MEDIA_TYPES[suffix], headers=headers)

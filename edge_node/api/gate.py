"""Who may ask at all, before anything is read: the host that is meant, the site that asks.

A browser sends what any page on the internet tells it to, from inside the network of a node. Two
checks keep such pages out, whether or not keys are asked for:

- *Host*: a page whose own name was made to mean this node's address (DNS rebinding) still sends
  that name. Addresses, names without a dot and names that no registrar gives out cannot be such a
  page's; all others must be the operator's (`rest_hosts`).
- *Origin*: what changes something is not taken from a page of another site (CSRF). Browsers say
  where a request comes from in Sec-Fetch-Site, older ones in Origin alone; other clients in
  neither. The check is that of Go's `net/http.CrossOriginProtection`, described by F. Valsorda,
  "Cross-Site Request Forgery", 2025.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from edge_node.api.error_responses import error_response
from edge_node.errors import DEdgeAIError

# Reserved for networks of one's own: RFC 6761, 6762, 8375, ICANN 2024 on .internal; and two that
# are none of the root's: many routers' .lan, and Kubernetes' .svc.
_OWN_DOMAINS = (".localhost", ".local", ".home.arpa", ".internal", ".lan", ".svc", ".test")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITES = frozenset({b"same-origin", b"none"})
_HOST = re.compile(r"(\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[^:\[\]]+?)\.?)(:\d*)?")
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?")
# Hosts that were looked at are remembered as clients write them; clients may write anything.
_PASSED_MAX = 64


class HostNotServed(DEdgeAIError):
    """The request means a host that this node does not go by."""

    code = "host_not_served"
    http_status = 421
    grpc_status = "INVALID_ARGUMENT"


class CrossSiteRequest(DEdgeAIError):
    """A page of another site asked for a change."""

    code = "cross_site_request"
    http_status = 403
    grpc_status = "PERMISSION_DENIED"


class Gate:
    """ASGI middleware; what does not pass is answered here.

    Args:
        app: what is behind it.
        hosts: names that are served beside those that cannot be another's.
        origins: of pages that may ask for changes, whatever site they are of.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Collection[str], origins: Collection[str] = ()
    ) -> None:
        self._app = app
        self._origins = frozenset(origin.lower().encode() for origin in origins)
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self._passed: set[bytes | None] = {None}  # a client without a host is no browser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request pass, or says why not."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await error_response(refusal, path=scope["path"])(scope, receive, send)

    def _refusal(self, scope: Scope) -> DEdgeAIError | None:
        host = site = origin = None
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"sec-fetch-site":
                site = value
            elif name == b"origin":
                origin = value
        if host not in self._passed:
            meant = _name_of(host or b"")
            if not self._is_served(meant):
                return HostNotServed(
                    f"This node does not go by the name {meant!r}. Use its address or a name "
                    "without a dot, or have its operator add this one to rest_hosts."
                )
            if len(self._passed) < _PASSED_MAX:
                self._passed.add(host)
        if scope["method"] in _SAFE_METHODS or not self._is_cross_site(site, origin, host or b""):
            return None
        return CrossSiteRequest(
            "A page of another site may only read here. Where the page is the operator's own, its "
            "host belongs into rest_hosts; another's that may, into cors_origins."
        )

    def _is_served(self, name: str) -> bool:
        if name in self._hosts or _is_address(name):
            return True
        if not _NAME.fullmatch(name):
            return False
        return "." not in name or name.endswith(_OWN_DOMAINS)

    def _is_cross_site(self, site: bytes | None, origin: bytes | None, host: bytes) -> bool:
        if site in _OWN_SITES or (site is None and origin is None):
            return False
        if (origin or b"").lower() in self._origins:
            return False
        # A proxy may have put a host of its own in place of the one that the page has.
        _, _, at = (origin or b"").partition(b"://")
        return _name_of(at) not in self._hosts and (site is not None or at.lower() != host.lower())


def _name_of(host: bytes) -> str:
    """The name without its port, and without a trailing dot; an IPv6 address without brackets."""
    text = host.decode("latin-1").lower()
    found = _HOST.fullmatch(text)
    return text if found is None else (found["address"] or found["name"])


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

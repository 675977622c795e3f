"""The address that a request came to: what links must begin with, and which path is meant.

A proxy may stand before the node, with another name, scheme and prefix. Owns whom that is believed
of (`trusted_proxies`), the operator's own word (`public_url`), who asks where nobody has a key, and
what all addresses have in common: a slash at the end means nothing, and HEAD is answered as GET is,
without the body.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_node.config import NodeConfig

# What a proxy says; of several, the one that the client spoke to said it first.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]{1,253})(:\d{1,5})?")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]{1,100}){1,10}")
_SCHEMES = ("http", "https")
# Proxies behind each other whose word is read.
PROXIES_MAX = 8
# Addresses that were looked at are remembered.
_SEEN_MAX = 256


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """What the operator says of addresses.

    Attributes:
        public_url: under which clients reach this node, without a slash at its end; or empty.
        trusted_proxies: addresses and networks of proxies that are believed.
        turns: clients without keys take turns, each address as one of them.
    """

    public_url: str = ""
    trusted_proxies: tuple[str, ...] = ()
    turns: bool = True

    @classmethod
    def of(cls, config: NodeConfig) -> Addresses:
        """From the node's settings."""
        public_url = (config.public_url or "").rstrip("/")
        return cls(
            public_url=public_url,
            trusted_proxies=config.trusted_proxies,
            turns=config.turns_by_address,
        )

    @property
    def hosts(self) -> tuple[str, ...]:
        """The public name, which the node then goes by."""
        host = urlsplit(self.public_url).hostname
        return (host,) if host else ()


class Addressing:
    """ASGI middleware, before all others that look at a request.

    Args:
        app: what is behind it.
        addresses: what the operator says of them.
    """

    def __init__(self, app: ASGIApp, addresses: Addresses) -> None:
        self._app = app
        self._public = addresses.public_url
        self._networks = tuple(map(ipaddress.ip_network, addresses.trusted_proxies))
        self._turns = addresses.turns
        self._seen: dict[str, bool] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on under its own path and method."""
        if scope["type"] == "http":
            scope["public_url"] = self._public or self._as_forwarded(scope)
            scope["asked_from"] = self._asked_from(scope) if self._turns else ""
            prefix = urlsplit(scope["public_url"]).path
            path: str = scope["path"]
            if prefix and path.startswith(f"{prefix}/"):
                path = path[len(prefix) :]
            path = path.rstrip("/") or "/"
            # uvicorn goes by its own scope, and sends no body where the method was HEAD.
            if path != scope["path"] or scope["method"] == "HEAD":
                method = "GET" if scope["method"] == "HEAD" else scope["method"]
                asked = {"asked_method": scope["method"]}
                scope = {
                    **scope,
                    **asked,
                    "path": path,
                    "raw_path": path.encode(),
                    "method": method,
                }
        await self._app(scope, receive, send)

    def _as_forwarded(self, scope: Scope) -> str:
        """Where the client says that it sent the request, as far as a trusted proxy tells."""
        found: dict[bytes, str] = {}
        for name, value in scope["headers"]:
            if name == b"host" or name.startswith(b"x-forwarded-"):
                found.setdefault(name, value.decode("latin-1").partition(",")[0].strip())
        scheme, host, prefix = scope["scheme"], found.get(b"host", ""), ""
        if len(found) > 1 and self._is_trusted(scope.get("client")):
            said = found.get(b"x-forwarded-proto", "").lower()
            scheme = said if said in _SCHEMES else scheme
            host = found.get(b"x-forwarded-host", "") or host
            said = found.get(b"x-forwarded-prefix", "").rstrip("/")
            prefix = said if _PREFIX.fullmatch(said) else ""
        if not _HOST.fullmatch(host):
            host, port = scope.get("server") or ("localhost", None)
            host = f"{host}:{port}" if port else host
        return f"{scheme}://{host}{prefix}"

    def _asked_from(self, scope: Scope) -> str:
        """The client's address: of those that trusted proxies name, the last that is none."""
        host: str = (scope.get("client") or ("", 0))[0]
        if not self._is_trusted((host, 0)):
            return host
        lists = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        for said in reversed(b",".join(lists).decode("latin-1").split(",")[-PROXIES_MAX:]):
            address = _without_port(said.strip())
            if not _is_address(address):
                break
            host = address
            if not self._is_trusted((host, 0)):
                break
        return host

    def _is_trusted(self, client: tuple[str, int] | None) -> bool:
        host = client[0] if client else ""
        if host not in self._seen:
            if len(self._seen) >= _SEEN_MAX:
                self._seen.clear()
            self._seen[host] = self._is_in_networks(host)
        return self._seen[host]

    def _is_in_networks(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False  # a Unix socket has none
        return any(address in network for network in self._networks)


def public_url_of(request: Request) -> str:
    """What links to this node begin with, for who asks: no slash at its end."""
    public_url: str = request.scope["public_url"]
    return public_url


def path_prefix_of(request: Request) -> str:
    """What paths begin with, for who asks; empty where no proxy adds to them."""
    return urlsplit(public_url_of(request)).path


def wants_head_alone(request: Request) -> bool:
    """Whether the method was HEAD."""
    return request.scope.get("asked_method") == "HEAD"


def address_name(scope: Scope) -> str:
    """A name for where a request came from, the same at every node; empty where nobody knows.

    It is on record with a task, and no address: who reads the record learns only that two tasks
    came from one place. Of an IPv6 address the network counts, of which a host has many.
    """
    return _name(scope.get("asked_from", ""))


@functools.lru_cache(maxsize=1024)
def _name(host: str) -> str:
    if not _is_address(host):
        return ""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        address = mapped or ipaddress.ip_network((address, 64), strict=False).network_address
    digest = hashlib.sha256(b"dedgeai address " + address.packed)
    return f"address-{digest.hexdigest()[:12]}"


def _without_port(said: str) -> str:
    """Of 10.0.0.1:5000 and [2001:db8::1]:5000, which some proxies say, the address."""
    if said.startswith("["):
        return said[1:].partition("]")[0]
    return said.partition(":")[0] if said.count(":") == 1 else said


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False  # a Unix socket has none
    return True

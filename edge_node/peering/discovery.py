"""Finds the nodes of this cluster on the LAN by multicast DNS, and lets itself be found.

Owns the announcement `<node id>._dedgeai._tcp.local.` and the list of what others announce. Who
becomes a peer is membership's. zeroconf is imported with the first use: it is an extra.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_node.config import NodeConfig
from edge_node.errors import InvalidRequest

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf

log = logging.getLogger(__name__)

SERVICE_TYPE = "_dedgeai._tcp.local."
# How often membership is told of everyone again: it may have forgotten one that was away.
TELL_AGAIN_S = 10.0
# A network that is not there yet is waited for.
RETRY_S = 10.0
RESOLVE_S_MAX = 3.0
_MDNS_GROUP = ("224.0.0.251", 5353)


@dataclass(frozen=True, kw_only=True)
class DiscoverySettings:
    """Who is announced, and where it listens: `host` as configured, possibly 0.0.0.0."""

    node_id: str
    cluster_name: str
    host: str
    port: int

    @classmethod
    def of(cls, config: NodeConfig) -> DiscoverySettings:
        """From the node's settings."""
        return cls(
            node_id=config.node_id,
            cluster_name=config.cluster_name,
            host=config.grpc_host,
            port=config.grpc_port,
        )


class Discovery:
    """Announces this node and watches the others.

    Args:
        settings: who is announced.
        found: told the host:port of a node of this cluster, again and again while it is there.
        lost: told when its announcement is withdrawn or has run out.
    """

    def __init__(
        self,
        settings: DiscoverySettings,
        *,
        found: Callable[[str], None],
        lost: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._found = found
        self._lost = lost
        self._address_of: dict[str, str] = {}
        self._resolving: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Announces and watches until it is cancelled."""
        from zeroconf import Error

        while True:
            try:
                async with self._announced():
                    log.info("mDNS: announced as %s", self._settings.node_id)
                    while True:
                        await asyncio.sleep(TELL_AGAIN_S)
                        for address in list(self._address_of.values()):
                            self._found(address)
            except (OSError, Error) as error:
                log.warning("mDNS does not work here yet: %r", error)
            await asyncio.sleep(RETRY_S)

    @asynccontextmanager
    async def _announced(self) -> AsyncIterator[None]:
        from zeroconf import IPVersion
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

        settings = self._settings
        address = await asyncio.to_thread(reachable_address, settings.host)
        zeroconf = AsyncZeroconf(interfaces=[address], ip_version=IPVersion.V4Only)
        try:
            own = AsyncServiceInfo(
                SERVICE_TYPE,
                f"{settings.node_id}.{SERVICE_TYPE}",
                parsed_addresses=[address],
                port=settings.port,
                properties={"node_id": settings.node_id, "cluster": settings.cluster_name},
                # Not <host>.local., which is the device's own announcement.
                server=f"{settings.node_id}.{settings.cluster_name}.dedgeai.local.",
            )
            # Another cluster may have a node of this name: what counts are the properties.
            await (await zeroconf.async_register_service(own, allow_name_change=True))
            browser = AsyncServiceBrowser(
                zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._announcement_changed]
            )
            try:
                yield
            finally:
                for resolving in self._resolving:
                    resolving.cancel()
                await browser.async_cancel()
                await zeroconf.async_unregister_all_services()
        finally:
            await zeroconf.async_close()

    def _announcement_changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        from zeroconf import ServiceStateChange

        if state_change is ServiceStateChange.Removed:
            address = self._address_of.pop(name, None)
            if address is not None:
                log.info("mDNS: %s is gone", name.removesuffix(f".{SERVICE_TYPE}"))
                self._lost(address)
            return
        resolving = asyncio.get_running_loop().create_task(self._resolve(zeroconf, name))
        self._resolving.add(resolving)
        resolving.add_done_callback(self._resolving.discard)

    async def _resolve(self, zeroconf: Zeroconf, name: str) -> None:
        from zeroconf.asyncio import AsyncServiceInfo

        info = AsyncServiceInfo(SERVICE_TYPE, name)
        if not await info.async_request(zeroconf, int(RESOLVE_S_MAX * 1000)):
            return
        said = info.decoded_properties
        ours = said.get("cluster") == self._settings.cluster_name
        addresses = info.parsed_addresses()
        if not ours or said.get("node_id") == self._settings.node_id or not addresses:
            return
        address = f"{addresses[0]}:{info.port}"
        if self._address_of.get(name) != address:
            log.info("mDNS: %s is at %s", said.get("node_id"), address)
        self._address_of[name] = address
        self._found(address)


def require_zeroconf() -> None:
    """Raises InvalidRequest where the extra is not installed."""
    if importlib.util.find_spec("zeroconf") is None:
        raise InvalidRequest(
            'discovery = "mdns" needs zeroconf. Install dedgeai[mdns], or name the nodes in peers.',
            param="discovery",
        )


def reachable_address(host: str) -> str:
    """IPv4 address at which others reach a listener on `host`.

    For 0.0.0.0 it is that of the interface which multicast leaves by; a device with several
    networks gives the address of the right one as grpc_host.

    Raises:
        OSError: there is no network, or `host` has no address.
    """
    if host not in ("0.0.0.0", "::"):
        return socket.gethostbyname(host)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(_MDNS_GROUP)  # sends nothing
        address: str = probe.getsockname()[0]
        return address

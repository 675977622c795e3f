"""Nodes that find each other by real multicast DNS on the loopback interface."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass, field
from uuid import uuid4

import pytest

from edge_node.peering.discovery import Discovery, DiscoverySettings, reachable_address

GROUP = "224.0.0.251"
FOUND_S_MAX = 30.0


def multicast_works() -> bool:
    """Whether the loopback interface brings a multicast datagram back."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        try:
            receiver.bind(("", 0))
            membership = socket.inet_aton(GROUP) + socket.inet_aton("127.0.0.1")
            receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            receiver.settimeout(1.0)
            interface = socket.inet_aton("127.0.0.1")
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
            sender.sendto(b"?", (GROUP, receiver.getsockname()[1]))
            return receiver.recv(1) == b"?"
        except OSError:
            return False


needs_multicast = pytest.mark.skipif(
    not multicast_works(), reason="the loopback interface carries no multicast here"
)


@dataclass
class Seeker:
    """One node's discovery and what it said."""

    node_id: str
    cluster_name: str
    port: int
    found: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)

    def start(self) -> None:
        settings = DiscoverySettings(
            node_id=self.node_id, cluster_name=self.cluster_name, host="127.0.0.1", port=self.port
        )
        discovery = Discovery(settings, found=self.found.add, lost=self.lost.add)
        self.running = asyncio.create_task(discovery.run())

    async def stop(self) -> None:
        self.running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.running


@needs_multicast
def test_nodes_of_one_cluster_find_each_other_and_see_who_goes() -> None:
    # Others on this network may run clusters of their own.
    lab, other = f"lab-{uuid4().hex[:8]}", f"other-{uuid4().hex[:8]}"
    first = Seeker("orin-1.lab", lab, 1001)
    second = Seeker("orin_2", lab, 1002)
    stranger = Seeker("orin_2", other, 1003)

    async def story() -> None:
        for seeker in (first, second, stranger):
            seeker.start()
        async with asyncio.timeout(FOUND_S_MAX):
            while not (first.found and second.found):
                await asyncio.sleep(0.05)
        await second.stop()
        async with asyncio.timeout(FOUND_S_MAX):
            while not first.lost:
                await asyncio.sleep(0.05)
        await first.stop()
        await stranger.stop()

    asyncio.run(story())
    assert (first.found, second.found) == ({"127.0.0.1:1002"}, {"127.0.0.1:1001"})
    assert first.lost == {"127.0.0.1:1002"}
    assert stranger.found == set()


def test_a_listener_on_one_address_is_announced_there() -> None:
    assert reachable_address("127.0.0.1") == "127.0.0.1"
    assert reachable_address("localhost") == "127.0.0.1"

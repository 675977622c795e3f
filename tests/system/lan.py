"""A LAN on one machine: network namespaces on a bridge, each node with an address of its own.

Cables are pulled by taking a node's link down. Delay comes from small proxies on the bridge, since
not every kernel has netem. Needs root and iproute2; `why_not` says what is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edge_node.console.certs import Authority
from edge_node.console.local_cluster import LocalCluster

# Of this process: others may have LANs of their own at the same time.
SUBNET = f"10.217.{os.getpid() % 250}"
BRIDGE_ADDRESS = f"{SUBNET}.254"
REST_PORT, GRPC_PORT = 8080, 9080
# Proxies for the way from node i to node j.
PROXY_PORT_FIRST = 21_000


def why_not() -> str:
    """Why there can be no LAN here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else "this machine allows no network namespaces"


def ip(*arguments: str) -> None:
    """Runs iproute2's command.

    Raises:
        RuntimeError: it failed, with what it said.
    """
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Lan:
    """Namespaces `<name>-0`, ... with addresses SUBNET.1, ..., on one bridge."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self._name = f"edge{os.getpid() % 100_000}"

    def address(self, index: int) -> str:
        """Of a node."""
        return f"{SUBNET}.{index + 1}"

    def namespace(self, index: int) -> str:
        """Of a node."""
        return f"{self._name}-{index}"

    def set_cable(self, index: int, *, plugged: bool) -> None:
        """Pulls a node's cable, or plugs it in again."""
        ip("link", "set", f"{self._name}v{index}", "up" if plugged else "down")

    @contextlib.contextmanager
    def up(self) -> Iterator[Lan]:
        """Builds it, and takes it down whatever happens."""
        try:
            ip("link", "add", self._name, "type", "bridge")
            ip("address", "add", f"{BRIDGE_ADDRESS}/24", "dev", self._name)
            ip("link", "set", self._name, "up")
            for index in range(self.nodes):
                self._connect(index)
            yield self
        finally:
            with contextlib.suppress(RuntimeError):
                ip("link", "delete", self._name)
            for index in range(self.nodes):
                with contextlib.suppress(RuntimeError):
                    ip("netns", "delete", self.namespace(index))

    def _connect(self, index: int) -> None:
        outer, inner, space = (
            f"{self._name}v{index}",
            f"{self._name}e{index}",
            self.namespace(index),
        )
        ip("netns", "add", space)
        ip("link", "add", outer, "type", "veth", "peer", "name", inner)
        ip("link", "set", outer, "master", self._name)
        ip("link", "set", outer, "up")
        ip("link", "set", inner, "netns", space)
        ip("-n", space, "address", "add", f"{self.address(index)}/24", "dev", inner)
        ip("-n", space, "link", "set", inner, "up")
        ip("-n", space, "link", "set", "lo", "up")


class DelayedWay:
    """A TCP proxy by which every byte takes `delay_s` longer, in either direction."""

    def __init__(self, *, port: int, target: tuple[str, int], delay_s: float) -> None:
        self._port, self._target, self._delay_s = port, target, delay_s
        self._pumps: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens on the bridge."""
        self._server = await asyncio.start_server(self._accept, BRIDGE_ADDRESS, self._port)

    async def stop(self) -> None:
        """Breaks every connection."""
        assert self._server is not None
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            pump = asyncio.create_task(self._pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Hands on in order what came `delay_s` ago."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=1000)

        async def hand_on() -> None:
            while True:
                due_s, part = await under_way.get()
                await asyncio.sleep(due_s - time.monotonic())
                if not part:
                    break
                sink.write(part)
                await sink.drain()

        handing = asyncio.create_task(hand_on())
        try:
            part = b"-"
            while part:
                part = await source.read(65_536)
                await under_way.put((time.monotonic() + self._delay_s, part))
            await handing
        except OSError:
            pass  # the other side is gone, as it will be with a pulled cable
        finally:
            handing.cancel()
            sink.close()


class LanCluster(LocalCluster):
    """A cluster whose nodes live in the namespaces of a LAN and see each other through proxies."""

    def __init__(
        self, lan: Lan, settings: list[dict[str, Any]], *, folder: Path, delay_s: float
    ) -> None:
        super().__init__(settings, rest_port=REST_PORT, folder=folder)
        self._lan = lan
        authority = Authority.begin(folder / "certs", cluster_name="dedgeai")
        for node_id in self.node_ids:
            authority.issue(node_id, days=1)
        self._ways = {
            (i, j): DelayedWay(
                port=self._way_port(i, j), target=(lan.address(j), GRPC_PORT), delay_s=delay_s
            )
            for i in range(lan.nodes)
            for j in range(lan.nodes)
            if i != j
        }

    @property
    def urls(self) -> list[str]:
        """REST surfaces as a client on the bridge reaches them."""
        return [f"http://{self._lan.address(i)}:{REST_PORT}" for i in range(self._lan.nodes)]

    async def start(
        self,
        *,
        ready_s_max: float = 180.0,
        waiting: Callable[[str], None] = lambda what: None,
    ) -> None:
        """Starts the proxies, then the nodes."""
        for way in self._ways.values():
            await way.start()
        await super().start(ready_s_max=ready_s_max, waiting=waiting)

    async def close_ways(self) -> None:
        """Ends the proxies."""
        for way in self._ways.values():
            await way.stop()

    def _taken_port(self) -> int | None:
        return None  # every node has an address of its own

    def _environment(self, index: int) -> dict[str, str]:
        ways = [
            f"{BRIDGE_ADDRESS}:{self._way_port(index, j)}"
            for j in range(self._lan.nodes)
            if j != index
        ]
        address = self._lan.address(index)
        return {
            **super()._environment(index),
            "DEDGEAI_REST_HOST": address,
            "DEDGEAI_REST_PORT": str(REST_PORT),
            "DEDGEAI_GRPC_HOST": address,
            "DEDGEAI_ALLOW_OPEN_REST": "true",
            "DEDGEAI_GRPC_PORT": str(GRPC_PORT),
            "DEDGEAI_TLS_FOLDER": str(self.folder / "certs" / "nodes" / self.node_ids[index]),
            "DEDGEAI_PEERS": ",".join(ways),
            # Who calls through a proxy is not to be found where it seems to call from.
            "DEDGEAI_ACCEPT_NEW_PEERS": "false",
        }

    def _command(self, index: int) -> list[str]:
        return ["ip", "netns", "exec", self._lan.namespace(index), *super()._command(index)]

    def _way_port(self, i: int, j: int) -> int:
        return PROXY_PORT_FIRST + 100 * i + j

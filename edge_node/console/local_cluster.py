"""A cluster of real nodes on this machine: one process, one store and one worker per node.

Owns the node processes that it starts, and ends only those.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from edge_node.console.rest_client import RestClient
from edge_node.errors import InvalidRequest, NodeNotReady
from edge_node.supervision import launcher

STOP_S_MAX = 30.0
ENDED_LOOK_S = 0.3
# Each node's gRPC listener is this far above its REST listener.
GRPC_PORT_ABOVE = 1000
PORT_MAX = 65535


def taken_port(*, first: int, nodes: int) -> int | None:
    """A port that a cluster from `first` on needs and somebody else has, or None."""
    for rest_port in range(first, first + nodes):
        for port in (rest_port, rest_port + GRPC_PORT_ABOVE):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    return port
    return None


def check_ports(*, first: int, nodes: int) -> None:
    """That a cluster from `first` on can listen.

    Raises:
        InvalidRequest: a port is beyond all there are, or somebody else has it.
    """
    highest = PORT_MAX - GRPC_PORT_ABOVE - nodes + 1
    if first > highest:
        raise InvalidRequest(
            f"{nodes} nodes need ports {first} to {first + nodes - 1} and {GRPC_PORT_ABOVE} above, "
            f"which end at {PORT_MAX}: choose --port {highest} or less."
        )
    taken = taken_port(first=first, nodes=nodes)
    if taken is not None:
        raise InvalidRequest(f"Port {taken} is in use: choose another first port with --port.")


def require_folder(folder: Path, option: str) -> None:
    """That files can be written there, which is made if it is not there.

    Raises:
        InvalidRequest: they cannot; `option` is how another one is named.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        why = problem.strerror or str(problem)
        raise InvalidRequest(
            f"{folder} cannot be used as a folder ({why}): mend that, or give another {option}."
        ) from None


def free_rest_port(*, first: int, nodes: int) -> int:
    """The first REST port from `first` on at which a whole cluster has room."""
    while taken_port(first=first, nodes=nodes) is not None:
        first += nodes
    return first


class LocalCluster:
    """Nodes `node-0`, `node-1`, ... with REST on consecutive ports from `rest_port`.

    Args:
        settings: per node, fields of NodeConfig beside identity and addresses.
        rest_port: of the first node; gRPC is GRPC_PORT_ABOVE above each.
        folder: what the nodes keep; a temporary one, removed at the end, when not given.
    """

    def __init__(
        self,
        settings: Sequence[Mapping[str, Any]],
        *,
        rest_port: int,
        folder: Path | None = None,
    ) -> None:
        self._settings = settings
        self._rest_port = rest_port
        self._temporary = tempfile.TemporaryDirectory(prefix="dedgeai-") if folder is None else None
        self.folder = Path(self._temporary.name) if self._temporary else Path(str(folder))
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def node_ids(self) -> list[str]:
        """Names of the nodes, in order."""
        return [f"node-{index}" for index in range(len(self._settings))]

    @property
    def urls(self) -> list[str]:
        """REST surfaces of the nodes, in order."""
        ports = range(self._rest_port, self._rest_port + len(self._settings))
        tls = (one.get("rest_tls") for one in self._settings)
        return [
            f"{'https' if over_tls else 'http'}://127.0.0.1:{port}"
            for port, over_tls in zip(ports, tls, strict=True)
        ]

    def pid(self, index: int) -> int:
        """Process of a node."""
        return self._processes[index].pid

    def child_pid(self, index: int, name: str) -> int:
        """A node's worker, store or learner, from its record."""
        record = self.folder / self.node_ids[index] / "run" / f"{name}.pid"
        return int(record.read_text().split()[0])

    def start_node(self, index: int) -> None:
        """Starts one node, for the first time or again."""
        folder = self.folder / self.node_ids[index]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.log_path(index).open("ab") as node_log:
            self._processes[index] = subprocess.Popen(
                self._command(index),
                env=self._environment(index),
                stdout=node_log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    async def start(
        self,
        *,
        ready_s_max: float = 180.0,
        waiting: Callable[[str], None] = lambda what: None,
    ) -> None:
        """Starts every node and waits until all would draw.

        Args:
            ready_s_max: for each of them.
            waiting: told whatever is waited for, whenever it is something else.

        Raises:
            InvalidRequest: a port is taken.
            NodeNotReady: one ended or took too long, with the last line of its log, or has a
                worker that says that waiting is no use.
        """
        check_ports(first=self._rest_port, nodes=len(self._settings))
        for index in range(len(self._settings)):
            self.start_node(index)
        async with RestClient(timeout_s=5.0) as client:
            for index in range(len(self._settings)):
                await self.wait_ready(
                    client, index, ready_s_max=ready_s_max, may_mend=False, waiting=waiting
                )
            waiting("all nodes are ready by themselves, and meet each other")
            await self._wait_met(client, ready_s_max=ready_s_max)

    async def wait_ready(
        self,
        client: RestClient,
        index: int,
        *,
        ready_s_max: float = 180.0,
        may_mend: bool = True,
        waiting: Callable[[str], None] = lambda what: None,
    ) -> None:
        """Waits for one node, whatever its worker says, if somebody may mend that meanwhile."""
        said = ""
        try:
            async with asyncio.timeout(ready_s_max):
                while not await client.is_ready(self.urls[index]):
                    self._check_running(index)
                    reasons = await client.why_not_ready(self.urls[index])
                    what = f"{self.node_ids[index]}: {'; '.join(reasons) or 'it starts'}"
                    if what != said:
                        said = what
                        waiting(what)
                    failed = None if may_mend else await client.why_failed(self.urls[index])
                    if failed is not None:
                        raise NodeNotReady(f"{self.node_ids[index]} will not get ready: {failed}.")
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise NodeNotReady(self._explain(index, "is not ready")) from None

    async def _wait_met(self, client: RestClient, *, ready_s_max: float) -> None:
        for index, url in enumerate(self.urls):
            try:
                async with asyncio.timeout(ready_s_max):
                    while not await self._has_met_all(client, url):
                        for each in range(len(self._settings)):
                            self._check_running(each)
                        await asyncio.sleep(0.1)
            except TimeoutError:
                raise NodeNotReady(self._explain(index, "does not see all others")) from None

    async def _has_met_all(self, client: RestClient, url: str) -> bool:
        peers = (await client.cluster(url))["peers"]
        nodes = zip(self.node_ids, self._settings, strict=True)
        drawing = {node for node, one in nodes if one.get("engine") != "none"}
        met = {peer["node"]: peer["alive"] for peer in peers}
        accepting = {peer["node"] for peer in peers if peer["accepting"]}
        return all(met.values()) and drawing & met.keys() <= accepting

    async def next_end(self) -> tuple[int, int]:
        """Waits until a node ends that nobody stopped; its index and exit code, once for each."""
        while True:
            for index, process in list(self._processes.items()):
                code = process.poll()
                if code is not None:
                    del self._processes[index]
                    return index, code
            await asyncio.sleep(ENDED_LOOK_S)

    @property
    def running(self) -> int:
        """How many nodes have been started and have not ended."""
        return len(self._processes)

    def signal_node(self, index: int, number: signal.Signals) -> None:
        """Sends a signal to a node's own process."""
        self._processes[index].send_signal(number)

    def wait_node(self, index: int, *, timeout_s: float = STOP_S_MAX) -> int:
        """Waits for a node's process to end; returns its exit code."""
        return self._processes[index].wait(timeout_s)

    def stop(self) -> None:
        """Ends every node in order, by force only those that do not go."""
        with _impatience_ignored():
            self._stop()

    def _stop(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self._processes.values():
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._temporary is not None:
            self._temporary.cleanup()

    async def __aenter__(self) -> Self:
        """Starts the cluster, or nothing."""
        try:
            await self.start()
        except BaseException:
            self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops it."""
        self.stop()

    def _command(self, index: int) -> list[str]:
        """How a node is started."""
        pid_path = self.folder / self.node_ids[index] / "node.pid"
        return _launched([sys.executable, "-m", "edge_node.cli", "node"], pid_path)

    def _environment(self, index: int) -> dict[str, str]:
        """A node's settings, and nobody else's."""
        first = self._rest_port + GRPC_PORT_ABOVE
        grpc_ports = [first + i for i in range(len(self._settings))]
        peers = [f"127.0.0.1:{p}" for i, p in enumerate(grpc_ports) if i != index]
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith("DEDGEAI_")},
            "DEDGEAI_NODE_ID": self.node_ids[index],
            "DEDGEAI_DATA_FOLDER": str(self.folder / self.node_ids[index]),
            "DEDGEAI_REST_PORT": str(self._rest_port + index),
            "DEDGEAI_GRPC_PORT": str(grpc_ports[index]),
            "DEDGEAI_PEERS": ",".join(peers),
            **{f"DEDGEAI_{k.upper()}": str(v) for k, v in self._settings[index].items()},
        }

    def _check_running(self, index: int) -> None:
        code = self._processes[index].poll()
        if code is not None:
            raise NodeNotReady(self._explain(index, f"ended with code {code}"))

    def log_path(self, index: int) -> Path:
        """Where a node's log is."""
        return self.folder / self.node_ids[index] / "node.log"

    def _explain(self, index: int, what: str) -> str:
        return f"{self.node_ids[index]} {what}: {self.last_word(index)}"

    def last_word(self, index: int) -> str:
        """The last line of a node's log."""
        path = self.log_path(index)
        lines = path.read_text(errors="replace").split("\n") if path.exists() else []
        last = next((line for line in reversed(lines) if line.strip()), "it left no word")
        return last.removeprefix("dedgeai: ").strip()


@contextmanager
def _impatience_ignored() -> Iterator[None]:
    """A second Ctrl-C, or SIGTERM, ends no stopping half-way: nodes and folders would be left."""
    former: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            former[number] = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _launched(command: list[str], pid_path: Path) -> list[str]:
    """`command`, told to stop if this process dies without stopping it."""
    launch = [sys.executable, "-I", "-S", launcher.__file__]
    return [*launch, str(os.getpid()), str(int(signal.SIGTERM)), str(pid_path), "--", *command]

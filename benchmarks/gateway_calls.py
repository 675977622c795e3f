"""Function calls that a request costs a node, counted by cProfile in its main thread.

Slower machines and busy ones need more time for a call, not more calls: what two versions of the
node need can be compared wherever it is counted. Calls differ in what they take, so read no share
of the time out of it.
"""

from __future__ import annotations

import asyncio
import pstats
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_node.console.local_cluster import LocalCluster


class CountedCluster(LocalCluster):
    """A cluster whose nodes count their calls, and write them down when they have ended."""

    def calls(self, index: int) -> int:
        """Of all functions, from the node's start to its end."""
        return int(pstats.Stats(str(self._counted(index))).total_calls)  # type: ignore[attr-defined]

    def _command(self, index: int) -> list[str]:
        command = super()._command(index)
        module = command.index("-m", command.index("--"))
        count = ["-m", "cProfile", "-o", str(self._counted(index))]
        return [*command[:module], *count, *command[module:]]

    def _counted(self, index: int) -> Path:
        return self.folder / f"{self.node_ids[index]}.calls"


async def calls_of(
    settings: Mapping[str, Any],
    folder: Path,
    *,
    rest_port: int,
    load: Callable[[LocalCluster], Awaitable[int]],
) -> tuple[int, int]:
    """Calls of a lone node from start to end, and the requests that `load` says it made of it."""
    cluster = CountedCluster([settings], rest_port=rest_port, folder=folder)
    async with cluster:
        requests = await load(cluster)
    return await asyncio.to_thread(cluster.calls, 0), requests


def per_request(idle_calls: int, loaded: Sequence[tuple[int, int]]) -> list[float]:
    """Calls of a request, from (calls, requests) of loads that took as long as doing nothing."""
    return [(calls - idle_calls) / requests for calls, requests in loaded]

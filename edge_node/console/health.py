"""`dedgeai health`: one look at a process of a device, for whoever restarts containers.

Owns the look only: one line and yes or no. Alive is what a restart can mend; ready is more, and a
process that is loading is alive without it.
"""

from __future__ import annotations

import asyncio
import http.client
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_node import start_note
from edge_node.child_options import learner_alive_path
from edge_node.config import NodeConfig
from edge_node.errors import WorkerUnavailable
from edge_node.json_text import parsed
from edge_node.rest_tls import own_context
from edge_node.sign_of_life import silence_s
from edge_node.socket_path import socket_folder

ANSWER_S_MAX = 5.0
# A learner says that it lives between updates; publishing and judging take longest.
LEARNER_SILENCE_S_MAX = 120.0


@dataclass(frozen=True, kw_only=True)
class Health:
    """Whether the process works, whether it takes work now, and a line that says so."""

    alive: bool
    ready: bool
    line: str


def look(config: NodeConfig, process: str) -> Health:
    """How `process` (node, worker or learner) of the device with these settings is."""
    match process:
        case "node":
            return _node(config)
        case "worker":
            return asyncio.run(_worker(config))
        case _:
            return _learner(config)


def _node(config: NodeConfig) -> Health:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.rest_host, config.rest_host)
    connection = None
    try:
        connection = _connection(config, host)
        connection.request("GET", "/livez")
        alive = _answered(connection)
        named = alive.get("node", config.node_id)  # one of a former version does not say
        if named != config.node_id:
            line = (
                f"it is node {named} that answers at {host}:{config.rest_port}, and not "
                f"{config.node_id}: see rest_port and node_id of both"
            )
            return Health(alive=False, ready=False, line=line)
        connection.request("GET", "/readyz")
        ready = _answered(connection)
    except (OSError, ValueError, http.client.HTTPException) as error:
        line = f"node {config.node_id} does not answer at {host}:{config.rest_port}: {error}"
        return Health(alive=False, ready=False, line=line)
    finally:
        if connection is not None:
            connection.close()
    stuck, reasons = alive.get("reasons", []), ready.get("reasons", [])
    if stuck:
        line = f"node {config.node_id} is stuck: {'; '.join(stuck)}"
        return Health(alive=False, ready=False, line=line)
    line = f"node {config.node_id} is alive, and {'; '.join(reasons) or 'ready'}"
    return Health(alive=True, ready=not reasons, line=line)


def _connection(config: NodeConfig, host: str) -> http.client.HTTPConnection:
    context = own_context(config)
    if context is None:
        return http.client.HTTPConnection(host, config.rest_port, timeout=ANSWER_S_MAX)
    return http.client.HTTPSConnection(
        host, config.rest_port, timeout=ANSWER_S_MAX, context=context
    )


def _answered(connection: http.client.HTTPConnection) -> dict[str, Any]:
    answer = parsed(connection.getresponse().read())
    if not isinstance(answer, dict):
        raise ValueError(f"it answers {str(answer)[:80]!r}")
    return answer


async def _worker(config: NodeConfig) -> Health:
    from edge_node.supervision.worker_client import WorkerClient

    if config.engine == "none":
        return Health(alive=True, ready=True, line="this node has no worker (engine none)")
    path = config.worker_socket or socket_folder(config.data_folder.resolve()) / "worker.sock"
    client = WorkerClient(path)
    try:
        async with asyncio.timeout(ANSWER_S_MAX):
            described = await client.describe()
    except (WorkerUnavailable, TimeoutError) as error:
        why = _left_word(path) or error or "no time left"
        return Health(alive=False, ready=False, line=f"the worker does not answer at {path}: {why}")
    finally:
        await client.close()
    state = described.state.replace("_", " ")
    line = f"the worker is {state}{f': {described.detail}' if described.detail else ''}"
    # One that has failed says why, and would say the same after a restart.
    return Health(alive=True, ready=state == "ready", line=line)


def _left_word(socket_path: Path) -> str:
    """Why its last start ended, and how long ago; empty where it left no word of that."""
    note = start_note.read(socket_path)
    if note is None or not note.sentence:
        return ""
    ago_s = time.monotonic() - note.ended_s
    again = ", and it is being started again" if note.under_way else ""
    return f"{note.sentence} ({ago_s:.0f} s ago{again})"


def _learner(config: NodeConfig) -> Health:
    path = learner_alive_path(config)
    since_s = silence_s(path)
    if since_s == math.inf:
        line = f"no learner has said in {path} that it works, since this machine was started"
        return Health(alive=False, ready=False, line=line)
    alive = since_s < LEARNER_SILENCE_S_MAX
    return Health(alive=alive, ready=alive, line=f"the learner was at work {since_s:.0f} s ago")

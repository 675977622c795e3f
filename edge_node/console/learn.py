"""`dedgeai learn`: a learner beside the nodes, on a machine of its own.

Owns the store that such a learner keeps its verdicts and announcements in; what it learns and how
weights get to the nodes is `edge_node.learning`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator, Sequence

from edge_node import learner
from edge_node.child_options import learner_command
from edge_node.config import NodeConfig
from edge_node.socket_path import socket_folder
from edge_node.sole_owner import make_data_folder, sole_owner
from edge_node.store.embedded_valkey import valkey_command, wait_until_ready

START_S_MAX = 30.0


def learn(config: NodeConfig, nodes: Sequence[str]) -> int:
    """Learns from the nodes at `nodes` (host:port) until it is told to stop; the exit code.

    Raises:
        InvalidRequest: the data folder is a node's, or another learner's.
        StoreUnavailable: the store did not answer in time.
    """
    with sole_owner(make_data_folder(config.data_folder)), _store(config) as url:
        program_and_module = 3
        arguments = learner_command(config, url)[program_and_module:]
        return learner.main([*arguments, "--nodes", ",".join(nodes)])


@contextlib.contextmanager
def _store(config: NodeConfig) -> Iterator[str]:
    if config.redis_url is not None:
        yield config.redis_url
        return
    folder = config.data_folder.resolve()
    sockets = socket_folder(folder)
    sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = sockets / "store.sock"
    process = subprocess.Popen(
        valkey_command(folder / "store", path), stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        asyncio.run(wait_until_ready(path, START_S_MAX))
        yield f"unix://{path}"
    finally:
        process.terminate()
        process.wait()

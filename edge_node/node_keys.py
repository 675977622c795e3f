"""The keys of a node, by its settings: what REST asks for, and whose signature counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from edge_node.access.key_file import KeyFile, path_of
from edge_node.access.key_use import KeyUse
from edge_node.access.signed_list import LIST_NAME, SignedKeys, verified
from edge_node.clock import Clock
from edge_node.config import LOOPBACK_HOSTS, NodeConfig
from edge_node.domain import NodeId, NodeState
from edge_node.errors import InvalidRequest
from edge_node.peering.tls import NodeTls


def open_keys(config: NodeConfig, tls: NodeTls | None) -> KeyFile:
    """The keys that a node begins with; with certificates those that the authority has signed.

    Raises:
        InvalidRequest: they cannot be read; or there are none, other machines reach REST, and
            nobody has said that this is meant.
    """
    if tls is None or config.tls_folder is None:
        keys = KeyFile(path_of(config))
    else:
        keys = KeyFile(
            path_of(config), verify=partial(_signed, tls), beside=config.tls_folder / LIST_NAME
        )
    if config.rest_host in LOOPBACK_HOSTS or config.allow_open_rest or keys.asked_for:
        return keys
    where = "where the cluster's authority is" if tls else "with this node's settings"
    raise InvalidRequest(
        f"rest_host {config.rest_host} can be reached by other machines, and there are no API keys "
        f"in {path_of(config)}: give one out (dedgeai keys add NAME, {where}); on a network where "
        "everyone may draw say so with allow_open_rest = true; or use 127.0.0.1.",
        param="rest_host",
    )


class OpenTasks(Protocol):
    """What a client has accepted here and not final."""

    @property
    def tasks(self) -> int:
        """How many."""

    @property
    def work(self) -> float:
        """Work units of all."""


def open_key_use(
    config: NodeConfig,
    folder: Path,
    *,
    clock: Clock,
    in_flight_of: Callable[[str], OpenTasks],
    states: Callable[[], Sequence[NodeState]],
) -> KeyUse:
    """What each key has asked for; kept in the node's folder.

    Args:
        config: of the node.
        folder: of the node.
        clock: of the node.
        in_flight_of: by the id of a key.
        states: gives what all nodes said last.
    """

    def task_s(client: str) -> float:
        load = in_flight_of(client)
        capacity = sum(state.capacity for state in states())
        return load.work / load.tasks / capacity if load.tasks and capacity > 0.0 else 1.0

    return KeyUse(
        folder / "key_use.json",
        own_id=NodeId(config.node_id),
        clock=clock,
        open_tasks=lambda client: in_flight_of(client).tasks,
        states=states,
        task_s=task_s,
    )


def _signed(tls: NodeTls, text: bytes) -> SignedKeys:
    authorities = tls.material().authorities.decode()
    return verified(text, authorities=authorities, cluster_name=tls.cluster_name)

"""Command lines of the processes beside a node, worker and learner.

Owns how they are started; what a worker is told is `worker_options.py`'s. Whoever starts
them, the node or an operator's compose file, gives them the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edge_node.config import NodeConfig
from edge_node.errors import InvalidRequest
from edge_node.guard.deciding import policy_spec, takes_published_weights
from edge_node.worker_options import WorkerOptions


def attached_worker(config: NodeConfig) -> list[str]:
    """Program and arguments of the worker that runs beside the node, on its `worker_socket`.

    Raises:
        InvalidRequest: there is no such socket.
    """
    if config.worker_socket is None:
        raise InvalidRequest(
            "worker_socket is not set, so the node starts its worker itself. Set it to the Unix "
            "socket that the two shall share.",
            param="worker_socket",
        )
    return WorkerOptions.of(config).command(config.worker_socket)


def learner_command(config: NodeConfig, store_url: str) -> list[str]:
    """Program and arguments of the learner on the store at `store_url`."""
    return [
        *(sys.executable, "-m", "edge_node.learner"),
        *("--store", store_url, "--node-id", config.node_id),
        *("--out", str(learner_folder(config))),
        *("--alive", str(learner_alive_path(config))),
        *("--publish-every", str(config.learner_publish_s)),
        *("--memory-max", str(config.learner_memory_bytes_max)),
        *("--weights-max", str(config.learned_weights_bytes_max)),
        *("--outcome-wait", str(config.deadline_s_max + config.lease_s)),
        *("--log-format", config.log_format),
        *tls_options(config),
        *judge_options(config),
    ]


def tls_options(config: NodeConfig) -> list[str]:
    """What the learner proves to other nodes with that it is this one's."""
    if config.tls_folder is None:
        return []
    return ["--tls", str(config.tls_folder), "--cluster-name", config.cluster_name]


def attached_learner(config: NodeConfig) -> list[str]:
    """Program and arguments of the learner that runs beside the node, on its `redis_url`.

    Raises:
        InvalidRequest: there is no store to share, or the node starts a learner as well.
    """
    if config.redis_url is None:
        raise InvalidRequest(
            "redis_url is not set, so the store is the node's own. Set it to the store that node "
            "and learner shall share, or let the node start its learner with learner = true.",
            param="redis_url",
        )
    if config.learner:
        raise InvalidRequest(
            "learner = true makes the node start a learner, and two would learn from one pool. "
            "Set it to false where one runs beside the node.",
            param="learner",
        )
    return learner_command(config, config.redis_url)


def learner_folder(config: NodeConfig) -> Path:
    """Folder of learned weights: those of the learner beside the node, and those that came."""
    return config.data_folder.resolve() / "learned"


def learner_alive_path(config: NodeConfig) -> Path:
    """File in which a working learner says every second that it lives."""
    return learner_folder(config) / "alive"


def judge_options(config: NodeConfig) -> list[str]:
    """What the learner shall replay for the guard; nothing where there is no guard."""
    if not policy_spec(config).learned:
        return []
    options = ["--judge", config.policy, "--judge-window", str(config.guard_window_tasks)]
    for rule in config.rules_compared:
        options += ["--judge-rule", rule]
    for key, value in config.policy_options.items():
        options += ["--judge-option", f"{key}={value}"]
    if takes_published_weights(config):
        options.append("--judge-published")
    return options

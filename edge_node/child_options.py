"""Command lines of the processes beside a node: what worker and learner are told of its settings.

Owns the translation only. Whoever starts them, the node or an operator's compose file, gives them
the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edge_node.config import NodeConfig
from edge_node.errors import InvalidRequest
from edge_node.guard.deciding import policy_spec, takes_published_weights


def worker_options(config: NodeConfig) -> list[str]:
    """Command line of the worker that `config` asks for."""
    options = ["--engine", config.engine, "--queue-max", str(config.hosted_tasks_max)]
    if config.engine == "emulated":
        options += ["--emulated-profile", config.emulated_profile]
        options += ["--time-scale", str(config.time_scale)]
        if config.emulated_mode_file:
            options += ["--emulated-mode-file", str(config.emulated_mode_file)]
    else:
        options += [*model_options(config), "--pace", str(config.pace_s)]
    if config.model_name:
        options += ["--model-name", config.model_name]
    if config.torch_threads:
        options += ["--threads", str(config.torch_threads)]
    if config.rows_max:
        options += ["--rows-max", str(config.rows_max)]
    options += ["--order", config.queue_order, "--memory-floor", str(config.memory_floor_bytes)]
    if config.queue_ageing is not None:
        options += ["--ageing", str(config.queue_ageing)]
    if config.queue_promotion is not None:
        options += ["--promotion", ",".join(map(str, config.queue_promotion))]
    options += ["--lock", str(worker_lock(config))]
    options.append("--metadata" if config.image_metadata else "--no-metadata")
    return options


def model_options(config: NodeConfig) -> list[str]:
    """The worker's options about the model, and how it is run."""
    from edge_node.worker.tiny_sd3 import model_folder

    options = ["--dtype", config.dtype, "--context-mode", config.context_mode]
    options += ["--compile", config.compile_model]
    if config.model is None:
        options += ["--model", str(model_folder()), "--model-name", "tiny-sd3"]
    else:
        options += ["--model", str(config.model)]
    if config.clip_files:
        options += ["--clip", *map(str, config.clip_files)]
    if config.single_file_configs:
        options += ["--model-config", str(config.single_file_configs)]
    if config.stability_license_accepted:
        options.append("--stability-license-accepted")
    if config.taesd3_folder:
        options += ["--taesd3", str(config.taesd3_folder)]
    if config.int8_weights:
        options.append("--int8-weights")
    if config.guidance_interval:
        options += ["--guidance-interval", *map(str, config.guidance_interval)]
    if config.step_cache is not None:
        options += ["--step-cache", str(config.step_cache)]
    return options


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
    socket = ["--socket", str(config.worker_socket)]
    return [sys.executable, "-m", "edge_node.worker", *socket, *worker_options(config)]


def learner_command(config: NodeConfig, store_url: str) -> list[str]:
    """Program and arguments of the learner on the store at `store_url`."""
    return [
        *(sys.executable, "-m", "edge_node.learner"),
        *("--store", store_url, "--node-id", config.node_id),
        *("--out", str(config.data_folder.resolve() / "learned")),
        *("--alive", str(learner_alive_path(config))),
        *("--publish-every", str(config.learner_publish_s)),
        *("--memory-max", str(config.learner_memory_bytes_max)),
        *("--outcome-wait", str(config.deadline_s_max + config.lease_s)),
        *judge_options(config),
    ]


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


def learner_alive_path(config: NodeConfig) -> Path:
    """File that a working learner touches every second."""
    return config.data_folder.resolve() / "learned" / "alive"


def worker_lock(config: NodeConfig) -> Path:
    """File that stands for the accelerator."""
    return config.worker_lock or config.data_folder.resolve() / "run" / "accelerator.lock"


def judge_options(config: NodeConfig) -> list[str]:
    """What the learner shall replay for the guard; nothing where there is no guard."""
    if not policy_spec(config).learned:
        return []
    options = ["--judge", config.policy, "--judge-rule", config.guard_rule]
    options += ["--judge-window", str(config.guard_window_tasks)]
    for key, value in config.policy_options.items():
        options += ["--judge-option", f"{key}={value}"]
    if takes_published_weights(config):
        options.append("--judge-published")
    return options

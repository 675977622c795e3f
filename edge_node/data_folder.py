"""What of a node lies where in its data folder."""

from __future__ import annotations

from pathlib import Path

from edge_node.config import NodeConfig
from edge_node.store.append_only import FOLDER as APPEND_ONLY_FOLDER


def clock_path(config: NodeConfig) -> Path:
    """Where a node's clock leaves its record."""
    return config.data_folder / "clock.json"


def removals_path(config: NodeConfig) -> Path:
    """Where a node keeps who was taken out of the cluster."""
    return config.data_folder / "removals.json"


def needed_parts(config: NodeConfig) -> tuple[str, ...]:
    """What of a former life a node goes on with in its data folder, outer folders first."""
    parts: tuple[str, ...] = ("node.lock", "run", "images", "init_images")
    if config.redis_url is None:
        parts += ("store", f"store/{APPEND_ONLY_FOLDER}", f"store/{APPEND_ONLY_FOLDER}/append*")
    return parts


def watched_parts(config: NodeConfig) -> tuple[str, ...]:
    """Folders without which nothing can be promised."""
    parts: tuple[str, ...] = ("images", "init_images", "run")
    if config.redis_url is None:
        parts += ("store", f"store/{APPEND_ONLY_FOLDER}")
    return parts

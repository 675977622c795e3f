"""Arguments that several commands have in common."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_node.config import NodeConfig

DEFAULT_URL = "http://127.0.0.1:8080"


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Where the settings of a node come from."""
    parser.add_argument(
        "--config", type=Path, help="TOML file of settings; `dedgeai config show` lists them all"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting; overrides file and environment (DEDGEAI_<KEY>)",
    )


def load_settings(options: argparse.Namespace) -> NodeConfig:
    """The settings that `add_settings` named."""
    from edge_node.config_sources import load_config, parse_overrides

    return load_config(options.config, parse_overrides(options.set))


def add_node(parser: argparse.ArgumentParser) -> None:
    """Which node is asked."""
    parser.add_argument("--node", default=DEFAULT_URL, help="REST surface of any node")

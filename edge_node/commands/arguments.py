"""Arguments that several commands have in common, and what may be given for one.

A wrong one is one sentence: what was given, and what may be.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from edge_node.errors import InvalidRequest

if TYPE_CHECKING:
    from edge_node.config import NodeConfig

DEFAULT_URL = "http://127.0.0.1:8080"
PORT_MAX = 65535
SEED_MAX = 2**32 - 1


class Parser(argparse.ArgumentParser):
    """Of dedgeai: an error is a sentence, without the usage of all that could have been meant.

    Options are given in full: half of a name may mean another one tomorrow.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**given, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Says it and ends with 2."""
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`.\n")


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
    parser.add_argument(
        "--node", type=node_url, default=DEFAULT_URL, metavar="URL", help="REST surface of any node"
    )


def add_out(parser: argparse.ArgumentParser) -> None:
    """Where images are saved."""
    parser.add_argument(
        "--out",
        metavar="FILE",
        help=".png, .webp or .jpg, with {n}, {seed} or {id} in its name; image.png, or the next "
        "like it that is not there",
    )
    parser.add_argument("--force", action="store_true", help="overwrite a file that is there")
    parser.add_argument(
        "--no-preview",
        dest="preview",
        action="store_false",
        help="do not show it in the terminal (dedgeai[preview])",
    )


def node_url(text: str) -> str:
    """The address of a node's REST surface, without a slash at its end."""
    try:
        parts = urlsplit(text)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right or not text.isprintable() or " " in text:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no node's address: it begins with http:// or https://, as {DEFAULT_URL}"
        )
    return text.rstrip("/")


def node_urls(text: str) -> list[str]:
    """Several, with commas between."""
    return [node_url(one.strip()) for one in text.split(",")]


def listeners(text: str) -> list[str]:
    """Where nodes listen for each other, host:port with commas between."""
    found = [one.strip() for one in text.split(",")]
    for one in found:
        host, _, number = one.rpartition(":")
        if not host or "/" in host or not number.isascii() or not number.isdigit():
            raise argparse.ArgumentTypeError(f"{one!r} is not host:port, as orin-1:9080")
    return found


def name(text: str) -> str:
    """Of a task or a node; a variable of a shell that is not set is none."""
    if not text.strip():
        raise argparse.ArgumentTypeError("a name must not be empty")
    return text


def renamed(new: str) -> Callable[[str], str]:
    """Of an option that has another name now."""

    def refuse(text: str) -> str:
        raise argparse.ArgumentTypeError(f"it is a number of nodes elsewhere; here say {new}")

    return refuse


def whole(first: int, last: int | None = None, *, what: str = "") -> Callable[[str], int]:
    """A whole number from `first` to `last`; `what` says of what."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = first - 1
        if value < first or (last is not None and value > last):
            upper = " or more" if last is None else f" to {last}"
            raise argparse.ArgumentTypeError(
                f"{text!r:.40} is not a whole number{what}, {first}{upper}"
            )
        return value

    return number


def above(lowest: float, *, what: str = "", reached: bool = False) -> Callable[[str], float]:
    """A finite number above `lowest`, or `lowest` itself where that may be `reached`."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < lowest or (value == lowest and not reached):
            bound = f"{lowest:g} or more" if reached else f"above {lowest:g}"
            raise argparse.ArgumentTypeError(f"{text!r:.40} is not a number{what}, {bound}")
        return value

    return number


count = whole(1)
port = whole(1, PORT_MAX, what=" of a port")
seed = whole(0, SEED_MAX, what=" of a seed")
seconds = above(0.0, what=" of seconds")


def require_parent(path: Path, option: str) -> None:
    """That a file can be written there, before anything is done for it.

    Raises:
        InvalidRequest: it cannot; `option` is how another one is named.
    """
    folder = path.parent
    why = ""
    if path.is_dir():
        why = "it is a folder"
    elif not folder.exists():
        why = f"there is no folder {folder}"
    elif not folder.is_dir():
        why = f"{folder} is not a folder"
    elif not os.access(path if path.exists() else folder, os.W_OK):
        why = "this user may not write there"
    if why:
        raise InvalidRequest(f"{path} cannot be written ({why}): name another with {option}.")

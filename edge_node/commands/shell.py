"""What a shell is told of the command line."""

from __future__ import annotations

import argparse
from typing import Any

SHELLS = ("bash", "zsh", "fish")


def add(commands: Any) -> None:
    """Adds them to the parser of all commands."""
    parser = commands.add_parser(
        "completion", help="what completes commands and options in a shell"
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=_completion)


def _completion(options: argparse.Namespace) -> int:
    import shtab

    from edge_node.cli import parser

    print(shtab.complete(parser(), shell=options.shell))
    return 0

"""The `dedgeai` command: reads arguments, calls what does the work, prints."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version

from edge_node.commands import device, drawing, laboratory, local, looking, operating
from edge_node.errors import DEdgeAIError
from edge_node.log_lines import TEXT


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code. A known error is one sentence, not a trace."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format=TEXT)
    # One line per request of one's own is no news.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        code: int = options.run(options)
    except DEdgeAIError as error:
        print(f"dedgeai: {error.message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dedgeai", description="Text-to-image on a handful of edge devices."
    )
    parser.add_argument("--version", action="version", version=f"dedgeai {version('dedgeai')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for family in (local, drawing, looking, operating, device, laboratory):
        family.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())

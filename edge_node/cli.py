"""The `dedgeai` command: reads arguments, calls what does the work, prints."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib.metadata import version

from edge_node.commands import (
    device,
    drawing,
    exit_codes,
    laboratory,
    local,
    looking,
    operating,
    shell,
)
from edge_node.commands.arguments import Parser
from edge_node.log_lines import TEXT


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code. An error is one sentence, not a trace."""
    for stream in (sys.stdout, sys.stderr):
        # A name of a file may be no UTF-8, and a terminal may speak another code.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format=TEXT)
    # One line per request of one's own is no news.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        code, sentence = exit_codes.ending(error)
        # What a fault left in the log of a service cannot be had again by asking for it.
        if options.debug or (code == exit_codes.FAULT and options.run in device.SERVICES):
            traceback.print_exc()
        if sentence:
            print(f"dedgeai: {sentence}", file=sys.stderr)
        if code == exit_codes.NOBODY_READS:
            # What is still to be written has nowhere to go, and Python would complain of it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def parser() -> argparse.ArgumentParser:
    """All commands with their arguments."""
    whole = Parser(prog="dedgeai", description="Text-to-image on a handful of edge devices.")
    whole.add_argument("--version", action="version", version=f"dedgeai {version('dedgeai')}")
    whole.set_defaults(debug=False)
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for family in (local, drawing, looking, operating, device, laboratory, shell):
        family.add(commands)
    for one in _all_of(whole):
        one.add_argument(
            "--debug",
            action="store_true",
            default=argparse.SUPPRESS,
            help="show where in the program an error came from",
        )
    return whole


def _all_of(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """It and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from _all_of(one)


if __name__ == "__main__":
    sys.exit(main())

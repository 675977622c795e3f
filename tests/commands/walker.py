"""Runs many command lines, each in a process of its own, without paying for the imports each time.

`python -m tests.commands.walker FOLDER`: a JSON list of argument lists on standard input; on
standard output a JSON list of exit code, what was said and what was complained of.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edge_node import cli

SECONDS_MAX = 60


def walk(arguments: Sequence[str], folder: Path) -> tuple[int, str, str]:
    """Exit code, output, complaints of `dedgeai` with these arguments in `folder`."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        child = os.fork()
        if child == 0:
            os.chdir(folder)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(said.fileno(), 1)
            os.dup2(complained.fileno(), 2)
            signal.alarm(SECONDS_MAX)
            _end_as_a_process(arguments)
        _, status = os.waitpid(child, 0)
        for file in (said, complained):
            file.seek(0)
        code = os.waitstatus_to_exitcode(status)
        return code, said.read().decode(), complained.read().decode()


def _end_as_a_process(arguments: Sequence[str]) -> None:
    code: object = 1
    try:
        code = cli.main(arguments)
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    # What the commands import, before they are many.
    import httpx  # noqa: F401
    import rich.progress  # noqa: F401

    import edge_node.client
    import edge_node.config  # noqa: F401

    results = [walk(arguments, Path(sys.argv[1])) for arguments in json.load(sys.stdin)]
    print(json.dumps(results))

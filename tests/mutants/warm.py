"""A process that has imported what is slow to import, and forks one pytest for each mutant.

Owns nothing of the project: its modules, the mutated one among them, are imported after the fork,
from the copy that this runs in. Reads one request a line from stdin (tests, variables of the
environment, a file for what is said), answers with the process id, and, when it has ended, with its
exit code.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

# Of others, each more than 50 ms; what is missing here is only slower.
HEAVY = (
    *(
        "pytest",
        "_pytest.assertion.rewrite",
        "hypothesis",
        "numpy",
        "httpx",
        "pydantic",
        "PIL.Image",
    ),
    *("grpc.aio", "google.protobuf.message", "redis.asyncio", "fastapi", "prometheus_client"),
    *("safetensors.numpy", "ulid", "uvicorn", "numba", "torch"),
)
OPTIONS = (
    *("-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=short"),
    # Plugins of others assert nothing here.
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)


def serve() -> None:
    """Answers requests until stdin ends."""
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        wanted = json.loads(line)
        process_id = os.fork()
        if process_id == 0:
            _run(wanted)
        _say(process_id)
        _, status = os.waitpid(process_id, 0)
        _say(os.waitstatus_to_exitcode(status))


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _run(wanted: dict[str, Any]) -> NoReturn:
    """In the fork, as leader of a session of its own: whatever it starts can end with it."""
    os.setsid()
    os.environ.update(wanted["environment"])
    with Path(wanted["said"]).open("wb") as said, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    # This package was imported to get here; the tests import their own.
    for name in [*sys.modules]:
        if name.partition(".")[0] == "tests":
            del sys.modules[name]
    pytest = importlib.import_module("pytest")
    code = 70
    try:
        code = int(pytest.main([*OPTIONS, *wanted["tests"]]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Past every handler and thread that a mutant may have left.
        os._exit(code)


if __name__ == "__main__":
    serve()

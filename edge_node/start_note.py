"""The note that a worker leaves beside its socket while a start has not come up.

Owns what is in it: why the last start ended and how many ended in a row, for a node to which the
worker is only attached, and for whoever asks for its health. A worker that has come up, or was told
to stop, takes the note away. One of another boot of the machine says nothing any more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from edge_node.clock import boot_id
from edge_node.json_text import parsed

# Starts in a row that ended, from which on a worker has failed, as if it said so.
DEATHS_AT_START_MAX = 2
WITHOUT_A_WORD = "it ended without a word: killed from outside, as for want of memory, or crashed"
_REASON_CHARACTERS_MAX = 500


@dataclass(frozen=True, kw_only=True)
class StartNote:
    """A worker's starts since it last came up.

    Attributes:
        reason: why the last one that ended did; empty while the first is under way.
        permanent: whether another start would end in the same way, until somebody mends it.
        deaths: starts that ended, in a row.
        ended_s: when the last one did, by the clock that no step moves.
        under_way: whether one has begun since.
    """

    reason: str = ""
    permanent: bool = False
    deaths: int = 0
    ended_s: float = 0.0
    under_way: bool = True

    @property
    def has_failed(self) -> bool:
        """Whether waiting is no use, as far as the worker knows."""
        return self.permanent or self.deaths >= DEATHS_AT_START_MAX

    @property
    def sentence(self) -> str:
        """What to tell of it; empty where there is nothing."""
        if not self.reason or self.permanent:
            return self.reason
        if self.deaths == 1:
            return f"it ended at its start: {self.reason}"
        return f"it ended {self.deaths} times in a row at its start: {self.reason}"


def begin(socket_path: Path) -> None:
    """A start begins; if the former one left its note under way, it ended without a word."""
    former = read(socket_path)
    if former is not None and former.under_way:
        former = _ended(former, WITHOUT_A_WORD, permanent=False)
    _write(socket_path, dataclasses.replace(former or StartNote(), under_way=True))


def tell(socket_path: Path, reason: str, *, permanent: bool) -> None:
    """The start that is under way ends, and why; nothing is told of a worker that had come up."""
    note = read(socket_path)
    if note is not None and note.under_way:
        _write(socket_path, _ended(note, reason, permanent=permanent))


def tell_before_begin(socket_path: Path, reason: str) -> None:
    """No start can even begin, until somebody mends what `reason` says."""
    note = read(socket_path) or StartNote()
    _write(socket_path, _ended(note, reason, permanent=True))


def forget(socket_path: Path) -> None:
    """The worker has come up, or was told to stop."""
    with contextlib.suppress(OSError):
        _path(socket_path).unlink()


def read(socket_path: Path) -> StartNote | None:
    """What is left of the starts of the worker at this socket; None where nothing is."""
    try:
        said = parsed(_path(socket_path).read_bytes())
        note = StartNote(
            reason=str(said["reason"]),
            permanent=bool(said["permanent"]),
            deaths=int(said["deaths"]),
            ended_s=float(said["ended_s"]),
            under_way=bool(said["under_way"]),
        )
        of_this_boot = said["boot"] == boot_id() and note.ended_s <= time.monotonic()
    except (OSError, ValueError, OverflowError, TypeError, KeyError):
        return None
    return note if of_this_boot else None


def _path(socket_path: Path) -> Path:
    return socket_path.with_name(f"{socket_path.name}.start")


def _ended(note: StartNote, reason: str, *, permanent: bool) -> StartNote:
    first_line = reason.strip().partition("\n")[0].rstrip(".")
    return StartNote(
        reason=first_line[:_REASON_CHARACTERS_MAX],
        permanent=permanent,
        deaths=note.deaths + 1,
        ended_s=time.monotonic(),
        under_way=False,
    )


def _write(socket_path: Path, note: StartNote) -> None:
    """Best effort, as a comment is: whoever looks sees the former one, or this one whole."""
    path = _path(socket_path)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    text = json.dumps({"boot": boot_id(), **dataclasses.asdict(note)})
    try:
        draft.write_text(text)
        draft.chmod(0o600)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()

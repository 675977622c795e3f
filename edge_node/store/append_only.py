r"""The embedded store's append-only files after a power cut or damage: examined and mended.

Owns the order of looking (manifest, then every file that it names) and what may be done unasked: a
manifest that is lost is written anew, and what a power cut left at the very end is cut off, where
nothing that could be read follows. Damage in the middle is mended by an operator's word alone. What
is changed is kept aside first, and what was lost is named as far as it can be read.

The format is Valkey's: commands as `*<parts>\r\n`, each part as `$<bytes>\r\n...\r\n`, one after
another; what a script did stands between MULTI and EXEC and counts as a whole.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edge_node.in_the_way import put_aside
from edge_node.store.durable_file import write_durably

FOLDER = "appendonlydir"
_MANIFEST = "appendonly.aof.manifest"
_LINE = re.compile(r"file (\S+) seq (\d+) type ([bhi])(?: .*)?")
_FILE = re.compile(r"appendonly\.aof\.(\d+)\.(base|incr)\.(rdb|aof)")
_BEGINNING = re.compile(rb"\*\d{1,6}\r\n\$\d{1,9}\r\n")
_TASK_ID = re.compile(rb"(?<![\w.-])([A-Za-z0-9][\w.-]{0,62}-[0-9A-Z]{26})(?!\w)")
_NUMBER_BYTES_MAX = 12
# No key at all, and no checksum: what a store without a base begins from.
_EMPTY_RDB = b"REDIS0011\xff" + bytes(8)
_RDB_BEGINNING = (b"REDIS", b"VALKEY")


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Bytes of one file that are no commands.

    Attributes:
        start, end: of what has to go, whole transactions included.
        last: whether nothing that can be read follows.
    """

    path: Path
    start: int
    end: int
    last: bool


@dataclass(frozen=True, kw_only=True)
class Mended:
    """What was done.

    Attributes:
        sentences: one for each file that was changed.
        lost_task_ids: tasks whose latest state, or which themselves, were in what was cut out.
        lost_bytes: that were cut out, padding included.
    """

    sentences: tuple[str, ...]
    lost_task_ids: tuple[str, ...]
    lost_bytes: int


class DamagedStore(Exception):
    """There is damage that is not mended unasked; the message says where."""


def mend(
    store_folder: Path, *, everything: bool = False, is_base: Callable[[Path], bool] | None = None
) -> Mended:
    """Examines the files in `store_folder` and mends what may be mended; no store may run there.

    Args:
        store_folder: the store's own, with the append-only folder in it.
        everything: by an operator's word, damage in the middle, unreadable bases and files that
            are gone, too.
        is_base: whether the store can read a file as a base; if not given, its beginning tells.

    Raises:
        DamagedStore: what would be lost is more than what a power cut takes.
        OSError: the disk is failing.
    """
    folder = store_folder / FOLDER
    if not folder.is_dir():
        return Mended(sentences=(), lost_task_ids=(), lost_bytes=0)
    sentences: list[str] = []
    for path in list(folder.iterdir()):
        if (_FILE.fullmatch(path.name) or path.name == _MANIFEST) and not path.is_file():
            put_aside(path)
    files = _files(folder, sentences, everything=everything)
    lost: dict[str, None] = {}
    lost_bytes = 0
    for path, kind in files:
        if kind == "b" and path.suffix == ".rdb":
            if not _begins_as_base(path) or (is_base is not None and not is_base(path)):
                _empty_base(path, sentences, everything=everything)
            continue
        damages = list(_damages(path))
        if not damages:
            continue
        in_the_middle = [one for one in damages if not one.last]
        is_last_file = path == files[-1][0]
        if (in_the_middle or not is_last_file) and not everything:
            raise DamagedStore(
                f"{path} is damaged at byte {damages[0].start}, before "
                f"{path.stat().st_size - damages[0].end} bytes that can be read"
            )
        for damage in damages:
            lost_bytes += damage.end - damage.start
            lost.update(dict.fromkeys(_task_ids(damage)))
        sentences.append(_cut_out(path, damages))
    return Mended(sentences=tuple(sentences), lost_task_ids=tuple(lost), lost_bytes=lost_bytes)


# The manifest.


def _files(
    folder: Path, sentences: list[str], *, everything: bool = False
) -> list[tuple[Path, str]]:
    """Every file in the order of loading, and its kind; writes a lost manifest anew."""
    manifest = folder / _MANIFEST
    named = _named(manifest)
    if named is None:
        named = _written_anew(manifest)
        if named:
            sentences.append(f"{manifest} was lost or damaged and names what is there now")
    absent = [name for name, _ in named if not (folder / name).is_file()]
    if absent:
        lacks = f"{folder} lacks {', '.join(absent)}, which its manifest names"
        if not everything:
            raise DamagedStore(lacks)
        named = _written_anew(manifest)
        sentences.append(f"{lacks}: what they held is lost, and it names what is there now")
    return [(folder / name, kind) for name, kind in named]


def _written_anew(manifest: Path) -> list[tuple[str, str]]:
    """What a manifest has to name for what lies beside it; none where nothing does."""
    there = (path for path in manifest.parent.iterdir() if path.is_file())
    found = sorted((path for path in there if _FILE.fullmatch(path.name)), key=_age)
    bases = [path for path in found if ".base." in path.name][-1:]
    named = [(path.name, "b") for path in bases]
    named += [(path.name, "i") for path in found if ".incr." in path.name]
    if manifest.exists():
        _keep_aside(manifest)
    lines = (f"file {name} seq {_sequence(name)} type {kind}\n" for name, kind in named)
    if named:
        write_durably(manifest, "".join(lines).encode(), modified_unix_s=time.time())
    else:
        manifest.unlink(missing_ok=True)
    return named


def _named(manifest: Path) -> list[tuple[str, str]] | None:
    """Files that count, in order; None for what is no manifest."""
    try:
        lines = manifest.read_text("ascii").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    found = [_LINE.fullmatch(line) for line in lines]
    if not lines or not all(found):
        return None
    return [(one[1], one[3]) for one in found if one and one[3] != "h"]


def _sequence(name: str) -> int:
    found = _FILE.fullmatch(name)
    return int(found[1]) if found else 0


def _age(path: Path) -> int:
    return _sequence(path.name)


# A base, which is the store's own format.


def _begins_as_base(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6).startswith(_RDB_BEGINNING)


def _empty_base(path: Path, sentences: list[str], *, everything: bool) -> None:
    if not everything:
        with path.open("rb") as file:
            beginning = file.read(6)
        raise DamagedStore(f"{path} is no database file: it begins with {beginning!r}")
    kept = _keep_aside(path)
    write_durably(path, _EMPTY_RDB, modified_unix_s=time.time())
    sentences.append(f"{path} could not be read and is empty now; as it was: {kept}")


def holds_nothing(store_folder: Path) -> bool:
    """Whether no command is in any file: a new store, one rewritten just now, or one that is lost.

    Whoever opens a store writes at once, so that none whose node has lived is so for long.
    """
    found = (store_folder / FOLDER).glob("appendonly.aof.*.incr.aof")
    return not any(path.stat().st_size for path in found if path.is_file())


# Commands.


def _damages(path: Path) -> Iterator[Damage]:
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        size, offset = len(content), 0
        while offset < size:
            good, bad = _whole_transactions(content, offset)
            if good == size:
                return
            resumed = _resumed(content, bad, in_transaction=good < bad)
            end = size if resumed is None else resumed
            yield Damage(path=path, start=good, end=end, last=resumed is None)
            offset = end


def _whole_transactions(content: mmap.mmap, offset: int) -> tuple[int, int]:
    """Where the last whole command or transaction from `offset` on ends, and where reading does."""
    good, in_transaction = offset, False
    while True:
        read = _command(content, offset)
        if read is None:
            return good, offset
        name, offset = read
        if name == b"MULTI":
            in_transaction = True
        elif name == b"EXEC":
            in_transaction = False
        if not in_transaction:
            good = offset


def _resumed(content: mmap.mmap, bad: int, *, in_transaction: bool) -> int | None:
    """Where what can be read begins again after `bad`, past the rest of a broken transaction."""
    offset = bad + 1
    while (found := _BEGINNING.search(content, offset)) is not None:
        read = _command(content, found.start())
        if read is None:
            offset = found.start() + 1
            continue
        return _past_rest(content, found.start(), in_transaction=in_transaction)
    return None


def _past_rest(content: mmap.mmap, offset: int, *, in_transaction: bool) -> int | None:
    """`offset`, or the end of the transaction whose beginning is lost; None at the end."""
    start = offset
    while (read := _command(content, offset)) is not None:
        if read[0] == b"MULTI":
            return offset if in_transaction else start
        offset = read[1]
        if read[0] == b"EXEC":
            return offset if offset < len(content) else None
    return None if in_transaction else start


def _command(content: mmap.mmap, offset: int) -> tuple[bytes, int] | None:
    """Name and end of the command at `offset`; None where there is no whole one."""
    while content[offset : offset + 1] == b"#":  # a note of the time
        end = content.find(b"\r\n", offset)
        if end < 0:
            return None
        offset = end + 2
    head = _number(content, offset, b"*")
    if head is None or head[0] < 1:
        return None
    parts, offset = head
    name = b""
    for part in range(parts):
        head = _number(content, offset, b"$")
        if head is None:
            return None
        length, begin = head
        offset = begin + length + 2
        if offset > len(content) or content[offset - 2 : offset] != b"\r\n":
            return None
        if part == 0:
            name = content[begin : begin + min(length, 16)].upper()
    return name, offset


def _number(content: mmap.mmap, offset: int, kind: bytes) -> tuple[int, int] | None:
    if content[offset : offset + 1] != kind:
        return None
    end = content.find(b"\r\n", offset, offset + _NUMBER_BYTES_MAX)
    digits = content[offset + 1 : end] if end >= 0 else b""
    return (int(digits), end + 2) if digits.isdigit() else None


# Cutting out.


def _task_ids(damage: Damage) -> Iterator[str]:
    with damage.path.open("rb") as file:
        file.seek(damage.start)
        content = file.read(damage.end - damage.start)
    for found in _TASK_ID.finditer(content):
        yield found[1].decode()


def _cut_out(path: Path, damages: list[Damage]) -> str:
    kept = _keep_aside(path)
    draft = path.with_name(f"{path.name}.mended")
    with kept.open("rb") as source, draft.open("wb") as target:
        offset = 0
        for damage in damages:
            source.seek(offset)
            _copy(source, target, damage.start - offset)
            offset = damage.end
        source.seek(offset)
        shutil.copyfileobj(source, target)
        target.flush()
        os.fsync(target.fileno())
    draft.replace(path)
    cut = sum(damage.end - damage.start for damage in damages)
    where = "at its end" if damages[-1].last and len(damages) == 1 else "in it"
    return f"{path} had {cut} damaged bytes {where}, which are cut out; as it was: {kept}"


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while count > 0:
        chunk = source.read(min(count, 1 << 20))
        if not chunk:
            return
        target.write(chunk)
        count -= len(chunk)


def _keep_aside(path: Path) -> Path:
    """A copy of a damaged file, outside of the folder that the store reads."""
    aside = path.parent.parent / "damaged"
    aside.mkdir(mode=0o700, exist_ok=True)
    kept = aside / f"{path.name}.{time.strftime('%Y%m%dT%H%M%S')}.{time.monotonic_ns()}"
    shutil.copyfile(path, kept)
    return kept

"""A node's clock from one life to the next: what it said last, and what the machine's did since.

Owns the file that the clock leaves behind, the look at the machine's clocks, and what a life begins
with. A Jetson whose clock has no battery boots in the past; that of another is set while its node
is stopped. What is stored bears times of the former life, and a deadline must not pass because of a
jump. Within one boot of the machine what passed between two lives is known to the millisecond;
across boots it is known that time goes on, and whether the kernel's clock is synchronised.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import json
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edge_node.clock import SystemClock, boot_id
from edge_node.json_text import parsed

log = logging.getLogger(__name__)

RECORD_EVERY_S = 10.0
LOOK_EVERY_S = 0.5
# No clock ever says so much: a record that does is garbled. The year 3000 is before.
_SECONDS_MAX = 2.0**35
# A clock that was set by more than that is told.
STEP_TOLD_S = 2.0
# Of struct timex, with room to spare; the kernel fills in 208 bytes.
_TIMEX_BYTES = 512
# What adjtimex(2) returns while nothing synchronises the clock, or the last that did is long ago.
_TIME_ERROR = 5


@dataclass(frozen=True, kw_only=True)
class MachineClocks:
    """A look at the machine's clocks.

    Attributes:
        unix_s: the clock of the day; in a record, the node's own, which no step has moved.
        boot_s: since the machine booted, suspended or not.
        boot_id: tells one boot from another; empty where the kernel does not say.
        synchronised: whether the kernel's clock follows another one, as of NTP.
    """

    unix_s: float
    boot_s: float
    boot_id: str
    synchronised: bool

    @classmethod
    def now(cls) -> MachineClocks:
        """As they are."""
        return cls(
            unix_s=time.time(),
            boot_s=time.clock_gettime(time.CLOCK_BOOTTIME),
            boot_id=boot_id(),
            synchronised=_is_synchronised(),
        )


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What a life begins with.

    Attributes:
        unix_s: its clock.
        shift_s: to be added to every stored time: the part of what the clock gained since the
            former life that is no time which passed, as far as one can know.
        doubt: why the machine's clock is not believed, or is for want of a better one; empty
            where nothing is in doubt.
        told_by_waiting: a synchronisation would end the doubt.
        former: what the former life left; tells one jump from another.
    """

    unix_s: float
    shift_s: float = 0.0
    doubt: str = ""
    told_by_waiting: bool = False
    former: MachineClocks | None = None


def judge(former: MachineClocks | None, now: MachineClocks, *, jump_s_max: float) -> Beginning:
    """What a life begins with. Pure.

    Args:
        former: what the former life left; None if nothing is known of any.
        now: the machine's clocks.
        jump_s_max: what the clock may be off without anybody asking why.
    """
    if former is None:
        return Beginning(unix_s=now.unix_s)
    one_boot = bool(now.boot_id) and now.boot_id == former.boot_id and now.boot_s >= former.boot_s
    passed_s = now.boot_s - former.boot_s if one_boot else now.boot_s
    expected_s = former.unix_s + passed_s
    jump_s = now.unix_s - expected_s
    was_off = not one_boot and jump_s > 0.0
    if abs(jump_s) <= jump_s_max or (was_off and former.synchronised and now.synchronised):
        return Beginning(unix_s=now.unix_s)
    if now.synchronised:
        return Beginning(unix_s=now.unix_s, shift_s=jump_s, former=former)
    seen = f"the machine's clock says {_shown(now.unix_s)}"
    if was_off:
        doubt = (
            f"{seen}, {jump_s:.0f} s after the last life of this node and the machine's start, "
            "and nothing synchronises it: whether the machine was off or its clock jumped cannot "
            "be told, and deadlines do not count it"
        )
        return Beginning(
            unix_s=now.unix_s, shift_s=jump_s, doubt=doubt, told_by_waiting=True, former=former
        )
    doubt = (
        f"{seen}, {abs(jump_s):.0f} s {'ahead of' if jump_s > 0.0 else 'behind'} what the last "
        "life of this node left, and nothing synchronises it: the node's clock goes on from there, "
        f"at {_shown(expected_s)}"
    )
    return Beginning(unix_s=expected_s, doubt=doubt, told_by_waiting=not one_boot)


class NodeClock(SystemClock):
    """The clock of a node's life, which goes on from the former one's where it must."""

    def __init__(self, beginning: Beginning) -> None:
        super().__init__(unix_s=beginning.unix_s)
        self.beginning = beginning

    def notes(self) -> tuple[str, ...]:
        """What an operator should see to; empty when there is nothing."""
        if self.beginning.doubt and not _is_synchronised():
            return (self.beginning.doubt,)
        step_s = self.step_s()
        if abs(step_s) <= STEP_TOLD_S:
            return ()
        off = f"{abs(step_s):.0f} s {'ahead of' if step_s > 0.0 else 'behind'}"
        return (
            f"the machine's clock is {off} the node's, which goes by its own until its next start",
        )


async def begin_clock(
    path: Path, *, jump_s_max: float, wait_s_max: float, stopping: asyncio.Event
) -> NodeClock:
    """The clock of a new life; waits for the machine's to be synchronised where that tells more.

    Args:
        path: what the former life left.
        jump_s_max: see `judge`.
        wait_s_max: how long at most.
        stopping: ends the wait.
    """
    former = read_record(path)
    until_s = time.monotonic() + wait_s_max
    told = False
    while True:
        beginning = judge(former, MachineClocks.now(), jump_s_max=jump_s_max)
        late = time.monotonic() >= until_s or stopping.is_set()
        if late or not beginning.told_by_waiting:
            break
        if not told:
            log.warning("%s. Waiting %g s for that at most", beginning.doubt, wait_s_max)
            told = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY_S):
                await stopping.wait()
    if beginning.doubt:
        log.warning("%s. Synchronise it: sudo timedatectl set-ntp true", beginning.doubt)
    elif beginning.shift_s:
        log.warning(
            "the machine's clock is synchronised and %.0f s off what the last life of this node "
            "left: what is stored is dated anew, and no deadline counts it",
            beginning.shift_s,
        )
    elif told:
        log.info("the machine's clock is right again")
    return NodeClock(beginning)


async def keep_record(path: Path, clock: NodeClock) -> None:
    """Writes what the clock says until it is cancelled, and then once more."""
    try:
        while True:
            await asyncio.to_thread(write_record, path, clock)
            await asyncio.sleep(RECORD_EVERY_S)
    finally:
        write_record(path, clock)


def write_record(path: Path, clock: SystemClock) -> None:
    """Leaves what the clock says now; a disk that refuses costs no more than the record.

    Not synced: after a power cut the next life finds an earlier one.
    """
    record = dataclasses.replace(MachineClocks.now(), unix_s=clock.unix_s())
    temporary = path.with_suffix(".new")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(dataclasses.asdict(record)) + "\n")
        temporary.replace(path)


def read_record(path: Path) -> MachineClocks | None:
    """What a former life left; None if that is nothing that can be read."""
    try:
        found = parsed(path.read_text())
        record = MachineClocks(
            unix_s=float(found["unix_s"]),
            boot_s=float(found["boot_s"]),
            boot_id=str(found["boot_id"]),
            synchronised=found["synchronised"] is True,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    said = (record.unix_s, record.boot_s)
    return record if all(0.0 <= one < _SECONDS_MAX for one in said) else None


def _is_synchronised() -> bool:
    """As adjtimex(2) says; false where there is no such call."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return False
    return bool(0 <= adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)) < _TIME_ERROR)


def _shown(unix_s: float) -> str:
    try:
        return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{unix_s:.0f} s after 1970"

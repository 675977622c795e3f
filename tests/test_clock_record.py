"""What a node's life begins with, by what the former one left and the machine's clocks."""

from __future__ import annotations

import asyncio
import json
import math
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from edge_node import clock_record
from edge_node.clock_record import (
    Beginning,
    MachineClocks,
    NodeClock,
    begin_clock,
    judge,
    keep_record,
    read_record,
    write_record,
)

DAY_S = 86_400.0
NOON_S = 1.8e9
LEFT = MachineClocks(unix_s=NOON_S, boot_s=5_000.0, boot_id="one", synchronised=True)


def begun(
    *,
    gained_s: float,
    boot: str = "one",
    up_s: float = 5_060.0,
    was: bool = True,
    is_now: bool = False,
) -> Beginning:
    """A life that begins when the clock has gained so much since LEFT."""
    now = MachineClocks(unix_s=NOON_S + gained_s, boot_s=up_s, boot_id=boot, synchronised=is_now)
    return judge(replace(LEFT, synchronised=was), now, jump_s_max=600.0)


def test_a_first_life_believes_the_machine() -> None:
    first = judge(None, LEFT, jump_s_max=600.0)
    assert first == Beginning(unix_s=NOON_S)


@pytest.mark.parametrize("gained_s", [60.0, 659.0, -539.0])
def test_what_is_near_enough_is_believed(gained_s: float) -> None:
    assert begun(gained_s=gained_s) == Beginning(unix_s=NOON_S + gained_s)


@pytest.mark.parametrize("jump_s", [10 * DAY_S, -10 * DAY_S, 601.0, -601.0])
def test_within_one_boot_what_passed_is_known_and_the_clock_goes_on(jump_s: float) -> None:
    found = begun(gained_s=60.0 + jump_s)
    assert (found.unix_s, found.shift_s) == (NOON_S + 60.0, 0.0)
    assert ("ahead of" if jump_s > 0 else "behind") in found.doubt
    assert not found.told_by_waiting


@pytest.mark.parametrize("jump_s", [10 * DAY_S, -10 * DAY_S])
def test_a_clock_that_was_synchronised_since_is_believed_and_what_is_stored_moves(
    jump_s: float,
) -> None:
    found = begun(gained_s=60.0 + jump_s, is_now=True)
    assert (found.unix_s, found.shift_s) == (NOON_S + 60.0 + jump_s, jump_s)
    assert (found.doubt, found.former) == ("", LEFT)


def test_a_machine_that_boots_in_the_past_goes_on_from_the_last_life_and_waits() -> None:
    found = begun(gained_s=-NOON_S + 30.0, boot="two", up_s=20.0)
    # It was off for who knows how long, but it has been up for 20 s.
    assert (found.unix_s, found.shift_s) == (NOON_S + 20.0, 0.0)
    assert found.told_by_waiting
    assert "1970-01-01T00:00:30" in found.doubt


def test_a_machine_that_was_off_cannot_be_told_from_a_jump_without_synchronisation() -> None:
    found = begun(gained_s=3 * DAY_S, boot="two", up_s=20.0)
    assert (found.unix_s, found.shift_s) == (NOON_S + 3 * DAY_S, 3 * DAY_S - 20.0)
    assert found.told_by_waiting
    assert found.doubt


def test_a_machine_that_was_off_between_right_clocks_has_lost_that_time() -> None:
    found = begun(gained_s=3 * DAY_S, boot="two", up_s=20.0, is_now=True)
    assert found == Beginning(unix_s=NOON_S + 3 * DAY_S)
    # Where the former clock was anybody's guess, deadlines do not count the gap.
    found = begun(gained_s=3 * DAY_S, boot="two", up_s=20.0, was=False, is_now=True)
    assert (found.shift_s, found.doubt) == (3 * DAY_S - 20.0, "")


def test_a_kernel_without_boot_ids_is_never_the_same_boot() -> None:
    now = MachineClocks(unix_s=NOON_S - DAY_S, boot_s=9_000.0, boot_id="", synchronised=False)
    found = judge(replace(LEFT, boot_id=""), now, jump_s_max=600.0)
    assert found.unix_s == NOON_S + 9_000.0


# The file.


def test_what_is_left_is_read_and_damage_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "clock.json"
    assert read_record(path) is None
    clock = NodeClock(Beginning(unix_s=NOON_S))
    write_record(path, clock)
    left = read_record(path)
    assert left is not None
    assert left.unix_s == pytest.approx(NOON_S, abs=5.0)  # the node's, not the machine's
    assert left.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert left.boot_s == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=5.0)
    whole = asdict(left)
    for text in ("", "[]", "{", "null", json.dumps({**whole, "boot_s": "soon"})):
        path.write_text(text)
        assert read_record(path) is None, text
    for odd in ({"unix_s": math.inf}, {"unix_s": 1e308}, {"boot_s": -1e308}, {"boot_s": -5.0}):
        path.write_text(json.dumps({**whole, **odd}))
        assert read_record(path) is None
    path.write_text("[" * 100_000)
    assert read_record(path) is None
    write_record(tmp_path / "gone" / "clock.json", clock)  # costs nothing


def test_the_record_is_kept_up_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clock.json"
    monkeypatch.setattr(clock_record, "RECORD_EVERY_S", 0.01)

    async def story() -> None:
        keeping = asyncio.create_task(keep_record(path, NodeClock(Beginning(unix_s=NOON_S))))
        async with asyncio.timeout(10):
            while read_record(path) is None:
                await asyncio.sleep(0.01)
        path.unlink()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    asyncio.run(story())
    assert read_record(path) is not None


# The wait.


async def waited(
    tmp_path: Path, *looks: MachineClocks, wait_s_max: float, stops: bool = False
) -> tuple[NodeClock, float]:
    """The clock that comes of machine's clocks as they are seen, the last for ever; seconds."""
    path = tmp_path / "clock.json"
    path.write_text(json.dumps(asdict(LEFT)))
    left, stopping = list(looks), asyncio.Event()

    def look() -> MachineClocks:
        if stops and len(left) == 1:
            stopping.set()
        return left.pop(0) if len(left) > 1 else left[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MachineClocks, "now", staticmethod(look))
        patch.setattr(clock_record, "LOOK_EVERY_S", 0.01)
        began_s = time.monotonic()
        clock = await begin_clock(path, jump_s_max=600.0, wait_s_max=wait_s_max, stopping=stopping)
    return clock, time.monotonic() - began_s


PAST = MachineClocks(unix_s=40.0, boot_s=20.0, boot_id="two", synchronised=False)
RIGHT = replace(PAST, unix_s=NOON_S + 3_000.0, synchronised=True)


def test_a_clock_in_the_past_is_waited_for_until_it_is_synchronised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, seconds = asyncio.run(waited(tmp_path, PAST, PAST, RIGHT, wait_s_max=60.0))
    assert seconds < 30.0
    assert clock.beginning == Beginning(unix_s=RIGHT.unix_s)
    (told,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert "Waiting 60 s for that at most" in told


def test_one_that_is_not_is_waited_for_so_long_and_the_node_runs_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, seconds = asyncio.run(waited(tmp_path, PAST, wait_s_max=0.3))
    assert 0.3 <= seconds < 5.0
    assert clock.unix_s() == pytest.approx(NOON_S + 20.0, abs=5.0)
    assert clock.notes() == (clock.beginning.doubt,)
    assert "Synchronise it" in caplog.records[-1].getMessage()


def test_within_one_boot_nothing_is_waited_for(tmp_path: Path) -> None:
    set_ahead = replace(LEFT, unix_s=NOON_S + 10 * DAY_S, boot_s=5_001.0, synchronised=False)
    clock, seconds = asyncio.run(waited(tmp_path, set_ahead, wait_s_max=60.0))
    assert seconds < 5.0
    assert clock.unix_s() == pytest.approx(NOON_S + 1.0, abs=5.0)


def test_a_node_that_is_told_to_stop_waits_no_longer(tmp_path: Path) -> None:
    _, seconds = asyncio.run(waited(tmp_path, PAST, PAST, PAST, wait_s_max=60.0, stops=True))
    assert seconds < 30.0


def test_a_clock_that_was_set_in_this_life_is_noted() -> None:
    clock = NodeClock(Beginning(unix_s=time.time()))
    assert clock.notes() == ()
    behind = NodeClock(Beginning(unix_s=time.time() - 90.0))
    (note,) = behind.notes()
    assert "90 s ahead of the node's" in note

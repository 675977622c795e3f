"""Who was removed, on a real disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edge_node.clock import SystemClock
from edge_node.errors import InvalidRequest
from edge_node.removal import Removal
from edge_node.store import removal_file
from edge_node.store.removal_file import RemovalFile

OUT = Removal(node_id="b", address="10.0.0.2:90", removed=True, at_unix_s=1e9)


def opened(path: Path) -> RemovalFile:
    return RemovalFile(path, clock=SystemClock())


def test_the_next_life_knows_what_was_kept(tmp_path: Path) -> None:
    async def story() -> None:
        file = opened(tmp_path / "removals.json")
        assert file.removals == ()
        writing = asyncio.create_task(file.run())
        async with asyncio.timeout(20):
            await file.kept()  # there is nothing to keep
            file.keep((OUT,))
            await file.kept()
        assert opened(tmp_path / "removals.json").removals == (OUT,)
        writing.cancel()

    asyncio.run(story())


def test_it_is_kept_once_the_disk_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        folder = tmp_path / "later"
        file = opened(folder / "removals.json")
        file.keep((OUT,))
        writing = asyncio.create_task(file.run())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await file.kept()
        folder.mkdir()
        async with asyncio.timeout(20):
            await file.kept()
        assert opened(folder / "removals.json").removals == (OUT,)
        writing.cancel()

    monkeypatch.setattr(removal_file, "AGAIN_S", 0.05)
    asyncio.run(story())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '[{"node_id": 1}]',
        "[" * 5000,
        '[{"node_id": "b", "address": 7, "removed": true, "at_unix_s": 1.0}]',
    ],
)
def test_a_file_that_says_something_else_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "removals.json"
    path.write_text(text)
    if text == "{}":  # nobody
        assert opened(path).removals == ()
        return
    with pytest.raises(InvalidRequest, match=r"removals\.json cannot be read"):
        opened(path)

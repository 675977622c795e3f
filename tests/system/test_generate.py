"""`dedgeai generate` as a person types it: files, ids, Ctrl-C, a node that is lost meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import sys
import termios
from pathlib import Path

import httpx
import pytest
from PIL import Image

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, on_cluster, wait_for

pytestmark = pytest.mark.system
SLOW = {**EMULATED, "time_scale": 0.5}
SECONDS_MAX = 90


async def started(
    folder: Path, *arguments: str, stdin: int | None = None
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge_node.cli", *arguments),
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else stdin,
        stdout=asyncio.subprocess.PIPE if stdin is None else stdin,
        stderr=asyncio.subprocess.PIPE if stdin is None else stdin,
        # A shell's job in the background has Ctrl-C ignored, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


async def dedgeai(folder: Path, *arguments: str) -> tuple[int, str, str]:
    process = await started(folder, *arguments)
    async with asyncio.timeout(SECONDS_MAX):
        said, complained = await process.communicate()
    assert b"Traceback" not in complained
    return process.returncode or 0, said.decode(), complained.decode()


async def heard(process: asyncio.subprocess.Process, words: str) -> str:
    """Reads on until a line has these words."""
    assert process.stdout is not None
    said = ""
    async with asyncio.timeout(SECONDS_MAX):
        while words not in said:
            line = await process.stdout.readline()
            assert line, said
            said += line.decode()
    return said


def formats_in(folder: Path, *names: str) -> list[str | None]:
    formats = []
    for name in names:
        with Image.open(folder / name) as image:
            formats.append(image.format)
    return formats


def test_several_images_are_saved_as_their_names_say(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        draw = ("generate", "a boat", "--node", cluster.urls[0], "--steps", "2")
        code, said, _ = await dedgeai(tmp_path, *draw, "-n", "2", "--seed", "5", "--json")
        assert code == 0
        images = json.loads(said)["images"]
        assert [one["file"] for one in images] == ["image-1.png", "image-2.png"]
        assert [one["seed"] for one in images] == [5, 6]
        told = (await http.get(f"{cluster.urls[0]}/v1/tasks/{images[1]['id']}")).json()
        assert (told["seed"], told["executor"]) == (6, images[1]["executor"])
        code, said, _ = await dedgeai(tmp_path, *draw, "--out", "a-{seed}.webp", "--seed", "7")
        assert code == 0
        assert re.search(r"^Task [\w-]+, seed 7$", said, re.MULTILINE)
        assert "drew a-7.webp" in said
        assert formats_in(tmp_path, "image-1.png", "a-7.webp") == ["PNG", "WEBP"]
        before = (await http.get(f"{cluster.urls[0]}/v1/tasks")).json()["data"]
        code, _, complained = await dedgeai(tmp_path, *draw, "--out", "a-7.webp")
        assert (code, "--force" in complained) == (2, True)
        after = (await http.get(f"{cluster.urls[0]}/v1/tasks")).json()["data"]
        assert len(before) == len(after), "it is found out before anything is sent"
        assert (await dedgeai(tmp_path, *draw, "--out", "a-7.webp", "--force"))[0] == 0
        for name in ("image.png", "image-3.png"):  # image-2.png was drawn above
            code, said, _ = await dedgeai(tmp_path, *draw)
            assert code == 0
            assert f"drew {name}" in said

    on_cluster(tmp_path / "nodes", EMULATED, test=test)


def test_what_is_left_running_is_fetched_later(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        draw = ("generate", "a boat", "--node", cluster.urls[0], "--steps", "10")
        code, said, _ = await dedgeai(tmp_path, *draw, "--detach")
        assert code == 0
        [detached] = re.findall(r"dedgeai tasks fetch ([\w-]+) --node", said)
        process = await started(tmp_path, *draw)
        said = await heard(process, "Task ")
        [left] = re.findall(r"Task ([\w-]+), seed \d+", said)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(SECONDS_MAX):
            rest, _ = await process.communicate()
        assert process.returncode == 130
        assert f"dedgeai tasks fetch {left} --node {cluster.urls[0]}" in rest.decode()
        fetch = ("tasks", "fetch", "--node", cluster.urls[0])
        code, _, complained = await dedgeai(tmp_path, *fetch, left, "--out", "one.jpg")
        assert (code, "The image is a png: let --out end with .png" in complained) == (2, True)
        for task_id, name in ((detached, "one.png"), (left, "two.png")):
            code, said, complained = await dedgeai(tmp_path, *fetch, task_id, "--out", name)
            assert code == 0, complained
            assert f"drew {name}" in said
        assert formats_in(tmp_path, "one.png", "two.png") == ["PNG", "PNG"]

    on_cluster(tmp_path / "nodes", SLOW, test=test)


def test_an_image_that_cannot_be_saved_keeps_no_other_from_it(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        draw = ("generate", "a boat", "--node", cluster.urls[0], "--steps", "4", "-n", "2")
        process = await started(tmp_path, *draw, "--out", "b-{n}.png", "--no-preview")
        said = await heard(process, "Task ")
        (tmp_path / "b-1.png").write_bytes(b"somebody else's")
        async with asyncio.timeout(SECONDS_MAX):
            rest, complained = await process.communicate()
        assert process.returncode == 1
        assert "drew b-2.png" in rest.decode()
        [first, *_] = re.findall(r"Task ([\w-]+), seed", said)
        assert f"b-1.png is there by now: dedgeai tasks fetch {first} --out" in complained.decode()
        assert (tmp_path / "b-1.png").read_bytes() == b"somebody else's"
        assert formats_in(tmp_path, "b-2.png") == ["PNG"]

    on_cluster(tmp_path / "nodes", SLOW, test=test)


def test_at_a_terminal_ctrl_c_asks(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        master, terminal = pty.openpty()
        draw = ("generate", "a boat", "--node", url, "--steps", "40")
        process = await started(tmp_path, *draw, stdin=terminal)
        os.close(terminal)
        said = await shown(master, "Task ")
        [task] = re.findall(r"Task ([\w-]+), seed", said)
        process.send_signal(signal.SIGINT)
        await shown(master, "leave it running?")
        os.write(master, b"cancel\n")
        async with asyncio.timeout(SECONDS_MAX):
            assert await process.wait() == 130
        os.close(master)
        assert (await wait_for(http, url, task))["status"] == "cancelled"

    on_cluster(tmp_path / "nodes", SLOW, test=test)


def test_a_terminal_shows_the_image(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        for more, expected in (((), True), (("--no-preview",), False)):
            master, terminal = pty.openpty()
            termios.tcsetwinsize(terminal, (40, 80))
            draw = ("generate", "a boat", "--node", cluster.urls[0], "--steps", "2", *more)
            process = await started(tmp_path, *draw, stdin=terminal)
            os.close(terminal)
            said = await shown(master, None)
            assert await process.wait() == 0
            os.close(master)
            # This one answers no question, so it gets half blocks.
            assert ("▀" in said or "▄" in said) is expected

    on_cluster(tmp_path / "nodes", EMULATED, test=test)


async def shown(master: int, words: str | None) -> str:
    """What a terminal gets, until these words or to its end."""
    said = b""
    async with asyncio.timeout(SECONDS_MAX):
        while words is None or words.encode() not in said:
            try:
                said += await asyncio.to_thread(os.read, master, 65536)
            except OSError:  # the other end is closed
                break
    return said.decode(errors="replace")


def test_a_node_that_is_lost_while_it_draws_is_replaced_by_another(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        draw = ("generate", "a boat", "--node", cluster.urls[0], "--steps", "4", "--seed", "9")
        process = await started(tmp_path, *draw)
        said = await heard(process, "Task ")
        cluster.signal_node(0, signal.SIGKILL)
        assert process.stdout is not None
        async with asyncio.timeout(SECONDS_MAX):
            rest, complained = await process.communicate()
        assert process.returncode == 0, complained
        assert f"{cluster.urls[0]} is lost" in rest.decode()
        assert "node-1 drew image.png" in rest.decode()
        assert formats_in(tmp_path, "image.png") == ["PNG"]
        [task] = re.findall(r"draws the same as task ([\w-]+)", rest.decode())
        again = (await http.get(f"{cluster.urls[1]}/v1/tasks/{task}")).json()
        assert (again["seed"], again["status"]) == (9, "completed"), said

    on_cluster(tmp_path / "nodes", {**SLOW, "policy": "local"}, SLOW, test=test)

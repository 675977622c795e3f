"""The command line looks at a cluster and operates it: real nodes, real processes of `dedgeai`."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, on_cluster, submit, wait_for

pytestmark = pytest.mark.system
# Nothing ends meanwhile, however slowly a command starts.
SLOW = {**EMULATED, "time_scale": 0.1}


async def dedgeai(*arguments: str) -> tuple[int, str, str]:
    """Exit code, what it said, and what it complained of."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge_node.cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        said, complained = await process.communicate()
    assert b"Traceback" not in complained
    return process.returncode or 0, said.decode(), complained.decode()


def test_a_person_with_a_terminal_watches_lists_cancels_and_drains(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        node = ("--node", url)
        code, said, _ = await dedgeai("status", *node)
        assert code == 0
        lines = said.splitlines()
        assert [line.split()[:2] for line in lines[1:3]] == [
            ["node-0", "ready"],
            ["node-1", "ready"],
        ]
        assert lines[3].startswith("2 nodes; ")
        tasks = [await submit(http, url, num_inference_steps=40) for _ in range(5)]
        code, said, _ = await dedgeai("tasks", "list", *node, "--count", "3")
        assert code == 0
        shown = [line.split()[0] for line in said.splitlines()[1:]]
        assert shown == [task["id"] for task in reversed(tasks)][:3], "ids can be copied"
        code, said, _ = await dedgeai("tasks", "list", *node, "--status", "failed", "--json")
        assert (code, json.loads(said)) == (0, [])
        code, said, _ = await dedgeai("tasks", "show", *node, tasks[0]["id"])
        assert json.loads(said)["prompt"] == tasks[0]["prompt"]
        code, said, _ = await dedgeai("tasks", "cancel", *node, tasks[0]["id"])
        assert said.split() == [tasks[0]["id"], "cancelled"]
        # One that is misspelt keeps no other from being cancelled.
        several = [tasks[0]["id"], "node-0-misspelt", tasks[1]["id"]]
        code, said, complained = await dedgeai("tasks", "cancel", *node, *several)
        assert code == 2
        assert said.split() == [tasks[0]["id"], "cancelled", tasks[1]["id"], "cancelled"]
        assert "no task or job node-0-misspelt" in complained
        code, said, _ = await dedgeai("drain", *node, "node-1")
        assert (code, said) == (0, "node-1 draining\n")
        async with asyncio.timeout(10):
            while (await dedgeai("status", *node))[0] == 0:
                pass
        code, said, _ = await dedgeai("status", *node)
        assert [line.split()[1] for line in said.splitlines()[1:3]] == ["ready", "paused"]
        assert (await dedgeai("resume", *node, "node-1"))[0] == 0
        code, said, _ = await dedgeai("tasks", "cancel", "--all", *node)
        assert said == "3 cancelled\n"
        for task in tasks:
            assert (await wait_for(http, url, task["id"]))["status"] == "cancelled"
        cluster.signal_node(1, signal.SIGKILL)
        await asyncio.to_thread(cluster.wait_node, 1)
        async with asyncio.timeout(30):
            while "away" not in (await dedgeai("status", *node))[1]:
                pass
        code, said, _ = await dedgeai("tasks", "list", *node)
        assert code == 1
        assert "node-1 did not answer" in said

    on_cluster(tmp_path, SLOW, SLOW, test=test)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("status",), "Name another with --node"),
        (("tasks", "list"), "Name another with --node"),
        (("tasks", "list", "--count", "0"), "1 or more"),
        (("tasks", "list", "--count", "many"), "1 or more"),
        (("tasks", "list", "--status", "drawn"), "invalid choice"),
        (("tasks", "show", "x"), "Name another with --node"),
        (("tasks", "cancel"), "one of the arguments ID --all is required"),
        (("tasks", "cancel", "--all", "x"), "not allowed with argument"),
        (("drain", "node-1"), "Name another with --node"),
        (("drain",), "NODE"),
    ],
)
def test_bad_input_is_a_sentence_and_2(arguments: tuple[str, ...], said: str) -> None:
    nobody = () if arguments == ("drain",) else ("--node", "http://127.0.0.1:9")
    code, _, complained = asyncio.run(dedgeai(*arguments, *nobody))
    assert code == 2
    assert said in complained

"""Agents draw: the SDK's own client over both transports, against real nodes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ImageContent, TextContent
from PIL import Image

from edge_node import cli
from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, decoded, on_cluster, submit

pytestmark = pytest.mark.system
SERVED = {**EMULATED, "mcp": True}
TOOLS = {
    *("generate", "edit", "get_task", "list_tasks", "cancel_task", "cluster_status"),
    "list_models",
}


def stdio(node_url: str, **environment: str) -> StdioServerParameters:
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "edge_node.cli", "mcp", "--node", node_url],
        env={**os.environ, **environment},
    )


@contextlib.asynccontextmanager
async def over_http(url: str, key: str = "", mode: str = "auto") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx2.AsyncClient(headers=headers, timeout=60.0, trust_env=False) as http:
        transport = streamable_http_client(f"{url}/mcp", http_client=http)
        async with Client(transport, mode=mode) as agent:
            yield agent


def told(result: CallToolResult) -> dict[str, Any]:
    """What it says, as text and as an object, which are the same."""
    (text,) = [one.text for one in result.content if isinstance(one, TextContent)]
    assert isinstance(result.structured_content, dict)
    if not result.is_error or text.startswith("{"):
        assert json.loads(text) == result.structured_content
    return result.structured_content


def image_in(result: CallToolResult) -> Image.Image:
    (image,) = [one for one in result.content if isinstance(one, ImageContent)]
    drawn = decoded(base64.b64decode(image.data))
    assert image.mime_type == Image.MIME[str(_format_of(image))]
    return drawn


def _format_of(image: ImageContent) -> str | None:
    with Image.open(io.BytesIO(base64.b64decode(image.data))) as opened:
        return opened.format


async def draws_and_looks(agent: Client, photo: Path, *, files: bool) -> None:
    """Everything that an agent does."""
    listed = {one.name: one for one in (await agent.list_tools()).tools}
    assert listed.keys() == TOOLS
    assert ("image_file" in listed["edit"].input_schema["properties"]) is files
    heard: list[tuple[float, str]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, message or ""))

    drawing = {"prompt": "a fox", "num_inference_steps": 4, "seed": 7}
    drawn = await agent.call_tool("generate", drawing, progress_callback=hear)
    assert not drawn.is_error, drawn
    assert image_in(drawn).size == (512, 512)
    task = told(drawn)
    assert (task["status"], task["seed"], task["num_inference_steps"]) == ("completed", 7, 4)
    assert [one for one, _ in heard] == sorted({one for one, _ in heard})
    assert any("step 3 of 4" in message for _, message in heard)
    # An edit starts from what was drawn before, and, beside the agent, from a file of its own.
    sources: list[dict[str, Any]] = [
        {"task_id": task["id"]},
        {"image": base64.b64encode(photo.read_bytes()).decode()},
    ]
    if files:
        sources.append({"image_file": str(photo)})
    for source in sources:
        more = {"prompt": "a wolf", "strength": 0.5, "num_inference_steps": 4}
        edited = await agent.call_tool("edit", {**more, **source, "show": "thumbnail"})
        assert not edited.is_error, edited
        assert max(image_in(edited).size) == 256
        assert told(edited)["strength"] == 0.5
    # What takes longer than the wait goes on.
    slow = await agent.call_tool("generate", {"prompt": "an owl", "wait_s": 0})
    assert told(slow)["status"] in ("queued", "in_progress")
    again = {"task_id": told(slow)["id"], "wait_s": 60, "show": "none"}
    over = await agent.call_tool("get_task", again)
    assert told(over)["status"] == "completed"
    assert len(over.content) == 1
    page = told(await agent.call_tool("list_tasks", {"limit": 2}))
    assert page["tasks"][0]["prompt"] == "an owl"
    assert page["next_cursor"]
    dropped = told(await agent.call_tool("generate", {"prompt": "a crow", "wait_s": 0}))
    gone = await agent.call_tool("cancel_task", {"task_id": dropped["id"]})
    assert told(gone)["status"] in ("cancelled", "completed")
    status = told(await agent.call_tool("cluster_status", {}))
    assert status["ready"]
    assert {one["node"] for one in status["nodes"]} == {"node-0", "node-1"}
    (model,) = told(await agent.call_tool("list_models", {}))["models"]
    assert model["limits"]["size_px_max"] >= 512
    await hears_what_is_wrong(agent)


async def hears_what_is_wrong(agent: Client) -> None:
    """In sentences that a call can be mended by."""
    for tool, arguments, said in (
        ("generate", {"prompt": "a fox", "size": "5x5"}, "`size` is '5x5'; it must be"),
        ("generate", {"prompt": "a fox", "steps": 5}, "Known arguments are prompt"),
        ("generate", {"prompt": "a fox", "seed": "x"}, "`seed`"),
        ("edit", {"prompt": "a fox"}, "exactly one of `task_id`"),
        ("get_task", {"task_id": "node-0-01ARZ3NDEKTSV4RRFFQ69G5FAV"}, "There is no task"),
        ("paint", {}, "There is no tool 'paint'"),
    ):
        wrong = await agent.call_tool(tool, arguments)
        assert wrong.is_error
        assert said in str(told(wrong)["error"]["message"]), wrong


def test_an_agent_draws_over_both_transports(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (300, 200), "red").save(photo)

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        async with asyncio.timeout(120):
            async with Client(stdio(cluster.urls[1])) as agent:
                await draws_and_looks(agent, photo, files=True)
            # As the protocol is now, and as clients of the years before speak it.
            for mode in ("auto", "legacy"):
                async with over_http(cluster.urls[0], mode=mode) as agent:
                    await draws_and_looks(agent, photo, files=False)
            async with over_http(cluster.urls[0]) as agent:
                no_file = {"prompt": "a fox", "image_file": str(photo)}
                wrong = await agent.call_tool("edit", no_file)
                assert wrong.is_error
        # A node that was not told to serves no agents, and says nothing of them.
        nothing = await http.post(f"{cluster.urls[1]}/mcp", json={})
        assert nothing.status_code == 404
        # Without a session there is nothing to be read or ended.
        answer = await http.get(f"{cluster.urls[0]}/mcp")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")

    on_cluster(tmp_path, SERVED, EMULATED, test=test)


def test_keys_and_limits_are_those_of_rest(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "keys.json"
    where = ("--set", f"keys_file={file}")

    def added(*arguments: str) -> str:
        assert cli.main(["keys", "add", *arguments, *where]) == 0
        return str(capsys.readouterr().out.strip())

    settings = {**SERVED, "keys_file": str(file), "mcp_calls_max": 2}
    settings |= {"mcp_request_bytes_max": 20_000}

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        of_nobody = (await submit(http, url))["id"]
        alice = added("alice", "--images-per-day", "1")
        carol = added("carol", "--requests-per-minute", "4")
        reader = added("bob", "--scopes", "read")
        dora = added("dora")
        last = {"Authorization": f"Bearer {dora}"}
        async with asyncio.timeout(10):
            while (await http.post(f"{url}/mcp", json={})).status_code != 401 or (
                await http.get(f"{url}/v1/models", headers=last)
            ).status_code != 200:
                await asyncio.sleep(0.1)
        async with over_http(url, reader) as agent:
            assert {one.name for one in (await agent.list_tools()).tools} == TOOLS
            refused = told(await agent.call_tool("generate", {"prompt": "a fox"}))
            assert refused["error"]["code"] == "scope_missing"
            assert told(await agent.call_tool("list_tasks", {}))["tasks"] == []
            another = told(await agent.call_tool("get_task", {"task_id": of_nobody}))
            assert another["error"]["code"] == "task_not_found"
        async with over_http(url, alice) as agent:
            drawn = await agent.call_tool("generate", {"prompt": "a fox"})
            assert image_in(drawn)
            used_up = told(await agent.call_tool("generate", {"prompt": "a fox"}))
            assert used_up["error"]["code"] == "quota_used_up"
        # A call counts once, however many requests to REST it becomes.
        answers = [await plain_call(http, url, carol, "cluster_status") for _ in range(5)]
        assert [one.status_code for one in answers] == [200] * 4 + [429], [
            one.text for one in answers
        ]
        assert '"ready":true' in answers[3].text.replace(" ", "").replace("\\", "")
        assert answers[4].json()["error"]["code"] == "rate_limit_exceeded"
        bob = {"Authorization": f"Bearer {reader}"}
        long = await http.post(f"{url}/mcp", headers=bob, json={"x": "y" * 20_000})
        assert long.status_code == 413
        page = {**bob, "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        assert (await http.post(f"{url}/mcp", headers=page, json={})).status_code == 403
        await two_calls_at_a_time(url, dora, http)

    on_cluster(tmp_path, settings, test=test)


async def plain_call(
    http: httpx.AsyncClient, url: str, key: str, tool: str, **arguments: Any
) -> httpx.Response:
    """A call as it is sent, by a client that knows nothing of the server."""
    headers = {
        "Authorization": f"Bearer {key}",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2025-06-18",
    }
    call = {"name": tool, "arguments": arguments}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    return await http.post(f"{url}/mcp", headers=headers, json=body)


async def two_calls_at_a_time(url: str, key: str, http: httpx.AsyncClient) -> None:
    """While they are under way, others are told to come again."""
    wanted = {"prompt": "a slow fox", "num_inference_steps": 40}
    own = {"Authorization": f"Bearer {key}"}
    async with asyncio.timeout(60):
        drawing = [
            asyncio.create_task(plain_call(http, url, key, "generate", **wanted)) for _ in range(2)
        ]
        while len((await http.get(f"{url}/v1/tasks", headers=own)).json()["data"]) < 2:
            await asyncio.sleep(0.05)
        busy = await plain_call(http, url, key, "list_models")
        assert busy.status_code == 429
        assert "mcp_calls_max" in busy.json()["error"]["message"]
        assert busy.headers["retry-after"] == "2"
        for drawn in await asyncio.gather(*drawing):
            assert drawn.status_code == 200
            assert "image/png" in drawn.text

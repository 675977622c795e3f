"""Ends told to a receiver: signed, again until they are taken, and through kills of the node."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.api.callbacks import AT_ONCE_MAX
from edge_node.console.local_cluster import LocalCluster
from edge_node.console.rest_client import RestClient
from tests.system.local import EMULATED, cluster_of, submit, wait_for

pytestmark = pytest.mark.system
SECRET = b"a secret of thirty-two bytes, ok"


@dataclass
class Receiver:
    """A web server that answers as it is told, and keeps what it was sent."""

    status: int = 204
    port: int = 0
    endless: int = 0
    heard: asyncio.Queue[tuple[dict[str, str], bytes]] = field(default_factory=asyncio.Queue)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if head.startswith("POST /endless "):
            await self.never_end(writer)
            return
        _, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        where = {"Location": self.url} if self.status == 302 else {}
        said = "".join(f"{name}: {value}\r\n" for name, value in where.items())
        writer.write(f"HTTP/1.1 {self.status} x\r\n{said}Content-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()
        await self.heard.put((headers, body))

    async def never_end(self, writer: asyncio.StreamWriter) -> None:
        """A header every second, each within any bound of a single wait."""
        self.endless += 1
        writer.write(b"HTTP/1.1 200 x\r\n")
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"X-More: x\r\n")
                await writer.drain()
                await asyncio.sleep(1.0)

    async def next(self) -> dict[str, Any]:
        """What comes next; its signature is what the receiver computes, too."""
        async with asyncio.timeout(60):
            headers, body = await self.heard.get()
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = hmac.digest(SECRET, signed, hashlib.sha256)
        assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
        told: dict[str, Any] = json.loads(body)
        assert told["data"]["id"] == headers["webhook-id"]
        return told


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    one = Receiver()
    server = await asyncio.start_server(one.answer, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    async with server:
        yield one


def settings(folder: Path, hook: Receiver, **more: Any) -> dict[str, Any]:
    path = folder / "secret"
    path.write_text(f"whsec_{base64.b64encode(SECRET).decode()}\n", encoding="ascii")
    return {
        **EMULATED,
        "callback_origins": f"http://127.0.0.1:{hook.port}",
        "callback_secret_file": path,
        **more,
    }


@dataclass
class Site:
    """A receiver and a node that may call it."""

    hook: Receiver
    cluster: LocalCluster
    http: httpx.AsyncClient

    async def send(self, **body: Any) -> dict[str, Any]:
        return await submit(self.http, self.cluster.urls[0], callback_url=self.hook.url, **body)

    async def restart(self) -> None:
        self.cluster.signal_node(0, signal.SIGKILL)
        await asyncio.to_thread(self.cluster.wait_node, 0)
        self.cluster.start_node(0)
        async with RestClient(timeout_s=5) as client:
            await self.cluster.wait_ready(client, 0)

    async def counted(self, outcome: str) -> float:
        metrics = (await self.http.get(f"{self.cluster.urls[0]}/metrics")).text
        name = f'dedgeai_callbacks_total{{outcome="{outcome}"}} '
        return sum(float(line.removeprefix(name)) for line in metrics.splitlines() if name in line)


def run(folder: Path, story: Callable[[Site], Awaitable[None]], **more: Any) -> None:
    async def whole() -> None:
        async with (
            receiver() as hook,
            cluster_of(folder, settings(folder, hook, **more)) as cluster,
            httpx.AsyncClient(timeout=60.0, trust_env=False) as http,
        ):
            await story(Site(hook, cluster, http))

    asyncio.run(whole())


def test_ends_are_told_signed_each_once(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        url = site.cluster.urls[0]
        job = await site.send(n=3, num_inference_steps=2)
        told = {one["data"]["id"]: one for one in [await site.hook.next() for _ in range(3)]}
        assert set(told) == {task["id"] for task in job["tasks"]}
        for task_id, one in told.items():
            shown = (await site.http.get(f"{url}/v1/tasks/{task_id}")).json()
            assert one["type"] == "image.task.completed"
            image = await site.http.get(one["data"]["image_url"])
            assert image.status_code == 200
            assert one["data"] == {
                **shown,
                **{name: f"{url}{shown[name]}" for name in shown if name.endswith("_url")},
            }
        task = await site.send(num_inference_steps=60)
        await site.http.delete(f"{url}/v1/tasks/{task['id']}")
        assert (await site.hook.next())["type"] == "image.task.cancelled"
        async with asyncio.timeout(10):
            while await site.counted("delivered") < 4:
                await asyncio.sleep(0.02)
        assert site.hook.heard.empty()

    run(tmp_path, story)


def test_what_is_not_taken_is_tried_again_and_410_ends_it(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        site.hook.status = 503
        task = await site.send(num_inference_steps=1)
        assert (await site.hook.next())["data"]["id"] == task["id"]
        site.hook.status = 302  # followed nowhere: it could lead to where nobody allowed
        first = await site.hook.next()
        assert first["data"]["id"] == task["id"]
        site.hook.status = 410
        await site.restart()  # tried at once in the new life
        assert (await site.hook.next())["data"]["id"] == task["id"]
        async with asyncio.timeout(10):
            while await site.counted("not_wanted") < 1:
                await asyncio.sleep(0.02)
        await site.restart()
        again = await site.send(num_inference_steps=1)
        assert (await site.hook.next())["data"]["id"] == again["id"], "the first is settled"

    run(tmp_path, story)


def test_answers_that_never_end_keep_nobody_waiting(tmp_path: Path) -> None:
    """As many as are sent at once; each was waited for as long as another byte came."""

    async def story(site: Site) -> None:
        url = site.cluster.urls[0]
        endless = f"http://127.0.0.1:{site.hook.port}/endless"
        await submit(site.http, url, callback_url=endless, n=AT_ONCE_MAX, num_inference_steps=1)
        async with asyncio.timeout(30):
            while site.hook.endless < AT_ONCE_MAX:
                await asyncio.sleep(0.02)
        task = await site.send(num_inference_steps=1)
        assert (await site.hook.next())["data"]["id"] == task["id"]

    run(tmp_path, story)


def test_a_promise_holds_through_a_kill(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        site.hook.status = 500
        over = await site.send(num_inference_steps=1)
        await site.hook.next()
        under_way = await site.send(num_inference_steps=20)
        await site.restart()
        site.hook.status = 200
        told = {(await site.hook.next())["data"]["id"] for _ in range(2)}
        assert told == {over["id"], under_way["id"]}

    run(tmp_path, story, time_scale=2)


def test_an_address_that_nobody_allows_is_refused_before_anything_is_accepted(
    tmp_path: Path,
) -> None:
    async def story(site: Site) -> None:
        url = site.cluster.urls[0]
        for address in (
            f"http://127.0.0.1:{site.hook.port + 1}/hook",
            f"http://127.0.0.1:{site.hook.port}.example.com/",
            f"http://127.0.0.1:{site.hook.port}@example.com/",
            f"http://user:password@127.0.0.1:{site.hook.port}/",
            f"https://127.0.0.1:{site.hook.port}/hook",
            "ftp://127.0.0.1/",
            "//127.0.0.1/",
            "http://[",
            "",
            f"{site.hook.url}?{'x' * 3000}",
        ):
            answer = await site.http.post(
                f"{url}/v1/tasks", json={"prompt": "a", "callback_url": address}
            )
            assert answer.status_code == 400, address
            assert answer.json()["error"]["param"] == "callback_url"
        listed = (await site.http.get(f"{url}/v1/tasks")).json()["data"]
        assert listed == []
        key = {"Idempotency-Key": "once"}
        body = {"prompt": "a", "callback_url": site.hook.url, "num_inference_steps": 1}
        for _ in range(2):
            answer = await site.http.post(f"{url}/v1/tasks", json=body, headers=key)
            assert answer.status_code == 202
        await wait_for(site.http, url, answer.json()["id"])
        await site.hook.next()
        await site.send(num_inference_steps=1)
        assert (await site.hook.next())["data"]["id"] != answer.json()["id"]

    run(tmp_path, story)

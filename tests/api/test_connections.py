"""Connections that keep the listener waiting are closed, and leave room for those that do not."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
import time
from collections.abc import Awaitable, Callable

import httpx
import pytest
import uvloop

from edge_node.api.connections import SWEEP_S, ConnectionLimits
from edge_node.api.request_body import BodyLimits
from tests.api.memory_front_desk import MemoryFrontDesk
from tests.api.served import BODIES, CONNECTIONS, Served, served

QUICK = dataclasses.replace(CONNECTIONS, header_s_max=0.5, body_s_max=1.0)
# A look every second, and a machine that does other things beside.
LATE_S_MAX = QUICK.body_s_max + SWEEP_S + 2.0
HEAD = b"POST /v1/tasks HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]


def run(
    story: Callable[[Served, Connect], Awaitable[None]],
    *,
    limits: ConnectionLimits = CONNECTIONS,
    bodies: BodyLimits = BODIES,
) -> None:
    """On the loop that a node has; closes what the story opened."""

    async def life() -> None:
        desk = MemoryFrontDesk(held=True)
        async with served(desk, connection_limits=limits, body_limits=bodies) as node:
            url, opened = httpx.URL(node.url), list[asyncio.StreamWriter]()

            async def connect() -> Streams:
                reader, writer = await asyncio.open_connection(url.host, url.port)
                opened.append(writer)
                return reader, writer

            try:
                await story(node, connect)
            finally:
                for writer in opened:
                    writer.transport.abort()
                await asyncio.sleep(0.0)

    uvloop.run(life())


async def until_closed(reader: asyncio.StreamReader) -> float:
    """Seconds until the listener closes; what it says before is thrown away."""
    start_s = time.monotonic()
    async with asyncio.timeout(LATE_S_MAX):
        try:
            while await reader.read(4096):
                pass
        except ConnectionResetError:
            pass
    return time.monotonic() - start_s


@pytest.mark.parametrize(
    ("said", "least_s"),
    [
        (b"", QUICK.header_s_max),
        (b"\r\n", QUICK.header_s_max),
        (b"POST /v1/ta", QUICK.header_s_max),
        (HEAD, QUICK.header_s_max),
        (HEAD + b'Content-Length: 99\r\n\r\n{"prompt', QUICK.body_s_max),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", QUICK.body_s_max),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", QUICK.body_s_max),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\nGET /liv", QUICK.header_s_max),
    ],
)
def test_who_does_not_go_on_is_closed_in_time(said: bytes, least_s: float) -> None:
    async def story(node: Served, connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(said)
        assert await until_closed(reader) >= least_s * 0.9

    run(story, limits=QUICK)


def test_a_drip_of_bytes_does_not_prolong_the_time() -> None:
    async def story(node: Served, connect: Connect) -> None:
        reader, writer = await connect()
        closed = asyncio.create_task(until_closed(reader))
        for byte in HEAD * 10:
            if closed.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)
        assert await closed < LATE_S_MAX

    run(story, limits=QUICK)


def test_a_json_body_that_does_not_arrive_in_time_is_told_so() -> None:
    async def story(node: Served, connect: Connect) -> None:
        for path in ("/v1/tasks", "/v1/images/generations"):
            reader, writer = await connect()
            head = HEAD.replace(b"/v1/tasks", path.encode())
            writer.write(head + b'Content-Length: 99\r\n\r\n{"prompt')
            answer = await reader.readuntil(b"}}")
            assert b" 408 " in answer.splitlines()[0]
            error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
            assert error["code"] == "upload_too_slow"
            assert "within 0.3 s" in error["message"]
            assert "request_body_s_max" in error["message"]

    run(story, bodies=dataclasses.replace(BODIES, arrival_s_max=0.3))


def test_an_idle_connection_that_had_its_answer_is_kept() -> None:
    async def story(node: Served, connect: Connect) -> None:
        reader, writer = await connect()
        for _ in range(2):
            writer.write(b"GET /livez HTTP/1.1\r\nHost: node\r\n\r\n")
            assert b"200" in (await reader.readuntil(b"}")).splitlines()[0]
            await asyncio.sleep(QUICK.header_s_max + SWEEP_S + 0.3)

    run(story, limits=QUICK)


def test_who_has_just_come_when_the_listener_ends_is_answered() -> None:
    async def story(node: Served, connect: Connect) -> None:
        reader, writer = await connect()
        while not len(node.connections):
            await asyncio.sleep(0.01)
        node.server.should_exit = True
        with contextlib.suppress(ConnectionRefusedError):
            while True:
                await connect()
                await asyncio.sleep(0.01)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: node\r\n\r\n")
        assert b"200" in (await reader.readuntil(b"}")).splitlines()[0]
        await until_closed(reader)

    run(story)


@pytest.mark.parametrize("bound", ["connections_max", "per_address_max"])
def test_who_has_been_idle_longest_makes_room_for_who_comes(bound: str) -> None:
    async def story(node: Served, connect: Connect) -> None:
        silent = [await connect() for _ in range(10)]
        for _ in range(5):
            assert (await node.http.get("/livez")).status_code == 200
            await node.http.get("/livez", headers={"Connection": "close"})
        assert silent[0][0].at_eof() or not await silent[0][0].read(1)
        assert not silent[-1][0].at_eof()

    run(story, limits=dataclasses.replace(CONNECTIONS, **{bound: 8}))


@pytest.mark.parametrize("bound", ["connections_max", "per_address_max"])
def test_a_connection_in_use_is_not_closed_for_another(bound: str) -> None:
    async def story(node: Served, connect: Connect) -> None:
        accepted = await node.http.post("/v1/tasks", json={"prompt": "a boat"})
        request = f"GET /v1/tasks/{accepted.json()['id']}/events HTTP/1.1\r\nHost: node\r\n\r\n"
        watching = []
        for _ in range(4):
            reader, writer = await connect()
            writer.write(request.encode())
            await reader.readuntil(b"event: ")
            watching.append(reader)
        # The client's own connection is idle, and goes for the fourth of them.
        reader, _ = await connect()
        answer = await reader.read()
        assert b"503" in answer.splitlines()[0]
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == (
            "too_many_connections"
        )
        assert not any(reader.at_eof() for reader in watching)

    run(story, limits=dataclasses.replace(CONNECTIONS, **{bound: 4}))


def test_a_client_that_does_not_read_its_answers_is_closed() -> None:
    async def story(node: Served, connect: Connect) -> None:
        url = httpx.URL(node.url)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((url.host, url.port))
            client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: node\r\n\r\n" * 1000)
            await asyncio.sleep(0.1)
            assert len(node.connections) == 1
            async with asyncio.timeout(LATE_S_MAX):
                while len(node.connections):
                    await asyncio.sleep(0.05)

    run(story, limits=dataclasses.replace(CONNECTIONS, reading_s_max=0.5))

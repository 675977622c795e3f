"""Links as clients need them, whatever stands before the node; HEAD, ranges and pages of others."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from edge_node.access.keys import Client, Scope
from edge_node.api.addressing import Addresses
from edge_node.config import NodeConfig
from edge_node.domain import TaskId
from tests.api.memory_front_desk import PNG
from tests.api.served import Served, served

URL_ANSWER = {"prompt": "a", "response_format": "url"}
PROXIED = {
    "X-Forwarded-Host": "images.example.com, inner",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Prefix": "/draw/",
}


async def links(node: Served, headers: Mapping[str, str]) -> tuple[str, str, str]:
    """Where the surface says that an image, a task and a task's image are."""
    generated = await node.http.post("/v1/images/generations", json=URL_ANSWER, headers=headers)
    accepted = await node.http.post("/v1/tasks", json={"prompt": "a"}, headers=headers)
    location = accepted.headers["location"]
    task = accepted.json()["id"]
    await asyncio.sleep(0.05)
    shown = (await node.http.get(f"/v1/tasks/{task}", headers=headers)).json()
    return generated.json()["data"][0]["url"], location, shown["image_url"]


def test_links_are_as_the_client_came() -> None:
    async def story() -> None:
        async with served() as node:
            url, location, image_url = await links(node, {})
            assert url.startswith(f"{node.url}/v1/tasks/")
            assert location.startswith("/v1/tasks/")
            assert image_url == f"{location}/image"
            assert (await node.http.get(url)).content == PNG

    asyncio.run(story())


def test_a_trusted_proxy_is_believed_and_no_other() -> None:
    async def story() -> None:
        async with served() as node:
            url, location, image_url = await links(node, PROXIED)
            assert url.startswith("https://images.example.com/draw/v1/tasks/")
            assert location.startswith("/draw/v1/tasks/")
            assert image_url == f"{location}/image"
            # With or without its prefix, as proxies are set up.
            assert (await node.http.get(image_url, headers=PROXIED)).content == PNG
        async with served(addresses=Addresses(trusted_proxies=("10.0.0.0/8",))) as node:
            url, location, _ = await links(node, PROXIED)
            assert url.startswith(f"{node.url}/v1/tasks/")
            assert location.startswith("/v1/tasks/")

    asyncio.run(story())


@pytest.mark.parametrize(
    "said",
    [
        {"X-Forwarded-Proto": "javascript"},
        {"X-Forwarded-Prefix": "//evil.example"},
        {"X-Forwarded-Prefix": "/a/../../b?c"},
        {"X-Forwarded-Host": "evil.example/x?"},
    ],
)
def test_what_is_no_address_is_not_believed(said: dict[str, str]) -> None:
    async def story() -> None:
        async with served() as node:
            url, location, _ = await links(node, said)
            assert url.startswith(f"{node.url}/v1/tasks/")
            assert location.startswith("/v1/tasks/")

    asyncio.run(story())


def test_the_operators_word_goes_before_all() -> None:
    async def story() -> None:
        addresses = Addresses(public_url="https://pics.example.org/api")
        async with served(addresses=addresses) as node:
            for headers in ({}, PROXIED, {"Host": "pics.example.org"}):
                url, location, _ = await links(node, headers)
                assert url.startswith("https://pics.example.org/api/v1/tasks/")
                assert location.startswith("/api/v1/tasks/")
            assert (await node.http.get("/api/v1/models")).status_code == 200

    asyncio.run(story())


@pytest.mark.parametrize(
    "settings",
    [
        {"public_url": "images.example.com"},
        {"trusted_proxies": ("proxy.example.com",)},
        {"cors_origins": ("https://app.example.com/page",)},
        {"cors_origins": ("*",)},
    ],
)
def test_addresses_that_are_none_are_told(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        NodeConfig(**settings)


def test_a_slash_at_the_end_and_head_mean_nothing() -> None:
    async def story() -> None:
        async with served() as node:
            made = await node.http.post("/v1/tasks/", json={"prompt": "a"})
            assert made.status_code == 202
            task = f"/v1/tasks/{made.json()['id']}"
            await asyncio.sleep(0.05)
            for path in (task, f"{task}/image", "/v1/models", "/livez"):
                whole = await node.http.get(path)
                head = await node.http.head(f"{path}/")
                assert (head.status_code, head.content) == (200, b"")
                assert head.headers["content-length"] == whole.headers["content-length"]
            events = await node.http.head(f"{task}/events")
            assert events.headers["content-type"].startswith("text/event-stream")
            assert (await node.http.head("/v1/images/generations")).status_code == 405

    asyncio.run(story())


def test_an_image_is_fetched_again_only_if_it_changed_and_in_parts() -> None:
    async def story() -> None:
        async with served() as node:
            made = (await node.http.post("/v1/tasks", json={"prompt": "a"})).json()
            path = f"/v1/tasks/{made['id']}/image"
            await asyncio.sleep(0.05)
            etag = (await node.http.get(path)).headers["etag"]

            async def ask(**headers: str) -> httpx.Response:
                sent = {name.replace("_", "-"): value for name, value in headers.items()}
                return await node.http.get(path, headers=sent)

            for names in (etag, f'"x", W/{etag}', "*"):
                unchanged = await ask(if_none_match=names)
                assert (unchanged.status_code, unchanged.content) == (304, b"")
                assert unchanged.headers["etag"] == etag
            assert (await ask(if_none_match='"x"')).content == PNG
            size = len(PNG)
            for wanted, part in (
                ("bytes=0-3", PNG[:4]),
                ("bytes=4-", PNG[4:]),
                ("bytes=-5", PNG[-5:]),
                (f"bytes=2-{size + 9}", PNG[2:]),
            ):
                answer = await ask(range=wanted)
                assert (answer.status_code, answer.content) == (206, part)
                assert answer.headers["content-range"].endswith(f"/{size}")
            for wanted in ("bytes=5-2", "bytes=-", "bytes=0-1,3-4", "lines=1-2"):
                assert (await ask(range=wanted)).content == PNG
            beyond = await ask(range=f"bytes={size}-")
            assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
            assert (await ask(range="bytes=0-3", if_range='"x"')).content == PNG

    asyncio.run(story())


def test_pages_of_the_origins_named_may_use_it_and_no_others() -> None:
    app, other = "https://app.example.com", "https://evil.example"

    async def story() -> None:
        async with served(origins=(app,)) as node:

            async def post(origin: str) -> httpx.Response:
                headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
                return await node.http.post("/v1/tasks", json={"prompt": "a"}, headers=headers)

            asked = {
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization, content-type",
            }
            allowed = await node.http.options("/v1/tasks", headers={"Origin": app, **asked})
            assert allowed.headers["access-control-allow-origin"] == app
            made = await post(app)
            assert made.status_code == 202
            assert made.headers["access-control-allow-origin"] == app
            assert "location" in made.headers["access-control-expose-headers"].lower()
            refused = await post(other)
            assert refused.status_code == 403
            assert "access-control-allow-origin" not in refused.headers
        async with served() as node:
            silent = await node.http.get("/v1/models", headers={"Origin": app})
            assert "access-control-allow-origin" not in silent.headers

    asyncio.run(story())


async def whose_turn(node: Served, forwarded_for: str | None) -> str:
    headers = {} if forwarded_for is None else {"X-Forwarded-For": forwarded_for}
    accepted = await node.http.post("/v1/tasks", json={"prompt": "a"}, headers=headers)
    assert accepted.status_code == 202
    record = await node.front_desk.read_task(TaskId(accepted.json()["id"]))
    assert accepted.json()["owner"] is None
    return record.task.turns


def test_without_keys_every_address_takes_turns() -> None:
    async def story() -> None:
        async with served() as node:
            own, other = await whose_turn(node, None), await whose_turn(node, "10.0.0.9")
            assert own.startswith("address-")
            assert "10.0.0.9" not in other
            assert own != other == await whose_turn(node, "10.0.0.9")
            # What a client says before the proxies that are trusted is anybody's invention.
            assert await whose_turn(node, "6.6.6.6, 10.0.0.9, 127.0.0.1") == other
            assert await whose_turn(node, "10.0.0.9, nonsense") == own
            assert await whose_turn(node, "::ffff:10.0.0.9") == other
            # Some proxies say the port, too.
            assert await whose_turn(node, "10.0.0.9:5000") == other
            home = await whose_turn(node, "2001:db8:1:2::7")
            assert home == await whose_turn(node, "[2001:db8:1:2::7]:5000")
            assert home == await whose_turn(node, "2001:db8:1:2:ffff::1")
            assert home != await whose_turn(node, "2001:db8:1:3::7")
        async with served(addresses=Addresses(trusted_proxies=())) as node:
            assert await whose_turn(node, "10.0.0.9") == own
        async with served(addresses=Addresses(turns=False)) as node:
            assert await whose_turn(node, "10.0.0.9") == ""

    asyncio.run(story())


def test_a_key_is_whose_turn_it_is_from_wherever() -> None:
    alice = Client(id="ab12", scopes=frozenset(Scope))

    async def story() -> None:
        async with served(client_of_key=lambda key: alice) as node:
            accepted = await node.http.post("/v1/tasks", json={"prompt": "a"})
            record = await node.front_desk.read_task(TaskId(accepted.json()["id"]))
            assert (record.task.client, record.task.turns) == ("ab12", "ab12")

    asyncio.run(story())

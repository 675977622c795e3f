"""Where keys are asked for: who may do what, and whose tasks are whose."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.access.key_use import KeyUse
from edge_node.access.keys import ANYBODY, KeyLimits, KeyList, Scope
from edge_node.domain import NodeId
from tests.api.memory_front_desk import MemoryFrontDesk
from tests.api.served import Served, served
from tests.api.test_bad_input import check
from tests.set_clock import SetClock

TASK = {"prompt": "a boat"}


class Site:
    """A node and some who have keys."""

    def __init__(self, node: Served, texts: dict[str, str]) -> None:
        self.node = node
        self._texts = texts

    def header(self, who: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._texts[who]}"} if who else {}

    async def ask(self, who: str, method: str, path: str, **how: Any) -> httpx.Response:
        headers = {**self.header(who), **how.pop("headers", {})}
        return await self.node.http.request(method, path, headers=headers, **how)


SCOPES = {
    "alice": {Scope.GENERATE, Scope.READ},
    "bob": {Scope.GENERATE, Scope.READ},
    "reader": {Scope.READ},
    "printer": {Scope.GENERATE},
    "operator": {Scope.OPERATE},
}


def on_site(
    story: Callable[[Site], Awaitable[None]],
    *,
    front_desk: MemoryFrontDesk | None = None,
    key_use: KeyUse | None = None,
    **limits: int,
) -> None:
    async def run() -> None:
        keys, texts = KeyList.empty(), {"stranger": "dedgeai_" + "0" * 12 + "_" + "x" * 43}
        for who, scopes in SCOPES.items():
            keys, texts[who] = keys.with_new(
                who, scopes=scopes, now_unix_s=1.0, limits=KeyLimits(**limits)
            )

        def client_of_key(key: str | None) -> Any:
            return None if key is None else keys.client(key)

        async with served(front_desk, client_of_key=client_of_key, key_use=key_use) as node:
            await story(Site(node, texts))

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/tasks", Scope.GENERATE),
        ("POST", "/v1/images/generations", Scope.GENERATE),
        ("POST", "/v1/images/edits", Scope.GENERATE),
        ("DELETE", "/v1/tasks/orin-a-x", Scope.GENERATE),
        ("GET", "/v1/tasks/orin-a-x", Scope.READ),
        ("GET", "/v1/tasks/orin-a-x/image", Scope.READ),
        ("GET", "/v1/tasks/orin-a-x/events", Scope.READ),
        ("GET", "/v1/jobs/orin-a-x", Scope.READ),
        ("GET", "/v1/tasks", Scope.READ),
        ("DELETE", "/v1/tasks", Scope.GENERATE),
        ("DELETE", "/v1/jobs/orin-a-x", Scope.GENERATE),
        ("GET", "/v1/jobs/orin-a-x/events", Scope.READ),
        ("POST", "/v1/jobs/orin-a-x/erase", Scope.GENERATE),
        ("GET", "/v1/models", Scope.READ),
        ("GET", "/v1/cluster", Scope.READ),
        ("GET", "/nothing", Scope.READ),
        ("GET", "/v1/dead_letters", Scope.OPERATE),
        ("POST", "/v1/dead_letters/orin-a-x/retry", Scope.OPERATE),
        ("POST", "/v1/nodes/orin-a/pause", Scope.OPERATE),
        ("POST", "/v1/nodes/orin-a/resume", Scope.OPERATE),
    ],
)
def test_every_address_needs_its_scope(method: str, path: str, scope: Scope) -> None:
    async def story(site: Site) -> None:
        for who in ("", "stranger"):
            answer = await site.ask(who, method, path)
            assert "dedgeai keys add" in check(answer, status=401, code="invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
        for who, scopes in SCOPES.items():
            answer = await site.ask(who, method, path)
            if scopes & {scope, Scope.OPERATE}:
                assert answer.status_code not in (401, 403), (who, answer.text)
            else:
                assert f"scope {scope}" in check(answer, status=403, code="scope_missing")
        assert site.node.front_desk.submitted == []

    on_site(story)


def test_the_health_of_a_node_is_no_secret() -> None:
    async def story(site: Site) -> None:
        for path in ("/livez", "/readyz", "/metrics"):
            for who in ("", "stranger", "printer"):
                assert (await site.ask(who, "GET", path)).status_code == 200

    on_site(story)


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Basic {key}", "{key}", "Bearer  x", "Bearer {key}x"]
)
def test_a_key_comes_as_a_bearer(header: str) -> None:
    async def story(site: Site) -> None:
        key = site.header("alice")["Authorization"].partition(" ")[2]
        wrong = {"Authorization": header.format(key=key)}
        answer = await site.ask("", "GET", "/v1/models", headers=wrong)
        check(answer, status=401, code="invalid_api_key")
        basic = base64.b64encode(f"any:{key}".encode()).decode()
        for right in (f"Bearer {key}", f"bearer {key}", f"BEARER  {key}", f"Basic {basic}"):
            answer = await site.ask("", "GET", "/v1/models", headers={"Authorization": right})
            assert answer.status_code == 200

    on_site(story)


def test_automatic1111s_clients_are_told_in_their_fields_and_see_their_own_progress() -> None:
    async def story(site: Site) -> None:
        progress = ("POST", "/internal/progress")
        for who, status in (("", 401), ("reader", 200), ("printer", 200), ("operator", 200)):
            answer = await site.ask(who, *progress, json={"id_task": "x"})
            assert answer.status_code == status
            assert (await site.ask(who, "GET", "/sdapi/v1/options")).status_code == status
        for who, status, code in (("", 401, "invalid_api_key"), ("reader", 403, "scope_missing")):
            answer = await site.ask(who, "POST", "/sdapi/v1/txt2img", json=TASK)
            assert answer.status_code == status
            assert set(answer.json()) == {"error", "detail", "body", "errors"}
            assert answer.json()["error"] == code
        nothing = await site.ask("operator", "GET", "/sdapi/v1/nothing")
        assert (nothing.status_code, nothing.json()["error"]) == (404, "not_found")

    on_site(story)


def test_tasks_are_there_for_who_asked_for_them_and_for_operators() -> None:
    async def story(site: Site) -> None:
        task = (await site.ask("alice", "POST", "/v1/tasks", json=TASK)).json()["id"]
        job = (await site.ask("alice", "POST", "/v1/tasks", json={**TASK, "n": 2})).json()["id"]
        asked = [
            ("GET", f"/v1/tasks/{task}"),
            ("GET", f"/v1/tasks/{task}/image"),
            ("GET", f"/v1/tasks/{task}/events"),
            ("GET", f"/v1/jobs/{job}"),
            ("GET", f"/v1/jobs/{job}/events"),
            ("DELETE", f"/v1/jobs/{job}"),
            ("POST", f"/v1/jobs/{job}/erase"),
            ("DELETE", f"/v1/tasks/{task}"),
            ("POST", f"/v1/tasks/{task}/erase"),
        ]
        for method, path in asked:
            check(await site.ask("bob", method, path), status=404, code="task_not_found")
        for who in ("alice", "operator"):
            for method, path in asked:
                answer = await site.ask(who, method, path)
                # What is left of it where it was erased before.
                erased = who == "operator" and "erase" not in path
                erased = erased and (task in path or path.endswith(f"{job}/events"))
                assert answer.status_code == (410 if erased else 200), (who, path, answer.text)
        check(await site.ask("bob", "GET", f"/v1/tasks/{task}"), status=404, code="task_not_found")

    on_site(story)


def test_a_job_of_another_names_none_of_its_tasks() -> None:
    async def story(site: Site) -> None:
        made = await site.ask("alice", "POST", "/v1/tasks", json={**TASK, "n": 2})
        job, tasks = made.json()["id"], [task["id"] for task in made.json()["tasks"]]
        for method, path in (
            ("GET", ""),
            ("GET", "/events"),
            ("DELETE", ""),
            ("POST", "/erase"),
        ):
            answer = await site.ask("bob", method, f"/v1/jobs/{job}{path}")
            assert job in check(answer, status=404, code="task_not_found")
            assert not any(task in answer.text for task in tasks)

    on_site(story)


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/images/generations", "/sdapi/v1/txt2img"])
def test_what_arrives_after_its_key_was_revoked_is_not_drawn(path: str) -> None:
    """A request that began before, and whose body takes its time."""
    revoked = False

    def client_of_key(key: str | None) -> Any:
        return None if revoked or key is None else ANYBODY

    async def body() -> AsyncGenerator[bytes, None]:
        nonlocal revoked
        whole = json.dumps(TASK).encode()
        yield whole[:5]
        await asyncio.sleep(0.2)
        revoked = True
        yield whole[5:]

    async def story() -> None:
        async with served(client_of_key=client_of_key) as node:
            headers = {"Authorization": "Bearer x", "Content-Type": "application/json"}
            answer = await node.http.post(path, content=body(), headers=headers)
            assert answer.status_code == 401, answer.text
            assert node.front_desk.submitted == []

    asyncio.run(story())


def test_what_another_may_not_cancel_goes_on() -> None:
    async def story(site: Site) -> None:
        task = (await site.ask("alice", "POST", "/v1/tasks", json=TASK)).json()["id"]
        check(
            await site.ask("bob", "DELETE", f"/v1/tasks/{task}"), status=404, code="task_not_found"
        )
        seen = (await site.ask("alice", "GET", f"/v1/tasks/{task}")).json()
        assert seen["status"] == "queued"
        gone = await site.ask("printer", "DELETE", f"/v1/tasks/{task}")
        check(gone, status=404, code="task_not_found")
        assert (await site.ask("alice", "DELETE", f"/v1/tasks/{task}")).json()["status"] == (
            "cancelled"
        )

    on_site(story, front_desk=MemoryFrontDesk(held=True))


def test_an_idempotency_key_is_its_clients_own() -> None:
    async def story(site: Site) -> None:
        key = {"Idempotency-Key": "mine"}
        ids: dict[str, str] = {}
        for who in ("alice", "bob", "alice"):
            answer = await site.ask(who, "POST", "/v1/tasks", json=TASK, headers=key)
            assert answer.status_code == 202
            assert ids.setdefault(who, answer.json()["id"]) == answer.json()["id"]
        assert len(set(ids.values())) == 2

    on_site(story)


def use_of(folder: Path) -> KeyUse:
    return KeyUse(
        folder / "key_use.json",
        own_id=NodeId("own"),
        clock=SetClock(20_000.5 * 86_400),
        open_tasks=lambda client: 0,
        states=lambda: (),
        task_s=lambda client: 1.0,
    )


SURFACES = [("/v1/tasks", 202), ("/v1/images/generations", 200)]


@pytest.mark.parametrize(("path", "good"), SURFACES)
def test_who_asks_too_often_is_told_when_to_come_back(tmp_path: Path, path: str, good: int) -> None:
    async def story(site: Site) -> None:
        for _ in range(4):
            assert (await site.ask("alice", "POST", path, json=TASK)).status_code == good
        answer = await site.ask("alice", "POST", path, json=TASK)
        assert "4 requests a minute" in check(answer, status=429, code="rate_limit_exceeded")
        assert answer.headers["retry-after"] == "15"
        assert (await site.ask("alice", "GET", "/v1/models")).status_code == 429
        assert (await site.ask("alice", "GET", "/readyz")).status_code == 200
        assert (await site.ask("bob", "POST", path, json=TASK)).status_code == good

    on_site(story, key_use=use_of(tmp_path), requests_per_minute=4)


@pytest.mark.parametrize(("path", "good"), SURFACES)
def test_who_has_had_his_images_is_told_so_and_not_to_repeat_it(
    tmp_path: Path, path: str, good: int
) -> None:
    async def story(site: Site) -> None:
        assert (await site.ask("alice", "POST", path, json={**TASK, "n": 2})).status_code == good
        answer = await site.ask("alice", "POST", path, json={**TASK, "n": 2})
        assert "3 images a day" in check(answer, status=429, code="quota_used_up")
        assert answer.headers["retry-after"] == str(12 * 3600)
        assert answer.headers["x-should-retry"] == "false"
        bad = await site.ask("alice", "POST", path, json={**TASK, "n": 99})
        assert bad.status_code == 400
        assert (await site.ask("alice", "POST", path, json=TASK)).status_code == good
        assert (await site.ask("alice", "POST", path, json=TASK)).status_code == 429
        assert (await site.ask("alice", "GET", "/v1/models")).status_code == 200

    on_site(story, key_use=use_of(tmp_path), images_per_day=3)


def test_what_comes_again_by_its_idempotency_key_is_counted_once(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        for key in ("a", "a", "a", "b"):
            headers = {"Idempotency-Key": key}
            answer = await site.ask("alice", "POST", "/v1/tasks", json=TASK, headers=headers)
            assert answer.status_code == 202
        answer = await site.ask("alice", "POST", "/v1/tasks", json={**TASK, "n": 2})
        check(answer, status=429, code="quota_used_up")

    on_site(story, key_use=use_of(tmp_path), images_per_day=3)

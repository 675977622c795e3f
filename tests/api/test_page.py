"""The page on the REST surface: its files, what a browser lets it do, and how little it weighs."""

from __future__ import annotations

import asyncio
import gzip
import re

import httpx
import pytest

from edge_node.api import page
from tests.api.memory_front_desk import MemoryFrontDesk
from tests.api.served import ADDRESSES, served
from tests.api.test_bad_input import check
from tests.api.test_key_check import Site, on_site

BYTES_MAX = 150_000


def get(*paths: str, **headers: str) -> list[httpx.Response]:
    async def story() -> list[httpx.Response]:
        async with served() as node:
            return [await node.http.get(path, headers=headers) for path in paths]

    return asyncio.run(story())


def test_a_browser_gets_the_page_and_runs_nothing_but_its_files() -> None:
    (response,) = get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert '<script type="module" src="web/app/main.js"></script>' in response.text
    assert response.headers.get_list("content-security-policy") == [page.policy([])]
    policy = dict(one.strip().split(" ", 1) for one in page.policy([]).split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in page.policy([])
    # Nothing inline, which that would not run.
    assert re.search(r"<style|<script>|\son\w+=|style=", response.text) is None


def test_it_may_ask_other_nodes_and_nobody_else() -> None:
    told = ["http://orin-2:8080", "https://10.0.0.3/dedgeai", "http://[fe80::1]:80/", "ftp://x"]
    told += ["http://a;script-src *", "http:// b"]
    asked = re.findall(r"connect-src ([^;]*);", page.policy(told))
    assert asked == ["'self' http://[fe80::1]:80 http://a http://orin-2:8080 https://10.0.0.3"]


def test_every_file_that_is_named_is_there_and_no_other() -> None:
    names = [name for name in page.files() if not name.endswith((".json", "LICENSE"))]
    for name, response in zip(names, get(*[f"/web/{name}" for name in names]), strict=True):
        assert response.status_code == 200
        for named in re.findall(r"""(?:from|import) ?['"](\.[^'"]+)['"]""", response.text):
            folder = "/".join(name.split("/")[:-1])
            parts: list[str] = folder.split("/") if folder else []
            for part in named.split("/"):
                parts = parts[:-1] if part == ".." else parts if part == "." else [*parts, part]
            assert "/".join(parts) in page.files(), f"{name} imports {named}"
    wrong = ("/web/", "/web/none.js", "/web/vendor/vendored.json", "/web/%2e%2e/node.py")
    for response in get(*wrong):
        check(response, status=404, code="not_found")


def test_a_file_that_a_browser_has_is_not_sent_again() -> None:
    (whole,) = get("/web/style.css")
    (same,) = get("/web/style.css", **{"if-none-match": whole.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    (packed,) = get("/web/style.css", **{"accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.text == whole.text


def test_all_of_it_is_small() -> None:
    content = [path.read_bytes() for path in page.files().values()]
    assert sum(len(gzip.compress(one)) for one in content) < BYTES_MAX


@pytest.mark.parametrize("path", ["/", "/web/style.css"])
def test_the_page_needs_no_key_and_what_it_shows_does(path: str) -> None:
    async def story(site: Site) -> None:
        assert (await site.node.http.get(path)).status_code == 200
        answer = await site.node.http.post(path)
        check(answer, status=401, code="invalid_api_key")
        check(await site.node.http.get("/v1/cluster"), status=401, code="invalid_api_key")

    on_site(story, front_desk=MemoryFrontDesk())


def test_behind_a_proxy_its_files_are_where_the_proxy_has_them() -> None:
    addresses = ADDRESSES.__class__(public_url="https://draw.example/orin")

    async def story() -> str:
        async with served(addresses=addresses, hosts=("draw.example",)) as node:
            return (await node.http.get("/orin/")).text

    assert '<base href="/orin/">' in asyncio.run(story())

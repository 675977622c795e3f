"""The API's page on the REST surface: whole, from this node alone, open, and nobody else's."""

from __future__ import annotations

import asyncio
import re

import httpx

from edge_node.api import docs_page
from tests.api.served import ADDRESSES, served
from tests.api.test_bad_input import check
from tests.api.test_key_check import Site, on_site


def get(*paths: str, **headers: str) -> list[httpx.Response]:
    async def story() -> list[httpx.Response]:
        async with served(addresses=ADDRESSES) as node:
            return [await node.http.get(path, headers=headers) for path in paths]

    return asyncio.run(story())


def test_everything_that_the_page_names_is_this_nodes() -> None:
    (response,) = get("/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    named = re.findall(r'(?:src|href)="([^"]*)"', response.text)
    assert len(named) == 5
    for file in get(*named):
        assert file.status_code == 200, file.url
    assert "://" not in response.text + docs_page.files()["start.js"].read_text()
    assert response.headers.get_list("content-security-policy") == [docs_page.POLICY]
    policy = dict(one.strip().split(" ", 1) for one in docs_page.POLICY.split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    # Nothing inline, which that would not run.
    assert re.search(r"<script>|\son\w+=", response.text) is None


def test_files_are_packed_and_not_sent_again() -> None:
    names = ("swagger-ui-bundle.js", "swagger-ui.css", "start.js")
    for name, response in zip(names, get(*[f"/docs/{one}" for one in names]), strict=True):
        assert response.content == docs_page.files()[name].read_bytes()
        assert response.headers["content-encoding"] == "gzip"
        assert int(response.headers["content-length"]) < len(response.content)
        (again,) = get(f"/docs/{name}", **{"If-None-Match": response.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_behind_a_proxy_it_is_where_the_proxy_has_it() -> None:
    (response,) = get("/docs", **{"X-Forwarded-Prefix": '/draw"x'})
    assert 'src="/docs/start.js"' in response.text  # no path, so not believed
    (response,) = get("/docs", **{"X-Forwarded-Prefix": "/draw"})
    assert 'src="/draw/docs/start.js"' in response.text


def test_what_is_not_part_of_it_is_not_there() -> None:
    wrong = ("/docs/none.js", "/docs/index.html", "/docs/redoc.standalone.js", "/docs/a/b")
    for response in get(*wrong, "/docs/%2e%2e%2fapp.py"):
        check(response, status=404, code="not_found")


def test_it_needs_no_key_and_what_is_tried_out_does() -> None:
    async def story(site: Site) -> None:
        for path in ("/docs", "/docs/start.js", "/openapi.json"):
            assert (await site.ask("", "GET", path)).status_code == 200
        check(await site.ask("", "GET", "/v1/tasks"), status=401, code="invalid_api_key")
        check(await site.ask("", "POST", "/docs"), status=401, code="invalid_api_key")

    on_site(story)

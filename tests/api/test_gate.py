"""What a browser sends because a page of the internet tells it to does not get in."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.api.served import Served, served
from tests.api.test_bad_input import check

TASK = {"prompt": "a boat"}
JSON = "application/json"


def ask(*requests: httpx.Request, hosts: tuple[str, ...] = ()) -> tuple[list[httpx.Response], int]:
    """The answers to requests whose address is replaced by the node's, and how many it accepted."""

    async def story() -> tuple[list[httpx.Response], int]:
        async with served(hosts=hosts) as node:
            answers = [await node.http.send(meant_for(node, one)) for one in requests]
            return answers, len(node.front_desk.submitted)

    return asyncio.run(story())


def meant_for(node: Served, request: httpx.Request) -> httpx.Request:
    headers = request.headers.copy()
    url = httpx.URL(node.url + request.url.raw_path.decode())
    if headers["host"] == "node":
        headers["host"] = url.netloc.decode()
    headers = httpx.Headers(
        {name: value.replace("//node", f"//{headers['host']}") for name, value in headers.items()}
    )
    return httpx.Request(request.method, url, headers=headers, content=request.content)


@pytest.mark.parametrize(
    ("host", "hosts", "served_there"),
    [
        ("192.168.1.11:8080", (), True),
        ("[fe80::1]:8080", (), True),
        ("[::1]", (), True),
        ("localhost:8080", (), True),
        ("node-0", (), True),
        ("Orin-3.local:8080", (), True),
        ("orin.lan.", (), True),
        ("dedgeai.default.svc.cluster.local", (), True),
        ("dedgeai.default.svc:8080", (), True),
        ("images.example.com", (), False),
        ("images.example.com:8080", ("images.example.com",), True),
        ("Images.Example.com.", ("images.example.COM",), True),
        ("evil.example.com", ("example.com",), False),
        ("192.168.1.11.evil.com", (), False),
        ("localhost.evil.com", (), False),
        ("local", (), True),
        ("evil.com/.local", (), False),
        ("evil.com:80:.local", (), False),
        ("[::1].evil.com", (), False),
    ],
)
def test_a_name_that_a_page_can_have_is_not_served(
    host: str, hosts: tuple[str, ...], served_there: bool
) -> None:
    for method, path in (("GET", "/v1/models"), ("GET", "/nothing"), ("POST", "/v1/tasks")):
        request = httpx.Request(method, f"http://x{path}", headers={"Host": host})
        (answer,), accepted = ask(request, hosts=hosts)
        assert accepted == 0
        if served_there:
            assert answer.status_code in (200, 404, 415)
        else:
            assert "rest_hosts" in check(answer, status=421, code="host_not_served")


def test_no_name_is_remembered_beyond_a_few() -> None:
    async def story() -> None:
        async with served() as node:
            for number in range(200):
                headers = {"Host": f"node-{number}"}
                assert (await node.http.get("/livez", headers=headers)).status_code == 200

    asyncio.run(story())


@pytest.mark.parametrize(
    ("headers", "hosts", "taken"),
    [
        ({}, (), True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://node"}, (), True),
        ({"Sec-Fetch-Site": "none"}, (), True),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.com"}, (), False),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://node"}, (), False),
        ({"Sec-Fetch-Site": "cross-site"}, (), False),
        # Over plain HTTP browsers say no more than this.
        ({"Origin": "http://node"}, (), True),
        ({"Origin": "http://evil.com"}, (), False),
        ({"Origin": "null"}, (), False),
        ({"Origin": "http://node.evil.com"}, (), False),
        ({"Origin": "https://images.example.com"}, ("images.example.com",), True),
        ({"Origin": "https://images.example.com:8443"}, ("images.example.com",), True),
        ({"Origin": "https://evil.com/images.example.com"}, ("images.example.com",), False),
    ],
)
def test_a_page_of_another_site_changes_nothing(
    headers: dict[str, str], hosts: tuple[str, ...], taken: bool
) -> None:
    address = "http://node/v1/tasks"
    asked = [
        httpx.Request("POST", address, headers=headers, json=TASK),
        httpx.Request("DELETE", f"{address}/node-0-x", headers=headers),
        httpx.Request("POST", "http://node/v1/dead_letters/node-0-x/retry", headers=headers),
        httpx.Request(
            "POST", "http://node/v1/images/edits", headers=headers, files={"image": b"?"}, data=TASK
        ),
        httpx.Request("GET", "http://node/v1/models", headers=headers),
    ]
    for one in asked:
        one.read()
    answers, accepted = ask(*asked, hosts=hosts)
    assert answers.pop().status_code == 200, "reading is for the browser to keep from pages"
    if taken:
        assert accepted == 1
        assert [answer.status_code for answer in answers] == [202, 404, 404, 400]
    else:
        assert accepted == 0
        for answer in answers:
            assert "rest_hosts" in check(answer, status=403, code="cross_site_request")


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/images/generations"])
@pytest.mark.parametrize(
    ("content_type", "taken"),
    [
        (JSON, True),
        ("application/json; charset=utf-8", True),
        ("Application/JSON", True),
        ("application/vnd.images+json", True),
        ("text/plain", False),
        ("text/plain; application/json", False),
        ("application/x-www-form-urlencoded", False),
        ("multipart/form-data; boundary=b", False),
        ("", False),
        (None, False),
    ],
)
def test_json_is_what_says_that_it_is(path: str, content_type: str | None, taken: bool) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    request = httpx.Request(
        "POST", f"http://node{path}", headers=headers, content=b'{"prompt":"a"}'
    )
    (answer,), accepted = ask(request)
    assert accepted == taken
    if not taken:
        said = check(answer, status=415, code="unsupported_media_type")
        assert "Content-Type: application/json" in said


def test_answers_tell_browsers_to_make_nothing_else_of_them() -> None:
    asked = [
        httpx.Request("GET", "http://node/v1/models"),
        httpx.Request("GET", "http://node/nothing"),
        httpx.Request("GET", "http://x.evil.com/", headers={"Host": "x.evil.com"}),
        httpx.Request("GET", "http://node/metrics"),
    ]
    answers, _ = ask(*asked)
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers

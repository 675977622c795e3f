"""Real commands and a real HTTP server as judges: slow, dead, lying and loud ones."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from edge_node.domain import Drawing, Image, TaskId
from edge_node.errors import ModerationBlocked, ModerationBusy, ModerationUnavailable
from edge_node.moderation import moderator as moderating
from edge_node.moderation.judges import CommandJudge, UrlJudge
from edge_node.moderation.moderator import ANSWER_BYTES_MAX, ModerationSettings, Moderator

SECRET = "xyzzy-plugh"
DRAWING = Drawing(
    prompt=SECRET,
    negative_prompt="not this",
    width_px=64,
    height_px=32,
    steps=4,
    guidance_scale=5.0,
    seed=1,
    model="m",
)
IMAGE = Image(content=b"\x89PNG", format="png", width_px=64, height_px=32)
TASK_ID = TaskId("a-1")
LOUD = ANSWER_BYTES_MAX + 1
# What a judge does with the question that it has read, and what comes of it.
JUDGES = {
    "allows": ("print('{\"allow\": true}')", None),
    "refuses": ('print(\'{"allow": false, "reason": "No\\\\u0007 boats,\\\\nplease."}\')', "No"),
    "refuses without a word": ('print(\'{"allow": false, "reason": 7}\')', "does not allow it"),
    "says no JSON": ('print("yes")', ModerationUnavailable),
    "says nothing": ("pass", ModerationUnavailable),
    "says a list": ('print("[true]")', ModerationUnavailable),
    "says maybe": ("print('{\"allow\": 1}')", ModerationUnavailable),
    "says too much": (f'print("[" * {LOUD})', ModerationUnavailable),
    "nests": ('print("[" * 60000)', ModerationUnavailable),
    "fails": ("print('{\"allow\": true}'); raise SystemExit(3)", ModerationUnavailable),
    "hangs": ("time.sleep(60)", ModerationUnavailable),
    "closes and hangs": ("sys.stdout.close(); os.close(1); time.sleep(60)", ModerationUnavailable),
}
SLOW_START_S = 5.0


def command(doing: str, *, read: str = "question = json.load(sys.stdin)") -> list[str]:
    return [sys.executable, "-I", "-S", "-c", f"import json, os, sys, time\n{read}\n{doing}"]


def moderator(ask: Any, **settings: Any) -> tuple[Moderator, list[tuple[str, str]]]:
    judged: list[tuple[str, str]] = []
    made = Moderator(
        ask,
        ModerationSettings(**{"timeout_s": SLOW_START_S, **settings}),
        on_judged=lambda *said: judged.append(said),
    )
    return made, judged


async def request_judged(by: Moderator, drawings: tuple[Drawing, ...] = (DRAWING,)) -> None:
    await by.judge_request(drawings, init_image=b"init", client="alice")


async def image_judged(by: Moderator) -> None:
    await by.judge_image(IMAGE, task_id=TASK_ID, drawing=DRAWING, client="")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moderating, "IMAGE_AGAIN_S", ())


@pytest.mark.parametrize("judge", JUDGES)
def test_what_a_command_says_is_done_and_anything_else_refuses(
    judge: str, caplog: pytest.LogCaptureFixture
) -> None:
    doing, expected = JUDGES[judge]
    hangs = "hangs" in judge
    by, judged = moderator(CommandJudge(command(doing)).ask, timeout_s=1.0 if hangs else 10.0)
    began_s = time.monotonic()
    if expected is None:
        asyncio.run(request_judged(by))
        assert judged == [("request", "allowed")]
    elif isinstance(expected, str):
        with pytest.raises(ModerationBlocked, match=expected) as refused:
            asyncio.run(request_judged(by))
        assert refused.value.message.isprintable()
        assert judged == [("request", "refused")]
    else:
        with pytest.raises(expected) as unanswered:
            asyncio.run(request_judged(by))
        assert SECRET not in str(unanswered.value)
        assert judged == [("request", "unanswered")]
    if hangs:
        assert time.monotonic() - began_s < 4.0
    assert SECRET not in caplog.text


def test_a_judge_is_told_all_that_it_is_to_judge_by(tmp_path: Path) -> None:
    told = tmp_path / "told"
    notes = f"open({str(told)!r}, 'a').write(json.dumps(question) + chr(10))"
    tells = f"{notes}; print('{{\"allow\": true}}')"
    by, _ = moderator(CommandJudge(command(tells)).ask)

    async def story() -> None:
        await request_judged(by, (DRAWING, DRAWING))
        await image_judged(by)
        blind, _ = moderator(CommandJudge(command(tells)).ask, with_init_images=False)
        await request_judged(blind)

    asyncio.run(story())
    asked, image, blind = map(json.loads, told.read_text().splitlines())
    shared = {"prompt": SECRET, "negative_prompt": "not this", "model": "m", "size": "64x32"}
    shown = base64.b64encode(b"init").decode()
    assert asked == {
        **shared,
        "stage": "request",
        "client": "alice",
        "images": 2,
        "init_image": shown,
    }
    assert image == {
        **shared,
        "stage": "image",
        "client": None,
        "task_id": TASK_ID,
        "image": base64.b64encode(IMAGE.content).decode(),
        "media_type": "image/png",
    }
    assert blind["init_image"] is None


def test_what_is_not_answered_passes_where_the_operator_says_so() -> None:
    by, judged = moderator(CommandJudge(["/no/such/judge"]).ask, allow_unanswered=True)
    asyncio.run(request_judged(by))
    asyncio.run(image_judged(by))
    assert judged == [("request", "unanswered"), ("image", "unanswered")]


def test_a_judge_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    starts = (
        "import subprocess; kin = subprocess.Popen(['sleep', '60']); "
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{kin.pid}}'); time.sleep(60)"
    )
    by, _ = moderator(CommandJudge(command(starts)).ask, timeout_s=1.5)
    with pytest.raises(ModerationUnavailable, match="could not be judged"):
        asyncio.run(request_judged(by))
    deadline_s = time.monotonic() + 5.0
    while any(is_running(int(pid)) for pid in pids.read_text().split()):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_what_leaves_a_judges_session_is_not_waited_for() -> None:
    leaves = (
        "import subprocess; subprocess.Popen(['sleep', '8'], start_new_session=True); "
        "time.sleep(60)"
    )
    by, judged = moderator(CommandJudge(command(leaves)).ask, timeout_s=1.5)

    async def story() -> None:
        began_s = time.monotonic()
        with pytest.raises(ModerationUnavailable):
            await asyncio.wait_for(request_judged(by), 5.0)
        assert time.monotonic() - began_s < 4.0

    asyncio.run(story())
    assert judged == [("request", "unanswered")]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_judge_need_not_hear_a_question_to_its_end() -> None:
    large = Image(content=os.urandom(2**20), format="png", width_px=1, height_px=1)
    by, judged = moderator(
        CommandJudge(command("print('{\"allow\": true}')", read="")).ask, timeout_s=20.0
    )

    async def story() -> None:
        await by.judge_image(large, task_id=TASK_ID, drawing=DRAWING, client="")

    asyncio.run(story())
    assert judged == [("image", "allowed")]


def test_so_many_are_asked_at_once_and_who_waits_too_long_is_not_let_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(moderating, "REQUESTS_WAITING_MAX", 5)
    monkeypatch.setattr(moderating, "IMAGE_BYTES_WAITING_MAX", 2 * len(IMAGE.content))
    under_way, most = 0, 0
    go = asyncio.Event()

    async def ask(question: bytes) -> bytes:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await go.wait()
        under_way -= 1
        return b'{"allow": true}'

    async def story() -> None:
        by, judged = moderator(ask, at_once_max=2, timeout_s=60.0, allow_unanswered=True)
        for judge, count in ((request_judged, 5), (image_judged, 2)):
            go.clear()
            waiting = [asyncio.create_task(judge(by)) for _ in range(count)]
            await asyncio.sleep(0.2)
            with pytest.raises(ModerationBusy):
                await judge(by)
            go.set()
            await asyncio.gather(*waiting)
        assert most == 2
        assert judged.count(("request", "allowed")) == 5
        assert judged.count(("image", "allowed")) == 2

    asyncio.run(story())


def test_an_image_is_asked_about_again_before_it_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(moderating, "IMAGE_AGAIN_S", (0.01, 0.01))
    answers = [b"", b"no", b'{"allow": true}']

    async def ask(question: bytes) -> bytes:
        return answers.pop(0)

    by, judged = moderator(ask)
    asyncio.run(image_judged(by))
    assert judged == [("image", "allowed")]
    answers[:] = [b"", b"", b""]
    with pytest.raises(ModerationUnavailable):
        asyncio.run(image_judged(by))


def test_a_bug_of_ours_is_no_answer_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def ask(question: bytes) -> bytes:
        raise KeyError(question)

    by, _ = moderator(ask)
    with pytest.raises(ModerationUnavailable):
        asyncio.run(request_judged(by))
    assert "KeyError" in caplog.text
    assert SECRET not in caplog.text


# Over HTTP.


class Site:
    """A judge behind a port; answers as it is set."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.answer: tuple[int, bytes] = (200, b'{"allow": true}')
        self.wait_s = 0.0
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                question = self.rfile.read(int(self.headers["content-length"]))
                site.asked.append((self.headers["content-type"], json.loads(question)))
                time.sleep(site.wait_s)
                status, body = site.answer
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """Who hangs up is no news."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/judge"


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    serving = threading.Thread(target=made.server.serve_forever, daemon=True)
    serving.start()
    yield made
    made.server.shutdown()
    made.server.server_close()


def over_http(url: str, judge: Callable[[Moderator], Awaitable[None]], **settings: Any) -> None:
    async def story() -> None:
        asked = UrlJudge(url)
        by, _ = moderator(asked.ask, **settings)
        try:
            await judge(by)
        finally:
            await asked.close()

    asyncio.run(story())


def test_a_site_is_asked_and_what_it_says_is_done(site: Site) -> None:
    over_http(site.url, request_judged)
    over_http(site.url, image_judged)
    (kind, question), (_, image) = site.asked
    assert kind == "application/json"
    assert (question["stage"], question["prompt"], image["stage"]) == ("request", SECRET, "image")
    site.answer = (200, b'{"allow": false, "reason": "No boats."}')
    with pytest.raises(ModerationBlocked, match="No boats"):
        over_http(site.url, request_judged)


@pytest.mark.parametrize(
    "answer",
    [
        (500, b'{"allow": true}'),
        (302, b'{"allow": true}'),
        (204, b""),
        (200, b"<html>"),
        (200, b"\xff\xfe"),
        (200, b" " * LOUD + b'{"allow": true}'),
    ],
)
def test_a_site_that_says_anything_else_refuses(site: Site, answer: tuple[int, bytes]) -> None:
    site.answer = answer
    with pytest.raises(ModerationUnavailable):
        over_http(site.url, request_judged)
    assert len(site.asked) == 1, "and nobody is asked elsewhere"


def test_a_site_that_is_slow_or_dead_holds_nobody_up(site: Site) -> None:
    site.wait_s = 2.0
    began_s = time.monotonic()
    with pytest.raises(ModerationUnavailable):
        over_http(site.url, request_judged, timeout_s=0.3)
    assert time.monotonic() - began_s < 1.5
    over_http(site.url, request_judged, timeout_s=0.3, allow_unanswered=True)
    with pytest.raises(ModerationUnavailable):
        over_http("http://127.0.0.1:1/judge", request_judged)

"""`dedgeai health`: one line, and a code that tells alive from ready."""

from __future__ import annotations

import http.server
import os
import threading
from pathlib import Path

import pytest

from edge_node.child_options import learner_alive_path
from edge_node.cli import main
from edge_node.config_sources import load_config
from edge_node.sign_of_life import show_life

OK = (200, b'{"status": "ok"}')
OWN = (200, b'{"status": "ok", "node": "orin-1"}')
ANOTHER = (200, b'{"status": "ok", "node": "orin-2"}')
READY = (200, b'{"status": "ready"}')
STUCK = b'{"status": "stuck", "reasons": ["the clock keeps failing"]}'
LOADING = (503, b'{"status": "not ready", "reasons": ["the worker is loading"]}')


def said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: str, port: int = 1
) -> tuple[int, str]:
    settings = ("--set", f"data_folder={tmp_path}", "--set", f"rest_port={port}")
    code = main(("health", "--set", "node_id=orin-1", *settings, *arguments))
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    return code, line


@pytest.mark.parametrize(
    ("livez", "answer", "alive", "ready"),
    [
        (OK, READY, 0, 0),
        (OK, LOADING, 0, 1),
        (OWN, READY, 0, 0),
        (ANOTHER, READY, 1, 1),
        (OK, (200, b"<html>"), 1, 1),
        (OK, (200, b"[]"), 1, 1),
        ((503, STUCK), LOADING, 1, 1),
    ],
)
def test_a_node_that_is_loading_is_alive_and_not_ready(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    livez: tuple[int, bytes],
    answer: tuple[int, bytes],
    alive: int,
    ready: int,
) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = answer if self.path == "/readyz" else livez
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        assert said(capsys, tmp_path, port=port)[0] == alive
        assert said(capsys, tmp_path, "node", "--ready", port=port)[0] == ready
        server.shutdown()


def test_what_is_not_there_is_not_alive(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for process in ("node", "worker", "learner"):
        code, line = said(capsys, tmp_path, process)
        assert code == 1
        assert process in line
    assert said(capsys, tmp_path, "--set", "rest_prt=1")[0] == 1


def test_a_learner_is_alive_while_it_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = learner_alive_path(load_config(None, {"data_folder": tmp_path}))
    show_life(path)
    os.utime(path, (0.0, 0.0))  # its date says nothing: a clock may have been set since
    assert said(capsys, tmp_path, "learner")[0] == 0
    boot, reading = path.read_text().split()
    path.write_text(f"{boot} {float(reading) - 300.0}")
    code, line = said(capsys, tmp_path, "learner")
    assert (code, line) == (1, "the learner was at work 300 s ago\n")
    for left in (f"another-boot {reading}", f"{boot} {float(reading) + 900.0}", "", "\0 \0"):
        path.write_text(left)
        code, line = said(capsys, tmp_path, "learner")
        assert (code, "since this machine was started" in line) == (1, True)

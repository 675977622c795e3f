"""A hundred things that a person may get wrong, at every command: none ends in a traceback."""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from edge_node import cli

# Nobody listens there; a web server that is no node does at NO_NODE, and what hangs up at HANGS_UP.
NOBODY = "http://127.0.0.1:9"
NO_NODE, HANGS_UP, LIES = "{no_node}", "{hangs_up}", "{lies}"
TAKEN = "{taken}"
# A file where a folder should be, a folder where a file should be, and files that are not what they
# are taken for; `unreadable` is a link to itself, which stops root as well.
FILES = {
    "a_file": b"x",
    "latin1.toml": 'node_id = "caf\u00e9"\n'.encode("latin-1"),
    "broken.toml": b"node_id = [\n",
    "list.toml": b"node_id = [1, 2]\npolcy = 3\n",
    "latin1.txt": "ein Stra\u00dfencaf\u00e9\n".encode("latin-1"),
    "empty.txt": b"\n\n",
    "no_image.png": b"this is text",
    "trace.json": b"[1, 2]",
    "nan.toml": b"lease_s = nan\n",
    "inventory.toml": b"[[device]]\nname = 1\n",
    "sums": b"\xff\xfe\n",
}
# A node says what it does before it finds what it cannot do.
LOGGED = re.compile(r"\d{4}-\d\d-\d\d ")
LONG = "x" * 300
NOT_UTF8 = os.fsdecode(b"caf\xe9")

# Of each: the arguments, and a word of what is to be said.
BAD: list[tuple[list[str], str]] = [
    ([], "COMMAND"),
    (["genrate", "x"], "invalid choice"),
    (["--verison"], "COMMAND"),
    # cluster, demo
    (["cluster", "--nodes", "0"], "1 to"),
    (["cluster", "--node", "3"], "unrecognized"),
    (["cluster", "--nodes", "http://orin-1:8080"], "1 to"),
    (["cluster", "--nodes", "-3"], "1 to"),
    (["cluster", "--nodes", "many"], "1 to"),
    (["cluster", "--nodes", "1000000"], "1 to"),
    (["cluster", "--port", "0"], "65535"),
    (["cluster", "--port", "65536"], "65535"),
    (["cluster", "--port", "64537", "--nodes", "2"], "65535"),
    (["cluster", "--port", TAKEN, "--nodes", "1"], "in use"),
    (["cluster", "--engine", "magic"], "invalid choice"),
    (["cluster", "--engine", "emulated", "--profiles", "orin-9000"], "orin-64gb-maxn"),
    (["cluster", "--engine", "emulated", "--profiles", ""], "orin-64gb-maxn"),
    (["cluster", "--time-scale", "nan"], "above 0"),
    (["cluster", "--time-scale", "inf"], "above 0"),
    (["cluster", "--models", "0"], "1 or more"),
    (["cluster", "--profiles", "orin-64gb-maxn"], "--engine emulated"),
    (["cluster", "--time-scale", "4"], "--engine emulated"),
    (["cluster", "--engine", "emulated", "--models", "2"], "--engine tiny"),
    (["cluster", "--policy", "fastest"], "fastest"),
    (["cluster", "--data", "a_file"], "a_file"),
    (["cluster", "--data", "a_file/below"], "a_file"),
    (["cluster", "--data", "loop/data"], "loop"),
    (["demo", "--port", "70000"], "65535"),
    (["demo", "--port", TAKEN], "in use"),
    (["demo", "--out", "a_file"], "a_file"),
    (["demo", "--out", "a_file/out"], "a_file"),
    # generate, replay, mcp
    (["generate"], "prompt"),
    (["generate", "x", "--node", NOBODY], "--node"),
    (["generate", "x", "--node", "127.0.0.1:8080"], "http://"),
    (["generate", "x", "--node", "http://"], "http://"),
    (["generate", "x", "--node", "http://[::1"], "http://"),
    (["generate", "x", "--node", "http://127.0.0.1:99999"], "http://"),
    (["generate", "x", "--node", "http://..invalid..:80"], "node"),
    (["generate", "x", "--node", "ftp://127.0.0.1"], "http://"),
    (["generate", "x", "--node", NO_NODE], "REST address"),
    (["generate", "x", "--node", HANGS_UP], "No node answers"),
    (["generate", "x", "--node", LIES], "came"),
    (["generate", NOT_UTF8, "--node", NO_NODE], "UTF-8"),
    (["generate", "x", "--steps", "0"], "1 or more"),
    (["generate", "x", "--steps", "1e3"], "1 or more"),
    (["generate", "x", "--steps", "9" * 5000], "1 or more"),
    (["generate", "x", "--guidance-scale", "nan"], "0 or more"),
    (["generate", "x", "--strength=-inf"], "above 0"),
    (["generate", "x", "--seed", "-1"], "4294967295"),
    (["generate", "x", "--seed", "4294967296"], "4294967295"),
    (["generate", "x", "--out", "nowhere/image.png", "--node", NOBODY], "nowhere"),
    (["generate", "x", "--out", "a_file/image.png", "--node", NOBODY], "a_file"),
    (["generate", "x", "--out", "folder", "--node", NOBODY], ".png"),
    (["generate", "x", "--out", "image.gif", "--node", NOBODY], ".png"),
    (["generate", "x", "--out", "no_image.png", "--node", NOBODY], "--force"),
    (["generate", "x", "--out", "{size}.png", "--node", NOBODY], "{seed}"),
    (["generate", "x", "--out", "{n.png", "--node", NOBODY], "{seed}"),
    (["generate", "x", "--out", "{}.png", "--node", NOBODY], "{seed}"),
    (["generate", "x", "--out", "{seed[0]}.png", "--node", NOBODY], "{seed}"),
    (["generate", "x", "--out", "{n.imag}.png", "-n", "2", "--node", NOBODY], "{seed}"),
    (["generate", "x", "--out", "{id:.1}.png", "-n", "2", "--node", NOBODY], "{seed}"),
    (["generate", "x", "--out", "{n!r}.png", "--node", NOBODY], "{seed}"),
    (["generate", "x", "--out", "{n:999999999}.png", "--node", NOBODY], "{seed}"),
    (["generate", "x", "--out", "{n:03}-{seed}.png", "--node", NOBODY], "--node"),
    (["generate", "x", "-n", "0"], "1 to"),
    (["generate", "x", "-n", "2", "--seed", "4294967295"], "--seed"),
    (["generate", "x", "--init-image", "none.png", "--node", NOBODY], "cannot be read"),
    (["generate", "x", "--init-image", "folder", "--node", NOBODY], "cannot be read"),
    (["replay", "--captions", "none.txt"], "none.txt"),
    (["replay", "--captions", "folder"], "folder"),
    (["replay", "--captions", "latin1.txt"], "UTF-8"),
    (["replay", "--captions", "empty.txt"], "no captions"),
    (["replay", "--tasks", "0"], "1 or more"),
    (["replay", "--nodes", "http://orin-1:8080"], "--node URL"),
    (["replay", "--node", "3"], "http://"),
    (["replay", "--slot", "nan"], "above 0"),
    (["replay", "--rate", "0"], "above 0"),
    (["replay", "--timeout", "-1"], "above 0"),
    (["replay", "--tasks-per-slot-max", "0"], "1 or more"),
    (["replay", "--json", "nowhere/x.json"], "nowhere"),
    (["mcp", "--node", "orin-1"], "http://"),
    # status, tasks, pause, drain, resume, dead-letters
    (["status", "--node", NO_NODE], "REST address"),
    (["status", "--node", HANGS_UP], "No node answers"),
    (["status", "--node", LIES], "came"),
    (["status", "--watch", "--json"], "not allowed"),
    (["status", "--watch", "--node", NOBODY], "--node"),
    (["tasks"], "list|show|fetch|cancel"),
    (["tasks", "list", "--node", NO_NODE], "REST address"),
    (["tasks", "list", "--node", LIES], "came"),
    (["tasks", "list", "--count", "0.5"], "1 or more"),
    (["tasks", "list", "--status", "drawn"], "invalid choice"),
    (["tasks", "show", "../../etc/passwd", "--node", NO_NODE], "REST address"),
    (["tasks", "show", NOT_UTF8, "--node", NO_NODE], "UTF-8"),
    (["tasks", "fetch", "x", "--node", LIES], "came"),
    (["tasks", "fetch", "x", "--node", NOBODY], "--node"),
    (["tasks", "show", ""], "empty"),
    (["tasks", "fetch", " "], "empty"),
    (["tasks", "cancel", ""], "empty"),
    (["tasks", "cancel"], "required"),
    (["tasks", "cancel", "x", "--node", LIES], "came"),
    (["pause"], "NODE"),
    (["pause", ""], "empty"),
    (["nodes", "remove", ""], "empty"),
    (["nodes", "readmit", "x", "--node", NO_NODE], "REST address"),
    (["pause", "x", "--node", NO_NODE], "REST address"),
    (["drain", "x", "--node", HANGS_UP], "No node answers"),
    (["resume", "x", "--node", NOBODY], "--node"),
    (["dead-letters", "--node", NOBODY], "--node"),
    (["dead-letters", "--retry", "all", "--node", LIES], "came"),
    (["logs", "--data", "nowhere"], "--data"),
    (["logs", "--data", "cluster", "node-7"], "node-0"),
    (["logs", "--lines", "0"], "1 or more"),
    (["completion", "tcsh"], "invalid choice"),
    # node, worker, learner, health, config, doctor, store-repair, weights
    (["node", "--config", "none.toml"], "none.toml"),
    (["node", "--config", "folder"], "folder"),
    (["node", "--config", "loop"], "loop"),
    (["node", "--config", "latin1.toml"], "latin1.toml"),
    (["node", "--config", "broken.toml"], "TOML"),
    (["node", "--config", "nan.toml"], "lease_s"),
    (["node", "--set", "data_folder=a_file"], "data_folder"),
    (["node", "--set", f"data_folder={LONG}"], "data_folder"),
    (["node", "--set", "data_folder=d1", "--set", "rest_port=" + TAKEN], "rest_port"),
    (["node", "--set", "data_folder=d2", "--set", "rest_host=no.such.host.invalid"], "rest_host"),
    (["worker", "--set", "engine=none"], "worker_socket"),
    (["worker", "--set", "worker_socket=d/s", "--set", "worker_lock=a_file/l"], "worker_lock"),
    (["learner", "--set", "learner"], "KEY=VALUE"),
    (["health", "cluster"], "invalid choice"),
    (["health"], "does not answer"),
    (["health", "--config", "broken.toml"], "TOML"),
    (["config", "check", "--config", "list.toml"], "Did you mean policy"),
    (["config", "show", "--set", "heartbeat_s=nan"], "heartbeat_s"),
    (["doctor", "--config", "none.toml", "--json"], "none.toml"),
    (["store-repair", "--set", "data_folder=nowhere"], "nowhere"),
    (["store-repair", "--set", "data_folder=a_file"], "a_file"),
    (["weights", "verify", "--set", "model=/nowhere"], "/nowhere"),
    (["weights", "verify", "--sums", "sums"], "sums"),
    # learn, certs, keys, deploy
    (["learn"], "required"),
    (["learn", "--nodes", "orin-1:9080"], "--peers"),
    (["learn", "--set", "data_folder=a_file", "--peers", "a:1"], "data_folder"),
    (["learn", "--set", "data_folder=d3", "--peers", "orin-1"], "host:port"),
    (["certs", "issue", "a"], "certs init"),
    (["certs", "init", "--folder", "a_file"], "a_file"),
    (["certs", "init", "--cluster", "a/b", "--folder", "c1"], "a/b"),
    (["certs", "issue", "--days", "0"], "1 or more"),
    (["certs", "init", "--folder", f"{LONG}/{LONG}"], "cannot be used"),
    (["keys", "add"], "Give a name"),
    (["keys", "add", "x", "--open-tasks", "-1"], "1 or more"),
    (["keys", "add", "x", "--scopes", "everything"], "scope"),
    (["keys", "add", "x", "--set", "data_folder=a_file"], "a_file"),
    (["keys", "revoke", "x", "--set", "data_folder=d4"], "x"),
    (["keys", "push", "--to", "orin-1"], "http://"),
    (["deploy", "--inventory", "none.toml"], "none.toml"),
    (["deploy", "--inventory", "latin1.toml"], "latin1.toml"),
    (["deploy", "--inventory", "inventory.toml"], "inventory.toml"),
    (["deploy", "--ready-timeout", "nan"], "above 0"),
    # train, simulate
    (["train", "--out", "a_file/out", "--episodes", "1"], "a_file"),
    (["train", "--out", "t1", "--policy", "best"], "best"),
    (["train", "--out", "t2", "--option", "lr"], "lr"),
    (["train", "--out", "t3", "--scenario", "latin1.toml"], "latin1.toml"),
    (["train", "--out", "t4", "--seeds", "0"], "1 or more"),
    (["simulate", "--policy", "best"], "best"),
    (["simulate", "--scenario", "none.toml"], "none.toml"),
    (["simulate", "--scenario", "nowhere"], "nowhere"),
    (["simulate", "--trace", "trace.json"], "trace"),
    (["simulate", "--trace", "folder"], "folder"),
    (["simulate", "--ageing", "nan", "--order", "srpt"], "geing"),
    (["simulate", "--episodes", "0"], "1 or more"),
]


class NoNode(BaseHTTPRequestHandler):
    """A web server with a page of its own for everything."""

    said = (200, b"<html>Welcome to nginx</html>")

    def do_GET(self) -> None:
        code, content = self.said
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_DELETE = do_GET

    def log_request(self, *_: object) -> None:
        """Nobody reads it."""


class HangsUp(NoNode):
    def do_GET(self) -> None:
        self.close_connection = True

    do_POST = do_DELETE = do_GET


class Lies(NoNode):
    """Answers JSON that no node would."""

    said = (200, b'["no", {"node": "here"}]')


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str, str]]:
    folder = tmp_path_factory.mktemp("walked")
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "cluster" / "node-0").mkdir(parents=True)
    (folder / "cluster" / "node-0" / "node.log").write_text("ready\n")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), kind) for kind in (NoNode, HangsUp, Lies)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [server.server_port for server in servers]
        names = {
            name: f"http://127.0.0.1:{port}"
            for name, port in zip((NO_NODE, HANGS_UP, LIES), ports, strict=True)
        }
        names[TAKEN] = str(taken.getsockname()[1])
        lines = [[_filled(one, names) for one in arguments] for arguments, _ in BAD]
        done = subprocess.run(
            [sys.executable, "-m", "tests.commands.walker", str(folder)],
            input=json.dumps(lines),
            capture_output=True,
            text=True,
            check=True,
            env={k: v for k, v in os.environ.items() if not k.startswith("DEDGEAI_")},
        )
    for server in servers:
        server.shutdown()
        server.server_close()
    results: list[tuple[int, str, str]] = json.loads(done.stdout)
    return results


def _filled(text: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(name, value)
    return text


@pytest.mark.parametrize("number", range(len(BAD)), ids=[" ".join(a)[:60] for a, _ in BAD])
def test_bad_input_is_one_sentence_that_says_what_to_do(
    number: int, walked: list[tuple[int, str, str]]
) -> None:
    arguments, word = BAD[number]
    code, said, complained = walked[number]
    about = f"dedgeai {' '.join(arguments)[:200]!r} ended with {code}: {said}{complained}"
    assert "Traceback" not in said + complained, about
    assert word in (complained or said), about
    assert "fault in dedgeai" not in complained, about
    # A device that is not well is no wrong command.
    assert code == (1 if arguments[:1] in (["health"], ["doctor"]) else 2) or "invalid" in word
    told = [one for one in (complained or said).strip().splitlines() if not LOGGED.match(one)]
    lines = {"config check": 3, "doctor --config": 8}.get(" ".join(arguments[:2]), 1)
    assert len(told) <= lines, about


def test_every_command_is_among_them() -> None:
    kinds = [one for one in cli.parser()._actions if isinstance(one, argparse._SubParsersAction)]
    walked = {arguments[0] for arguments, _ in BAD if arguments}
    assert set(kinds[0].choices) - {"nodes"} <= walked
    assert len(BAD) >= 100

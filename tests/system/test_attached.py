"""Node, worker, learner and store as processes of their own, as containers run them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from edge_node import start_note
from edge_node.child_options import attached_worker
from edge_node.cli import main
from edge_node.config_sources import load_config
from edge_node.console.deploy import DeployFailed, _await_ready
from tests.store.valkey_process import ValkeyProcess
from tests.system.local import free_port, processes_of
from tests.system.test_commands import DEDGEAI, command

pytestmark = pytest.mark.system


@contextlib.contextmanager
def running(name: str, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`dedgeai NAME --config FILE` in the foreground, stopped by SIGTERM."""
    process = subprocess.Popen([*DEDGEAI, name, "--config", str(config)])
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def healthy(config: Path, *arguments: str) -> bool:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main(("health", "--config", str(config), *arguments))
    assert (code in (0, 1), said.getvalue().count("\n")) == (True, 1), said.getvalue()
    return code == 0


def until_healthy(config: Path, *arguments: str, timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not healthy(config, *arguments):
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    store = ValkeyProcess(tmp_path / "store")
    store.start()
    port = free_port(1)
    path = tmp_path / "node.toml"
    path.write_text(
        f"""
        data_folder = {json.dumps(str(tmp_path / "data"))}
        rest_port = {port}
        grpc_port = {port + 1000}
        engine = "emulated"
        time_scale = 20
        redis_url = {json.dumps(store.url)}
        worker_socket = {json.dumps(str(tmp_path / "w.sock"))}
        drain_s = 1
        """
    )
    yield path
    store.kill()


def test_each_process_has_a_command_and_a_health(config: Path, tmp_path: Path) -> None:
    assert not healthy(config, "worker")
    with running("node", config):
        until_healthy(config)
        assert not healthy(config, "--ready")
        with running("worker", config):
            until_healthy(config, "worker", "--ready")
            until_healthy(config, "node", "--ready")
            body = {"prompt": "a boat", "num_inference_steps": 2}
            answer = httpx.post(f"{_url(config)}/v1/images/generations", json=body, trust_env=False)
            assert answer.status_code == 200, answer.text
        assert not healthy(config, "worker")
        assert healthy(config, "node")
        with running("worker", config):
            until_healthy(config, "node", "--ready")
        assert processes_of(tmp_path / "data", "edge_node.learner") == []


def test_a_learner_beside_the_node(config: Path) -> None:
    assert not healthy(config, "learner")
    with running("learner", config):
        until_healthy(config, "learner")


def until_it_says(config: Path, said: str) -> str:
    """The reason at /readyz with these words, once it is there."""
    deadline_s = time.monotonic() + 20.0
    while time.monotonic() < deadline_s:
        answer = httpx.get(f"{_url(config)}/readyz", trust_env=False).json()
        for reason in answer.get("reasons", []):
            if said in reason:
                return str(reason)
        time.sleep(0.05)
    raise AssertionError(f"nobody said {said}")


def ended_at_its_start(config: Path, socket_path: Path, number: signal.Signals) -> int:
    """A worker that waits for its accelerator when the signal comes; with what it ends."""
    arguments = [*attached_worker(load_config(config, {})), "--lock-wait", "60"]
    former = start_note.read(socket_path)
    process = subprocess.Popen(arguments)
    deadline_s = time.monotonic() + 20.0
    while start_note.read(socket_path) == former:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    process.send_signal(number)
    return process.wait(30)


def test_why_it_does_not_come_up_goes_to_everyone(config: Path, tmp_path: Path) -> None:
    socket_path, in_the_way = tmp_path / "w.sock", tmp_path / "lock"
    with config.open("a") as file:
        file.write(f"worker_lock = {json.dumps(str(in_the_way / 'accelerator'))}")
    in_the_way.touch()
    why = f"The folder of worker_lock, {in_the_way}, cannot be made: File exists"
    with running("node", config):
        until_healthy(config)
        until_it_says(config, f"the worker is away: nothing answers at {socket_path}")
        code, said = asyncio.run(command("worker", "--config", str(config)))
        assert (code, why in said) == (2, True), said
        assert until_it_says(config, why) == f"the worker failed: {why}"
        answer = httpx.post(f"{_url(config)}/v1/tasks", json={"prompt": "a"}, trust_env=False)
        assert answer.status_code == 503
        assert f"until its operator has mended it: {why}" in answer.json()["error"]["message"]
        with pytest.raises(DeployFailed, match="cannot be made: File exists"):
            asyncio.run(_await_ready(_url(config), 30.0))
        code, said = asyncio.run(command("health", "--config", str(config), "worker"))
        assert (code, f"does not answer at {socket_path}: {why} (" in said) == (1, True), said

        in_the_way.unlink()
        in_the_way.mkdir()
        with (in_the_way / "accelerator").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert ended_at_its_start(config, socket_path, signal.SIGTERM) == 0
            assert start_note.read(socket_path) is None  # it was told to stop
            for _ in range(3):
                assert ended_at_its_start(config, socket_path, signal.SIGKILL) == -signal.SIGKILL
        without = "times in a row at its start: it ended without a word"
        assert until_it_says(config, without).startswith("the worker failed: ")
        with running("worker", config):
            until_healthy(config, "node", "--ready")
            assert start_note.read(socket_path) is None


def _url(config: Path) -> str:
    return f"http://127.0.0.1:{load_config(config, {}).rest_port}"

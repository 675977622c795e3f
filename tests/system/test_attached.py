"""Node, worker, learner and store as processes of their own, as containers run them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from edge_node.config_sources import load_config
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
    code, said = asyncio.run(command("health", "--config", str(config), *arguments))
    assert (code in (0, 1), said.count("\n")) == (True, 1), said
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


def _url(config: Path) -> str:
    return f"http://127.0.0.1:{load_config(config, {}).rest_port}"

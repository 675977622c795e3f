"""A real node whose standard error is a pipe that nobody reads."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from edge_node.log_stream import LossyStream
from tests.system.local import EMULATED, free_port

pytestmark = pytest.mark.system

PIPE_BYTES = 4096


def small_pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return reading, writing


def ready_within(url: str, *, seconds: float) -> bool:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        try:
            if httpx.get(f"{url}/readyz", timeout=1.0, trust_env=False).status_code == 200:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    return False


def test_a_log_that_nobody_reads_holds_up_neither_tasks_nor_the_end(tmp_path: Path) -> None:
    reading, writing = small_pipe()
    port = free_port(1)
    settings = {
        **EMULATED,
        "log_level": "debug",
        "data_folder": tmp_path / "node",
        "rest_port": port,
        "grpc_port": port + 1000,
    }
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "edge_node.cli", "node", *options]
    with subprocess.Popen(command, stderr=writing, stdout=writing) as node:
        os.close(writing)
        try:
            assert ready_within(f"http://127.0.0.1:{port}", seconds=30)
            node.send_signal(signal.SIGTERM)
            assert node.wait(20) == 0
            # It was full but for less than a line: an ordinary stream would have waited.
            assert len(os.read(reading, 2 * PIPE_BYTES)) > PIPE_BYTES - 1000
        finally:
            node.kill()
            os.close(reading)


def test_lines_that_are_lost_are_counted() -> None:
    reading, writing = small_pipe()
    stream = LossyStream(writing, waiting_bytes_max=3 * PIPE_BYTES)
    line = "x" * (PIPE_BYTES - 1) + "\n"
    for _ in range(5):
        stream.write(line)
    read = b""
    while len(read) < 3 * PIPE_BYTES:
        read += os.read(reading, PIPE_BYTES)
    stream.drain(within_s=5.0)
    assert read == 3 * line.encode()
    stream.write("again\n")
    stream.drain(within_s=5.0)
    assert os.read(reading, PIPE_BYTES) == b"2 lines of this log were lost: nobody read it\nagain\n"
    os.close(reading)

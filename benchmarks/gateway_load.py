"""Load on a REST surface and what it costs: wrk, a client for exact numbers of requests, /proc.

wrk is Debian's (`apt-get install wrk`); it is written in C, so that two cores are not spent on the
client.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = os.getenv("BODY")
function done(summary, latency, requests)
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "failed": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, summary.errors.status + summary.errors.connect
      + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What wrk saw: failed are answers that are no 2xx, and connections that broke."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    failed: int

    @property
    def per_s(self) -> float:
        """Requests answered a second."""
        return self.requests / self.seconds


def require_wrk() -> None:
    """Ends the script with a sentence where there is no wrk."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")


def wrk(url: str, body: Mapping[str, Any], *, connections: int, seconds: int) -> Load:
    """POSTs `body` over and over."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT)
        script.flush()
        arguments = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s"]
        done = subprocess.run(
            ["wrk", *arguments, "--latency", "-s", script.name, url],
            env={**os.environ, "BODY": json.dumps(body)},
            capture_output=True,
            text=True,
            check=True,
        )
    told = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    return Load(**json.loads(told.removeprefix("RESULT ")))


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds of processes so far, of all their threads."""
    used = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used += int(fields[11]) + int(fields[12])
    return used * _TICK_S


def rss_mb(pid: int) -> float:
    """Resident memory in MB (10^6 bytes)."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / 1e6


async def post_all(
    url: str, bodies: Sequence[Mapping[str, Any]], *, connections: int
) -> tuple[list[dict[str, Any]], float]:
    """POSTs each body once; the answers in their order, and the seconds until the last.

    Raises:
        RuntimeError: one was not answered with 2xx.
    """
    answers: list[dict[str, Any]] = [{}] * len(bodies)
    turn = iter(range(len(bodies)))
    host, port, path = _parts(url)

    async def one_connection() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        for index in turn:
            content = json.dumps(bodies[index]).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            status, answer = await _answer(reader)
            if not 200 <= status < 300:
                raise RuntimeError(f"{status}: {answer[:200]!r}")
            answers[index] = json.loads(answer)
        writer.close()

    start_s = time.monotonic()
    await asyncio.gather(*(one_connection() for _ in range(connections)))
    return answers, time.monotonic() - start_s


@contextlib.asynccontextmanager
async def listeners(urls: Sequence[str]) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Open event streams, each past its first event."""
    writers = []
    readers = []
    for url in urls:
        host, port, path = _parts(url)
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        await reader.readuntil(b"event: ")
        writers.append(writer)
        readers.append(reader)
    try:
        yield readers
    finally:
        for writer in writers:
            writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    if b"transfer-encoding: chunked" not in head:
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        return status, await reader.readexactly(length)
    body = b""
    while length := int((await reader.readline()).strip(), 16):
        body += await reader.readexactly(length)
        await reader.readline()
    await reader.readline()
    return status, body


def _parts(url: str) -> tuple[str, int, str]:
    authority, _, path = url.removeprefix("http://").partition("/")
    host, _, port = authority.partition(":")
    return host, int(port), f"/{path}"

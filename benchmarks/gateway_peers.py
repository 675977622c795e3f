"""Servers that others use for the same purpose, each with a model that takes no time.

All take JSON with a prompt and answer with an image in base64 of the size given. They run in an
environment of their own, made from PACKAGES or pointed to, and are no dependency of this package.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

PACKAGES = (
    "mosec",
    "litserve",
    "bentoml",
    "ray[serve]",
    "uvicorn",
    "fastapi",
    "uvloop",
    "httptools",
)
START_S_MAX = 120.0

_FASTAPI = """
import os, time
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
app, IMAGE, DRAWING_S = FastAPI(), "x" * int(os.environ["IMAGE"]), float(os.environ["DRAWING_S"])
@app.post("/draw")
async def draw(request: Request):
    prompt = (await request.json())["prompt"]
    if DRAWING_S:
        import asyncio
        await asyncio.sleep(DRAWING_S)
    return JSONResponse({"created": 1, "prompt": prompt, "data": [{"b64_json": IMAGE}]})
"""
_MOSEC = """
import os, time
from mosec import Server, Worker
IMAGE, DRAWING_S = "x" * int(os.environ["IMAGE"]), float(os.environ["DRAWING_S"])
class Draw(Worker):
    def forward(self, data):
        time.sleep(DRAWING_S)
        return {"created": 1, "prompt": data["prompt"], "data": [{"b64_json": IMAGE}]}
if __name__ == "__main__":
    server = Server()
    server.append_worker(Draw, num=1)
    server.run()
"""
_LITSERVE = """
import os, time
import litserve
IMAGE, DRAWING_S = "x" * int(os.environ["IMAGE"]), float(os.environ["DRAWING_S"])
class Draw(litserve.LitAPI):
    def setup(self, device): ...
    def decode_request(self, request): return request["prompt"]
    def predict(self, prompt):
        time.sleep(DRAWING_S)
        return prompt
    def encode_response(self, prompt):
        return {"created": 1, "prompt": prompt, "data": [{"b64_json": IMAGE}]}
if __name__ == "__main__":
    server = litserve.LitServer(Draw(api_path="/draw"), accelerator="cpu")
    server.run(port=int(os.environ["PORT"]), host="127.0.0.1", generate_client_file=False,
               log_level="warning")
"""
_BENTOML = """
import os, time
import bentoml
IMAGE, DRAWING_S = "x" * int(os.environ["IMAGE"]), float(os.environ["DRAWING_S"])
@bentoml.service(workers=1, traffic={"timeout": 60})
class Draw:
    @bentoml.api
    def draw(self, prompt: str) -> dict:
        time.sleep(DRAWING_S)
        return {"created": 1, "prompt": prompt, "data": [{"b64_json": IMAGE}]}
"""
_RAY = """
import os, time
import ray
from ray import serve
from starlette.requests import Request
IMAGE, DRAWING_S = "x" * int(os.environ["IMAGE"]), float(os.environ["DRAWING_S"])
@serve.deployment(max_ongoing_requests=64)
class Draw:
    async def __call__(self, request: Request):
        prompt = (await request.json())["prompt"]
        if DRAWING_S:
            import asyncio
            await asyncio.sleep(DRAWING_S)
        return {"created": 1, "prompt": prompt, "data": [{"b64_json": IMAGE}]}
if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Draw.bind(), route_prefix="/draw")
    while True:
        time.sleep(1)
"""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One server: its program, how it is started in the environment's bin folder, and its path."""

    name: str
    source: str
    command: tuple[str, ...]
    path: str = "/draw"


PEERS = (
    Peer(
        name="bare FastAPI",
        source=_FASTAPI,
        command=(
            *("{bin}/uvicorn", "peer:app", "--port", "{port}", "--http", "httptools"),
            *("--loop", "uvloop", "--no-access-log", "--log-level", "warning"),
        ),
    ),
    Peer(
        name="bare FastAPI, h11",
        source=_FASTAPI,
        command=(
            *("{bin}/uvicorn", "peer:app", "--port", "{port}", "--http", "h11"),
            *("--loop", "asyncio", "--no-access-log", "--log-level", "warning"),
        ),
    ),
    Peer(
        name="mosec",
        source=_MOSEC,
        command=("{bin}/python", "peer.py", "--port", "{port}", "--timeout", "60000"),
        path="/inference",
    ),
    Peer(name="LitServe", source=_LITSERVE, command=("{bin}/python", "peer.py")),
    Peer(
        name="BentoML",
        source=_BENTOML,
        command=("{bin}/bentoml", "serve", "peer:Draw", "--port", "{port}", "--host", "127.0.0.1"),
    ),
    Peer(name="Ray Serve", source=_RAY, command=("{bin}/python", "peer.py")),
)


def make_environment(folder: Path) -> None:
    """A virtual environment with all of them."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin/pip"), "install", "--quiet", *PACKAGES], check=True)


@dataclass(kw_only=True)
class RunningPeer:
    """A started server, with all the processes that it starts."""

    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """SIGKILL to it and all that it started, whatever group they put themselves in."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def running(
    peer: Peer, environment: Path, *, port: int, image_chars: int, drawing_s: float = 0.0
) -> Iterator[RunningPeer]:
    """Starts a server and ends it; raises TimeoutError when it does not answer in time."""
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        (Path(folder) / "peer.py").write_text(peer.source)
        where = {"bin": str(environment / "bin"), "port": str(port)}
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(
                [part.format(**where) for part in peer.command],
                cwd=folder,
                env={
                    **os.environ,
                    **{"PORT": str(port), "IMAGE": str(image_chars)},
                    **{"DRAWING_S": str(drawing_s), "RAY_TMPDIR": folder},
                    **{"RAY_USAGE_STATS_ENABLED": "0", "BENTOML_DO_NOT_TRACK": "True"},
                    "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started = RunningPeer(url=f"http://127.0.0.1:{port}{peer.path}", process=process)
        try:
            _await_answer(started, Path(folder) / "log")
            yield started
        finally:
            started.kill()


def _await_answer(peer: RunningPeer, log: Path) -> None:
    give_up_s = time.monotonic() + START_S_MAX
    request = urllib.request.Request(
        peer.url, data=b'{"prompt": "a"}', headers={"Content-Type": "application/json"}
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10.0):
                return
        except (OSError, urllib.error.HTTPError):
            if time.monotonic() > give_up_s or peer.process.poll() is not None:
                tail = log.read_text(errors="replace")[-1500:]
                raise TimeoutError(f"it does not answer at {peer.url}:\n{tail}") from None
            time.sleep(0.2)

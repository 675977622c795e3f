"""Dockerfile.cpu is really built, on a base made of Debian's packages, and its node really draws.

Takes minutes and gigabytes, so it runs only where it is asked for: `make validate-deploy`.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image

from edge_node.console.local_cluster import free_rest_port

REPOSITORY = Path(__file__).parents[2]
TOOLS = ("buildah", "debootstrap")
BUILD_S_MAX = 1800.0
READY_S_MAX = 120.0
# What pip and apt were told on this machine, for a build without a network of its own.
PIP_SETTINGS = ("index-url", "extra-index-url", "find-links", "cert")


def why_not() -> str:
    """Why no image can be built here; empty if one can."""
    if not os.environ.get("DEPLOY_BUILD_IMAGE"):
        return "make validate-deploy builds the image"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return "" if os.geteuid() == 0 else "debootstrap needs root"


pytestmark = [pytest.mark.deploy, pytest.mark.skipif(bool(why_not()), reason=why_not())]


class Builder:
    """buildah with a store of its own, so that nothing of this machine's is touched."""

    def __init__(self, folder: Path) -> None:
        self._options = [
            *("--storage-driver", "vfs"),
            *("--root", str(folder / "storage"), "--runroot", str(folder / "run")),
        ]

    def command(self, *arguments: str) -> list[str]:
        """A command line of buildah."""
        return ["buildah", *self._options, *arguments]

    def run(self, *arguments: str) -> str:
        """Runs it and returns what it printed; its log is the error's text."""
        done = subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=BUILD_S_MAX,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout.strip()


def test_the_cpu_image_serves_an_image(tmp_path: Path) -> None:
    builder = Builder(tmp_path)
    try:
        base = build_base(builder, tmp_path)
        builder.run(
            *("bud", "--isolation", "chroot", "--layers=false", "--network", "host"),
            *(part for mount in pip_mounts(tmp_path) for part in ("--volume", mount)),
            *("--build-arg", f"BASE={base}", "--file", "docker/Dockerfile.cpu"),
            *("--tag", "dedgeai:cpu", str(REPOSITORY)),
        )
        container = builder.run("from", "dedgeai:cpu")
        listed = builder.run(
            *("run", "--isolation", "chroot", container, "--"),
            *(
                "sh",
                "-c",
                "id --user && test -s /opt/dedgeai/sbom.cdx.json && pip --version || true",
            ),
        )
        # Not root, and nothing in it that could install more.
        assert listed.splitlines()[0] == "1000"
        assert "pip" not in listed
        with served(builder, container, tmp_path / "node.log") as url:
            response = httpx.post(
                f"{url}/v1/images/generations",
                json={"prompt": "a red circle", "num_inference_steps": 4},
                timeout=60.0,
                trust_env=False,
            )
            assert response.status_code == 200, response.text
            drawn = base64.b64decode(response.json()["data"][0]["b64_json"])
            assert Image.open(io.BytesIO(drawn)).size == (64, 64)
    finally:
        subprocess.run(builder.command("rm", "--all"), capture_output=True, check=False)
        subprocess.run(builder.command("rmi", "--all"), capture_output=True, check=False)


def build_base(builder: Builder, folder: Path) -> str:
    """Name of an image of Debian's smallest system."""
    root = folder / "debian"
    subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(root)],
        capture_output=True,
        timeout=BUILD_S_MAX,
        check=True,
    )
    container = builder.run("from", "scratch")
    builder.run("copy", container, str(root), "/")
    builder.run("commit", container, "localhost/debian-minbase")
    shutil.rmtree(root)
    return "localhost/debian-minbase"


def pip_mounts(folder: Path) -> list[str]:
    """This machine's settings of pip, and the folders and files that they name, as volumes."""
    lines, mounts = ["[global]"], []
    for name in PIP_SETTINGS:
        asked = subprocess.run(
            ["python3", "-m", "pip", "config", "get", f"global.{name}"],
            capture_output=True,
            text=True,
            check=False,
        )
        variable = f"PIP_{name.upper().replace('-', '_')}"
        value = os.environ.get(variable, asked.stdout.strip())
        if not value:
            continue
        lines.append(f"{name} = {' '.join(value.split())}")
        for part in value.split():
            path = Path(part.removeprefix("file://"))
            if path.is_absolute() and path.exists():
                # An index on disk names files that lie beside it.
                shared = path.parent if part.startswith("file://") else path
                mounts.append(f"{shared}:{shared}:ro")
    settings = folder / "pip.conf"
    settings.write_text("\n".join(lines) + "\n")
    return [f"{settings}:/etc/pip.conf:ro", *mounts]


@contextmanager
def served(builder: Builder, container: str, log: Path) -> Iterator[str]:
    """The container's node, ready; its own command, as its own user."""
    port = free_rest_port(first=28_080, nodes=1)
    with log.open("wb") as output:
        process = subprocess.Popen(
            builder.command(
                *("run", "--isolation", "chroot"),
                *("--env", f"DEDGEAI_REST_PORT={port}"),
                *("--env", f"DEDGEAI_GRPC_PORT={port + 1000}"),
                *(container, "--", "tini", "--", "dedgeai", "node"),
            ),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        until_s = time.monotonic() + READY_S_MAX
        while not is_ready(url):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < until_s, "not ready"
            time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def is_ready(url: str) -> bool:
    """Whether the node would draw."""
    try:
        return httpx.get(f"{url}/readyz", timeout=2.0, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False

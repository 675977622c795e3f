"""A real nginx with a prefix before a real node: every link that is given out leads somewhere."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI

from edge_node.console.local_cluster import LocalCluster
from tests.deploy.files import tool
from tests.system.local import EMULATED, free_port, on_cluster

CONF = """
daemon off; pid {folder}/nginx.pid; error_log stderr warn; worker_processes 1;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port};
    location /draw/ {{
      proxy_pass {node}{strips};
      proxy_set_header Host 127.0.0.1;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Prefix /draw;
    }}
  }}
}}
"""


@asynccontextmanager
async def nginx(folder: Path, node: str, *, strips: str) -> AsyncIterator[str]:
    port = free_port(1)
    conf = folder / "nginx.conf"
    conf.write_text(CONF.format(folder=folder, port=port, node=node, strips=strips))
    process = subprocess.Popen([tool("nginx"), "-p", str(folder), "-c", str(conf)])
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            async with asyncio.timeout(10):
                while True:
                    try:
                        await http.get(f"http://127.0.0.1:{port}/")
                        break
                    except httpx.TransportError:
                        await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}/draw"
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.mark.parametrize("strips", ["/", ""], ids=["prefix taken off", "prefix left"])
def test_every_link_works_behind_a_prefix(tmp_path: Path, strips: str) -> None:
    tool("nginx")

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        async with nginx(tmp_path, cluster.urls[0], strips=strips) as base:
            async with AsyncOpenAI(base_url=f"{base}/v1", api_key="none") as client:
                drawn = await client.images.generate(
                    prompt="a fox", model="dall-e-2", response_format="url"
                )
                assert drawn.data
                url = drawn.data[0].url or ""
                assert url.startswith(f"{base}/v1/tasks/")
                assert (await http.get(url)).headers["content-type"] == "image/png"
            root = base.removesuffix("/draw")
            made = await http.post(f"{base}/v1/tasks", json={"prompt": "a", "n": 2})
            job = (await http.get(root + made.headers["location"])).json()
            for task in job["tasks"]:
                async with asyncio.timeout(30):
                    while True:
                        shown = (await http.get(f"{base}/v1/tasks/{task['id']}")).json()
                        if shown["status"] == "completed":
                            break
                        await asyncio.sleep(0.1)
                image = await http.get(root + shown["image_url"])
                assert image.content[:4] == b"\x89PNG"

    on_cluster(tmp_path / "cluster", EMULATED, test=test)

"""A judge before real nodes: what it refuses is not drawn, or drawn and not kept."""

from __future__ import annotations

import asyncio
import base64
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, on_cluster, submit, wait_for
from tests.system.test_image_to_image import photo

pytestmark = pytest.mark.system
# Refuses requests by a word, and images by another, once the file beside it says so.
JUDGE = """
import json, pathlib, sys, time
question = json.load(sys.stdin)
with open({told!r}, "a") as told:
    told.write(question["stage"] + " " + question["prompt"] + chr(10))
if question["prompt"] == "slow image" and question["stage"] == "image":
    time.sleep(60)
allow = question["prompt"] != "bad " + question["stage"]
print(json.dumps({{"allow": allow, "reason": "Not here."}}))
"""


def judged_by(folder: Path) -> tuple[dict[str, Any], Path]:
    told = folder / "told"
    judge = folder / "judge.py"
    judge.write_text(JUDGE.format(told=str(told)))
    command = ",".join([sys.executable, "-I", "-S", str(judge)])
    return {**EMULATED, "moderation_command": command, "moderation_timeout_s": 10.0}, told


def test_what_is_refused_is_not_drawn_or_not_kept(tmp_path: Path) -> None:
    settings, told = judged_by(tmp_path)

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        init_image = base64.b64encode(photo("red")).decode()
        body = {"prompt": "bad request", "n": 2, "init_image": init_image}
        refused = await http.post(f"{url}/v1/tasks", json=body)
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "moderation_blocked"
        assert refused.json()["error"]["message"] == "Not here."
        data = cluster.folder / cluster.node_ids[0]
        assert not list((data / "init_images").iterdir()), "nor is it kept"
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            drawn = await client.images.generate(prompt="good", model="default", n=2)
            assert len(drawn.data or []) == 2
            with pytest.raises(openai.BadRequestError, match="Not here"):
                await client.images.generate(prompt="bad image", model="default")
            # Nothing is shown before it was judged.
            events = await client.images.generate(
                prompt="good", model="default", stream=True, partial_images=2
            )
            kinds = [event.type async for event in events]
            assert kinds.count("image_generation.completed") == 1
        previews = await submit(http, url, "bad image", partial_images=3, num_inference_steps=8)
        ended = await wait_for(http, url, previews["id"])
        assert (ended["status"], ended["error"]["code"]) == ("failed", "moderation_blocked")
        shown = (await http.get(f"{url}/v1/tasks/{previews['id']}/events")).text
        assert "preview" not in shown
        image = await http.get(f"{url}/v1/tasks/{previews['id']}/image")
        assert image.status_code == 409
        lines = told.read_text().splitlines()
        assert lines.count("request good") == 2, "once a request, however many images"
        assert lines.count("image good") == 3
        kept = {path.stem for path in (data / "images").iterdir()}
        assert len(kept) == 3
        assert previews["id"] not in kept
        metrics = (await http.get(f"{url}/metrics")).text
        assert 'dedgeai_moderated_total{stage="image",verdict="refused"} 2.0' in metrics

    on_cluster(tmp_path, settings, test=test)


def test_an_image_that_was_not_judged_when_its_node_died_is_asked_about_again(
    tmp_path: Path,
) -> None:
    settings, told = judged_by(tmp_path)

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        task = await submit(http, url, "slow image", num_inference_steps=2)
        async with asyncio.timeout(20):
            while not told.exists() or "image slow" not in told.read_text():
                await asyncio.sleep(0.05)
        cluster.signal_node(0, signal.SIGKILL)
        cluster.wait_node(0)
        kept = cluster.folder / cluster.node_ids[0] / "images"
        assert not list(kept.iterdir()), "nothing lies there before it was judged"
        judge = tmp_path / "judge.py"
        judge.write_text(judge.read_text().replace("time.sleep(60)", "pass"))
        cluster.start_node(0)
        ended = await wait_for(http, url, task["id"])
        assert ended["status"] == "completed"
        assert told.read_text().splitlines().count("image slow image") == 2
        assert told.read_text().splitlines().count("request slow image") == 1

    on_cluster(tmp_path, settings, test=test)

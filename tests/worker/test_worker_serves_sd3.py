"""The worker process with a real model: from loading to image, and models it must refuse."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image as PillowImage
from PIL import ImageChops

from edge_node.domain import (
    AttemptFinished,
    Drawing,
    Fence,
    StepFinished,
    TaskId,
    WorkerDescription,
)
from edge_node.errors import WorkerUnavailable
from edge_node.supervision.worker_client import WorkerClient
from edge_node.worker_options import WorkerOptions

pytestmark = [pytest.mark.system, pytest.mark.model]


@pytest.fixture
def socket_path() -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory(prefix="dedgeai-", dir="/tmp") as name:
        yield pathlib.Path(name) / "w.sock"


def started(socket_path: pathlib.Path, folder: pathlib.Path) -> subprocess.Popen[bytes]:
    options = WorkerOptions.from_json(json.dumps({"model": str(folder)}))
    return subprocess.Popen(
        options.command(socket_path),
        # A proxy that leads nowhere: whoever asks a hub fails at once.
        env={**os.environ, "https_proxy": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"},
        stderr=subprocess.DEVNULL,
    )


async def settled(client: WorkerClient) -> tuple[WorkerDescription, list[str]]:
    states: list[str] = []
    give_up_s = time.monotonic() + 60.0
    while time.monotonic() < give_up_s:
        try:
            description = await client.describe()
        except WorkerUnavailable:
            await asyncio.sleep(0.05)
            continue
        if description.state not in states:
            states.append(description.state)
        if description.state in ("ready", "failed"):
            return description, states
        await asyncio.sleep(0.02)
    raise AssertionError(f"not settled, only {states}")


def test_it_draws_two_sizes_at_once_and_the_seed_decides(
    random_sd3_folder: pathlib.Path, socket_path: pathlib.Path
) -> None:
    async def draw(client: WorkerClient, name: str, **changes: Any) -> AttemptFinished:
        base = {
            "prompt": "a red circle",
            "width_px": 32,
            "height_px": 32,
            "steps": 4,
            "guidance_scale": 5.0,
            "seed": 1,
            "model": "random-sd3",
        }
        drawing = Drawing(**{**base, **changes})
        last = None
        async for last in client.draw(task_id=TaskId(name), fence=Fence(1, 1), drawing=drawing):
            if isinstance(last, StepFinished) and last.preview:
                assert PillowImage.open(io.BytesIO(last.preview)).size == (32, 32)
        assert isinstance(last, AttemptFinished), last
        return last

    async def scenario() -> None:
        client = WorkerClient(socket_path)
        description, states = await settled(client)
        assert states[0] == "loading"
        assert description.state == "ready", description.detail
        assert (description.size_px_min, description.size_px_max) == (16, 48)
        assert description.model_fingerprint
        small, again, other, wide = await asyncio.gather(
            draw(client, "a-1", previews=2),
            draw(client, "a-2"),
            draw(client, "a-3", seed=2, guidance_scale=1.0),
            draw(client, "a-4", width_px=48, height_px=16),
        )
        # Rounding may differ by a level with other batch mates.
        assert levels_apart(small, again) <= 1
        assert levels_apart(small, other) > 10
        assert (wide.image.width_px, wide.image.height_px) == (48, 16)
        assert small.image.emulated_device == ""
        assert small.image.prompt_tokens.cut == 0 < small.image.prompt_tokens.counted
        long = await draw(client, "a-5", prompt="a red circle " * 100, steps=1)
        assert long.image.prompt_tokens.counted > 200
        assert long.image.prompt_tokens.drawn == 75
        async for load in client.watch_load():
            assert (load.queued, load.running) == (0, 0)
            assert load.steps_done == 17
            break
        await client.close()

    process = started(socket_path, random_sd3_folder)
    try:
        asyncio.run(scenario())
    finally:
        process.terminate()
        assert process.wait(10) == 0


def levels_apart(one: AttemptFinished, other: AttemptFinished) -> int:
    """Largest difference of two images in levels of 256."""
    both = (PillowImage.open(io.BytesIO(finished.image.content)) for finished in (one, other))
    bands: Any = ImageChops.difference(*both).getextrema()
    return int(max(band[1] for band in bands))


@pytest.mark.parametrize("damage", ["missing", "truncated", "no-weights"])
def test_a_model_it_cannot_load_is_told_with_what_to_do(
    random_sd3_folder: pathlib.Path,
    socket_path: pathlib.Path,
    tmp_path: pathlib.Path,
    damage: str,
) -> None:
    folder = tmp_path / "model"
    if damage != "missing":
        shutil.copytree(random_sd3_folder, folder)
        weights_path = next((folder / "transformer").glob("*.safetensors"))
        if damage == "truncated":
            weights_path.write_bytes(weights_path.read_bytes()[:-7])
        else:
            weights_path.unlink()

    async def scenario() -> WorkerDescription:
        client = WorkerClient(socket_path)
        description, _ = await settled(client)
        with pytest.raises(WorkerUnavailable, match=str(folder)):
            async for _ in client.draw(
                task_id=TaskId("a-1"),
                fence=Fence(1, 1),
                drawing=Drawing(
                    prompt="",
                    width_px=32,
                    height_px=32,
                    steps=1,
                    guidance_scale=1,
                    seed=0,
                    model="",
                ),
            ):
                pass
        await client.close()
        return description

    process = started(socket_path, folder)
    try:
        description = asyncio.run(scenario())
    finally:
        process.terminate()
        assert process.wait(10) == 0
    assert description.state == "failed"
    what_to_do = {
        "missing": "point --model at",
        "truncated": "copy it again",
        "no-weights": "copy the model again",
    }
    assert what_to_do[damage] in description.detail

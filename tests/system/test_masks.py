"""Masks in a real cluster with a real model: what is kept is what it was, whoever draws."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import decoded, image_of, on_cluster, submit, wait_for

pytestmark = pytest.mark.system
TINY = {"torch_threads": 1, "policy": "round_robin"}


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def test_a_part_is_drawn_anew_and_the_rest_stays(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        first = await submit(http, cluster.urls[0], "a large red circle on a blue background")
        await wait_for(http, cluster.urls[0], first["id"])
        photo = await image_of(http, cluster.urls[0], first["id"])
        width_px, height_px = photo.size
        mask = Image.new("RGBA", photo.size, (0, 0, 0, 255))
        mask.paste((0, 0, 0, 0), (width_px // 2, 0, width_px, height_px))
        async with openai.AsyncOpenAI(base_url=f"{cluster.urls[0]}/v1", api_key="none") as client:
            answers = await asyncio.gather(
                *(
                    client.images.with_raw_response.edit(
                        image=("p.png", png(photo)),
                        mask=("m.png", png(mask)),
                        prompt="a large green square on a yellow background",
                        extra_body={"seed": seed},
                    )
                    for seed in range(4)
                )
            )
        assert {answer.headers["x-dedgeai-executor"] for answer in answers} == {"node-0", "node-1"}
        before = np.asarray(photo, dtype=float)
        # Two pixels of the latent away from the edge, where the autoencoder mixes both sides.
        kept, anew = np.s_[:, : width_px // 2 - 16], np.s_[:, width_px // 2 + 16 :]
        for answer in answers:
            (image,) = answer.parse().data or []
            after = np.asarray(decoded(base64.b64decode(image.b64_json or "")), dtype=float)
            assert np.abs(after[kept] - before[kept]).mean() < 6.0, "as far as the autoencoder goes"
            assert np.abs(after[anew] - before[anew]).mean() > 30.0

    on_cluster(tmp_path, TINY, TINY, test=test)

"""A LoRA in a real cluster: a model of its own, drawn where it is and nowhere else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import save_file

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import image_of, on_cluster, submit, wait_for

pytestmark = pytest.mark.system
TINY = {"torch_threads": 1, "policy": "round_robin"}
PROMPT = "a large red circle on a blue background"


def write_lora(path: Path) -> None:
    """One that changes what every block makes of the picture."""
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for block in range(2):
        name = f"transformer.transformer_blocks.{block}.ff.net.2"
        tensors[f"{name}.lora_A.weight"] = torch.randn(4, 512, generator=generator) * 0.05
        tensors[f"{name}.lora_B.weight"] = torch.randn(128, 4, generator=generator) * 0.3
    path.parent.mkdir()
    save_file(tensors, path)


def test_a_variant_is_a_model_of_its_own(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        for url in cluster.urls:  # also where nobody put the file
            async with asyncio.timeout(20):
                names: list[str] = []
                while "tiny-sd3+ink" not in names:
                    listed = (await http.get(f"{url}/v1/models")).json()["data"]
                    names = [one["id"] for one in listed if "alias_of" not in one]
                    await asyncio.sleep(0.1)
            assert names == ["tiny-sd3", "tiny-sd3+ink"]
        (peer,) = (await http.get(f"{cluster.urls[0]}/v1/cluster")).json()["peers"]
        assert peer["models"] == ["tiny-sd3", "tiny-sd3+ink"]
        pictures = {}
        for model in ("tiny-sd3", "tiny-sd3+ink"):
            executors = set()
            for url in cluster.urls * 2:
                task = await submit(http, url, PROMPT, model=model, seed=3)
                ended = await wait_for(http, url, task["id"])
                assert (ended["status"], ended["model"]) == ("completed", model), ended
                executors.add(ended["executor"])
                image = await image_of(http, url, task["id"])
                assert f"Model: {model}" in image.info["parameters"]
                pictures[model] = image.tobytes()
            assert executors == ({"node-1"} if "+" in model else {"node-0", "node-1"})
        assert pictures["tiny-sd3"] != pictures["tiny-sd3+ink"]
        unknown = await http.post(
            f"{cluster.urls[0]}/v1/tasks", json={"prompt": "a", "model": "tiny-sd3+oil"}
        )
        assert unknown.status_code == 404
        assert "tiny-sd3+ink" in unknown.json()["error"]["message"]

    write_lora(tmp_path / "loras" / "ink.safetensors")
    on_cluster(tmp_path / "data", TINY, {**TINY, "lora_folder": str(tmp_path / "loras")}, test=test)

"""AUTOMATIC1111's surface by the real webuiapi, and as Open WebUI and SillyTavern ask it."""

from __future__ import annotations

import asyncio
import base64
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import webuiapi
from PIL import Image

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, on_cluster

pytestmark = pytest.mark.system
MODEL = "sd3-medium-emulated"


def on_a_node(folder: Path, story: Any, **settings: Any) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        await story(cluster.urls[0], http)

    on_cluster(folder, {**EMULATED, **settings}, test=test)


def client_of(url: str) -> Any:
    return webuiapi.WebUIApi(baseurl=f"{url}/sdapi/v1", steps=4)


def test_webuiapi_runs_unchanged(tmp_path: Path) -> None:
    def use(url: str) -> None:
        api = client_of(url)
        assert api.util_get_model_names() == [MODEL]
        assert api.util_get_current_model() == MODEL
        assert "Euler" in api.util_get_sampler_names()
        assert "automatic" in api.util_get_scheduler_names()
        api.util_set_model(MODEL)
        api.util_wait_for_ready(check_interval=0.1)
        assert (api.get_loras(), api.get_prompt_styles()) == ([], [])
        assert (api.get_memory().keys(), bool(api.get_cmd_flags())) == ({"ram", "cuda"}, True)
        one = api.txt2img(prompt="a fox", negative_prompt="rain", seed=7, width=512, height=768)
        assert one.image.size == (512, 768)
        assert (one.info["seed"], one.info["negative_prompt"]) == (7, "rain")
        assert "Seed: 7" in one.info["infotexts"][0]
        assert one.parameters["prompt"] == "a fox"
        four = api.txt2img(prompt="a fox", seed=1, batch_size=2, n_iter=2)
        assert len(four.images) == 4
        assert four.info["all_seeds"] == [1, 2, 3, 4]
        photo = Image.new("RGB", (512, 512), "red")
        changed = api.img2img(images=[photo], prompt="a fox", denoising_strength=0.5)
        assert changed.image.size == (512, 512)

    async def story(url: str, http: httpx.AsyncClient) -> None:
        await asyncio.to_thread(use, url)

    on_a_node(tmp_path, story)


def test_progress_is_told_and_what_is_interrupted_ends(tmp_path: Path) -> None:
    def use(url: str) -> None:
        api = client_of(url)
        done: list[Any] = []

        def draw() -> None:
            done.append(api.txt2img(prompt="a fox", steps=40, batch_size=3))

        drawing = threading.Thread(target=draw)
        drawing.start()
        shares: list[float] = []
        previewed = False
        while len(shares) < 3 or not previewed:
            told = client_of(url).get_progress()
            if told["state"]["sampling_step"] > 0:
                shares.append(told["progress"])
                previewed |= bool(told["current_image"])
                assert told["state"]["sampling_steps"] == 40
                assert told["state"]["job_count"] == 3
                assert told["eta_relative"] > 0
        assert 0 < shares[0] < shares[-1] < 1
        assert previewed
        client_of(url).interrupt()
        drawing.join(timeout=10)
        assert not drawing.is_alive()
        assert len(done[0].images) < 3
        assert client_of(url).get_progress()["state"]["job_count"] == 0

    async def story(url: str, http: httpx.AsyncClient) -> None:
        await asyncio.to_thread(use, url)
        named = {"prompt": "a", "steps": 30, "force_task_id": "task(x)"}
        drawing = asyncio.create_task(http.post(f"{url}/sdapi/v1/txt2img", json=named))
        ask = {"id_task": "task(x)", "id_live_preview": -1}
        async with asyncio.timeout(20):
            while True:
                told = (await http.post(f"{url}/internal/progress", json=ask)).json()
                if told["active"] and told["live_preview"]:
                    break
                await asyncio.sleep(0.02)
        head, _, text = told["live_preview"].partition(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(text)[:4] == b"\x89PNG"
        assert (await drawing).status_code == 200
        assert (await http.post(f"{url}/internal/progress", json=ask)).json()["completed"]
        # What somebody else cancels is not drawn, and no success.
        drawing = asyncio.create_task(http.post(f"{url}/sdapi/v1/txt2img", json=named))
        async with asyncio.timeout(20):
            while not (job := (await _progress(http, url))["state"]["job"]):
                await asyncio.sleep(0.02)
        await http.delete(f"{url}/v1/tasks/{job}")
        failed = await drawing
        assert (failed.status_code, failed.json()["error"]) == (500, "cancelled")

    on_a_node(tmp_path, story)


async def _progress(http: httpx.AsyncClient, url: str) -> Any:
    return (await http.get(f"{url}/sdapi/v1/progress")).json()


def test_what_open_webui_and_sillytavern_send(tmp_path: Path) -> None:
    async def story(url: str, http: httpx.AsyncClient) -> None:
        base = f"{url}/sdapi/v1"
        # SillyTavern, with HTTP Basic, before it draws.
        auth = httpx.BasicAuth("user", "password")
        options = (await http.get(f"{base}/options", auth=auth)).json()
        assert options["sd_model_checkpoint"] == MODEL
        assert "forge_preset" not in options
        for name in ("upscalers", "latent-upscale-modes", "samplers", "schedulers"):
            listed = (await http.get(f"{base}/{name}")).json()
            assert all(one["name"] for one in listed)
        assert (await http.get(f"{base}/sd-vae")).json() == []
        model = {"sd_model_checkpoint": MODEL}
        assert (await http.post(f"{base}/options", json=model)).status_code == 200
        progress = (await http.get(f"{base}/progress")).json()
        assert (progress["progress"], progress["state"]["job_count"]) == (0, 0)
        silly = {
            "prompt": "a fox",
            "negative_prompt": "",
            "sampler_name": "Euler a",
            "scheduler": "Normal",
            "steps": 4,
            "cfg_scale": 7,
            "width": 512,
            "height": 512,
            "enable_hr": False,
            "denoising_strength": 0.7,
            "clip_skip": 1,
            "seed": -1,
            "override_settings": {"CLIP_stop_at_last_layers": 1},
            "override_settings_restore_afterwards": True,
            "save_images": True,
            "send_images": True,
            "do_not_save_grid": False,
            "do_not_save_samples": False,
        }
        drawn = (await http.post(f"{base}/txt2img", json=silly)).json()
        assert base64.b64decode(drawn["images"][0])[:4] == b"\x89PNG"
        # Open WebUI without an engine chosen.
        (model,) = (await http.get(f"{base}/sd-models")).json()
        assert model["model_name"] == model["title"] == MODEL
        webui = {"prompt": "a fox", "batch_size": 1, "width": 512, "height": 512, "steps": 5}
        drawn = (await http.post(f"{base}/txt2img", json=webui)).json()
        assert len(drawn["images"]) == 1

        for path, body, status in (
            ("txt2img", {"prompt": ""}, 400),
            ("txt2img", {"prompt": "a", "batch_size": 99}, 400),
            ("txt2img", {"prompt": "a", "override_settings": {"sd_model_checkpoint": "x"}}, 404),
            ("img2img", {"prompt": "a"}, 400),
            ("img2img", {"prompt": "a", "init_images": ["%%"]}, 400),
            ("options", {"sd_model_checkpoint": "x"}, 404),
        ):
            refused = await http.post(f"{base}/{path}", json=body)
            assert refused.status_code == status, refused.text
            assert set(refused.json()) == {"error", "detail", "body", "errors"}
            assert refused.json()["detail"]
        assert (await http.get(f"{base}/nothing")).status_code == 404

    on_a_node(tmp_path, story)

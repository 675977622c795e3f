"""AUTOMATIC1111's surface: which model draws, and what cannot be said again in an answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from PIL import Image

from edge_node.access.keys import ANYBODY
from edge_node.api.chosen_models import ChosenModels
from tests.api.memory_front_desk import LIMITS, MemoryFrontDesk
from tests.api.served import Served, served
from tests.api.uploaded import encoded, halves, in_base64

JSON = {"Content-Type": "application/json"}


def run(story: Callable[[Served], Awaitable[None]]) -> None:
    async def life() -> None:
        desk = MemoryFrontDesk()
        desk.served = {name: replace(LIMITS, model=name) for name in ("tiny-sd3", "other")}
        async with served(desk, client_of_key=lambda key: replace(ANYBODY, id=key or "")) as node:
            await story(node)

    asyncio.run(life())


def test_the_model_that_a_client_chose_draws_until_it_chooses_another() -> None:
    async def choose(node: Served, name: str, key: str) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        body = {"sd_model_checkpoint": name}
        answer = await node.http.post("/sdapi/v1/options", json=body, headers=headers)
        assert answer.status_code == 200

    async def drawn_by(node: Served, key: str, **more: object) -> str:
        headers = {"Authorization": f"Bearer {key}"}
        body = {"prompt": "a", **more}
        answer = await node.http.post("/sdapi/v1/txt2img", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        options = (await node.http.get("/sdapi/v1/options", headers=headers)).json()
        model = node.front_desk.submitted[-1][0][0].model
        assert more or options["sd_model_checkpoint"] == model
        return model

    async def story(node: Served) -> None:
        await choose(node, "other", "alice")
        assert await drawn_by(node, "alice") == "other"
        assert await drawn_by(node, "bob") == "tiny-sd3"
        named = {"override_settings": {"sd_model_checkpoint": "tiny-sd3"}}
        assert await drawn_by(node, "alice", **named) == "tiny-sd3"
        assert await drawn_by(node, "alice") == "other"
        del node.front_desk.served["other"]
        headers = {"Authorization": "Bearer alice"}
        gone = await node.http.post("/sdapi/v1/txt2img", json={"prompt": "a"}, headers=headers)
        assert gone.status_code == 404
        assert "Served are: tiny-sd3." in gone.json()["detail"]
        await choose(node, "dall-e-3", "alice")
        assert await drawn_by(node, "alice") == "tiny-sd3"

    run(story)


def test_a_key_makes_a_repetition_the_same_request() -> None:
    async def story(node: Served) -> None:
        photo = in_base64(encoded(halves(96, 64)))
        bodies = {"txt2img": {}, "img2img": {"init_images": [photo]}}
        for path, more in bodies.items():
            seeds = []
            for prompt, status in (("a", 200), ("a", 200), ("b", 409)):
                answer = await node.http.post(
                    f"/sdapi/v1/{path}",
                    json={"prompt": prompt, **more},
                    headers={"Idempotency-Key": path},
                )
                assert answer.status_code == status, answer.text
                seeds.append(json.loads(answer.json()["info"])["seed"] if status == 200 else 0)
            assert seeds[0] == seeds[1]
        assert len(node.front_desk.submitted) == 2

    run(story)


@pytest.mark.parametrize(
    ("sent", "count", "named"),
    [
        ({"batch_size": "2", "n_iter": 2.0}, 4, ""),
        ({"batch_size": 0, "n_iter": None}, 1, ""),
        ({"batch_size": -1, "n_iter": -1}, 0, "`batch_size` and `n_iter`"),
        ({"batch_size": True}, 0, "`batch_size` and `n_iter`"),
        ({"batch_size": 11}, 0, "`batch_size` times `n_iter` is 11"),
        ({"steps": 999}, 0, "`steps` is 999"),
        ({"cfg_scale": 99}, 0, "`cfg_scale` is 99"),
        ({"denoising_strength": 2}, 0, "`denoising_strength` is 2"),
        ({"mask_blur": None}, 1, ""),
    ],
)
def test_fields_are_read_as_meant_and_refused_by_their_own_names(
    sent: dict[str, object], count: int, named: str
) -> None:
    async def story(node: Served) -> None:
        photo = in_base64(encoded(halves(96, 64)))
        white = in_base64(encoded(Image.new("L", (96, 64), "white")))
        body = {"prompt": "a", "init_images": [photo], "mask": white, **sent}
        answer = await node.http.post("/sdapi/v1/img2img", json=body)
        if count:
            assert len(answer.json()["images"]) == count
        else:
            assert answer.status_code == 400
            assert named in answer.json()["detail"]

    run(story)


def test_choices_are_bounded() -> None:
    chosen = ChosenModels()
    for index in range(1500):
        chosen.choose(str(index), "other")
    assert (chosen.of("499"), chosen.of("500")) == (None, "other")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {"x": ["\ud800"]}])
@pytest.mark.parametrize("name", ["styles", "sampler_name", "\ud800"])
def test_what_cannot_be_said_again_is_refused_before_it_is_drawn(name: str, value: object) -> None:
    async def story(node: Served) -> None:
        body = json.dumps({"prompt": "a", name: value})
        answer = await node.http.post("/sdapi/v1/txt2img", content=body, headers=JSON)
        assert answer.status_code == 400, answer.text
        assert "leave it out" in answer.json()["detail"]
        assert node.front_desk.submitted == []

    run(story)

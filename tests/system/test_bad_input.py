"""Bad input to a real node: a clear error that names the field and the range, and no task."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, on_cluster

pytestmark = pytest.mark.system
UNKNOWN = "node-0-01ARZ3NDEKTSV4RRFFQ69G5FAV"
STRANGE = "no-such-node-01ARZ3NDEKTSV4RRFFQ69G5FAV"
# Body, field at fault, what the message must say.
JSON = {"Content-Type": "application/json"}
BAD_BODIES: list[tuple[str, str | None, str]] = [
    ('{"prompt": ""}', "prompt", "must not be empty"),
    ('{"prompt": "%s"}' % ("x" * 32_001), "prompt", "at most 32000"),
    ('{"prompt": 5}', "prompt", "valid string"),
    ('{"prompt": "x", "size": "520x510"}', "size", "multiples of 16"),
    ('{"prompt": "x", "size": "4096x4096"}', "size", "from 256 to 1024"),
    ('{"prompt": "x", "num_inference_steps": 0}', "num_inference_steps", "from 1 to 100"),
    ('{"prompt": "x", "num_inference_steps": 10000}', "num_inference_steps", "from 1 to 100"),
    ('{"prompt": "x", "guidance_scale": NaN}', "guidance_scale", "from 0.0 to 30.0"),
    ('{"prompt": "x", "n": "two"}', "n", "valid integer"),
    ('{"prompt": ', None, "not valid JSON"),
]


def test_every_bad_body_is_refused_by_name_and_range(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        for path in ("/v1/tasks", "/v1/images/generations"):
            for body, param, said in BAD_BODIES:
                answer = await http.post(f"{url}{path}", content=body, headers=JSON)
                error = answer.json()["error"]
                assert (answer.status_code, error["param"]) == (400, param), body[:80]
                assert said in error["message"]
            body = '{"prompt": "x", "model": "dall-e-9"}'
            answer = await http.post(f"{url}{path}", content=body, headers=JSON)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        # A node that has just begun does not know yet which others there are.
        async with asyncio.timeout(10):
            while (await http.get(f"{url}/v1/tasks/{STRANGE}")).status_code == 503:
                await asyncio.sleep(0.1)
        for verb, path in (
            ("GET", f"/v1/tasks/{UNKNOWN}"),
            ("DELETE", f"/v1/tasks/{UNKNOWN}"),
            ("GET", f"/v1/tasks/{UNKNOWN}/events"),
            ("GET", f"/v1/tasks/{UNKNOWN}/image"),
            ("GET", f"/v1/jobs/{UNKNOWN}"),
            ("GET", f"/v1/tasks/{STRANGE}"),
            ("GET", "/v1/tasks/%2e%2e%2fnode.lock"),
        ):
            answer = await http.request(verb, f"{url}{path}")
            assert answer.status_code == 404, (verb, path, answer.text)
            assert answer.json()["error"]["message"]
        view = (await http.get(f"{url}/v1/cluster")).json()
        assert view["tasks_in_flight"] == 0
        metrics = (await http.get(f"{url}/metrics")).text
        assert "dedgeai_tasks_accepted_total 0.0" in metrics

    # Without it clients of OpenAI's API get the nearest size that can be drawn.
    on_cluster(tmp_path, EMULATED | {"size_policy": "exact"}, test=test)

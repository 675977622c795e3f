"""What well-known clients send where nobody changed a setting but the address, on a real node.

Each request is as the client of that version sent it to a listener that wrote it down ("captured"),
or as its source builds it ("source"). What a client reads of the answer is asked for, too.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import decoded, image_of, on_cluster, submit, wait_for
from tests.system.test_masks import png

pytestmark = pytest.mark.system
PROMPT = "a large red circle on a blue background"


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A request of a client.

    Attributes:
        client: its name and version, and how its request is known.
        document: of POST /v1/images/generations, but for the prompt.
        headers: beside those that every client sends.
        reads: where it looks for the image in an answer.
    """

    client: str
    document: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    reads: str = "b64_json"


REQUESTS = (
    Sent(client="litellm 1.110.2, captured", document={"model": "gpt-image-1"}),
    Sent(client="litellm 1.110.2, captured", document={"model": "dall-e-3"}, reads="url"),
    Sent(
        client="litellm 1.110.2, captured",
        document={"model": "dall-e-3", "n": 1, "quality": "hd", "size": "1024x1024"},
        reads="url",
    ),
    Sent(
        client="langchain-community 0.4.2, DallEAPIWrapper, captured",
        document={"model": "dall-e-2", "n": 1, "size": "1024x1024"},
        reads="url",
    ),
    Sent(
        client="LangChain for JavaScript, DallEAPIWrapper, source",
        document={"model": "dall-e-3", "n": 1, "size": "1024x1024"},
        reads="url",
    ),
    Sent(
        client="aiperf 0.13.0, image-generation, captured",
        document={"model": "gpt-image-1", "response_format": "b64_json", "n": 1},
        headers={
            "Accept": "application/json",
            "X-Request-ID": "a343addd-1165-4c41-b562-e437b8e5df94",
            "X-Correlation-ID": "2a0e7122-c3fd-4d40-b182-99adea7c3f80",
            "X-Session-Affinity": "2a0e7122-c3fd-4d40-b182-99adea7c3f80",
        },
    ),
    Sent(
        client="Open WebUI, engine openai, source",
        document={"model": "dall-e-2", "n": 1, "size": "512x512", "response_format": "b64_json"},
    ),
    Sent(
        client="n8n, OpenAI node, source",
        document={
            **{"model": "dall-e-3", "size": "1792x1024", "quality": "standard", "style": "vivid"},
            **{"n": 1, "response_format": "b64_json"},
        },
    ),
    Sent(
        client="n8n, OpenAI node with addresses, source",
        document={"model": "dall-e-2", "size": "1024x1024", "n": 1, "response_format": "url"},
        reads="url",
    ),
    Sent(
        client="LibreChat, image_gen_oai, source",
        document={
            **{"model": "gpt-image-1", "size": "auto", "quality": "auto", "background": "auto"},
            **{"n": 1, "output_format": "png"},
        },
    ),
    Sent(
        client="LibreChat, DALL-E 3, source",
        document={"model": "dall-e-3", "quality": "hd", "size": "1024x1024", "n": 1},
        reads="url",
    ),
    Sent(
        client="Nextcloud, integration_openai, source",
        document={"model": "dall-e-3", "n": 1, "size": "1024x1024"},
        reads="url",
    ),
)


async def image_in(http: httpx.AsyncClient, answer: httpx.Response, reads: str) -> bytes:
    [image] = answer.json()["data"]
    if reads == "b64_json":
        return base64.b64decode(image["b64_json"])
    fetched = await http.get(image["url"])
    assert fetched.status_code == 200, image["url"]
    return fetched.content


def test_clients_draw_as_they_come(tmp_path: Path) -> None:
    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url, key = cluster.urls[0], {"Authorization": "Bearer sk-x"}
        for sent in REQUESTS:
            answer = await http.post(
                f"{url}/v1/images/generations",
                json={"prompt": PROMPT, **sent.document},
                headers={**key, **sent.headers},
            )
            assert answer.status_code == 200, (sent.client, answer.text)
            picture = decoded(await image_in(http, answer, sent.reads))
            width_px, height_px = picture.size
            wide = sent.document.get("size") == "1792x1024"
            assert width_px / height_px == pytest.approx(1.75 if wide else 1.0, rel=0.15), sent
            assert answer.json()["model"] == "tiny-sd3", sent.client

    on_cluster(tmp_path, {"torch_threads": 1}, test=test)


def test_an_edit_of_litellm(tmp_path: Path) -> None:
    """Version 1.110.2, captured: its file is named by its whole path."""

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        first = await submit(http, url, PROMPT)
        await wait_for(http, url, first["id"])
        photo = png(await image_of(http, url, first["id"]))
        answer = await http.post(
            f"{url}/v1/images/edits",
            data={"model": "gpt-image-1", "prompt": "the same in green"},
            files={"image[]": ("/home/somebody/image.png", photo, "image/png")},
        )
        assert answer.status_code == 200, answer.text
        assert decoded(await image_in(http, answer, "b64_json")).size == decoded(photo).size

    on_cluster(tmp_path, {"torch_threads": 1}, test=test)

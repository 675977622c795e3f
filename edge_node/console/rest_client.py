"""A client that measures, for the commands and benchmarks of this project: it never asks again.

Users have the OpenAI SDK and `edge_node/client`.
"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from typing import Any, Self

import httpx

from edge_node.client.connection import key_header, trusted


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One request's end, as its client saw it.

    Attributes:
        delay_s: from the moment of sending to the last byte of the answer.
        content: the encoded image; empty when there was none.
        executor: the node that drew it; empty when there was no image.
        error: what the node said instead; empty when there was an image.
    """

    prompt: str
    node_url: str
    status_code: int
    delay_s: float
    sent_s: float
    content: bytes = b""
    executor: str = ""
    task_id: str = ""
    error: str = ""


class RestClient:
    """Talks to any number of nodes by their URLs."""

    def __init__(self, *, timeout_s: float, connections_max: int = 2000) -> None:
        limits = httpx.Limits(
            max_connections=connections_max, max_keepalive_connections=connections_max
        )
        self._http = httpx.AsyncClient(
            timeout=timeout_s,
            limits=limits,
            trust_env=False,
            headers=key_header(),
            verify=trusted(),
        )

    async def __aenter__(self) -> Self:
        """Opens nothing yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes all connections."""
        await self._http.aclose()

    async def cluster(self, node_url: str) -> dict[str, Any]:
        """The cluster as that node sees it."""
        response = await self._http.get(f"{node_url}/v1/cluster")
        response.raise_for_status()
        body: dict[str, Any] = response.json()
        return body

    async def is_ready(self, node_url: str) -> bool:
        """Whether the node would draw now."""
        try:
            response = await self._http.get(f"{node_url}/readyz", timeout=2.0)
        except httpx.TransportError:
            return False
        return response.status_code == 200

    async def why_failed(self, node_url: str) -> str | None:
        """Why the node's worker says that it cannot draw, where time alone will not mend it."""
        reasons = await self.why_not_ready(node_url)
        return next((one for one in reasons if one.startswith("the worker failed: ")), None)

    async def why_not_ready(self, node_url: str) -> list[str]:
        """What the node says of it; nothing where it is ready, or does not answer."""
        try:
            answer = (await self._http.get(f"{node_url}/readyz", timeout=2.0)).json()
        except (httpx.TransportError, ValueError):
            return []
        reasons = answer.get("reasons", []) if isinstance(answer, dict) else []
        return [str(one) for one in reasons]

    async def draw(self, node_url: str, prompt: str, **options: Any) -> Drawn:
        """POSTs one prompt and waits for its image.

        Args:
            node_url: such as http://127.0.0.1:8080.
            prompt: what to draw.
            options: further fields of the request, such as seed or num_inference_steps.
        """
        body = {"prompt": prompt, "response_format": "b64_json", **options}
        sent_s = time.perf_counter()
        try:
            response = await self._http.post(f"{node_url}/v1/images/generations", json=body)
        except httpx.HTTPError as error:
            delay_s = time.perf_counter() - sent_s
            return Drawn(
                prompt=prompt,
                node_url=node_url,
                status_code=0,
                delay_s=delay_s,
                sent_s=sent_s,
                error=f"{type(error).__name__}: {error}",
            )
        delay_s = time.perf_counter() - sent_s
        answer = response.json()
        if response.status_code != 200:
            error_text = answer.get("error", {}).get("message", response.text)
            return Drawn(
                prompt=prompt,
                node_url=node_url,
                status_code=response.status_code,
                delay_s=delay_s,
                sent_s=sent_s,
                error=error_text,
            )
        return Drawn(
            prompt=prompt,
            node_url=node_url,
            status_code=200,
            delay_s=delay_s,
            sent_s=sent_s,
            content=base64.b64decode(answer["data"][0]["b64_json"]),
            executor=response.headers.get("x-dedgeai-executor", ""),
            task_id=response.headers.get("x-dedgeai-task-id", ""),
        )

"""Tasks of a node that were tried and given up, for its operator: listed, and accepted anew."""

from __future__ import annotations

from typing import Any

import httpx

from edge_node.console.rest_client import key_header, trusted
from edge_node.errors import InvalidRequest, OriginUnavailable

ANSWER_S_MAX = 30.0
PROMPT_CHARS_SHOWN = 60


def dead_letters(node_url: str, *, retry: str | None) -> int:
    """Prints a line for each, or retries one or `all`; returns the exit code.

    Raises:
        OriginUnavailable: nobody answers.
        InvalidRequest: the node refuses, and why.
    """
    try:
        with httpx.Client(
            base_url=node_url,
            timeout=ANSWER_S_MAX,
            trust_env=False,
            verify=trusted(),
            headers=key_header(),
        ) as http:
            if retry is None:
                for task in _listed(http):
                    print(_line(task))
                return 0
            for task_id in [task["id"] for task in _listed(http)] if retry == "all" else [retry]:
                task = _checked(http.post(f"/v1/dead_letters/{task_id}/retry"))
                print(f"{task_id} is tried again as {task['id']}")
    except httpx.TransportError as error:
        raise OriginUnavailable(
            f"No node answers at {node_url} ({type(error).__name__}). Name another with --node."
        ) from None
    return 0


def _listed(http: httpx.Client) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = _checked(http.get("/v1/dead_letters"))["data"]
    return tasks


def _line(task: dict[str, Any]) -> str:
    prompt = task["prompt"].replace("\n", " ")[:PROMPT_CHARS_SHOWN]
    return f"{task['id']}  {task['error']['code']}: {task['error']['message']}  {prompt!r}"


def _checked(response: httpx.Response) -> Any:
    body = response.json()
    if response.is_error:
        raise InvalidRequest(body["error"]["message"])
    return body

"""Tasks of a node that were tried and given up, for its operator: listed, and accepted anew."""

from __future__ import annotations

from edge_node.client import Client, NodeUnreachable, Task
from edge_node.errors import OriginUnavailable

ANSWER_S_MAX = 30.0
PROMPT_CHARS_SHOWN = 60


def dead_letters(node_url: str, *, retry: str | None) -> int:
    """Prints a line for each, or retries one or `all`; returns the exit code.

    Raises:
        OriginUnavailable: nobody answers.
        RequestRefused: the node refuses, and why.
    """
    try:
        with Client(node_url, timeout_s=ANSWER_S_MAX) as client:
            if retry is None:
                for task in client.dead_letters():
                    print(_line(task))
                return 0
            for task_id in [one.id for one in client.dead_letters()] if retry == "all" else [retry]:
                print(f"{task_id} is tried again as {client.retry_dead_letter(task_id).id}")
    except NodeUnreachable as error:
        raise OriginUnavailable(f"{error.message} Name another with --node.") from None
    return 0


def _line(task: Task) -> str:
    prompt = (task.prompt or "").replace("\n", " ")[:PROMPT_CHARS_SHOWN]
    error = task.error or {}
    return f"{task.id}  {error.get('code')}: {error.get('message')}  {prompt!r}"

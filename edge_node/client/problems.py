"""What a client meets: a node that refuses, one that is not there, an answer that makes no sense.

Also when asking again is any use: that is what the node says of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import httpx

from edge_node.client.objects import NotUnderstood, Task
from edge_node.errors import DEdgeAIError, TaskFailed

# A node that is being started again is there within seconds.
UNREACHABLE_AGAIN_S = 1.0
# A node says something at least every 15 s, also when nothing happens.
STREAM_TIMEOUT = httpx.Timeout(10.0, read=60.0)


class RequestRefused(DEdgeAIError):
    """The node said no; `code`, `http_status` and `param` are as it said them.

    Attributes:
        request_id: by which the node's log names the request.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        http_status: int,
        param: str | None = None,
        retry_after_s: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        self.code = code
        self.http_status = http_status
        self.request_id = request_id


class NodeUnreachable(DEdgeAIError):
    """Nobody answers, or the answer broke off: what became of the request is not known."""

    code = "node_unreachable"
    http_status = 503
    grpc_status = "UNAVAILABLE"


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a client goes on asking.

    Attributes:
        tries_max: of one request, the first included.
        wait_s_max: the longest pause; a node that says to come later than that is not asked again.
    """

    tries_max: int = 10
    wait_s_max: float = 30.0

    def pause_s(self, problem: DEdgeAIError, *, tries: int) -> float | None:
        """Seconds until a request that failed `tries` times is sent again; None for never."""
        wait_s = problem.retry_after_s
        if wait_s is None or tries >= self.tries_max or wait_s > self.wait_s_max:
            return None
        return wait_s


def unreachable(address: str, problem: Exception, *, met: bool) -> NodeUnreachable:
    """In words: httpx names its own classes. One that never answered is not waited for."""
    if "://" not in address:
        return NodeUnreachable(
            f"{address} is no node's address: it begins with http:// or https://, "
            "as http://127.0.0.1:8080."
        )
    return NodeUnreachable(
        f"No node answers at {address} ({type(problem).__name__}).",
        retry_after_s=UNREACHABLE_AGAIN_S if met else None,
    )


def ended_early(address: str) -> NodeUnreachable:
    """A stream that is over, though not what it tells of: there is more, or it says that not."""
    return NodeUnreachable(f"The events from {address} ended too soon.", retry_after_s=0.0)


def task_failed(task: Task) -> TaskFailed:
    """Why a task that is over has no image."""
    error = task.error or {}
    return TaskFailed(
        error.get("message", f"The task was {task.status}."), code=error.get("code", task.status)
    )


def refusal_in(response: httpx.Response) -> DEdgeAIError | None:
    """Why a response, which has been read, is no answer; None where it is one."""
    if response.is_success:
        return None
    try:
        said = response.json()["error"]
        message, code, param = str(said["message"]), str(said["code"]), said.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        return NotUnderstood(
            f"{response.url} answered {response.status_code} without an error of a node's: is it "
            "the REST address of one?"
        )
    return RequestRefused(
        message,
        code=code,
        http_status=response.status_code,
        param=param,
        retry_after_s=_retry_after_s(response),
        request_id=response.headers.get("x-request-id", ""),
    )


def _retry_after_s(response: httpx.Response) -> float | None:
    if response.headers.get("x-should-retry") == "false":
        return None
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0.0 else None

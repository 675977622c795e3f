"""Everything that a client can ask of a node: one value per request, shared by both clients.

What cannot be sent at all is said here; limits are the node's to say.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote

import httpx

from edge_node.client.objects import (
    Cancelled,
    Cluster,
    Job,
    Model,
    NotUnderstood,
    Page,
    Readiness,
    Task,
    models_in,
    tasks_in,
)
from edge_node.errors import InvalidRequest

Answer = TypeVar("Answer")
Picture = bytes | str | Path
# What is done to a node: it takes no new work, gives back what it has of others as well, takes work
# again; and one that is dead is taken out of the cluster, or let in again.
Operation = Literal["pause", "drain", "resume", "remove", "readmit"]


class DrawingOptions(TypedDict, total=False):
    """What may be said of a drawing beside its prompt; the model's defaults where it is not.

    Attributes:
        size: WIDTHxHEIGHT in pixels.
        seed: of the first image; the i-th has seed + i.
        output_format: png, webp or jpeg; `output_compression` is its quality, 0..100.
        priority: larger is served first.
        deadline_s: seconds from now after which the image is of no use.
        partial_images: previews among the events, as many as there are steps at most.
        callback_url: where the end of each task is told, if the operator allows it.
    """

    model: str
    size: str
    seed: int
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str
    output_format: str
    output_compression: int
    priority: int
    deadline_s: float
    partial_images: int
    callback_url: str


@dataclass(frozen=True, kw_only=True)
class Call(Generic[Answer]):
    """One request, and how its answer is read.

    Attributes:
        taken: statuses beside the successful ones that are an answer.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], Answer]
    body: Mapping[str, Any] | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    taken: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What a node took: a task, or a job of several."""

    task: Task | None
    job: Job | None

    def demand_task(self) -> Task:
        """Of a request for one image."""
        if self.task is None:
            raise NotUnderstood("One task was asked for, and a job came.")
        return self.task

    def demand_job(self) -> Job:
        """Of a request for several."""
        if self.job is None:
            raise NotUnderstood("A job was asked for, and one task came.")
        return self.job


def submit(
    prompt: str,
    *,
    images: int | None = None,
    init_image: Picture | None = None,
    strength: float | None = None,
    mask: Picture | None = None,
    idempotency_key: str | None = None,
    options: Mapping[str, Any],
) -> Call[Accepted]:
    """POST /v1/tasks. With a key of its own it may be sent again, and is accepted once.

    Args:
        prompt: what to draw.
        images: how many; None for one task, which is no job.
        init_image: to start from: encoded, a path, or text that the node reads (a data: URL, an
            address that its operator allows).
        strength: how far from it to go, up to 1.
        mask: the same kind; what is transparent in it is drawn anew.
        idempotency_key: by which the same request is known; a new one if not given.
        options: as DrawingOptions.

    Raises:
        InvalidRequest: an image cannot be read, or a job of one is asked for.
    """
    if images is not None and images < 2:
        raise InvalidRequest(f"A job has two images or more, not {images}.", param="images")
    given = {
        "prompt": prompt,
        "n": images,
        "init_image": _picture(init_image, "init_image"),
        "strength": strength,
        "mask": _picture(mask, "mask"),
        **options,
    }
    return Call(
        method="POST",
        path="/v1/tasks",
        body={name: value for name, value in given.items() if value is not None},
        headers={"Idempotency-Key": idempotency_key or uuid.uuid4().hex},
        read=_accepted,
    )


def task(task_id: str) -> Call[Task]:
    """GET a task, whichever node has it."""
    return Call(method="GET", path=_of(task_id), read=_told(Task.of))


def job(job_id: str) -> Call[Job]:
    """GET a job, whichever node has it."""
    return Call(method="GET", path=_of_job(job_id), read=_told(Job.of))


def cancel(task_id: str) -> Call[Task]:
    """DELETE a task; one that is over stays as it is."""
    return Call(method="DELETE", path=_of(task_id), read=_told(Task.of))


def cancel_job(job_id: str) -> Call[Job]:
    """DELETE what is open of a job."""
    return Call(method="DELETE", path=_of_job(job_id), read=_told(Job.of))


def erase(task_id: str) -> Call[None]:
    """End a task and erase all that was wanted and drawn of it."""
    return Call(method="POST", path=f"{_of(task_id)}/erase", read=_nothing)


def erase_job(job_id: str) -> Call[None]:
    """The same of all tasks of a job."""
    return Call(method="POST", path=f"{_of_job(job_id)}/erase", read=_nothing)


def page(
    *, status: str | None, model: str | None, owner: str | None, limit: int, cursor: str | None
) -> Call[Page]:
    """GET a page of the tasks of all nodes."""
    given = {**_filter(status, model, owner), "limit": str(limit), "cursor": cursor}
    query = {name: value for name, value in given.items() if value}
    return Call(method="GET", path="/v1/tasks", query=query, read=_told(Page.of))


def cancel_all(*, status: str | None, model: str | None, owner: str | None) -> Call[Cancelled]:
    """DELETE every open task that a filter means; all of them without one."""
    query = _filter(status, model, owner) or {"all": "true"}
    return Call(method="DELETE", path="/v1/tasks", query=query, read=_told(Cancelled.of))


def image(task_id: str, *, thumbnail_px: int | None) -> Call[tuple[bytes, str]]:
    """GET the image of a task, with its media type."""
    query = {} if thumbnail_px is None else {"thumbnail": str(thumbnail_px)}
    return Call(method="GET", path=f"{_of(task_id)}/image", query=query, read=_content)


def models() -> Call[tuple[Model, ...]]:
    """GET all models that some live node serves."""
    return Call(method="GET", path="/v1/models", read=_told(models_in))


def cluster() -> Call[Cluster]:
    """GET all nodes as the one that is asked sees them."""
    return Call(method="GET", path="/v1/cluster", read=_told(Cluster.of))


def readiness() -> Call[Readiness]:
    """GET whether the node takes requests now."""
    return Call(method="GET", path="/readyz", read=_told(Readiness.of), taken=(503,))


def dead_letters() -> Call[tuple[Task, ...]]:
    """GET the tasks that the node tried and gave up."""
    return Call(method="GET", path="/v1/dead_letters", read=_told(tasks_in))


def retry_dead_letter(task_id: str) -> Call[Task]:
    """Have the node accept one of them anew."""
    path = f"/v1/dead_letters/{quote(task_id, safe='')}/retry"
    return Call(method="POST", path=path, read=_told(Task.of))


def operate(node_id: str, action: Operation) -> Call[None]:
    """Have a node take no new work, or what else `Operation` says."""
    path = f"/v1/nodes/{quote(node_id, safe='')}/{action}"
    return Call(method="POST", path=path, read=_agreed)


def events_path(task_id: str) -> str:
    """Where the events of a task are."""
    return f"{_of(task_id)}/events"


def job_events_path(job_id: str) -> str:
    """Where the events of a job are."""
    return f"{_of_job(job_id)}/events"


def _of(task_id: str) -> str:
    return f"/v1/tasks/{quote(task_id, safe='')}"


def _of_job(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _filter(status: str | None, model: str | None, owner: str | None) -> dict[str, str]:
    given = {"status": status, "model": model, "owner": owner}
    return {name: value for name, value in given.items() if value}


def _picture(picture: Picture | None, param: str) -> str | None:
    if picture is None or isinstance(picture, str):
        return picture
    try:
        content = picture.read_bytes() if isinstance(picture, Path) else picture
    except OSError as error:
        said = "The init image" if param == "init_image" else "The mask"
        raise InvalidRequest(f"{said} cannot be read: {error}.", param=param) from None
    return base64.b64encode(content).decode()


def _told(understand: Callable[[Any], Answer]) -> Callable[[httpx.Response], Answer]:
    return lambda response: understand(_json(response))


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise NotUnderstood(
            f"{response.url} did not answer with JSON: is it the REST address of a node?"
        ) from None


def _accepted(response: httpx.Response) -> Accepted:
    document = _json(response)
    is_job = isinstance(document, dict) and document.get("object") == "image.job"
    if is_job:
        return Accepted(task=None, job=Job.of(document))
    return Accepted(task=Task.of(document), job=None)


def _content(response: httpx.Response) -> tuple[bytes, str]:
    return response.content, response.headers.get("content-type", "").partition(";")[0]


def _agreed(response: httpx.Response) -> None:
    document = _json(response)
    if not isinstance(document, dict) or document.get("object") != "node":
        raise NotUnderstood(f"A node's answer was expected, and {document!r:.80} came.")


def _nothing(response: httpx.Response) -> None:
    """There is nothing to be read."""

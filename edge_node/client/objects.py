"""What a node answers, as frozen dataclasses; times in seconds, unix seconds where they end in _at.

A field that a newer node tells and this client does not know is left out; one that an older node
does not tell has its default. `document` holds all that was told.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from edge_node.errors import DEdgeAIError

_FINAL = ("completed", "failed", "cancelled")


class NotUnderstood(DEdgeAIError):
    """What answers there is no node, or one of a version that this client does not know."""

    code = "not_understood"
    http_status = 502


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a node told, and all of it as it came."""

    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Any) -> Self:
        """Reads a JSON object; raises NotUnderstood where a field is missing."""
        if not isinstance(document, dict):
            raise NotUnderstood(f"A {cls.__name__} was expected, and {document!r:.80} came.")
        known = {one.name for one in dataclasses.fields(cls)} - {"document"}
        told = {name: _frozen(document[name]) for name in known & document.keys()}
        try:
            return cls(document=document, **told)
        except TypeError as problem:
            raise NotUnderstood(f"What came is no {cls.__name__}: {problem}.") from None


@dataclass(frozen=True, kw_only=True)
class Task(Told):
    """A task, /v1/tasks/{id}.

    Attributes:
        progress: 0..100.
        node: that accepted it; `executor` draws it.
        eta_s: until its image, as expected now; 0 once it is over.
        moves: of its drawing, each with `from` and `to`, why (`reason`), and `expected_gain_s`.
        error: `code` and `message` of one that failed.
    """

    id: str
    status: str
    progress: int = 0
    prompt: str | None = None
    negative_prompt: str | None = None
    job_id: str | None = None
    node: str | None = None
    executor: str | None = None
    owner: str | None = None
    attempt: int = 0
    model: str | None = None
    size: str | None = None
    seed: int | None = None
    num_inference_steps: int | None = None
    steps_done: int = 0
    guidance_scale: float | None = None
    strength: float | None = None
    priority: int = 0
    queue_position: int | None = None
    eta_s: float = 0.0
    queue_s: float | None = None
    compute_s: float | None = None
    created_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    deadline_at: float | None = None
    durability: str | None = None
    policy: str | None = None
    image_bytes: int | None = None
    moves: tuple[Mapping[str, Any], ...] = ()
    error: Mapping[str, str] | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.status in _FINAL


@dataclass(frozen=True, kw_only=True)
class Erased(Told):
    """All that a list tells of a task that was erased."""

    id: str
    erased: bool = True


@dataclass(frozen=True, kw_only=True)
class Job(Told):
    """The tasks of one request, /v1/jobs/{id}; `progress` is the mean of theirs."""

    id: str
    status: str
    progress: int = 0
    eta_s: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    tasks: tuple[Task, ...] = ()

    @classmethod
    def of(cls, document: Any) -> Self:
        """As Told.of, with its tasks."""
        told = super().of(document)
        return dataclasses.replace(told, tasks=tuple(Task.of(one) for one in told.tasks))


@dataclass(frozen=True, kw_only=True)
class Missing(Told):
    """A node that did not answer, and why."""

    node: str | None = None
    address: str | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Page(Told):
    """Tasks of all nodes, newest first; `next_cursor` goes on. `missing` has those who are away."""

    tasks: tuple[Task | Erased, ...]
    next_cursor: str | None = None
    missing: tuple[Missing, ...] = ()

    @classmethod
    def of(cls, document: Any) -> Self:
        """As Told.of; its tasks are called `data` there."""
        found = _list_in(document)
        tasks = tuple(Erased.of(one) if "erased" in one else Task.of(one) for one in found)
        missing = tuple(Missing.of(one) for one in document.get("missing", ()))
        cursor = document.get("next_cursor")
        return cls(document=document, tasks=tasks, next_cursor=cursor, missing=missing)


@dataclass(frozen=True, kw_only=True)
class Cancelled(Told):
    """How many tasks were cancelled, and the nodes of whose tasks nothing is known."""

    cancelled: int
    missing: tuple[Missing, ...] = ()

    @classmethod
    def of(cls, document: Any) -> Self:
        """As Told.of, with its nodes."""
        told = super().of(document)
        return dataclasses.replace(told, missing=tuple(Missing.of(one) for one in told.missing))


@dataclass(frozen=True, kw_only=True)
class Event(Told):
    """Something that happened to a task.

    Attributes:
        type: queued, placed, started, step, moved, finished, failed, cancelled, among others.
        task_id: whose, where the stream is of several.
        step, steps: of a drawing's denoising steps, how many are done.
        move: of a "moved", `from` and `to` of which nodes, why (`reason`), and `expected_gain_s`.
        preview: PNG of the image as it is so far; empty without one.
    """

    type: str
    sequence: int = 0
    task_id: str | None = None
    created_at: float | None = None
    attempt: int = 0
    executor: str | None = None
    step: int = 0
    steps: int = 0
    progress: int = 0
    queue_position: int | None = None
    eta_s: float = 0.0
    error: Mapping[str, str] | None = None
    move: Mapping[str, Any] | None = None

    @property
    def is_final(self) -> bool:
        """Whether it is the last of its task."""
        return self.type in ("finished", "failed", "cancelled")

    @property
    def preview(self) -> bytes:
        """PNG; empty without one."""
        return base64.b64decode(self.document.get("preview_b64_json", ""))


@dataclass(frozen=True, kw_only=True)
class Image:
    """A drawn image, encoded, and its task."""

    content: bytes
    media_type: str
    task: Task


@dataclass(frozen=True, kw_only=True)
class Model(Told):
    """A model that may be asked for, or another name of one; with its limits and defaults."""

    id: str
    alias_of: str | None = None
    fingerprint: str | None = None
    limits: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Node(Told):
    """A node as another one sees it.

    Attributes:
        node: its name; None of one that has not been met.
        alive: whether it is heard; of the own node always.
        backlog, capacity: work units waiting, and done per second.
    """

    node: str | None = None
    alive: bool = True
    accepting: bool = False
    backlog: float = 0.0
    capacity: float = 0.0
    queued: int = 0
    running: int = 0
    models: tuple[str, ...] = ()
    device: str | None = None
    emulated_device: str | None = None
    address: str | None = None
    rest_url: str | None = None
    link_s: float | None = None
    staleness_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Cluster(Told):
    """The cluster as the node that was asked sees it."""

    node: str
    own: Node
    policy: str = ""
    tasks_in_flight: int = 0
    peers: tuple[Node, ...] = ()

    @classmethod
    def of(cls, document: Any) -> Self:
        """As Told.of, with its nodes."""
        told = super().of(document)
        peers = tuple(Node.of(one) for one in told.peers)
        return dataclasses.replace(told, own=Node.of(told.own), peers=peers)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All of them, the one that was asked first."""
        return (self.own, *self.peers)


@dataclass(frozen=True, kw_only=True)
class Readiness(Told):
    """Whether a node takes requests now, and why not; and what its operator should see to."""

    status: str
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether it would draw now."""
        return self.status == "ready"


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _list_in(document: Any) -> list[Any]:
    try:
        found = document["data"]
    except (KeyError, TypeError):
        found = None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise NotUnderstood(f"A list was expected, and {document!r:.80} came.")
    return found


def tasks_in(document: Any) -> tuple[Task, ...]:
    """A list of tasks without pages."""
    return tuple(Task.of(one) for one in _list_in(document))


def models_in(document: Any) -> tuple[Model, ...]:
    """A list of models."""
    return tuple(Model.of(one) for one in _list_in(document))

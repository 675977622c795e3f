"""A client's request and what was made of it: values that surface, shell and ledger share."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from edge_node.domain import JobId, TaskId, TaskRecord


class NodeAction(enum.StrEnum):
    """What an operator has a node do, until he says otherwise or it is started anew.

    PAUSE: take no new work, and end what it has.
    DRAIN: the same, and give back to other nodes what it has of theirs.
    RESUME: take work again.
    """

    PAUSE = "pause"
    DRAIN = "drain"
    RESUME = "resume"


@dataclass(frozen=True, kw_only=True)
class DrawingLimits:
    """What may be asked for of a model, and what is taken where nothing is said."""

    model: str
    fingerprint: str
    size_px_min: int
    size_px_max: int
    size_px_multiple: int
    size_px_default: int
    steps_max: int
    steps_default: int
    guidance_scale_max: float
    guidance_scale_default: float
    strength_default: float
    prompt_chars_max: int
    images_per_request_max: int
    deadline_s_max: float
    priority_min: int = -100
    priority_max: int = 100


@dataclass(frozen=True, kw_only=True)
class Idempotency:
    """An Idempotency-Key and what it stands for.

    Attributes:
        key: as the client sent it.
        request_digest: of everything that must agree when the key is used again.
    """

    key: str
    request_digest: str


@dataclass(frozen=True, kw_only=True)
class Appended:
    """The tasks are new, and in the ledger."""

    task_ids: tuple[TaskId, ...]
    job_id: JobId | None


@dataclass(frozen=True, kw_only=True)
class AlreadyAccepted:
    """The same request came before; these are the tasks it got then."""

    task_ids: tuple[TaskId, ...]
    job_id: JobId | None


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Accepted tasks; `replayed` when an Idempotency-Key had brought them in before."""

    job_id: JobId | None
    records: tuple[TaskRecord, ...]
    replayed: bool


@dataclass(frozen=True, kw_only=True)
class Callback:
    """Where the end of a task is to be told.

    Attributes:
        url: as the client gave it.
        base: address of the surface as the client reached it, which links begin with.
    """

    url: str
    base: str

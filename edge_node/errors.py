"""The errors a client or a peer can meet; each class owns its HTTP and its gRPC status.

Raised anywhere, turned into a response only by the transports. A message is a sentence that says
what to do; `code` is stable and machine-readable.
"""

from __future__ import annotations

from collections.abc import Sequence


class DEdgeAIError(Exception):
    """Root of the tree.

    Attributes:
        message: what went wrong and what to do about it.
        param: the request field at fault, if one is.
        retry_after_s: when trying again makes sense; None when it does not.
    """

    code = "internal_error"
    http_status = 500
    grpc_status = "INTERNAL"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidRequest(DEdgeAIError):
    """The request can never succeed as it stands."""

    code = "invalid_request"
    http_status = 400
    grpc_status = "INVALID_ARGUMENT"


class ModelNotFound(DEdgeAIError):
    """No node serves the model asked for."""

    code = "model_not_found"
    http_status = 404
    grpc_status = "NOT_FOUND"


def not_served(model: str, served: Sequence[str]) -> str:
    """What ModelNotFound says: which name, and what may be asked for instead."""
    listed = f"Served are: {', '.join(served)}." if served else "None is served at present."
    return f"The model {model[:100]!r} is not served here. {listed}"


class ModelAway(DEdgeAIError):
    """Nodes of this cluster serve the model, and none of them is heard at present."""

    code = "model_away"
    http_status = 503
    grpc_status = "UNAVAILABLE"


class TaskNotFound(DEdgeAIError):
    """The origin does not know this task or job, or has expired it."""

    code = "task_not_found"
    http_status = 404
    grpc_status = "NOT_FOUND"

    @classmethod
    def of(cls, identifier: str) -> TaskNotFound:
        """One sentence for all who may not have it, so that nobody learns whether it exists."""
        return cls(
            f"There is no task or job {identifier}; or it was removed after its time, or asked for "
            "with another key."
        )


class TaskErased(DEdgeAIError):
    """The task was there, and its content was erased."""

    code = "task_erased"
    http_status = 410
    grpc_status = "NOT_FOUND"


class ImageNotReady(DEdgeAIError):
    """The task has no image yet, or never will."""

    code = "image_not_ready"
    http_status = 409
    grpc_status = "FAILED_PRECONDITION"


class ImageGone(DEdgeAIError):
    """The image was drawn and has since been removed by the cap on size or age."""

    code = "image_gone"
    http_status = 410
    grpc_status = "NOT_FOUND"


class InitImageGone(DEdgeAIError):
    """The image that a task starts from is not kept where it is needed."""

    code = "init_image_gone"


class ModerationBlocked(DEdgeAIError):
    """The operator's judge refuses the request, or the image that was drawn."""

    code = "moderation_blocked"
    http_status = 400
    grpc_status = "FAILED_PRECONDITION"


class ModerationUnavailable(DEdgeAIError):
    """The operator's judge does not answer, without whom nothing is delivered."""

    code = "moderation_unavailable"
    http_status = 503
    grpc_status = "UNAVAILABLE"


class ModerationBusy(ModerationUnavailable):
    """More waits to be judged than may."""


class WeightsGone(DEdgeAIError):
    """The node does not hold these learned weights, or no longer."""

    code = "weights_gone"
    http_status = 404
    grpc_status = "NOT_FOUND"


class IdempotencyConflict(DEdgeAIError):
    """The Idempotency-Key was used before with a different request."""

    code = "idempotency_conflict"
    http_status = 409
    grpc_status = "ALREADY_EXISTS"


class AdmissionRefused(DEdgeAIError):
    """Every place in the queue is taken; `retry_after_s` says when one is expected."""

    code = "queue_full"
    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"


class InitImagesFull(AdmissionRefused):
    """No room for another init image; `retry_after_s` says when the deadlines make some."""

    code = "init_images_full"


class NodeNotReady(DEdgeAIError):
    """The node is starting or draining."""

    code = "node_not_ready"
    http_status = 503
    grpc_status = "UNAVAILABLE"


class NodeNotFound(DEdgeAIError):
    """No node of the cluster has that name."""

    code = "node_not_found"
    http_status = 404
    grpc_status = "NOT_FOUND"


class NodeAway(DEdgeAIError):
    """The node that is meant does not answer at present."""

    code = "node_away"
    http_status = 503
    grpc_status = "UNAVAILABLE"


class NodeAlive(DEdgeAIError):
    """The node is heard, so that it cannot be taken out of the cluster."""

    code = "node_alive"
    http_status = 409
    grpc_status = "FAILED_PRECONDITION"


class StoreUnavailable(DEdgeAIError):
    """The task ledger cannot be written, so no promise can be made."""

    code = "store_unavailable"
    http_status = 503
    grpc_status = "UNAVAILABLE"


class StoreFull(DEdgeAIError):
    """Tasks that are not finished fill the store to its bound."""

    code = "store_full"
    http_status = 507
    grpc_status = "RESOURCE_EXHAUSTED"


class DiskLow(DEdgeAIError):
    """The disk has so little room left that nothing new is taken."""

    code = "disk_low"
    http_status = 507
    grpc_status = "RESOURCE_EXHAUSTED"


class OriginUnavailable(DEdgeAIError):
    """The node that owns the task does not answer at present."""

    code = "origin_unavailable"
    http_status = 503
    grpc_status = "UNAVAILABLE"


class WorkerUnavailable(DEdgeAIError):
    """The worker process is not there or not ready."""

    code = "worker_unavailable"
    http_status = 503
    grpc_status = "UNAVAILABLE"


class NotFinite(DEdgeAIError):
    """What was drawn is no picture: numbers in it are not finite."""

    code = "not_finite"


class MalformedMessage(DEdgeAIError):
    """Another node said what none may say: a number, name, list or file beyond its rules."""

    code = "malformed_message"
    http_status = 502
    grpc_status = "INVALID_ARGUMENT"


class NotTheCaller(DEdgeAIError):
    """Another node spoke in a name that is not its own."""

    code = "not_the_caller"
    http_status = 502
    grpc_status = "PERMISSION_DENIED"


class SetAside(DEdgeAIError):
    """The caller broke the rules too often; `retry_after_s` says when it is heard again."""

    code = "set_aside"
    http_status = 503
    grpc_status = "PERMISSION_DENIED"


class StaleAttempt(DEdgeAIError):
    """A later placement of the same task has been seen; this one must stop."""

    code = "stale_attempt"
    http_status = 409
    grpc_status = "ABORTED"


class TaskFailed(DEdgeAIError):
    """A task ended without an image; `code` is the task's own error code."""

    code = "task_failed"
    http_status = 500
    grpc_status = "INTERNAL"

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code
        if code == "deadline_exceeded":
            self.http_status = 504
        elif code == ModerationBlocked.code:
            self.http_status = ModerationBlocked.http_status

"""Our errors as gRPC statuses and back.

The error's own code travels in trailing metadata, so that the other side raises the same class.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NoReturn

import grpc
import grpc.aio

from edge_node import errors
from edge_node.errors import DEdgeAIError

CODE_KEY = "dedgeai-code"
RETRY_AFTER_KEY = "dedgeai-retry-after-s"
# What another node says is passed on to clients.
DETAILS_CHARS_MAX = 2000
RETRY_AFTER_S_MAX = 1e7

_CLASSES: dict[str, type[DEdgeAIError]] = {
    cls.code: cls
    for cls in (
        errors.InvalidRequest,
        errors.ModelNotFound,
        errors.TaskNotFound,
        errors.TaskErased,
        errors.ImageNotReady,
        errors.ImageGone,
        errors.AdmissionRefused,
        errors.NodeNotReady,
        errors.NodeAway,
        errors.StoreUnavailable,
        errors.OriginUnavailable,
        errors.StaleAttempt,
        errors.MalformedMessage,
        errors.NotTheCaller,
        errors.SetAside,
        errors.WeightsGone,
    )
}


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: DEdgeAIError) -> NoReturn:
    """Ends a call on the server with the status that `error` owns."""
    metadata = [(CODE_KEY, error.code)]
    if error.retry_after_s is not None:
        metadata.append((RETRY_AFTER_KEY, str(error.retry_after_s)))
    status = getattr(grpc.StatusCode, error.grpc_status)
    await context.abort(status, error.message, tuple(metadata))


def error_of(call_error: grpc.aio.AioRpcError) -> DEdgeAIError | None:
    """The error that the other side raised; None when it was the transport that failed."""
    pairs: Iterable[tuple[str, str]] = call_error.trailing_metadata() or ()  # type: ignore[assignment]
    metadata = {key: str(value) for key, value in pairs}
    error_class = _CLASSES.get(metadata.get(CODE_KEY, ""))
    if error_class is None:
        return None
    return error_class(
        (call_error.details() or "")[:DETAILS_CHARS_MAX],
        retry_after_s=_retry_after_s(metadata.get(RETRY_AFTER_KEY)),
    )


def _retry_after_s(text: str | None) -> float | None:
    """Seconds that clients may be told; None where the other side says nothing of use."""
    try:
        seconds = math.nan if text is None else float(text)
    except ValueError:
        return None
    return seconds if 0.0 <= seconds <= RETRY_AFTER_S_MAX else None

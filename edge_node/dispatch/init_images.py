"""The image that a drawing starts from: found, or honestly missed, at its origin and executor."""

from __future__ import annotations

from edge_node.domain import AttemptFailed, Drawing
from edge_node.errors import InitImageGone
from edge_node.ports import InitImages


async def init_image_of(drawing: Drawing, init_images: InitImages) -> bytes:
    """Its content, empty for text-to-image; raises InitImageGone."""
    sha256 = drawing.init_image_sha256
    return await init_images.read(sha256) if sha256 else b""


def init_image_lost(error: InitImageGone, *, retryable: bool) -> AttemptFailed:
    """What becomes of an attempt without it."""
    return AttemptFailed(code=error.code, message=error.message, retryable=retryable)

"""What a request took: tokens as OpenAI counts them, and what a client should know of its images.

Owns the counting. Nothing is billed by it; clients show it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from edge_node.domain import Drawing, TaskRecord

Json = dict[str, Any]

# The MMDiT sees one token per 16 x 16 pixels: 8 of the VAE times 2 of its patches.
PIXELS_PER_TOKEN_SIDE = 16


def warnings(records: Sequence[TaskRecord]) -> list[str]:
    """What a client should know of images that it got."""
    tokens = max((record.prompt_tokens for record in records), key=lambda one: one.cut)
    if tokens.cut == 0:
        return []
    return [
        f"The prompt has {tokens.counted} tokens, and the model was told the first {tokens.drawn}."
    ]


def usage(records: Sequence[TaskRecord]) -> Json:
    """Differs from OpenAI: image tokens are the model's latent patches.

    Text tokens are the prompt's, words where nobody counts tokens; `text_tokens_cut` of them had
    no part in the pictures.
    """
    drawings = [record.task.drawing for record in records]
    text = sum(one.prompt_tokens.counted or len(one.task.drawing.prompt.split()) for one in records)
    cut = sum(record.prompt_tokens.cut for record in records)
    drawn = sum(_image_tokens(drawing) for drawing in drawings)
    started_from = sum(_image_tokens(one) for one in drawings if one.init_image_sha256)
    return {
        "input_tokens": text + started_from,
        "input_tokens_details": {
            "image_tokens": started_from,
            "text_tokens": text,
            "text_tokens_cut": cut,
        },
        "output_tokens": drawn,
        "total_tokens": text + started_from + drawn,
    }


def _image_tokens(drawing: Drawing) -> int:
    columns = math.ceil(drawing.width_px / PIXELS_PER_TOKEN_SIDE)
    return columns * math.ceil(drawing.height_px / PIXELS_PER_TOKEN_SIDE)

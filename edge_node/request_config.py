"""Settings of how clients' requests are read: what names, sizes and qualities of others mean here.

Part of `config.py`'s NodeConfig, which checks them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field

from edge_node.setting import pairs, setting, split

# What the sources of widespread clients name where nobody chose: OpenAI's SDK for Python 3.57, n8n,
# Open WebUI, LibreChat, LangChain. The last one is for those to come.
_ALIASES = (
    *("dall-e-2", "dall-e-3", "gpt-image-1", "gpt-image-1-mini", "gpt-image-1.5", "gpt-image-2"),
    *("chatgpt-image-latest", "gpt-image-*"),
)
# Of the steps that a request gets which says nothing.
_QUALITIES = {"low": 0.5, "medium": 1.0, "standard": 1.0, "high": 1.5, "hd": 1.5}


class RequestConfig(BaseModel):
    """How the surfaces that others invented are read."""

    model_aliases: Annotated[tuple[str, ...], BeforeValidator(split)] = setting(
        _ALIASES,
        "names under which clients of OpenAI's API may ask for the model that is served; * stands "
        "for any end; empty for its own name alone",
        reload=True,
    )
    size_policy: Literal["nearest", "exact"] = setting(
        "nearest",
        "what becomes of a size that the model does not draw, on OpenAI's surface: nearest draws "
        "the nearest of like aspect, and says so; exact refuses it",
        reload=True,
    )
    quality_steps: Annotated[
        dict[str, Annotated[float, Field(gt=0, le=100)]], BeforeValidator(pairs)
    ] = setting(
        _QUALITIES,
        "steps that a `quality` of OpenAI's surface stands for, as a multiple of steps_default: "
        "low=0.5,high=1.5; num_inference_steps goes before",
        unit="times",
        reload=True,
    )

"""Settings of what clients ask for: its bounds and defaults, what others' words mean, who judges.

Part of `config.py`'s NodeConfig, which checks them.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from edge_node.setting import pairs, setting, split

# What the sources of widespread clients name where nobody chose: OpenAI's SDK for Python 3.57, n8n,
# Open WebUI, LibreChat, LangChain. The last one is for those to come.
_ALIASES = (
    *("dall-e-2", "dall-e-3", "gpt-image-1", "gpt-image-1-mini", "gpt-image-1.5", "gpt-image-2"),
    *("chatgpt-image-latest", "gpt-image-*"),
)
# Of the steps that a request gets which says nothing.
_QUALITIES = {"low": 0.5, "medium": 1.0, "standard": 1.0, "high": 1.5, "hd": 1.5}


def _network(text: str) -> str:
    """The same; raises ValueError where it is no address and no network."""
    return str(ipaddress.ip_network(text))


_Origin = Annotated[str, Field(pattern=r"^https?://[^/\s]+$")]


class RequestConfig(BaseModel):
    """What clients may ask for, how it is read, and what they may stand behind."""

    # Bounds and defaults of a request.
    prompt_chars_max: int = setting(32_000, "of a prompt", unit="characters", reload=True, gt=0)
    steps_default: int = setting(
        15, "denoising steps where a request says nothing", unit="steps", reload=True, gt=0
    )
    guidance_scale_default: float = setting(
        5.0, "guidance scale where a request says nothing", reload=True, ge=0
    )
    guidance_scale_max: float = setting(
        30.0, "largest guidance scale of a request", reload=True, ge=0
    )
    strength_default: float = setting(
        0.6,
        "how far from its init image a drawing goes where a request says nothing",
        unit="share",
        reload=True,
        gt=0,
        le=1,
    )
    images_per_request_max: int = setting(
        10, "that one request may ask for", unit="images", reload=True, gt=0
    )
    deadline_s_default: float = setting(
        3600.0, "time for a task whose request says nothing", unit="s", reload=True, gt=0
    )
    deadline_s_max: float = setting(
        86_400.0, "longest time that a request may give its task", unit="s", gt=0
    )
    request_bytes_max: int = setting(
        2**20, "of a request's body without an init image", unit="bytes", gt=0
    )
    request_header_s_max: float = setting(
        10.0,
        "that a connection may say nothing at first, or a request's headers may take to arrive",
        unit="s",
        gt=0,
    )
    request_body_s_max: float = setting(
        20.0, "that a request's body without an init image may take to arrive", unit="s", gt=0
    )
    connections_max: int = setting(
        4096,
        "open to the REST surface at once, as far as the limit of open files goes; the one idle "
        "longest makes room",
        unit="connections",
        gt=0,
    )
    connections_per_address_max: int = setting(
        2048, "of them from one address", unit="connections", gt=0
    )
    init_image_upload_bytes_max: int = setting(
        16 * 2**20, "of an uploaded image as a file", unit="bytes", gt=0
    )
    init_image_pixels_max: int = setting(
        2**26,
        "of an uploaded image before it is scaled: a small file can hold very many",
        unit="pixels",
        gt=0,
        le=2**27,
    )
    init_image_decoding_bytes_max: int = setting(
        2**28,
        "of memory that decoding an upload may take; one is decoded at a time",
        unit="bytes",
        gt=0,
    )
    init_image_uploads_max: int = setting(8, "uploads held in memory at once", unit="uploads", gt=0)
    init_image_uploads_bytes_max: int = setting(
        48 * 2**20, "of all of them, as they are sent", unit="bytes", gt=0
    )
    init_image_upload_s_max: float = setting(
        60.0, "that an upload may take to arrive", unit="s", gt=0
    )

    image_url_origins: Annotated[tuple[_Origin, ...], BeforeValidator(split)] = setting(
        (),
        "origins, as https://images.example.com, from which an image is fetched that a request "
        "names by its address; from no others",
    )

    # Callbacks.
    callback_origins: Annotated[tuple[_Origin, ...], BeforeValidator(split)] = setting(
        (),
        "origins, as https://hooks.example.com, to which the end of a task is told that names a "
        "callback_url there; to no others",
    )
    callback_secret_file: Path | None = setting(
        None, "file of the secret that signs callbacks: 24 bytes or more in base64"
    )
    callback_keep_s: float = setting(
        86_400.0, "for which a callback is tried that nobody takes", unit="s", ge=0
    )

    # What others' words mean here.
    default_model: Annotated[str, Field(min_length=1, max_length=200)] | None = setting(
        None,
        "model that is drawn where a request names none, or an alias; any that a node of the "
        "cluster serves. If not set, this node's own; a node without one takes the first by name",
        reload=True,
    )
    model_aliases: Annotated[tuple[str, ...], BeforeValidator(split)] = setting(
        _ALIASES,
        "names under which clients of OpenAI's API may ask for default_model; * stands for any "
        "end; a model of such a name goes before; empty for models' own names alone",
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
    public_url: str | None = setting(
        None,
        "where clients reach this node, as https://images.example.com/draw: links in answers begin "
        "with it; if not set, with what the request or a trusted proxy says",
        pattern=r"^https?://[^/\s?#]+(/[^\s?#]*)?$",
    )
    trusted_proxies: Annotated[
        tuple[Annotated[str, AfterValidator(_network)], ...], BeforeValidator(split)
    ] = setting(
        ("127.0.0.0/8", "::1/128"),
        "addresses and networks of proxies whose X-Forwarded-For, -Host, -Proto and -Prefix are "
        "believed",
    )
    turns_by_address: bool = setting(
        True,
        "clients without API keys take turns at devices, each address as one; false: the order of "
        "arrival alone",
    )
    cors_origins: Annotated[tuple[_Origin, ...], BeforeValidator(split)] = setting(
        (),
        "origins, as https://app.example.com, whose pages may use the REST surface from a browser; "
        "others may not",
    )

    # Agents.
    mcp: bool = setting(
        False,
        "true: agents reach the node at /mcp, by the Model Context Protocol over streamable HTTP "
        "(dedgeai[mcp]); keys and limits are those of REST",
    )
    mcp_calls_max: int = setting(
        32,
        "requests to /mcp under way at once: one lasts as long as its tool",
        unit="requests",
        gt=0,
    )
    mcp_request_bytes_max: int = setting(
        4 * 2**20, "of one request to /mcp, an image in base64 included", unit="bytes", gt=0
    )

    # Moderation.
    moderation_command: Annotated[tuple[str, ...], BeforeValidator(split)] = setting(
        (),
        "program and arguments of an operator's judge, asked before a request is accepted and "
        "before an image is delivered; JSON in and out, see docs/security.md",
    )
    moderation_url: str | None = setting(
        None, "the same, asked by POST", pattern=r"^https?://[^\s]+$"
    )
    moderation_timeout_s: float = setting(
        5.0, "that one answer of the judge may take", unit="s", gt=0, le=300
    )
    moderation_on_failure: Literal["refuse", "allow"] = setting(
        "refuse", "what becomes of what the judge does not answer for"
    )
    moderation_at_once_max: int = setting(
        4, "of requests and of images each", unit="questions", gt=0, le=64
    )
    moderation_init_images: bool = setting(
        True, "the judge is shown the images that drawings start from"
    )

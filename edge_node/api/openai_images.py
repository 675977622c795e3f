"""OpenAI's image surface: /v1/images/generations and /v1/models."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from edge_node.api import schemas
from edge_node.api.direct_route import DirectRoute
from edge_node.api.openai_request import adapted, drawn_before, meant
from edge_node.api.openai_serving import Accepted, serve, submit
from edge_node.api.request_body import idempotency_of, read_json
from edge_node.api.surface import NOBODY_DRAWS, Surface, surface_of
from edge_node.errors import DEdgeAIError, ModelNotFound, not_served
from edge_node.requests import DrawingLimits

router = APIRouter(route_class=DirectRoute)


@router.post("/v1/images/generations", response_model=None)
async def generate_images(request: Request) -> Response:
    """Draws n images and answers with all of them, or streams them."""
    surface = surface_of(request)
    document = await read_json(request, limits=surface.body_limits)
    idempotency = idempotency_of(request, document)
    wanted = schemas.parse(schemas.ImageGenerationRequest, meant(document))
    try:
        asked = adapted(wanted, surface.limits_of(wanted.model, aliases=True), surface.habits())
        order = await surface.order(asked.wanted, previews_wanted=bool(wanted.stream))
        submission = await submit(request, order, idempotency)
    except NOBODY_DRAWS as refusal:
        submission = await surface.submitted_before(idempotency, refusal)
        asked = drawn_before(wanted, surface.habits())
    accepted = Accepted(
        surface=surface,
        kind="image_generation",
        adapted=asked,
        submission=submission,
        keyed=idempotency is not None,
    )
    return await serve(accepted, request)


@router.get("/v1/models", response_model=None)
async def list_models(request: Request) -> JSONResponse:
    """Models that some live node serves, then other names under which they may be asked for."""
    return JSONResponse({"object": "list", "data": list(_models(request).values())})


@router.get("/v1/models/{model:path}", response_model=None)
async def read_model(model: str, request: Request) -> JSONResponse:
    """One of them."""
    surface, models = surface_of(request), _models(request)
    if model in models:
        return JSONResponse(models[model])
    if surface.habits().is_alias(model):  # by a pattern, of which no list has all
        return JSONResponse(_alias(surface, model, surface.front_desk.limits()))
    raise ModelNotFound(not_served(model, surface.front_desk.models()), param="model")


def _models(request: Request) -> dict[str, dict[str, Any]]:
    surface = surface_of(request)
    created_unix_s = surface.started_unix_s
    found = {}
    for name in surface.front_desk.models():
        limits = _limits_of(surface, name)
        found[name] = schemas.model_object(name, limits, created_unix_s=created_unix_s)
    meant = _limits_of(surface, None)
    if meant is not None:
        for alias in surface.habits().alias_names:
            found.setdefault(alias, _alias(surface, alias, meant))
    return found


def _alias(surface: Surface, name: str, meant: DrawingLimits) -> dict[str, Any]:
    """Another name of the default model."""
    created_unix_s = surface.started_unix_s
    return schemas.model_object(name, meant, created_unix_s=created_unix_s, is_alias=True)


def _limits_of(surface: Surface, model: str | None) -> DrawingLimits | None:
    """What may be asked for of a model; None where that cannot be told now."""
    try:
        return surface.front_desk.limits(model)
    except DEdgeAIError:
        return None

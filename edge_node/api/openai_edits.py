"""OpenAI's surface for images that start from one: /v1/images/edits."""

from __future__ import annotations

import hashlib
from typing import IO, Any, cast

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edge_node.api import schemas
from edge_node.api.direct_route import DirectRoute
from edge_node.api.openai_request import adapted, meant
from edge_node.api.openai_serving import Accepted, serve, submit
from edge_node.api.request_body import Form, idempotency_of, read_form
from edge_node.api.surface import surface_of
from edge_node.api.uploads import Upload
from edge_node.errors import InvalidRequest

router = APIRouter(route_class=DirectRoute)

# Names under which the SDK sends what is to be edited: one image, or a list.
_IMAGE_FIELDS = ("image", "image[]")


@router.post("/v1/images/edits", response_model=None)
async def edit_image(request: Request) -> Response:
    """Draws n images that start from the one sent, and answers as `generate_images`."""
    return await serve(await _accept_edit(request), request)


async def _accept_edit(request: Request) -> Accepted:
    """Apart from the waiting for its end, so that nothing holds the upload that long."""
    surface = surface_of(request)
    with surface.uploads.place() as place:
        form = await read_form(
            request,
            limits=surface.body_limits,
            uploads=surface.uploads,
            place=place,
        )
        file = _sole_image(form)
        file.seek(0)
        image_sha256 = hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
        idempotency = idempotency_of(request, {**form.fields, "image": image_sha256})
        wanted = schemas.parse(schemas.ImageEditRequest, meant(form.fields))
        asked = adapted(wanted, surface.front_desk.limits(), surface.habits())
        upload = Upload(file=file, param="image", strength=wanted.strength)
        order = await surface.order(
            asked.wanted, previews_wanted=bool(wanted.stream), upload=upload
        )
    return Accepted(
        surface=surface,
        kind="image_edit",
        adapted=asked,
        submission=await submit(request, order, idempotency),
        keyed=idempotency is not None,
    )


def _sole_image(form: Form) -> IO[bytes]:
    """The image to start from.

    Raises:
        InvalidRequest: there is none or more than one, or a mask, which this model has no use for.
    """
    if form.files.get("mask") or form.fields.get("mask"):
        raise InvalidRequest(
            "`mask` is not supported: the whole image is drawn again, as far from it as `strength` "
            "says. Leave it out.",
            param="mask",
        )
    images = [file for name in _IMAGE_FIELDS for file in form.files.get(name, ())]
    if len(images) > 1:
        raise InvalidRequest(
            f"`image` holds {len(images)} images; this model starts from one.", param="image"
        )
    if not images:
        as_text = any(name in form.fields for name in _IMAGE_FIELDS)
        said = "must be sent as a file" if as_text else "is required"
        raise InvalidRequest(f"`image` {said}.", param="image")
    return images[0]

"""OpenAI's surface for images that start from one: /v1/images/edits and /v1/images/variations."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, Any, cast

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edge_node.api import schemas
from edge_node.api.direct_route import DirectRoute
from edge_node.api.openai_request import adapted, drawn_before, meant
from edge_node.api.openai_serving import Accepted, serve, submit
from edge_node.api.request_body import (
    Form,
    idempotency_of,
    is_json,
    read_form,
    read_json_with_image,
)
from edge_node.api.sent_image import image_of_text
from edge_node.api.surface import NOBODY_DRAWS, surface_of
from edge_node.api.uploads import Mask, SentImage, Upload, UploadPlace
from edge_node.errors import InvalidRequest
from edge_node.requests import Idempotency

router = APIRouter(route_class=DirectRoute)

# Names under which clients send what is to be edited: one image, or a list.
_IMAGE_FIELDS = ("image", "image[]", "images")
_MASK_FIELDS = ("mask", "mask[]")


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A request with its image in a file; `images` and `masks` came, of which the first count."""

    wanted: schemas.ImageEditRequest
    upload: Upload
    images: int
    masks: int
    idempotency: Idempotency | None


@router.post("/v1/images/edits", response_model=None)
async def edit_image(request: Request) -> Response:
    """Draws n images that start from the one sent, and answers as for images from text."""
    return await serve(await _accept(request, schemas.ImageEditRequest), request)


@router.post("/v1/images/variations", response_model=None)
async def vary_image(request: Request) -> Response:
    """The same without a prompt."""
    return await serve(await _accept(request, schemas.ImageVariationRequest), request)


async def _accept(request: Request, schema: type[schemas.ImageEditRequest]) -> Accepted:
    """Apart from the waiting for its end, so that nothing holds the upload that long."""
    surface = surface_of(request)
    with surface.uploads.place() as place:
        if is_json(request):
            asked = await read_json_with_image(
                request,
                limits=surface.body_limits,
                uploads=surface.uploads,
                place=place,
                images_in=lambda document: (*_texts(document), *_mask_texts(document)),
                understand=partial(_of_json, request, schema, place),
            )
        else:
            form = await read_form(
                request, limits=surface.body_limits, uploads=surface.uploads, place=place
            )
            asked = _of_form(request, schema, form)
        wanted = asked.wanted
        try:
            limits = surface.limits_of(wanted.model, aliases=True)
        except NOBODY_DRAWS as refusal:
            return Accepted(
                surface=surface,
                kind="image_edit",
                adapted=drawn_before(wanted, surface.habits()),
                submission=await surface.submitted_before(asked.idempotency, refusal),
                keyed=True,
            )
        found = adapted(wanted, limits, surface.habits())
        if asked.images > 1:
            note = f"{asked.images} images came; the drawing starts from the first."
            found = replace(found, notes=(*found.notes, note))
        if asked.masks > 1:
            note = f"{asked.masks} masks came; the first counts."
            found = replace(found, notes=(*found.notes, note))
        order = await surface.order(
            found.wanted, previews_wanted=bool(wanted.stream), upload=asked.upload
        )
    return Accepted(
        surface=surface,
        kind="image_edit",
        adapted=found,
        submission=await submit(request, order, asked.idempotency),
        keyed=asked.idempotency is not None,
    )


def _of_form(request: Request, schema: type[schemas.ImageEditRequest], form: Form) -> _Asked:
    if any(form.fields.get(name) for name in _MASK_FIELDS):
        raise InvalidRequest("`mask` must be sent as a file.", param="mask")
    files = [file for name in _IMAGE_FIELDS for file in form.files.get(name, ())]
    if not files:
        as_text = any(name in form.fields for name in _IMAGE_FIELDS)
        raise _no_image("must be sent as a file" if as_text else "is required")
    masks = [file for name in _MASK_FIELDS for file in form.files.get(name, ())]
    sent = {**form.fields, "image": _digests(files), **({"mask": _digests(masks)} if masks else {})}
    wanted = schemas.parse(schema, meant(form.fields))
    return _Asked(
        wanted=wanted,
        upload=_upload(
            SentImage(file=files[0], param="image"),
            [SentImage(file=mask, param="mask") for mask in masks[:1]],
            wanted.strength,
        ),
        images=len(files),
        masks=len(masks),
        idempotency=idempotency_of(request, sent),
    )


def _of_json(
    request: Request,
    schema: type[schemas.ImageEditRequest],
    place: UploadPlace,
    document: Any,
) -> _Asked:
    texts = _texts(document)
    if not texts:
        raise _no_image("is required, in base64 or by its address")
    fields = {
        name: value for name, value in document.items() if name not in (*_IMAGE_FIELDS, "mask")
    }
    wanted = schemas.parse(schema, meant(fields))
    return _Asked(
        wanted=wanted,
        upload=_upload(
            image_of_text(texts[0], place=place, param="image"),
            [image_of_text(text, place=place, param="mask") for text in _mask_texts(document)],
            wanted.strength,
        ),
        images=len(texts),
        masks=1,
        idempotency=idempotency_of(request, document),
    )


def _texts(document: Any) -> Sequence[str]:
    """The images of a document: a text, a list of texts, or of objects with an `image_url`.

    Raises:
        InvalidRequest: one is something else, or the document is.
    """
    if not isinstance(document, Mapping):
        raise InvalidRequest("The body must be a JSON object.")
    found: list[str] = []
    for name in _IMAGE_FIELDS:
        sent = document.get(name)
        for one in sent if isinstance(sent, list) else [] if sent is None else [sent]:
            found.append(_text(one, param="image"))
    return found


def _mask_texts(document: Mapping[str, Any]) -> Sequence[str]:
    mask = document.get("mask")
    return [_text(mask, param="mask")] if mask else []


def _text(sent: object, *, param: str) -> str:
    """An image as text, or the object that has it as `image_url`."""
    text = sent.get("image_url") if isinstance(sent, Mapping) else sent
    text = text.get("url") if isinstance(text, Mapping) else text
    if not isinstance(text, str):
        raise InvalidRequest(
            f"`{param}` must be an image in base64, or an object with it as `image_url`.",
            param=param,
        )
    return text


def _upload(image: SentImage, masks: Sequence[SentImage], strength: float | None) -> Upload:
    mask = Mask(image=masks[0]) if masks else None
    return Upload(image=image, strength=strength, mask=mask)


def _no_image(said: str) -> InvalidRequest:
    return InvalidRequest(f"`image` {said}.", param="image")


def _digests(files: Sequence[IO[bytes]]) -> str | list[str]:
    digests = list(map(_sha256, files))
    return digests[0] if len(digests) == 1 else digests


def _sha256(file: IO[bytes]) -> str:
    file.seek(0)
    return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()

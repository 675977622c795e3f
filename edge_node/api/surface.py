"""What every router needs, kept on the application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fastapi import Request

from edge_node.access.key_file import KeyFile
from edge_node.access.key_use import KeyUse
from edge_node.access.keys import Client
from edge_node.api import schemas
from edge_node.api.callbacks import Callbacks, not_allowed
from edge_node.api.chosen_models import ChosenModels
from edge_node.api.front_desk_port import FrontDeskPort
from edge_node.api.image_fetch import ImageFetch
from edge_node.api.openai_request import Habits
from edge_node.api.request_body import BodyLimits
from edge_node.api.sittings import Sittings
from edge_node.api.thumbnails import Thumbnails
from edge_node.api.uploads import Upload, Uploads
from edge_node.domain import TaskId
from edge_node.errors import DEdgeAIError, ModelAway, ModelNotFound, NodeNotReady
from edge_node.requests import DrawingLimits, Idempotency, Submission
from edge_node.telemetry.metrics import NodeMetrics

# Nobody draws the model now; one who asks again may have what was drawn while somebody did.
NOBODY_DRAWS = (ModelAway, ModelNotFound, NodeNotReady)


@dataclass(frozen=True, kw_only=True)
class Surface:
    """The node behind the REST surface and the surface's own bounds.

    Attributes:
        keys: of the node, where it can be handed some.
        key_use: refuses what a key may not ask for.
        body_limits: of requests without an init image.
        uploads: init images on their way in.
        image_fetch: gets those that are named by their address.
        habits: by which OpenAI's surface is read now.
        keep_alive_s: silence on an event stream after which a comment is sent.
        sittings: requests of AUTOMATIC1111's surface that are under way.
        chosen_models: what its clients chose.
        thumbnails: makes small copies of images.
        started_unix_s: shown as the age of the models.
        callbacks: tells ends to whoever asks for it; none where nobody may.
        leaving: set when the node ends; streams that can be resumed elsewhere end with it.
    """

    front_desk: FrontDeskPort
    metrics: NodeMetrics
    body_limits: BodyLimits
    uploads: Uploads
    image_fetch: ImageFetch
    habits: Callable[[], Habits]
    keep_alive_s: float
    started_unix_s: int
    keys: KeyFile | None = None
    key_use: KeyUse | None = None
    callbacks: Callbacks | None = None
    sittings: Sittings = field(default_factory=Sittings)
    chosen_models: ChosenModels = field(default_factory=ChosenModels)
    thumbnails: Thumbnails = field(default_factory=Thumbnails)
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    _farewells: set[asyncio.Task[None]] = field(default_factory=set)

    def limits_of(self, model: str | None, *, aliases: bool = False) -> DrawingLimits:
        """What may be asked for of the model that a name means; raises as FrontDeskPort.limits.

        With `aliases` names of other servers' models stand for the default one, unless a node
        serves a model of that very name.
        """
        if model in schemas.MODEL_ALIASES:
            model = None
        elif model is not None and aliases and self.habits().is_alias(model):
            model = model if model in self.front_desk.models() else None
        return self.front_desk.limits(model)

    async def order(
        self,
        wanted: schemas.TaskRequest | schemas.ImageGenerationRequest,
        *,
        previews_wanted: bool,
        upload: Upload | None = None,
    ) -> schemas.Order:
        """Checks a request, and makes its upload into what its drawings start from.

        Raises:
            InvalidRequest, ModelNotFound: it cannot be served as it stands.
            ModelAway, NodeNotReady: nobody draws the model at present.
        """
        limits = self.limits_of(wanted.model)
        if upload is None:
            return schemas.order(wanted, limits, previews_wanted=previews_wanted)
        for sent in upload.sent:
            if sent.address:
                await self.image_fetch.into(sent.file, sent.address, param=sent.param)
        own_px = await self.uploads.own_size_px(upload)
        start = schemas.StartingPoint(own_px=own_px, strength=upload.strength_meant)
        order = schemas.order(wanted, limits, previews_wanted=previews_wanted, start=start)
        drawing = order.drawings[0]
        size_px = (drawing.width_px, drawing.height_px)
        png = await self.uploads.png_of_size(upload, size_px=size_px)
        return schemas.started_from(order, png, masked=upload.mask is not None)

    def callbacks_to(self, url: str) -> Callbacks:
        """What tells ends there; raises InvalidRequest where nobody allows that."""
        if self.callbacks is None:
            raise not_allowed()
        self.callbacks.check(url)
        return self.callbacks

    async def submit(
        self,
        order: schemas.Order,
        *,
        client: Client,
        durable: bool,
        idempotency: Idempotency | None,
    ) -> Submission:
        """Accepts what is wanted, as FrontDeskPort.submit, if the client may ask for so much.

        Raises:
            QuotaUsedUp, TooManyOpen: he may not.
        """
        images, accepted = len(order.drawings), False
        if self.key_use is not None:
            self.key_use.claim(client, images)
        try:
            submission = await self.front_desk.submit(
                order.drawings,
                durable=durable,
                init_image=order.init_image,
                deadline_s=order.deadline_s,
                priority=order.priority,
                idempotency=idempotency,
                client=client.id,
                turns=client.id or client.address,
            )
            accepted = not submission.replayed
        finally:
            if self.key_use is not None:
                self.key_use.settle(client, images, accepted=accepted)
        return submission

    async def submitted_before(
        self, idempotency: Idempotency | None, refusal: DEdgeAIError
    ) -> Submission:
        """What a key brought in while its model was served; raises `refusal` where it did not."""
        earlier = None
        if idempotency is not None:
            earlier = await self.front_desk.find_submitted(idempotency)
        if earlier is None:
            raise refusal
        return earlier

    def say_client_gone(self, task_ids: Sequence[TaskId]) -> None:
        """Tells the node without waiting: the request that finds out is being cancelled itself."""
        farewell = asyncio.create_task(self._client_gone(task_ids))
        self._farewells.add(farewell)  # or it might be collected while it runs
        farewell.add_done_callback(self._farewells.discard)

    async def _client_gone(self, task_ids: Sequence[TaskId]) -> None:
        await self.front_desk.client_gone(task_ids)


def surface_of(request: Request) -> Surface:
    """The surface of the application that serves `request`."""
    surface: Surface = request.app.state.surface
    return surface

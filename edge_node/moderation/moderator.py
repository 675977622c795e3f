"""The operator's judge of requests and images: asked in bounded time, by so many at once.

Owns what is asked, what counts as an answer, and what follows where there is none. Who is asked (a
command or a URL) is another module's. What is asked is in no log and in no error.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edge_node.config import NodeConfig
from edge_node.domain import Drawing, Image, TaskId
from edge_node.errors import ModerationBlocked, ModerationBusy, ModerationUnavailable
from edge_node.json_text import parsed

log = logging.getLogger(__name__)

ANSWER_BYTES_MAX = 64 * 1024
REASON_CHARS_MAX = 300
# Requests that wait for their turn; images wait as far as the memory for them goes.
REQUESTS_WAITING_MAX = 100
IMAGE_BYTES_WAITING_MAX = 64 * 2**20
# Pauses before an image is asked about again: it was drawn already.
IMAGE_AGAIN_S = (1.0, 4.0)
RETRY_AFTER_S = 5.0

Stage = Literal["request", "image"]
# Hands a question on, as JSON, and returns the answer; raises NoAnswer or OSError.
Ask = Callable[[bytes], Awaitable[bytes]]


class NoAnswer(Exception):
    """The judge said nothing that counts; the message says why, and nothing of the question."""


@dataclass(frozen=True, kw_only=True)
class ModerationSettings:
    """How the judge is asked.

    Attributes:
        timeout_s: for one answer.
        allow_unanswered: what he does not judge passes.
        at_once_max: questions under way, of requests and of images each.
        with_init_images: he is shown what a drawing starts from.
    """

    timeout_s: float = 5.0
    allow_unanswered: bool = False
    at_once_max: int = 4
    with_init_images: bool = True

    @classmethod
    def of(cls, config: NodeConfig) -> ModerationSettings:
        """From the node's settings."""
        return cls(
            timeout_s=config.moderation_timeout_s,
            allow_unanswered=config.moderation_on_failure == "allow",
            at_once_max=config.moderation_at_once_max,
            with_init_images=config.moderation_init_images,
        )


class Moderator:
    """Asks `ask`; `on_judged` is told the stage and the verdict of each question."""

    def __init__(
        self,
        ask: Ask,
        settings: ModerationSettings,
        *,
        on_judged: Callable[[str, str], None] = lambda stage, verdict: None,
    ) -> None:
        self._ask = ask
        self._settings = settings
        self._on_judged = on_judged
        self._requests = asyncio.Semaphore(settings.at_once_max)
        self._images = asyncio.Semaphore(settings.at_once_max)
        self._requests_waiting = self._image_bytes_waiting = 0

    async def judge_request(
        self, drawings: Sequence[Drawing], *, init_image: bytes, client: str
    ) -> None:
        """Asks once for all drawings of a request, which differ in their seeds alone.

        Raises:
            ModerationBlocked: it may not be drawn, and why.
            ModerationUnavailable, ModerationBusy: nobody said.
        """
        # Who only has to wait long enough to pass unasked would make others wait.
        if self._requests_waiting >= REQUESTS_WAITING_MAX:
            self._on_judged("request", "busy")
            raise ModerationBusy(
                "More requests wait to be judged than may. Come back after the time in "
                "Retry-After.",
                retry_after_s=RETRY_AFTER_S,
            )
        shown = init_image if self._settings.with_init_images else b""
        question = {
            **_asked(drawings[0], stage="request", client=client),
            "images": len(drawings),
            "init_image": shown,
        }
        self._requests_waiting += 1
        try:
            async with self._requests:
                await self._judge("request", question)
        finally:
            self._requests_waiting -= 1

    async def judge_image(
        self, image: Image, *, task_id: TaskId, drawing: Drawing, client: str
    ) -> None:
        """Asks for an image before anybody can have it.

        Raises:
            ModerationBlocked: nobody may have it, and why.
            ModerationUnavailable, ModerationBusy: nobody said, though asked again.
        """
        size = len(image.content)
        if self._image_bytes_waiting + size > max(IMAGE_BYTES_WAITING_MAX, size):
            self._on_judged("image", "busy")
            raise ModerationBusy(
                "The image was drawn, and more images wait to be judged than memory is for."
            )
        question = {
            **_asked(drawing, stage="image", client=client),
            "task_id": task_id,
            "image": image.content,
            "media_type": f"image/{image.format}",
        }
        self._image_bytes_waiting += size
        try:
            async with self._images:
                await self._judge("image", question, pauses_s=IMAGE_AGAIN_S)
        finally:
            self._image_bytes_waiting -= size

    async def _judge(
        self, stage: Stage, question: dict[str, Any], *, pauses_s: Sequence[float] = ()
    ) -> None:
        text = await asyncio.to_thread(_encode, question)
        why = ""
        for pause_s in (*pauses_s, None):
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    reason = _reason(await self._ask(text))
            except TimeoutError:
                why = f"no answer within {self._settings.timeout_s:g} s"
            except (NoAnswer, OSError) as problem:
                why = str(problem)
            except Exception as problem:  # it may hold what was asked
                why = type(problem).__name__
            else:
                self._on_judged(stage, "allowed" if reason is None else "refused")
                if reason is not None:
                    raise ModerationBlocked(reason)
                return
            log.warning("moderation of a %s failed: %s", stage, why)
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        self._on_judged(stage, "unanswered")
        if not self._settings.allow_unanswered:
            what = "The request" if stage == "request" else "The image was drawn, and"
            raise ModerationUnavailable(
                f"{what} could not be judged by this node's moderation, without which nothing is "
                "delivered. Try again later.",
                retry_after_s=RETRY_AFTER_S,
            )


def _asked(drawing: Drawing, *, stage: Stage, client: str) -> dict[str, Any]:
    return {
        "stage": stage,
        "prompt": drawing.prompt,
        "negative_prompt": drawing.negative_prompt,
        "model": drawing.model,
        "size": f"{drawing.width_px}x{drawing.height_px}",
        "client": client or None,
    }


def _encode(question: dict[str, Any]) -> bytes:
    """One JSON object; bytes in base64, and null for none."""

    def shown(value: Any) -> Any:
        if isinstance(value, bytes):
            return base64.b64encode(value).decode() if value else None
        return value

    return json.dumps({key: shown(value) for key, value in question.items()}).encode()


def _reason(answer: bytes) -> str | None:
    """Why not; None where the answer is yes.

    Raises:
        NoAnswer: it is neither.
    """
    if len(answer) > ANSWER_BYTES_MAX:
        raise NoAnswer(f"it says more than {ANSWER_BYTES_MAX} bytes")
    try:
        document = parsed(answer)
    except ValueError:
        raise NoAnswer("what it says is no JSON") from None
    allowed = document.get("allow") if isinstance(document, dict) else None
    if not isinstance(allowed, bool):
        raise NoAnswer('it says neither {"allow": true} nor {"allow": false, "reason": "..."}')
    if allowed:
        return None
    reason = document.get("reason")
    said = " ".join(reason.split())[:REASON_CHARS_MAX] if isinstance(reason, str) else ""
    printable = "".join(one for one in said if one.isprintable())
    return printable or "This node's operator does not allow it."

"""What is told of the drawings of one call, and how often."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest
from dedgeai.v1 import worker_pb2

from edge_node.checkpoint import Checkpoint, Latents
from edge_node.clock import SystemClock
from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptQueued,
    AttemptReport,
    AttemptStarted,
    Drawing,
    Fence,
    StepFinished,
)
from edge_node.peering import codec
from edge_node.worker import emulated
from edge_node.worker.drawings import STEPS_TOGETHER_S, TOLD_TOGETHER_S, Drawings, is_void
from edge_node.worker.engine_limits import EngineLimits
from edge_node.worker.step_engine import StepEngine

STEPS = 14
DEVICE = emulated.profile("orin-64gb-maxn")
# Of one of 256x256.
STEP_S = DEVICE.guided_step_s / 4
FAILED = AttemptFailed(code="draw_failed", message="it was", retryable=True)


KEPT = StepFinished(
    step=2,
    steps=3,
    checkpoint=Checkpoint(
        drawing_sha256="d",
        fingerprint="f",
        step=2,
        latents=Latents(dtype="float16", shape_CHW=(1, 1, 1), latent=b"xx"),
    ),
)


def wanted(number: int, **changes: object) -> worker_pb2.DrawManyRequest.Wanted:
    fields: dict[str, object] = {"prompt": "a", "width_px": 256, "height_px": 256, "steps": STEPS}
    drawing = Drawing(**{**fields, "guidance_scale": 5.0, "seed": 1, "model": "m", **changes})  # type: ignore[arg-type]
    request = worker_pb2.DrawRequest(
        task_id=f"a-{number}",
        fence=codec.fence_to_proto(Fence(1, 1)),
        drawing=codec.drawing_to_proto(drawing),
    )
    return worker_pb2.DrawManyRequest.Wanted(number=number, draw=request)


async def told(
    *drawings: worker_pb2.DrawManyRequest.Wanted, step_s: float
) -> list[list[tuple[int, AttemptReport]]]:
    """What each message says of drawings on an emulated device, until all have ended."""
    engine = StepEngine(
        lambda: emulated.EmulatedDenoiser(DEVICE, model_name="m", time_scale=STEP_S / step_s),
        limits=EngineLimits(),
        clock=SystemClock(),
        on_change=lambda: None,
    )
    engine.start()
    while engine.describe().state != "ready":
        await asyncio.sleep(0.01)

    async def requests() -> AsyncIterator[worker_pb2.DrawManyRequest]:
        yield worker_pb2.DrawManyRequest(wanted=drawings)

    call = Drawings(engine, asyncio.get_running_loop())
    await call.listen(requests())
    messages: list[list[tuple[int, AttemptReport]]] = []
    left = len(drawings)
    async with asyncio.timeout(30.0):
        while left:
            for part in await call.told():
                reports = [
                    (one.number, codec.report_from_draw_response(one.response)) for one in part
                ]
                messages.append([(n, report) for n, report in reports if report is not None])
                left -= sum(isinstance(report, AttemptFinished) for _, report in reports)
    engine.stop(wait_s=1.0)
    return messages


def steps_of(reports: list[AttemptReport]) -> list[int]:
    return [report.step for report in reports if isinstance(report, StepFinished)]


def test_steps_that_are_quicker_than_anybody_sees_are_told_as_few() -> None:
    messages = asyncio.run(told(wanted(1), step_s=STEPS_TOGETHER_S / 10))
    reports = [report for message in messages for _, report in message]
    assert isinstance(reports[-1], AttemptFinished)
    steps = steps_of(reports)
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS
    assert 2 <= len(steps) <= STEPS // 2


def test_steps_of_a_device_are_told_one_by_one_and_soon() -> None:
    start_s = time.monotonic()
    messages = asyncio.run(told(wanted(1), step_s=4 * STEPS_TOGETHER_S))
    reports = [report for message in messages for _, report in message]
    assert steps_of(reports) == list(range(1, STEPS + 1))
    assert time.monotonic() - start_s < 10.0


def test_no_preview_is_left_out() -> None:
    messages = asyncio.run(told(wanted(1, previews=3), step_s=1e-6))
    reports = [report for message in messages for _, report in message]
    previews = [r.step for r in reports if isinstance(r, StepFinished) and r.preview]
    assert previews == [3, 7, 10]
    assert steps_of(reports)[-1] == STEPS


def test_each_of_many_drawings_is_told_of_in_its_own_order_to_its_last_step() -> None:
    messages = asyncio.run(told(*(wanted(n) for n in range(1, 31)), step_s=1e-4))
    assert len(messages) < 30 * 4
    for number in range(1, 31):
        own = [report for message in messages for n, report in message if n == number]
        kinds = [type(report) for report in own if not isinstance(report, AttemptQueued)]
        assert kinds[0] is AttemptStarted
        assert set(kinds[1:-1]) == {StepFinished}
        assert kinds[-1] is AttemptFinished
        assert steps_of(own)[-1] == STEPS


def test_an_end_waits_for_nothing_and_a_step_for_no_longer_than_it_may() -> None:
    async def waited_s(report: AttemptReport) -> float:
        call = Drawings(engine, asyncio.get_running_loop())
        start_s = time.monotonic()
        # As the engine's threads do it.
        threading.Thread(target=call._put, args=(1, report)).start()
        assert [one.number for part in await call.told() for one in part] == [1]
        return time.monotonic() - start_s

    engine: StepEngine[emulated.EmulatedRow] = StepEngine(
        lambda: emulated.EmulatedDenoiser(DEVICE, model_name="m"),
        limits=EngineLimits(),
        clock=SystemClock(),
        on_change=lambda: None,
    )
    shortest = {
        report: min(asyncio.run(waited_s(report)) for _ in range(5))
        for report in (FAILED, AttemptStarted(), StepFinished(step=1, steps=2))
    }
    ended_s, started_s, step_s = shortest.values()
    assert (
        ended_s < TOLD_TOGETHER_S <= started_s < STEPS_TOGETHER_S <= step_s < 5 * STEPS_TOGETHER_S
    )


@pytest.mark.parametrize(
    ("earlier", "after", "void"),
    [
        (AttemptQueued(position=2), AttemptQueued(position=1), True),
        (AttemptQueued(position=1), AttemptStarted(), True),
        (AttemptQueued(position=1), FAILED, False),
        (AttemptStarted(), StepFinished(step=1, steps=3), False),
        (StepFinished(step=1, steps=3), StepFinished(step=2, steps=3), True),
        (StepFinished(step=1, steps=3), StepFinished(step=2, steps=3, preview=b"p"), True),
        (StepFinished(step=1, steps=3, preview=b"p"), StepFinished(step=2, steps=3), False),
        (StepFinished(step=3, steps=3), FAILED, False),
        (StepFinished(step=1, steps=3), KEPT, True),
        (KEPT, StepFinished(step=3, steps=3), False),
        (KEPT, KEPT, True),
    ],
)
def test_only_what_says_nothing_more_is_left_out(
    earlier: AttemptReport, after: AttemptReport, void: bool
) -> None:
    assert is_void(earlier, after=after) is void  # type: ignore[arg-type]

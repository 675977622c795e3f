"""What waits to be told of an attempt holds one checkpoint, however slow the link."""

from __future__ import annotations

from edge_node.checkpoint import Checkpoint, Latents
from edge_node.dispatch.told_reports import ToldReports
from edge_node.domain import AttemptFailed, AttemptReport, StepFinished

END = AttemptFailed(code="seen", message="m", retryable=True)


def step(number: int, *, kept: bool = True, preview: bytes = b"") -> StepFinished:
    latents = Latents(dtype="float16", shape_CHW=(1, 1, 1), latent=b"xx")
    checkpoint = Checkpoint(drawing_sha256="d", fingerprint="f", step=number, latents=latents)
    return StepFinished(
        step=number, steps=9, preview=preview, checkpoint=checkpoint if kept else None
    )


def test_reports_keep_their_order_and_only_the_newest_checkpoint() -> None:
    reports = ToldReports()
    sent: list[AttemptReport] = [step(1), step(2, kept=False), step(3, preview=b"p"), step(4), END]
    for one in sent:
        reports.put_nowait(one)
    told = [reports.get_nowait() for _ in sent]
    assert told == [
        *(step(1, kept=False), step(2, kept=False), step(3, kept=False, preview=b"p")),
        *(step(4), END),
    ]

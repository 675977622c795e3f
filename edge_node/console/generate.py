"""Draws one prompt on a running cluster and shows how it goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID

from edge_node.client import Client, DrawingOptions, Event, NodeUnreachable
from edge_node.errors import OriginUnavailable

ANSWER_S_MAX = 30.0


def generate(
    node_url: str,
    prompt: str,
    *,
    out: Path,
    init_image: Path | None,
    strength: float | None,
    options: DrawingOptions,
) -> int:
    """Submits a task, follows its events with a bar, saves the image at `out`.

    Raises:
        InvalidRequest, RequestRefused, OriginUnavailable, TaskFailed: with what to do.
    """
    with Progress(transient=True) as progress, Client(node_url, timeout_s=ANSWER_S_MAX) as client:
        shown = _Shown(progress)
        try:
            image = client.generate(
                prompt,
                init_image=init_image,
                strength=strength,
                on_event=shown.happened,
                **options,
            )
        except NodeUnreachable as error:
            raise OriginUnavailable(
                f"{error.message} Start one with `dedgeai cluster`, or name another with --node."
            ) from None
    out.write_bytes(image.content)
    for told in shown.moves:
        print(told)
    print(f"{image.task.executor} drew {out} (task {image.task.id})")
    return 0


class _Shown:
    """A bar for the events of a task."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar: TaskID = progress.add_task("queued", total=None)
        self._executor = ""
        # Sentences, in their order.
        self.moves: list[str] = []

    def happened(self, event: Event) -> None:
        self._executor = event.executor or self._executor
        if event.move is not None:
            self.moves.append(_told(event.move))
        if event.type == "step":
            self._progress.update(
                self._bar,
                description=f"{self._executor} draws",
                total=event.steps,
                completed=event.step,
            )
        else:
            description = f"{event.type} {self._executor}".strip()
            self._progress.update(self._bar, description=description)


def _told(move: Mapping[str, Any]) -> str:
    gain_s = move["expected_gain_s"]
    gain = f", to be done {gain_s:.1f} s sooner" if gain_s > 0.0 else ""
    return f"{move['from']} gave it to {move['to']} ({move['reason']}{gain})"

"""Draws a prompt on a running cluster and shows how it goes.

What was accepted is drawn whatever becomes of this process: ids are said at once, and how to fetch.
Where the node that was asked is lost meanwhile, the same drawing is asked of another one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.prompt import Prompt

from edge_node.client import (
    Client,
    DrawingOptions,
    Event,
    Image,
    NodeUnreachable,
    Patience,
    RequestRefused,
    Task,
)
from edge_node.console import preview
from edge_node.console.image_paths import ImagePaths
from edge_node.errors import DEdgeAIError, InvalidRequest, OriginUnavailable, TaskFailed

ANSWER_S_MAX = 30.0
# A node that is started again is there within seconds; one that is not has others beside it.
PATIENCE = Patience(tries_max=8)
LEFT, INTERRUPTED = 0, 130


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to draw, and what to do with it.

    Attributes:
        seeds: one for each image.
        paths: where they are saved.
        detach: not to wait for them.
        as_json: print a JSON object instead of sentences, which go to standard error.
    """

    prompt: str
    seeds: Sequence[int]
    paths: ImagePaths
    options: DrawingOptions = field(default_factory=DrawingOptions)
    init_image: Path | None = None
    strength: float | None = None
    detach: bool = False
    as_json: bool = False
    preview: bool = True


@dataclass(kw_only=True)
class _Drawing:
    """One of its images: its latest task, and where it was saved, or a sentence why it was not."""

    index: int
    task: Task
    image: Image | None = None
    path: Path | None = None
    failed: str = ""


def generate(node_url: str, wanted: Wanted) -> int:
    """Has it accepted, follows it with bars, saves the images; the exit code.

    1 where an image was not drawn, 130 where Ctrl-C ended the waiting.

    Raises:
        InvalidRequest, RequestRefused, OriginUnavailable: with what to do.
    """
    request = _Request(wanted, node_url)
    try:
        request.submit(node_url)
        if wanted.detach:
            request.say_how_to_fetch()
        else:
            request.follow_to_the_end()
    except KeyboardInterrupt:
        return request.interrupted()
    finally:
        request.print_json()
    return 1 if any(one.failed for one in request.drawings) else 0


def fetch(node_url: str, task_id: str, *, out: str | None, force: bool, show: bool) -> int:
    """Waits for the image of a task that was accepted before, and saves it; the exit code.

    Raises:
        InvalidRequest, RequestRefused, OriginUnavailable: with what to do.
    """
    try:
        with _client(node_url) as client:
            task = client.task(task_id)
    except NodeUnreachable as error:
        raise OriginUnavailable(f"{error.message} Name another with --node.") from None
    seeds = [task.seed or 0]
    drawn_as = task.document.get("output_format", "")
    paths = ImagePaths(out, seeds, force=force, drawn_as=drawn_as)
    wanted = Wanted(prompt=task.prompt or "", seeds=seeds, paths=paths, preview=show)
    request = _Request(wanted, node_url)
    request.drawings = [_Drawing(index=0, task=task)]
    try:
        request.follow_to_the_end()
    except KeyboardInterrupt:
        return request.interrupted()
    return 1 if request.drawings[0].failed else 0


class _Request:
    """The drawings of one command, and the node that is asked for them now."""

    def __init__(self, wanted: Wanted, node_url: str) -> None:
        self._wanted = wanted
        self._node_url = node_url
        self._others: list[str] = []
        # Of a program that reads standard output, sentences are not for it.
        self._console = Console(stderr=wanted.as_json, highlight=False)
        self.drawings: list[_Drawing] = []

    # Asking.

    def submit(self, node_url: str) -> None:
        """Has all images accepted by one node, or none."""
        wanted = self._wanted
        given: dict[str, Any] = {
            **wanted.options,
            "seed": wanted.seeds[0],
            "output_format": wanted.paths.format,
            "init_image": wanted.init_image,
            "strength": wanted.strength,
        }
        try:
            with _client(node_url) as client:
                # Once it is lost it is too late to ask.
                self._others = _others(client, node_url)
                if len(wanted.seeds) == 1:
                    tasks: Sequence[Task] = [client.submit(wanted.prompt, **given)]
                else:
                    tasks = client.submit_job(wanted.prompt, len(wanted.seeds), **given).tasks
                self.drawings = [_Drawing(index=i, task=task) for i, task in enumerate(tasks)]
                for task in tasks:
                    self._say(f"Task {task.id}, seed {task.seed}")
        except NodeUnreachable as error:
            raise OriginUnavailable(
                f"{error.message} Start one with `dedgeai cluster`, or name another with --node."
            ) from None

    def _ask_another(self, lost: str) -> bool:
        """Has what is open drawn by another node; whether one took it."""
        wanted = self._wanted
        waiting = list(self._open)
        while self._others:
            url = self._others.pop(0)
            try:
                with _client(url) as client:
                    while waiting:
                        one = waiting[0]
                        given: dict[str, Any] = {**wanted.options, "init_image": wanted.init_image}
                        former = one.task.id
                        one.task = client.submit(
                            wanted.prompt,
                            **given,
                            seed=wanted.seeds[one.index],
                            output_format=wanted.paths.format,
                            strength=wanted.strength,
                        )
                        self._say(
                            f"{lost} is lost, with task {former}: {url} draws the same as task "
                            f"{one.task.id}"
                        )
                        waiting.pop(0)
            except (NodeUnreachable, RequestRefused) as error:
                self._say(f"{url} does not take it: {error.message}")
                continue
            self._node_url = url
            return True
        return False

    @property
    def _open(self) -> list[_Drawing]:
        return [one for one in self.drawings if one.image is None and not one.failed]

    # Following.

    def follow_to_the_end(self) -> None:
        """Until every image is saved or failed; says what became of them, however it ends."""
        moves: list[str] = []
        try:
            with Progress(console=self._console, transient=True) as progress:
                shown = _Shown(progress, self.drawings, moves)
                while self._open:
                    self._follow_one_node(shown)
        finally:
            for told in moves:
                self._say(told)
            for one in self.drawings:
                self._show(one)

    def _follow_one_node(self, shown: _Shown) -> None:
        """Until all is drawn, or the node is lost and another one draws the rest."""
        try:
            with _client(self._node_url) as client:
                self._follow(client, shown)
        except (NodeUnreachable, RequestRefused) as error:
            if not _is_loss(error):
                raise
            if not self._ask_another(self._node_url):
                shows = ", ".join(f"`dedgeai tasks fetch {one.task.id}`" for one in self._open)
                raise OriginUnavailable(
                    f"{error.message} No other node took it over: what was accepted is "
                    f"drawn once the node is back; then: {shows}."
                ) from None

    def _follow(self, client: Client, shown: _Shown) -> None:
        for event in _events(client, self._open):
            shown.happened(event, self.drawings)
        for one in self._open:
            try:
                one.image = client.wait(one.task.id)
            except TaskFailed as error:
                one.failed = f"task {one.task.id} failed: {error.message}"
                continue
            content = one.image.content
            try:
                one.path = self._wanted.paths.save(one.index, content, task_id=one.task.id)
            except InvalidRequest as error:  # the others are saved all the same
                one.failed = error.message

    def _show(self, one: _Drawing) -> None:
        if one.failed:
            print(f"dedgeai: {one.failed}", file=sys.stderr)
        if one.image is None or one.path is None:
            return
        task = one.image.task
        self._say(f"{task.executor} drew {one.path} (task {task.id}, seed {task.seed})")
        if self._wanted.preview and not self._wanted.as_json:
            preview.show(one.image.content, self._console)

    # Leaving.

    def interrupted(self) -> int:
        """Ctrl-C: asks what to do where somebody can answer; the tasks are not this process's."""
        if not self._open:
            return INTERRUPTED
        cancel = False
        if sys.stdin.isatty():
            try:
                asked = "Cancel what is not drawn yet, or leave it running?"
                answer = Prompt.ask(asked, choices=["cancel", "leave"], default="leave")
                cancel = answer == "cancel"
            except (KeyboardInterrupt, EOFError):
                self._say("")
        if not cancel:
            self.say_how_to_fetch()
            return INTERRUPTED
        with _client(self._node_url) as client:
            for one in self._open:
                self._say(f"Task {one.task.id} is {client.cancel(one.task.id).status}")
        return INTERRUPTED

    def say_how_to_fetch(self) -> None:
        """What is left running, and how its images are had."""
        for one in self._open:
            self._say(
                f"It goes on without this command: dedgeai tasks fetch {one.task.id} "
                f"--node {self._node_url}"
            )

    # Saying.

    def _say(self, sentence: str) -> None:
        self._console.print(sentence, markup=False, soft_wrap=True)

    def print_json(self) -> None:
        """All of it for a program, also of what is not there yet."""
        if not self._wanted.as_json or not self.drawings:
            return
        images = [
            {
                "id": one.task.id,
                "node": self._node_url,
                "seed": self._wanted.seeds[one.index],
                "status": "completed" if one.image else "failed" if one.failed else one.task.status,
                "file": None if one.path is None else str(one.path),
                "executor": one.image.task.executor if one.image else None,
                "error": one.failed or None,
            }
            for one in self.drawings
        ]
        print(json.dumps({"prompt": self._wanted.prompt, "images": images}, indent=1))


@contextmanager
def _client(node_url: str) -> Iterator[Client]:
    with Client(node_url, timeout_s=ANSWER_S_MAX, patience=PATIENCE) as client:
        yield client


def _others(client: Client, node_url: str) -> list[str]:
    """REST surfaces of the other nodes; none where the node does not say."""
    try:
        peers = client.cluster().peers
    except DEdgeAIError:
        return []
    return [
        one.rest_url for one in peers if one.alive and one.rest_url and one.rest_url != node_url
    ]


def _is_loss(error: DEdgeAIError) -> bool:
    """Whether the node is gone, or says that it is going: another one may take it over."""
    return isinstance(error, NodeUnreachable) or error.code in (
        "origin_unavailable",
        "node_away",
        "node_not_ready",
    )


def _events(client: Client, drawings: Sequence[_Drawing]) -> Iterable[Event]:
    job = drawings[0].task.job_id
    if job is not None and len(drawings) > 1:
        yield from client.job_events(job)
        return
    for one in drawings:
        yield from client.events(one.task.id)


class _Shown:
    """A bar for each image, by the events of its task."""

    def __init__(self, progress: Progress, drawings: Sequence[_Drawing], moves: list[str]) -> None:
        self._progress = progress
        self._bars: list[TaskID] = [progress.add_task("queued", total=None) for _ in drawings]
        self._executors = [""] * len(drawings)
        # Sentences, in their order.
        self._moves = moves

    def happened(self, event: Event, drawings: Sequence[_Drawing]) -> None:
        ids = [one.task.id for one in drawings]
        index = ids.index(event.task_id) if event.task_id in ids else 0
        executor = self._executors[index] = event.executor or self._executors[index]
        if event.move is not None:
            self._moves.append(_told(event.move))
        if event.type == "step":
            self._progress.update(
                self._bars[index],
                description=f"{executor} draws",
                total=event.steps,
                completed=event.step,
            )
        else:
            description = f"{event.type} {executor}".strip()
            self._progress.update(self._bars[index], description=description)


def _told(move: Mapping[str, Any]) -> str:
    gain_s = move["expected_gain_s"]
    gain = f", to be done {gain_s:.1f} s sooner" if gain_s > 0.0 else ""
    return f"{move['from']} gave it to {move['to']} ({move['reason']}{gain})"

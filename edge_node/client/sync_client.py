"""The client for programs that wait: every method returns when the node has answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TypeVar, Unpack

import httpx

from edge_node.client import calls
from edge_node.client.calls import Call, DrawingOptions, Picture
from edge_node.client.connection import DEFAULT_URL, key_header, trusted
from edge_node.client.event_reader import EVENT_STREAM, EventReader
from edge_node.client.objects import (
    Cancelled,
    Cluster,
    Event,
    Image,
    Job,
    Model,
    Page,
    Readiness,
    Task,
)
from edge_node.client.problems import (
    STREAM_TIMEOUT,
    Patience,
    RequestRefused,
    ended_early,
    refusal_in,
    task_failed,
    unreachable,
)
from edge_node.errors import DEdgeAIError

Answer = TypeVar("Answer")
PAGE_TASKS = 100


class Client:
    """Talks to one node of a cluster, which answers for all of them.

    Args:
        address: REST surface of any node.
        api_key: of the cluster; that in DEDGEAI_API_KEY if not given.
        timeout_s: for one answer; streams of events last as long as their tasks.
        patience: how long it goes on where a node says to come again, or is away for a moment.
            A node that never answered is not waited for.
        transport: of httpx, in place of the network.
        headers: sent with every request, as `traceparent`.

    Raises:
        RequestRefused: by every method; the node said no, and why.
        NodeUnreachable: by every method; nobody answers.
    """

    def __init__(
        self,
        address: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        patience: Patience | None = None,
        transport: httpx.BaseTransport | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.address = address.rstrip("/")
        self._patience = patience or Patience()
        self._met = False
        self._http = httpx.Client(
            base_url=self.address,
            timeout=timeout_s,
            trust_env=False,
            verify=trusted(),
            headers={**key_header(api_key), **(headers or {})},
            transport=transport,
        )

    def __enter__(self) -> Self:
        """Opens nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes all connections."""
        self.close()

    def close(self) -> None:
        """Closes all connections."""
        self._http.close()

    # Drawing.

    def submit(
        self,
        prompt: str,
        *,
        init_image: Picture | None = None,
        strength: float | None = None,
        mask: Picture | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[DrawingOptions],
    ) -> Task:
        """Has a task accepted, on disk when this returns; arguments as `calls.submit`."""
        call = calls.submit(
            prompt,
            init_image=init_image,
            strength=strength,
            mask=mask,
            idempotency_key=idempotency_key,
            options=options,
        )
        return self._ask(call).demand_task()

    def submit_job(
        self,
        prompt: str,
        images: int,
        *,
        init_image: Picture | None = None,
        strength: float | None = None,
        mask: Picture | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[DrawingOptions],
    ) -> Job:
        """Has several tasks of one prompt accepted, all or none."""
        call = calls.submit(
            prompt,
            images=images,
            init_image=init_image,
            strength=strength,
            mask=mask,
            idempotency_key=idempotency_key,
            options=options,
        )
        return self._ask(call).demand_job()

    def generate(
        self,
        prompt: str,
        *,
        init_image: Picture | None = None,
        strength: float | None = None,
        mask: Picture | None = None,
        idempotency_key: str | None = None,
        on_event: Callable[[Event], None] = lambda event: None,
        **options: Unpack[DrawingOptions],
    ) -> Image:
        """Submits, waits and fetches; `on_event` hears of everything on the way.

        Raises:
            TaskFailed: the task ended without an image.
        """
        accepted = self.submit(
            prompt,
            init_image=init_image,
            strength=strength,
            mask=mask,
            idempotency_key=idempotency_key,
            **options,
        )
        return self.wait(accepted.id, on_event=on_event)

    def wait(
        self, task_id: str, *, on_event: Callable[[Event], None] = lambda event: None
    ) -> Image:
        """The image of a task, once there is one; raises TaskFailed where there will be none."""
        for event in self.events(task_id):
            on_event(event)
        ended = self.task(task_id)
        if ended.status != "completed":
            raise task_failed(ended)
        content, media_type = self._ask(calls.image(task_id, thumbnail_px=None))
        return Image(content=content, media_type=media_type, task=ended)

    # Tasks and jobs.

    def task(self, task_id: str) -> Task:
        """A task, whichever node has it."""
        return self._ask(calls.task(task_id))

    def job(self, job_id: str) -> Job:
        """A job, whichever node has it."""
        return self._ask(calls.job(job_id))

    def image(self, task_id: str, *, thumbnail_px: int | None = None) -> bytes:
        """The image of a task that is completed, or a copy that fits a square of so many pixels."""
        return self._ask(calls.image(task_id, thumbnail_px=thumbnail_px))[0]

    def cancel(self, task_id: str) -> Task:
        """Cancels a task; one that is over stays as it is."""
        return self._ask(calls.cancel(task_id))

    def cancel_job(self, job_id: str) -> Job:
        """Cancels what is open of a job."""
        return self._ask(calls.cancel_job(job_id))

    def cancel_all(
        self, *, status: str | None = None, model: str | None = None, owner: str | None = None
    ) -> Cancelled:
        """Cancels every open task that is meant, at all nodes; all of them without a filter."""
        return self._ask(calls.cancel_all(status=status, model=model, owner=owner))

    def erase(self, task_id: str) -> None:
        """Ends a task and erases all that was wanted and drawn of it."""
        self._ask(calls.erase(task_id))

    def erase_job(self, job_id: str) -> None:
        """The same of all tasks of a job."""
        self._ask(calls.erase_job(job_id))

    def page(
        self,
        *,
        status: str | None = None,
        model: str | None = None,
        owner: str | None = None,
        limit: int = PAGE_TASKS,
        cursor: str | None = None,
    ) -> Page:
        """A page of the tasks of all nodes, newest first.

        Args:
            status: some, with commas between.
            model: that is to draw them.
            owner: id of an API key.
            limit: of tasks; a page may have fewer though more follow.
            cursor: `next_cursor` of the page before.
        """
        return self._ask(
            calls.page(status=status, model=model, owner=owner, limit=limit, cursor=cursor)
        )

    def tasks(
        self, *, status: str | None = None, model: str | None = None, owner: str | None = None
    ) -> Iterator[Task]:
        """All of them, page by page, newest first; those that were erased are only in `page`."""
        cursor = None
        while True:
            page = self.page(status=status, model=model, owner=owner, cursor=cursor)
            for one in page.tasks:
                if isinstance(one, Task):
                    yield one
            cursor = page.next_cursor
            if cursor is None:
                return

    # What happens.

    def events(self, task_id: str, *, after: int = 0) -> Iterator[Event]:
        """What happens to a task, to its end; goes on where it was after a break."""
        for event in self._follow(calls.events_path(task_id), str(after) if after else ""):
            yield event
            if event.is_final:
                return

    def job_events(self, job_id: str) -> Iterator[Event]:
        """What happens to the tasks of a job, until all have ended."""
        yield from self._follow(calls.job_events_path(job_id), "")

    def cluster_events(self, *, owner: str | None = None) -> Iterator[Event]:
        """What happens to all tasks, and to nodes, from now on; it does not end by itself."""
        yield from self._follow("/v1/events", "", query={"owner": owner} if owner else {})

    # The cluster.

    def models(self) -> tuple[Model, ...]:
        """All models that some live node serves."""
        return self._ask(calls.models())

    def cluster(self) -> Cluster:
        """All nodes as the one that is asked sees them."""
        return self._ask(calls.cluster())

    def readiness(self) -> Readiness:
        """Whether the node takes requests now, and why not."""
        return self._ask(calls.readiness())

    def dead_letters(self) -> tuple[Task, ...]:
        """Tasks of the node that were tried and given up."""
        return self._ask(calls.dead_letters())

    def retry_dead_letter(self, task_id: str) -> Task:
        """The new task with the drawing of one that was given up."""
        return self._ask(calls.retry_dead_letter(task_id))

    def operate(self, node_id: str, action: calls.Operation) -> None:
        """Has a node take no new work, or give it back as well, or take it again.

        One that is dead is removed from the cluster, and readmitted.
        """
        self._ask(calls.operate(node_id, action))

    # Over HTTP.

    def _ask(self, call: Call[Answer]) -> Answer:
        tries = 0
        while True:
            tries += 1
            try:
                response = self._http.request(
                    call.method,
                    call.path,
                    json=call.body,
                    params=call.query or None,
                    headers=call.headers,
                )
            except httpx.TransportError as error:
                problem: DEdgeAIError = unreachable(self.address, error, met=self._met)
            else:
                self._met = True
                refusal = None if response.status_code in call.taken else refusal_in(response)
                if refusal is None:
                    return call.read(response)
                problem = refusal
            self._pause(problem, tries)

    def _follow(
        self, path: str, after: str, *, query: Mapping[str, Any] | None = None
    ) -> Iterator[Event]:
        tries = 0
        while True:
            tries += 1
            headers = {"Accept": EVENT_STREAM, **({"Last-Event-ID": after} if after else {})}
            try:
                with self._http.stream(
                    "GET", path, params=query, headers=headers, timeout=STREAM_TIMEOUT
                ) as response:
                    self._met = True
                    if response.status_code == httpx.codes.NO_CONTENT:
                        return
                    if not response.is_success:
                        response.read()
                    problem = refusal_in(response) or ended_early(self.address)
                    if response.is_success:
                        reader = EventReader(after)
                        for line in response.iter_lines():
                            told = reader.feed(line)
                            after = reader.last_id
                            if told is not None:
                                tries = 0
                                yield told
            except httpx.TransportError as error:
                problem = unreachable(self.address, error, met=self._met)
            except RequestRefused as error:
                problem = error
            self._pause(problem, tries)

    def _pause(self, problem: DEdgeAIError, tries: int) -> None:
        """Waits as long as is said; raises the problem where that is no use."""
        pause_s = self._patience.pause_s(problem, tries=tries)
        if pause_s is None:
            raise problem from None
        time.sleep(pause_s)

"""The client for programs that run an asyncio loop; method for method as `sync_client.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
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


class AsyncClient:
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
        transport: httpx.AsyncBaseTransport | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.address = address.rstrip("/")
        self._patience = patience or Patience()
        self._met = False
        self._http = httpx.AsyncClient(
            base_url=self.address,
            timeout=timeout_s,
            trust_env=False,
            verify=trusted(),
            headers={**key_header(api_key), **(headers or {})},
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        """Opens nothing yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes all connections."""
        await self.close()

    async def close(self) -> None:
        """Closes all connections."""
        await self._http.aclose()

    # Drawing.

    async def submit(
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
        return (await self._ask(call)).demand_task()

    async def submit_job(
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
        return (await self._ask(call)).demand_job()

    async def generate(
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
        accepted = await self.submit(
            prompt,
            init_image=init_image,
            strength=strength,
            mask=mask,
            idempotency_key=idempotency_key,
            **options,
        )
        return await self.wait(accepted.id, on_event=on_event)

    async def wait(
        self, task_id: str, *, on_event: Callable[[Event], None] = lambda event: None
    ) -> Image:
        """The image of a task, once there is one; raises TaskFailed where there will be none."""
        async with aclosing(self.events(task_id)) as events:
            async for event in events:
                on_event(event)
        ended = await self.task(task_id)
        if ended.status != "completed":
            raise task_failed(ended)
        content, media_type = await self._ask(calls.image(task_id, thumbnail_px=None))
        return Image(content=content, media_type=media_type, task=ended)

    # Tasks and jobs.

    async def task(self, task_id: str) -> Task:
        """A task, whichever node has it."""
        return await self._ask(calls.task(task_id))

    async def job(self, job_id: str) -> Job:
        """A job, whichever node has it."""
        return await self._ask(calls.job(job_id))

    async def image(self, task_id: str, *, thumbnail_px: int | None = None) -> bytes:
        """The image of a task that is completed, or a copy that fits a square of so many pixels."""
        return (await self._ask(calls.image(task_id, thumbnail_px=thumbnail_px)))[0]

    async def cancel(self, task_id: str) -> Task:
        """Cancels a task; one that is over stays as it is."""
        return await self._ask(calls.cancel(task_id))

    async def cancel_job(self, job_id: str) -> Job:
        """Cancels what is open of a job."""
        return await self._ask(calls.cancel_job(job_id))

    async def cancel_all(
        self, *, status: str | None = None, model: str | None = None, owner: str | None = None
    ) -> Cancelled:
        """Cancels every open task that is meant, at all nodes; all of them without a filter."""
        return await self._ask(calls.cancel_all(status=status, model=model, owner=owner))

    async def erase(self, task_id: str) -> None:
        """Ends a task and erases all that was wanted and drawn of it."""
        await self._ask(calls.erase(task_id))

    async def erase_job(self, job_id: str) -> None:
        """The same of all tasks of a job."""
        await self._ask(calls.erase_job(job_id))

    async def page(
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
        return await self._ask(
            calls.page(status=status, model=model, owner=owner, limit=limit, cursor=cursor)
        )

    async def tasks(
        self, *, status: str | None = None, model: str | None = None, owner: str | None = None
    ) -> AsyncGenerator[Task, None]:
        """All of them, page by page, newest first; those that were erased are only in `page`."""
        cursor = None
        while True:
            page = await self.page(status=status, model=model, owner=owner, cursor=cursor)
            for one in page.tasks:
                if isinstance(one, Task):
                    yield one
            cursor = page.next_cursor
            if cursor is None:
                return

    # What happens.

    async def events(self, task_id: str, *, after: int = 0) -> AsyncGenerator[Event, None]:
        """What happens to a task, to its end; goes on where it was after a break."""
        following = self._follow(calls.events_path(task_id), str(after) if after else "")
        async with aclosing(following) as events:
            async for event in events:
                yield event
                if event.is_final:
                    return

    async def job_events(self, job_id: str) -> AsyncGenerator[Event, None]:
        """What happens to the tasks of a job, until all have ended."""
        following = self._follow(calls.job_events_path(job_id), "")
        async with aclosing(following) as events:
            async for event in events:
                yield event

    async def cluster_events(self, *, owner: str | None = None) -> AsyncGenerator[Event, None]:
        """What happens to all tasks, and to nodes, from now on; it does not end by itself."""
        following = self._follow("/v1/events", "", query={"owner": owner} if owner else {})
        async with aclosing(following) as events:
            async for event in events:
                yield event

    # The cluster.

    async def models(self) -> tuple[Model, ...]:
        """All models that some live node serves."""
        return await self._ask(calls.models())

    async def cluster(self) -> Cluster:
        """All nodes as the one that is asked sees them."""
        return await self._ask(calls.cluster())

    async def readiness(self) -> Readiness:
        """Whether the node takes requests now, and why not."""
        return await self._ask(calls.readiness())

    async def dead_letters(self) -> tuple[Task, ...]:
        """Tasks of the node that were tried and given up."""
        return await self._ask(calls.dead_letters())

    async def retry_dead_letter(self, task_id: str) -> Task:
        """The new task with the drawing of one that was given up."""
        return await self._ask(calls.retry_dead_letter(task_id))

    async def operate(self, node_id: str, action: calls.Operation) -> None:
        """Has a node take no new work, or give it back as well, or take it again.

        One that is dead is removed from the cluster, and readmitted.
        """
        await self._ask(calls.operate(node_id, action))

    # Over HTTP.

    async def _ask(self, call: Call[Answer]) -> Answer:
        tries = 0
        while True:
            tries += 1
            try:
                response = await self._http.request(
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
            await self._pause(problem, tries)

    async def _follow(
        self, path: str, after: str, *, query: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[Event, None]:
        tries = 0
        while True:
            tries += 1
            headers = {"Accept": EVENT_STREAM, **({"Last-Event-ID": after} if after else {})}
            try:
                async with self._http.stream(
                    "GET", path, params=query, headers=headers, timeout=STREAM_TIMEOUT
                ) as response:
                    self._met = True
                    if response.status_code == httpx.codes.NO_CONTENT:
                        return
                    if not response.is_success:
                        await response.aread()
                    problem = refusal_in(response) or ended_early(self.address)
                    if response.is_success:
                        reader = EventReader(after)
                        async for line in response.aiter_lines():
                            told = reader.feed(line)
                            after = reader.last_id
                            if told is not None:
                                tries = 0
                                yield told
            except httpx.TransportError as error:
                problem = unreachable(self.address, error, met=self._met)
            except RequestRefused as error:
                problem = error
            await self._pause(problem, tries)

    async def _pause(self, problem: DEdgeAIError, tries: int) -> None:
        """Waits as long as is said; raises the problem where that is no use."""
        pause_s = self._patience.pause_s(problem, tries=tries)
        if pause_s is None:
            raise problem from None
        await asyncio.sleep(pause_s)

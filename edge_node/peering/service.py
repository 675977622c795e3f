"""What a node does for its peers, in domain types: the gRPC servicer only translates.

Owns the ways in which a call ends: an origin that hangs up gives its attempt back, a stream of
states ends with its listener. Knows no transport, so that a simulated one can call it in-process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import ExitStack, aclosing

from edge_node.dispatch.dispatcher import Dispatcher
from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptReport,
    Fence,
    JobId,
    NodeId,
    NodeState,
    Offload,
    TaskEvent,
    TaskId,
    TaskRecord,
    owner,
)
from edge_node.errors import DEdgeAIError, NotTheCaller
from edge_node.experience_page import ExperiencePage
from edge_node.happenings import Happened
from edge_node.learned_weights import LearnedWeights
from edge_node.listing import Place, TaskFilter, TaskPage
from edge_node.moves import WantedTask
from edge_node.peering.caller import NOBODY_KNOWN, Caller
from edge_node.peering.peer_links import PeerLinks
from edge_node.ports import LearningDesk
from edge_node.requests import NodeAction
from edge_node.shared_rows import RowGiven, RowWanted

log = logging.getLogger(__name__)

# Entries of a pool that travel in one message: some 120 kB with 5 nodes, 320 kB with 40.
EXPERIENCE_PAGE_ENTRIES = 200
# Entries that one call may ask for.
EXPERIENCE_CALL_ENTRIES_MAX = 5_000


class PeerService:
    """The other end of every PeerConnection that leads here.

    Its generators are to be closed when the caller hangs up or dies; see `contextlib.aclosing`.
    `signed_keys` gives the list of API keys to pass on, empty where there is none.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        links: PeerLinks,
        learning: LearningDesk,
        *,
        signed_keys: Callable[[], bytes] = bytes,
    ) -> None:
        self.signed_keys = signed_keys
        self._dispatcher = dispatcher
        self._links = links
        self._learning = learning

    def own_state(self) -> NodeState:
        """This node's state, as it is now."""
        return self._dispatcher.own_node.state()

    async def exchange_state(
        self, states: AsyncIterator[NodeState], *, caller: Caller = NOBODY_KNOWN
    ) -> AsyncGenerator[NodeState, None]:
        """Hears `states` of a peer; yields this node's while it speaks.

        Raises:
            MalformedMessage, NotTheCaller: what it says is not heard, and it is told why.
        """
        answering = ExitStack()

        async def listen() -> None:
            met: NodeId | None = None
            async for state in states:
                proven = caller.node_id is not None
                if proven and caller.node_id != state.node_id:
                    raise NotTheCaller(f"{caller.node_id} sent a state of {state.node_id}.")
                try:
                    self._links.hello(state, host=caller.host, proven=proven)
                except Exception:
                    # Our own bug must not make this node deaf to the peer.
                    log.exception("a state of node %s was not taken in", state.node_id)
                if state.node_id != met and (
                    proven or self._links.speaks_for(state.node_id, caller.host)
                ):
                    met = state.node_id
                    answering.close()
                    answering.enter_context(self._links.answering(met))

        listening = asyncio.create_task(listen())
        try:
            async with aclosing(self._links.own_states()) as own_states:
                async for state in own_states:
                    if listening.done():
                        break
                    yield state
        finally:
            listening.cancel()
            (ended,) = await asyncio.gather(listening, return_exceptions=True)
            answering.close()
        if isinstance(ended, DEdgeAIError):
            raise ended
        # What a transport raises when its caller is gone ends the stream, too.
        if isinstance(ended, Exception):
            log.debug("states of the node at %s ended: %r", caller.host, ended)

    async def offload(
        self, offload: Offload, *, init_image: bytes, caller: Caller = NOBODY_KNOWN
    ) -> AsyncGenerator[AttemptReport, None]:
        """Takes an attempt of another origin and yields what happens to it, to the end.

        Raises:
            NotTheCaller: the task is not the caller's.
        """
        self._check_owner(offload.task_id, caller)
        if offload.origin != owner(offload.task_id):
            raise NotTheCaller(f"{offload.task_id} is not a task of {offload.origin}.")
        reports = await self._dispatcher.executor.host(offload, init_image=init_image)
        try:
            while True:
                report = await reports.get()
                yield report
                if isinstance(report, AttemptFinished | AttemptFailed):
                    return
        finally:
            # Also when the origin hung up or died: it will have placed the task again.
            self._dispatcher.executor.unhost(offload.task_id, offload.fence, reports)

    def cancel_offload(
        self, task_id: TaskId, fence: Fence, *, caller: Caller = NOBODY_KNOWN
    ) -> None:
        """The origin does not want the attempt any more; raises NotTheCaller."""
        self._check_owner(task_id, caller)
        self._dispatcher.executor.cancel_hosted(task_id, fence)

    def hand_over(self, task_id: TaskId, fence: Fence, *, caller: Caller = NOBODY_KNOWN) -> None:
        """The origin wants the attempt to go on elsewhere; raises NotTheCaller."""
        self._check_owner(task_id, caller)
        self._dispatcher.executor.hand_over_hosted(task_id, fence)

    async def compute_row(self, wanted: RowWanted, *, caller: Caller = NOBODY_KNOWN) -> RowGiven:
        """A peer would have a row computed here of a step that it draws. Raises NotTheCaller."""
        if caller.node_id not in (None, wanted.leader):
            raise NotTheCaller(f"{caller.node_id} asked for {wanted.leader}.")
        return await self._dispatcher.helping.give(wanted)

    def take_task(self, wanted: WantedTask, *, caller: Caller = NOBODY_KNOWN) -> bool:
        """A peer would go on with a task of this node; whether it may. Raises NotTheCaller."""
        if caller.node_id not in (None, wanted.taker):
            raise NotTheCaller(f"{caller.node_id} asked for {wanted.taker}.")
        return self._dispatcher.mover.give(wanted)

    async def read_task(self, task_id: TaskId) -> TaskRecord:
        """A task of this node, or TaskNotFound."""
        return await self._dispatcher.own_tasks.read_task(task_id)

    async def read_job(self, job_id: JobId) -> tuple[TaskRecord, ...]:
        """The tasks of a job of this node, or TaskNotFound."""
        return await self._dispatcher.own_tasks.read_job(job_id)

    async def cancel_task(self, task_id: TaskId) -> TaskRecord:
        """Cancels a task of this node, or TaskNotFound."""
        return await self._dispatcher.own_tasks.cancel(task_id)

    async def list_tasks(self, wanted: TaskFilter, *, before: Place | None, count: int) -> TaskPage:
        """Tasks of this node, newest first; or StoreUnavailable."""
        return await self._dispatcher.own_list.page(wanted, before=before, count=count)

    async def cancel_tasks(self, wanted: TaskFilter) -> int:
        """Cancels what is open and wanted of this node; how many tasks that were."""
        return await self._dispatcher.own_cancel.cancel(wanted)

    def operate(self, action: NodeAction) -> None:
        """Does what an operator said to another node, which asked for his key."""
        self._dispatcher.operate(action)

    async def erase_task(self, task_id: TaskId) -> None:
        """Erases a task of this node, or TaskNotFound, or StoreUnavailable."""
        await self._dispatcher.eraser.erase(task_id)

    async def forget_task(
        self, task_id: TaskId, *, init_image_sha256: str, caller: Caller = NOBODY_KNOWN
    ) -> bool:
        """Forgets what another node's task was drawn from; raises NotTheCaller."""
        self._check_owner(task_id, caller)
        return await self._dispatcher.eraser.forget_hosted(task_id, init_image_sha256)

    def watch_task(self, task_id: TaskId, *, after: int) -> AsyncGenerator[TaskEvent, None]:
        """Events of a task of this node, to the final one; raises TaskNotFound on the way."""
        return self._dispatcher.own_tasks.watch(task_id, after=after)

    def watch_events(
        self, *, after: int | None, client: str, previews: bool
    ) -> AsyncGenerator[Happened, None]:
        """What happens to tasks of this node; as Journal.read."""
        return self._dispatcher.journal.read(after=after, client=client, previews=previews)

    async def fetch_image(self, task_id: TaskId) -> tuple[bytes, str]:
        """The image of a task of this node; or TaskNotFound, ImageNotReady or ImageGone."""
        return await self._dispatcher.own_tasks.read_image(task_id)

    async def read_experience(
        self, after: str, *, entries_max: int
    ) -> AsyncGenerator[ExperiencePage, None]:
        """This node's pool from a cursor on, in pages, to its end or to `entries_max`."""
        left = min(entries_max, EXPERIENCE_CALL_ENTRIES_MAX)
        while left > 0:
            page = await self._learning.read_experience(
                after, entries_max=min(left, EXPERIENCE_PAGE_ENTRIES)
            )
            if not page.entries:
                return
            yield page
            after, left = page.last, left - len(page.entries)

    @property
    def weights_bytes_max(self) -> int:
        """Most bytes of a file of weights that this node takes."""
        return self._learning.weights_bytes_max

    def weights(self, sha256: str) -> tuple[LearnedWeights, bytes]:
        """The newest learned weights of this node, or WeightsGone."""
        return self._learning.weights(sha256)

    async def offer_weights(self, weights: LearnedWeights, content: bytes) -> None:
        """A learner beside the nodes brings weights; raises InvalidRequest if they are refused."""
        await self._learning.take_weights(weights, content)

    async def offer_verdict(self, form: str, verdict: bytes) -> None:
        """A learner has replayed this node's decisions; raises InvalidRequest if it is refused."""
        await self._learning.take_verdict(form, verdict)

    # Who may say what.

    def _check_owner(self, task_id: TaskId, caller: Caller) -> None:
        """An attempt is placed and taken back by the owner of its task, which is another node."""
        owning = owner(task_id)
        if owning == self._dispatcher.own_node.id:
            raise NotTheCaller(f"{task_id} is this node's own, which places it without a call.")
        if caller.node_id not in (None, owning):
            raise NotTheCaller(f"{caller.node_id} spoke for {owning} of {task_id}.")

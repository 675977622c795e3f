"""What clients wrote and sent leaves the cluster: all of a task on request, its words by age.

Owns the order. First the record loses its content and what is owed beside it is noted, in one step
on disk; then, and again after every restart until it is done: the image, what was learned from the
task, what it started from, here and at every node that may have drawn it. A node that does not
answer is asked again until the task's deadline, by when it has removed its copy unasked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from edge_node.clock import Clock
from edge_node.config import NodeConfig
from edge_node.dispatch.inbox import Inbox
from edge_node.dispatch.own_tasks import OwnTasks
from edge_node.domain import NodeId, TaskId
from edge_node.erasure import Owed, is_erased
from edge_node.errors import DEdgeAIError, StoreUnavailable
from edge_node.ports import Erasures, ExperiencePool, Images, InitImages, Ledger, Peers
from edge_node.tasks import hosting as hosted
from edge_node.tasks import lifecycle_protocol as life
from edge_node.tasks.hosting import Hosting
from edge_node.tasks.lifecycle import Lifecycle

log = logging.getLogger(__name__)

# Between two looks at what is owed, and at what has become old.
LOOK_S = 2.0
AGE_LOOK_S = 30.0


@dataclass(frozen=True, kw_only=True)
class EraserSettings:
    """For how long after its end a task keeps its words, and anything at all; in seconds."""

    prompt_keep_s: float
    task_keep_s: float

    @classmethod
    def of(cls, config: NodeConfig) -> EraserSettings:
        """From the node's settings."""
        keep_s = config.task_keep_s
        words_s = keep_s if config.prompt_keep_s is None else config.prompt_keep_s
        return cls(prompt_keep_s=min(words_s, keep_s), task_keep_s=keep_s)


@dataclass(frozen=True)
class Holders:
    """Who may hold something of a task.

    Attributes:
        ledger: has to have written what it knows before that can be erased.
        erasures: the ledger's part in it.
        pool: keeps decisions for a learner, if any does.
    """

    ledger: Ledger
    erasures: Erasures
    images: Images
    init_images: InitImages
    pool: ExperiencePool | None


class Eraser:
    """For tasks accepted here, and for what is held here of others'.

    Args:
        settings: how long words are kept.
        holders: who may hold something here.
        own_tasks: ends what is to be erased.
        lifecycle, hosting: say who needs what.
        inbox: takes what is to be forgotten.
        clock: says what age is.
    """

    def __init__(
        self,
        settings: EraserSettings,
        *,
        holders: Holders,
        own_tasks: OwnTasks,
        lifecycle: Lifecycle,
        hosting: Hosting,
        inbox: Inbox,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self._holders = holders
        self._own_tasks = own_tasks
        self._lifecycle = lifecycle
        self._hosting = hosting
        self._inbox = inbox
        self._clock = clock
        self._peers: Peers | None = None
        # Of what is owed: the nodes that have nothing any more.
        self._free_of: dict[TaskId, set[NodeId]] = {}
        self._unlearned: set[TaskId] = set()
        self._aged_s = float("-inf")

    def start(self, peers: Peers) -> None:
        """From now on other nodes can be reached."""
        self._peers = peers

    # For clients and for origins.

    async def erase(self, task_id: TaskId) -> None:
        """Erases a task accepted here, which ends it; once it returns, no restart brings it back.

        What other nodes hold, and what the store's file held, follows.

        Raises:
            TaskNotFound: there is none.
            StoreUnavailable: it may be as it was: ask again.
        """
        record = await self._own_tasks.cancel(task_id)
        if is_erased(record):
            return
        await self._holders.ledger.written(task_id)
        owed = await self._holders.erasures.erase(record)
        self._inbox.apply(life.TasksForgotten(task_ids=(task_id,)))
        try:
            await self._settle([owed])
        except (OSError, StoreUnavailable) as problem:
            log.warning("something of %s is still to be erased: %s", task_id, problem)

    async def forget_hosted(self, task_id: TaskId, init_image_sha256: str) -> bool:
        """Forgets what another node's task was drawn from here; whether nothing is left."""
        for hosted_id, fence in self._hosting.hosted():
            if hosted_id == task_id:
                self._inbox.apply(hosted.OffloadCancelled(task_id=task_id, fence=fence))
        return await self._forget_init_image(init_image_sha256)

    # By itself.

    async def run(self) -> None:
        """Sees to what is owed and to what has become old until it is cancelled, or fails."""
        while True:
            try:
                await self.look()
            except StoreUnavailable:
                log.debug("nothing is erased while the store is away")
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Looks once; raises StoreUnavailable, and OSError where the disk does."""
        now_s = self._clock.now_s()
        if now_s - self._aged_s >= min(AGE_LOOK_S, self.settings.prompt_keep_s):
            if self._aged_s == float("-inf"):
                await self._holders.erasures.begin()
            await self._age()
            self._aged_s = now_s
        owed = await self._holders.erasures.owed()
        if owed:
            await self._settle(owed)
        await self._holders.erasures.rewrite_file()

    async def _age(self) -> None:
        before_unix_s = self._clock.unix_s() - self.settings.prompt_keep_s
        self._inbox.apply(life.TasksForgotten(ended_before_unix_s=before_unix_s))
        if self.settings.prompt_keep_s >= self.settings.task_keep_s:
            return  # housekeeping removes whole tasks then
        taken = self._holders.erasures.take_words
        while await taken(finished_before_unix_s=before_unix_s):
            pass

    async def _settle(self, owed: Sequence[Owed]) -> None:
        """Does what can be done now of what is owed; one that cannot holds up no other.

        Raises:
            OSError: the last that could not be.
        """
        problem: OSError | None = None
        able: list[Owed] = []
        for some in await self._with_their_images(owed):
            if isinstance(some, OSError):
                problem = some
            else:
                able.append(some)
        done = []
        for one in able:
            try:
                if one.whole:
                    await self._unlearn(one.task_id)
                if await self._is_let_go(one):
                    done.append(one.task_id)
            except OSError as error:
                problem = error
        if done:
            await self._holders.erasures.settled(done)
            for task_id in done:
                self._free_of.pop(task_id, None)
                self._unlearned.discard(task_id)
        if problem is not None:
            raise problem

    async def _with_their_images(self, owed: Sequence[Owed]) -> list[Owed | OSError]:
        """Those whose images are gone, or without words, now; else why one is not."""
        try:
            await self._holders.images.remove([one.task_id for one in owed if one.whole])
            await self._holders.images.forget_words([one.task_id for one in owed if not one.whole])
        except OSError as problem:
            if len(owed) == 1:
                return [problem]
            return [done for one in owed for done in await self._with_their_images([one])]
        return list(owed)

    async def _unlearn(self, task_id: TaskId) -> None:
        if self._holders.pool is not None and task_id not in self._unlearned:
            await self._holders.pool.forget(task_id)
            self._unlearned.add(task_id)

    async def _is_let_go(self, owed: Owed) -> bool:
        """Whether nobody holds what a task started from any more."""
        if not owed.init_image_sha256:
            return True
        here = await self._forget_init_image(owed.init_image_sha256)
        elsewhere = await self._forgotten_elsewhere(owed)
        return here and (elsewhere or self._clock.unix_s() > owed.until_unix_s)

    async def _forget_init_image(self, sha256: str) -> bool:
        if not sha256:
            return True
        if self._lifecycle.needs(sha256) or self._hosting.needs(sha256):
            return False
        return await self._holders.init_images.forget(sha256)

    async def _forgotten_elsewhere(self, owed: Owed) -> bool:
        assert self._peers is not None, "started"
        free = self._free_of.setdefault(owed.task_id, set())
        nodes = set(self._peers.addresses.values())
        for node_id in sorted(one for one in nodes - free if one is not None):
            peer = self._peers.client(node_id)
            try:
                if peer is not None and await peer.forget_task(
                    owed.task_id, init_image_sha256=owed.init_image_sha256
                ):
                    free.add(node_id)
            except DEdgeAIError as error:
                log.debug("%s is still to forget %s: %s", node_id, owed.task_id, error.message)
        return nodes <= free  # one that was not met yet is none of these

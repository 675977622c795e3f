"""Where the attempts of this origin go: into the node's own queue, or over a stream to a peer.

Owns the streams. A peer's reports reach the lifecycle as if it had been here; a stream that ends
without an end is a failed attempt.
"""

from __future__ import annotations

import contextlib
import logging
from contextlib import aclosing
from dataclasses import replace

from edge_node.attempt_codes import PEER_UNREACHABLE
from edge_node.clock import Clock
from edge_node.dispatch.background import Background
from edge_node.dispatch.inbox import Inbox
from edge_node.dispatch.init_images import init_image_lost, init_image_of
from edge_node.dispatch.own_node import OwnNode
from edge_node.domain import (
    AttemptFailed,
    AttemptFinished,
    AttemptReport,
    Fence,
    NodeId,
    Offload,
    TaskId,
)
from edge_node.errors import DEdgeAIError, InitImageGone
from edge_node.ports import InitImages, Peers
from edge_node.tasks import hosting as hosted
from edge_node.tasks import lifecycle_protocol as life
from edge_node.tasks.cluster_view import ClusterView

log = logging.getLogger(__name__)


class Offloads:
    """Attempts under way, here and elsewhere.

    Args:
        node: this node.
        inbox: hears what executors report.
        view: learns from answers how fast links are.
        init_images: files of what drawings start from.
        clock: times answers.
    """

    def __init__(
        self,
        *,
        node: OwnNode,
        inbox: Inbox,
        view: ClusterView,
        init_images: InitImages,
        clock: Clock,
    ) -> None:
        self._node = node
        self._inbox = inbox
        self._view = view
        self._init_images = init_images
        self._clock = clock
        self._peers: Peers | None = None
        self._streams: Background[tuple[TaskId, Fence]] = Background()

    def start(self, peers: Peers) -> None:
        """From now on other nodes can be reached."""
        self._peers = peers

    async def stop(self) -> None:
        """Ends every stream, which cancels the attempts at its end."""
        await self._streams.stop()

    def start_attempt(self, executor: NodeId, offload: Offload) -> None:
        """Sends an attempt to its executor."""
        if executor == self._node.id:
            now_s = self._clock.now_s()
            self._inbox.apply(hosted.OffloadReceived(offload=offload, now_s=now_s))
        else:
            key = (offload.task_id, offload.fence)
            self._streams.start(self._follow(executor, offload), key=key)

    def stop_attempt(self, executor: NodeId, task_id: TaskId, fence: Fence) -> None:
        """Tells an executor that an attempt is not wanted any more."""
        if executor == self._node.id:
            self._inbox.apply(hosted.OffloadCancelled(task_id=task_id, fence=fence))
            return
        self._streams.cancel((task_id, fence))
        self._streams.start(self._cancel(executor, task_id, fence))

    def hand_over(self, executor: NodeId, task_id: TaskId, fence: Fence) -> None:
        """Tells another executor that an attempt is to go on elsewhere."""
        self._streams.start(self._hand_over(executor, task_id, fence))

    def reported(
        self, executor: NodeId, task_id: TaskId, fence: Fence, report: AttemptReport
    ) -> None:
        """An executor said something of an attempt."""
        self._inbox.apply(
            life.AttemptReported(task_id=task_id, fence=fence, executor=executor, report=report)
        )

    async def _cancel(self, executor: NodeId, task_id: TaskId, fence: Fence) -> None:
        peer = self._peers.client(executor) if self._peers else None
        if peer is not None:
            # Best effort: a peer that does not answer learns it from the broken stream.
            with contextlib.suppress(DEdgeAIError):
                await peer.cancel_offload(task_id, fence)

    async def _hand_over(self, executor: NodeId, task_id: TaskId, fence: Fence) -> None:
        peer = self._peers.client(executor) if self._peers else None
        if peer is not None:
            # Who does not hear of it is not waited for: the lifecycle knows for how long.
            with contextlib.suppress(DEdgeAIError):
                await peer.hand_over(task_id, fence)

    async def _follow(self, executor: NodeId, offload: Offload) -> None:
        failure = AttemptFailed(
            code=PEER_UNREACHABLE, message=f"node {executor} cannot be reached", retryable=True
        )
        ended = False
        try:
            ended = await self._stream(executor, offload)
        except InitImageGone as error:
            failure = init_image_lost(error, retryable=False)
        except DEdgeAIError as error:
            failure = replace(failure, message=error.message)
        except Exception:
            # Our own bug must not leave the task with a peer that has ended it.
            log.exception("following %s at %s failed", offload.task_id, executor)
        if not ended:
            self.reported(executor, offload.task_id, offload.fence, failure)

    async def _stream(self, executor: NodeId, offload: Offload) -> bool:
        """Passes a peer's reports on; returns whether the last one was an end."""
        peer = self._peers.client(executor) if self._peers else None
        if peer is None:
            return False
        init_image = await init_image_of(offload.drawing, self._init_images)
        bits = 8 * len(init_image)
        following = peer.offload(offload, init_image=init_image)
        del init_image  # the call holds it
        start_s = self._clock.now_s()
        ended = answered = False
        async with aclosing(following) as reports:
            async for report in reports:
                if not answered and not isinstance(report, AttemptFailed):
                    answered = True
                    seconds = self._clock.now_s() - start_s
                    self._view.offload_answered(executor, input_bits=bits, seconds=seconds)
                ended = isinstance(report, AttemptFinished | AttemptFailed)
                self.reported(executor, offload.task_id, offload.fence, report)
        return ended

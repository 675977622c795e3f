"""This node as others may count on it: its queue, its pace, and whether it takes work.

Owns the sequence of its states, what its worker last said of itself when it was ready, and the
doubt about a worker that dropped a drawing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

from edge_node.changing import changed
from edge_node.clock import Clock
from edge_node.config import NodeConfig
from edge_node.device_summary import DeviceSummary
from edge_node.domain import (
    Learning,
    NodeId,
    NodeState,
    ServedModel,
    WorkerDescription,
)
from edge_node.errors import NodeNotReady
from edge_node.ports import Worker
from edge_node.rest_tls import rest_scheme
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.hosting import Hosting

# A worker that dropped a drawing is not chosen again before its supervision has had a look.
WORKER_DOUBT_S = 0.5
# When to ask again a node whose model is being loaded, and one whose model cannot be.
LOADING_RETRY_S = 2.0
FAILED_RETRY_S = 60.0
# Share by which capacity must change before peers are told at once.
CAPACITY_CHANGE_SHOWN = 0.02


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who this node is in this life, and where it is reached.

    Attributes:
        incarnation: tells its states from those of former lives.
        term: of the fences of this life.
    """

    node_id: NodeId
    incarnation: int
    term: int
    rest_url: str
    grpc_address: str

    @classmethod
    def of(cls, config: NodeConfig, *, incarnation: int, term: int) -> Identity:
        """From the node's settings, and which life this is."""
        return cls(
            node_id=NodeId(config.node_id),
            incarnation=incarnation,
            term=term,
            rest_url=f"{rest_scheme(config)}://{advertised(config.rest_host)}:{config.rest_port}",
            grpc_address=f"{advertised(config.grpc_host)}:{config.grpc_port}",
        )


@dataclass(frozen=True, kw_only=True)
class DrawingDefaults:
    """What this node takes where a request says nothing, and the most that it lets one say."""

    steps_default: int
    guidance_scale_default: float
    guidance_scale_max: float
    strength_default: float
    prompt_chars_max: int

    @classmethod
    def of(cls, config: NodeConfig) -> DrawingDefaults:
        """From the node's settings."""
        return cls(
            steps_default=config.steps_default,
            guidance_scale_default=config.guidance_scale_default,
            guidance_scale_max=config.guidance_scale_max,
            strength_default=config.strength_default,
            prompt_chars_max=config.prompt_chars_max,
        )


def advertised(host: str) -> str:
    """The name under which others reach a listener on `host`."""
    return socket.getfqdn() if host in ("0.0.0.0", "::") else host


class OwnNode:
    """This node's state.

    Args:
        identity: who it is.
        defaults: of what it draws.
        hosting: the account of its queue.
        view: hears of this node as of any other.
        worker: its drawing process.
        clock: numbers changes in time.
    """

    def __init__(
        self,
        identity: Identity,
        defaults: DrawingDefaults,
        *,
        hosting: Hosting,
        view: ClusterView,
        worker: Worker,
        clock: Clock,
    ) -> None:
        self.identity = identity
        self._defaults = defaults
        self._hosting = hosting
        self._view = view
        self._worker = worker
        self._clock = clock
        self._push: Callable[[], None] = lambda: None
        self._learning: Learning | None = None
        self._keys = (0, "")
        self.key_use: Callable[[], tuple[tuple[str, int, int, int], ...]] = tuple
        self.helped_by: Callable[[], NodeId | None] = lambda: None
        self._sequence = 0
        self._changed_s = 0.0
        self._draining = False
        self._paused = False
        self._summary: DeviceSummary | None = None
        self._doubted_until_s = 0.0
        self._described = WorkerDescription(state="loading")
        self._serves: tuple[ServedModel, ...] = ()
        self._about = self._as_described()
        self._shown: tuple[bool, tuple[ServedModel, ...], float] = (False, (), 0.0)

    @property
    def id(self) -> NodeId:
        """Its name."""
        return self.identity.node_id

    @property
    def described(self) -> WorkerDescription:
        """The worker as it last was ready; without a model before it ever was."""
        return self._described

    @property
    def served(self) -> ServedModel | None:
        """What it draws with; None before it ever could."""
        return self._serves[0] if self._serves else None

    @property
    def draws(self) -> bool:
        """Whether it has a worker at all; one without is a gateway to others."""
        described = self._worker.description
        return described is None or described.state != "none"

    def served_as(self, name: str) -> ServedModel | None:
        """What it draws under that name; None where it does not."""
        return next((served for served in self._serves if served.name == name), None)

    def why_not_drawing(self) -> NodeNotReady:
        """What a client is told before the worker ever was ready."""
        described = self._worker.description
        if described is not None and described.state == "failed":
            return NodeNotReady(
                f"This node cannot draw until its operator has mended it: {described.detail}. Ask "
                "another node.",
                retry_after_s=FAILED_RETRY_S,
            )
        if described is not None and described.state != "loading" and described.detail:
            return NodeNotReady(
                f"The worker of this node is {described.state}: {described.detail}. Try again "
                "after the time in Retry-After, or ask another node.",
                retry_after_s=LOADING_RETRY_S,
            )
        return NodeNotReady(
            "The model is still being loaded. Try again after the time in Retry-After.",
            retry_after_s=LOADING_RETRY_S,
        )

    def reconfigure(self, defaults: DrawingDefaults) -> None:
        """Takes other defaults, of which peers hear."""
        if defaults != self._defaults:
            self._defaults = defaults
            self._serves = _serves(self._described, defaults)
            self._about = self._as_described()
            self.changed()

    @property
    def draining(self) -> bool:
        """Whether the node takes no new work because it is about to stop."""
        return self._draining

    @property
    def gpu_lost(self) -> bool:
        """Whether the worker failed because the GPU that it is to draw with is not there."""
        described = self._worker.description
        return described is not None and described.fault == "gpu_lost"

    @property
    def worker_ready(self) -> bool:
        """Whether the worker says that it would draw now."""
        return self._worker.ready

    @property
    def capacity(self) -> float:
        """Work units per second, as last measured."""
        load = self._worker.load
        tracked = 0.0 if load is None else load.capacity
        return tracked if tracked > 0.0 else self._described.capacity

    @property
    def accepting(self) -> bool:
        """Whether it takes attempts now."""
        doubted = self._clock.now_s() < self._doubted_until_s
        held_up = self._draining or self._paused or doubted
        return self._worker.ready and not held_up

    def state(self) -> NodeState:
        """Its queue state, as it is now."""
        now_s, hosting = self._clock.now_s(), self._hosting
        accepted = self._view.accepted_work_s(now_s=now_s)
        all_for_own = accepted.keys() <= {self._about.model}
        return changed(
            self._about,
            sequence=self._sequence,
            backlog=hosting.backlog,
            capacity=self.capacity,
            accepting=self.accepting,
            queued=hosting.queued,
            running=hosting.running,
            # Of nodes that are known, who read it: anybody can call himself anything.
            dispatches_seen={
                origin: seen
                for origin, seen in hosting.dispatches_seen.items()
                if self._view.knows(origin)
            },
            accepted_work_s=sum(accepted.values()),
            accepted_by_model=() if all_for_own else tuple(accepted.items()),
            changed_s=self._changed_s,
            sent_s=now_s,
            learning=self._learning,
            sent_unix_s=self._clock.wall_s(),
            keys=self._keys,
            clients=hosting.clients,
            key_use=self.key_use(),
            paused=self._paused,
            summary=self._summary,
            held=hosting.told(now_s=now_s, portable=self._described.portable),
            helped_by=self.helped_by(),
        )

    def _as_described(self) -> NodeState:
        """What stays as it is until the worker or the settings say otherwise."""
        described, identity = self._described, self.identity
        return NodeState(
            node_id=identity.node_id,
            incarnation=identity.incarnation,
            sequence=0,
            model=described.model,
            model_fingerprint=described.model_fingerprint,
            rest_url=identity.rest_url,
            grpc_address=identity.grpc_address,
            device=described.device,
            emulated_device=described.emulated_device,
            serves=self._serves,
        )

    def look(self) -> None:
        """Brings the view of the cluster up to date with this node."""
        self._view.state_received(self.state(), now_s=self._clock.now_s())

    def changed(self) -> None:
        """Its state changed: everyone should know."""
        self._sequence += 1
        self._changed_s = self._clock.now_s()
        self._shown = (self.accepting, self._serves, self.capacity)
        self.look()
        self._push()

    def tell_peers_by(self, push: Callable[[], None]) -> None:
        """From now on `push` sends the state to all others; the first time now."""
        self._push = push
        self.changed()

    def worker_changed(self) -> None:
        """The worker said something: others should know if it is ready, gone or of another pace."""
        description = self._worker.description
        if description is not None and description.state == "ready":
            self._described = description
            self._serves = _serves(description, self._defaults)
            self._about = self._as_described()
        accepting, serves, capacity = self._shown
        same_pace = abs(self.capacity - capacity) <= CAPACITY_CHANGE_SHOWN * capacity
        if not same_pace or (self.accepting, self._serves) != (accepting, serves):
            self.changed()

    def learning_changed(self, learning: Learning) -> None:
        """Its part in learning: others should know if it is another one."""
        if learning != self._learning:
            self._learning = learning
            self.changed()

    def keys_changed(self, keys: tuple[int, str]) -> None:
        """The signed list of API keys that it passes on: others should know of another one."""
        if keys != self._keys:
            self._keys = keys
            self.changed()

    def doubt_worker(self) -> None:
        """The worker dropped a drawing: no more for it until its supervision had a look."""
        self._doubted_until_s = self._clock.now_s() + WORKER_DOUBT_S

    @property
    def paused(self) -> bool:
        """Whether an operator has it take no new work."""
        return self._paused

    def pause(self, paused: bool) -> None:
        """Takes no new work for others or itself, or takes it again, and says so."""
        if paused != self._paused:
            self._paused = paused
            self.changed()

    def device_read(self, summary: DeviceSummary) -> None:
        """How the device is: others hear of it with the next heartbeat."""
        self._summary = summary

    def drain(self) -> None:
        """Takes no new work from now on, and says so."""
        self._draining = True
        self.changed()


def _serves(described: WorkerDescription, defaults: DrawingDefaults) -> tuple[ServedModel, ...]:
    if not described.model:
        return ()
    own = ServedModel(
        name=described.model,
        fingerprint=described.model_fingerprint,
        work_model=described.work_model,
        size_px_min=described.size_px_min,
        size_px_max=described.size_px_max,
        size_px_multiple=described.size_px_multiple,
        steps_max=described.steps_max,
        steps_default=min(defaults.steps_default, described.steps_max),
        guidance_scale_default=defaults.guidance_scale_default,
        guidance_scale_max=defaults.guidance_scale_max,
        strength_default=defaults.strength_default,
        prompt_chars_max=defaults.prompt_chars_max,
        masks=described.masks,
    )
    variants = (
        changed(own, name=name, fingerprint=fingerprint) for name, fingerprint in described.variants
    )
    return (own, *variants)

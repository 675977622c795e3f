"""What this node keeps of one node of its cluster, itself included. Pure.

Owns the last state, the dispatches that it does not show yet, what was measured of the link, and
how much of a claimed capacity is believed; who is compared with whom is the cluster view's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_node.domain import NodeState
from edge_node.tasks.links import LinkEstimate, ReportDelay
from edge_node.tasks.serving import Offer, offers_of
from edge_node.tasks.trust import ShownService


@dataclass(kw_only=True)
class PeerAccount:
    """One node, as it was heard of last.

    Attributes:
        unseen: dispatch number -> work units and when, of attempts under way there that no report
            shows yet.
        placed: dispatch number -> work units ahead of its end and when it was sent, of all under
            way there.
        capacity: of what it claims, as much as is believed.
        offers: models that it draws, by name and fingerprint.
        doubted: it could not be reached since it was heard last.
        row: what observations need: backlog, unseen work, capacity, tasks, round trip, seconds per
            bit and how long changes take; see `refresh`.
    """

    state: NodeState
    heard_s: float
    link: LinkEstimate
    delay: ReportDelay = field(default_factory=ReportDelay)
    unseen: dict[int, tuple[float, float]] = field(default_factory=dict)
    placed: dict[int, tuple[float, float]] = field(default_factory=dict)
    shown: ShownService = field(default_factory=ShownService)
    capacity: float = 0.0
    offers: frozenset[Offer] = frozenset()
    doubted: bool = False
    row: tuple[float, float, float, float, float, float, float] = (0.0,) * 7

    def __post_init__(self) -> None:
        """Reads what the state says of models."""
        self.offers = frozenset(offers_of(self.state))

    def refresh(self) -> None:
        """To be called after every change."""
        state, link = self.state, self.link
        self.row = (
            state.backlog,
            self.unseen_work,
            self.capacity,
            float(state.queued + state.running),
            link.round_trip_s,
            1.0 / link.throughput_bits_s,
            self.change_s,
        )

    @property
    def unseen_work(self) -> float:
        """Work units of dispatches that no report shows."""
        return sum(work for work, _ in self.unseen.values())

    @property
    def ahead_s(self) -> float | None:
        """By how much its clock that never jumps is ahead of ours."""
        return self.delay.ahead_s(self.link.round_trip_s)

    @property
    def change_s(self) -> float:
        """How long changes there took to be known here, lately."""
        return self.link.round_trip_s / 2 + self.delay.excess_s

    def accepted_work_s(self) -> tuple[tuple[str, float], ...]:
        """Work units that it accepts per second, by model; all of its own where it says no more."""
        state = self.state
        return state.accepted_by_model or ((state.model, state.accepted_work_s),)

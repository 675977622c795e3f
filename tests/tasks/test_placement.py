"""What placement makes of a task's size on a slow link, and of a policy that fails."""

from __future__ import annotations

import numpy as np
import pytest

from edge_node.domain import NodeId
from edge_node.tasks.placement import place
from scheduler.observation import Observation
from scheduler.policy import Decision, Outcome
from scheduler.registry import create
from tests.tasks.test_cluster_view import OWN, PEER, state, task, view_of

# The view's link carries 1e6 bits per second; the own node has 10 s of work ahead of it.
SMALL_BITS, LARGE_BITS = 8 * 50_000, 8 * 7_000_000


@pytest.mark.parametrize("policy", ["slow_server_aware", "least_expected_delay", "lad_ts_plus"])
@pytest.mark.parametrize(("input_bits", "executor"), [(SMALL_BITS, PEER), (LARGE_BITS, OWN)])
def test_a_large_init_image_stays_where_a_small_one_goes(
    policy: str, input_bits: int, executor: NodeId
) -> None:
    view = view_of(state(OWN, backlog=20.0), state(PEER))
    placement = place(
        task(input_bits=input_bits),
        avoided=frozenset(),
        view=view,
        policy=create(policy, rng=np.random.default_rng(1)),
        now_s=100.0,
    )
    assert placement is not None
    assert placement.executor == executor
    link_s = 0.0 if executor == OWN else input_bits / 1e6
    queue_s = 10.0 if executor == OWN else 0.0
    assert placement.eta_s == pytest.approx(queue_s + 10.0 / 2.0 + link_s)


class Failing:
    """A policy that raises, or decides what it is told to."""

    def __init__(self, decision: Decision | None) -> None:
        self._decision = decision

    def decide(self, observation: Observation) -> Decision:
        if self._decision is None:
            raise RuntimeError("out of weights")
        return self._decision

    def record(self, outcome: Outcome) -> None:
        pass


@pytest.mark.parametrize(
    "decision",
    [
        None,
        Decision(choice=1, policy="dead"),
        Decision(choice=2, policy="absent"),
        Decision(choice=-1, policy="negative"),
        Decision(choice=0, policy="poisoned", latent_B=np.array([np.nan, 0.0])),
        Decision(choice=0, policy="narrow", latent_B=np.array([1.0])),
    ],
    ids=lambda decision: "raises" if decision is None else decision.policy,
)
def test_a_failing_policy_loses_its_say_and_not_the_task(decision: Decision | None) -> None:
    view = view_of(state(OWN), state(PEER, accepting=False))
    placement = place(task(), avoided=frozenset(), view=view, policy=Failing(decision), now_s=100.0)
    assert placement is not None
    assert placement.policy_failure is not None
    assert (placement.executor, placement.dispatch) == (OWN, 1)
    assert (placement.decision.policy, placement.decision.reason) == ("slow_server_aware", "error")


def test_the_expected_end_counts_what_was_sent_and_is_not_seen_yet() -> None:
    view = view_of(state(OWN, backlog=100.0), state(PEER, backlog=3.0))
    assert view.dispatched(PEER, 4.0, now_s=100.0) == 1
    placement = place(
        task(input_bits=0),
        avoided=frozenset(),
        view=view,
        policy=create("least_expected_delay", rng=np.random.default_rng(1)),
        now_s=100.0,
    )
    assert placement is not None
    assert (placement.executor, placement.dispatch) == (PEER, 2)
    assert placement.eta_s == pytest.approx((3.0 + 4.0 + 10.0) / 2.0)
    assert placement.policy_failure is None
    # Booked there.
    (_, peer) = view.views(now_s=100.0)
    assert peer.own_unseen_work == 14.0

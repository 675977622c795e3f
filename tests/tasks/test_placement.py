"""What placement makes of a task's size on a slow link, and of a policy that fails."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_node.domain import NodeId
from edge_node.tasks import placement
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
    placed = place(
        task(input_bits=input_bits),
        avoided=frozenset(),
        view=view,
        policy=create(policy, rng=np.random.default_rng(1)),
        now_s=100.0,
    )
    assert placed is not None
    assert placed.executor == executor
    link_s = 0.0 if executor == OWN else input_bits / 1e6
    queue_s = 10.0 if executor == OWN else 0.0
    assert placed.eta_s == pytest.approx(queue_s + 10.0 / 2.0 + link_s)


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
    placed = place(task(), avoided=frozenset(), view=view, policy=Failing(decision), now_s=100.0)
    assert placed is not None
    assert placed.policy_failure is not None
    assert (placed.executor, placed.dispatch) == (OWN, 1)
    assert (placed.decision.policy, placed.decision.reason) == ("slow_server_aware", "error")


@pytest.mark.parametrize("field", ["backlog", "capacity", "accepted_work_s", "sent_s", "changed_s"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_node_whose_numbers_mean_nothing_draws_for_nobody(field: str, number: float) -> None:
    view = view_of(state(OWN), state(PEER, **{field: number}))
    for policy in ("slow_server_aware", "lad_ts_plus", "ring", "power_of_two"):
        placed = place(
            task(),
            avoided=frozenset({OWN}),
            view=view,
            policy=create(policy, rng=np.random.default_rng(1)),
            now_s=100.0,
        )
        assert placed is not None
        assert placed.policy_failure is None
        assert placed.executor == OWN
        assert math.isfinite(placed.eta_s)


@pytest.mark.parametrize("own_alive", [True, False])
def test_where_the_rule_fails_as_the_policy_did_somebody_is_still_asked(
    monkeypatch: pytest.MonkeyPatch, own_alive: bool
) -> None:
    monkeypatch.setattr(placement, "_FALLBACK", Failing(None))
    view = view_of(state(OWN, accepting=own_alive), state(PEER))
    placed = place(task(), avoided=frozenset(), view=view, policy=Failing(None), now_s=100.0)
    assert placed is not None
    assert placed.executor == (OWN if own_alive else PEER)
    assert (placed.decision.policy, placed.decision.reason) == ("first_alive", "error")


def test_the_expected_end_counts_what_was_sent_and_is_not_seen_yet() -> None:
    view = view_of(state(OWN, backlog=100.0), state(PEER, backlog=3.0))
    assert view.dispatched(PEER, 4.0, now_s=100.0) == 1
    placed = place(
        task(input_bits=0),
        avoided=frozenset(),
        view=view,
        policy=create("least_expected_delay", rng=np.random.default_rng(1)),
        now_s=100.0,
    )
    assert placed is not None
    assert (placed.executor, placed.dispatch) == (PEER, 2)
    assert placed.eta_s == pytest.approx((3.0 + 4.0 + 10.0) / 2.0)
    assert placed.policy_failure is None
    # Booked there.
    (_, peer) = view.views(now_s=100.0)
    assert peer.own_unseen_work == 14.0

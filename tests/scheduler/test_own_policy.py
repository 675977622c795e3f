"""Somebody's own class as a policy: found, checked, placed with, live and in the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_node.config import NodeConfig
from edge_node.console.simulate import SimulateRequest, simulate
from edge_node.errors import InvalidRequest
from edge_node.guard.deciding import policy_of
from scheduler import registry
from scheduler.guard.candidates import rule_factories
from scheduler.guard.guard import Guard
from scheduler.simulator import dispatchers, rules
from scheduler.simulator.dispatchers import InvalidPolicy, PolicySpec, parse_policies
from scheduler.simulator.live_policy import LivePolicy, WrongChoice
from scheduler.simulator.workload import draw
from tests.dispatch.parts import HandClock
from tests.scheduler.simulator.slow_cluster import SCENARIOS
from tests.scheduler.test_heuristics import observe

HERE = "tests.scheduler.own_policies"
# Compiled and live under one name, and without a coin.
SAME = ("local", "least_expected_delay", "slow_server_aware", "ring", "smooth_wrr")


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_an_own_class_decides_live_with_its_options() -> None:
    policy = registry.create(f"{HERE}:Emptiest", rng=rng(), patience=2)
    assert vars(policy)["patience"] == 2
    decision = policy.decide(observe(backlog=[4.0, 1.0, 2.0], capacity=[1.0] * 3))
    assert (decision.choice, decision.policy) == (1, "emptiest")
    spec = registry.spec_of(f"{HERE}:Emptiest")
    assert (spec.by_expected_delay, spec.learned, spec.validated) == (True, False, False)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("nowhere.at_all:Policy", r"no module nowhere: install it here, or .* PYTHONPATH"),
        (f"{HERE}.deeper:Policy", r"no module tests\.scheduler\.own_policies\.deeper"),
        (f"{HERE}:Nothing", r"has no Nothing; what decides there: .*Emptiest"),
        ("tests.scheduler:Nothing", r"nothing there decides"),
        (f"{HERE}:HALF", r"is no class"),
        (f"{HERE}:Half", r"lacks decide\(observation\) and record\(outcome\)"),
        (f"{HERE}:Coinless", r"cannot be made with rng="),
        ("tests.scheduler.own_policy_broken:Policy", r"cannot be imported \(RuntimeError: torn\)"),
        ("tests.scheduler.own_policy_needy:Policy", r"needs antigravity_2, which is not installed"),
    ],
)
def test_what_is_missing_is_said(name: str, missing: str) -> None:
    with pytest.raises(ValueError, match=missing):
        registry.create(name, rng=rng())
    with pytest.raises(InvalidPolicy, match=missing):
        placed_by(name)
    with pytest.raises(InvalidRequest, match=missing):
        deciding(policy=name)


def test_options_of_an_own_class_are_checked_as_those_of_ours_are() -> None:
    with pytest.raises(ValueError, match=r"has no option haste; its options: patience"):
        registry.create(f"{HERE}:Emptiest", rng=rng(), haste=1)
    with pytest.raises(ValueError, match=r"needs the option weights"):
        registry.create(f"{HERE}:Learned", rng=rng())
    assert registry.create(f"{HERE}:Open", rng=rng(), anything=1) is not None


def test_command_lines_spell_an_own_class_with_its_options() -> None:
    text = f"opt_ts,{HERE}:Emptiest:patience=3,power_of_two:sample=capacity,own=B"
    ours, own, other = parse_policies(text)
    assert own == PolicySpec(name=f"{HERE}:Emptiest", options={"patience": 3})
    assert str(own) == f"{HERE}:Emptiest:patience=3"
    assert (ours.name, other.options) == ("opt_ts", {"sample": "capacity", "own": "B"})


def placed_by(name: str) -> None:
    scenario = SCENARIOS["poisson"]
    dispatchers.dispatcher(name, scenario, 0).place(draw(scenario, rng()), rng())


def deciding(**settings: Any) -> Any:
    config = NodeConfig(node_id="a", data_folder=Path("unused"), **settings)
    return policy_of(config, clock=HandClock(), shared_s=lambda: 0.0)


# In the simulator.


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_live_policy_sees_in_the_simulator_what_the_compiled_rule_sees(
    scenario: str, name: str
) -> None:
    episode = draw(SCENARIOS[scenario], rng())
    live = LivePolicy(lambda *, rng: registry.create(name, rng=rng))
    assert live.place(episode, rng()).tolist() == rules.create(name).place(episode, rng()).tolist()


def test_an_own_class_is_simulated_beside_ours(capsys: pytest.CaptureFixture[str]) -> None:
    request = SimulateRequest(
        scenario="orins_models_0.8",
        policies=f"least_expected_delay,{HERE}:Emptiest",
        episodes=2,
        seeds=1,
        order="fcfs",
        ageing=None,
        promotion=None,
        promotion_load=None,
        checkpoints=None,
    )
    assert simulate(request) == 0
    assert f"{HERE}:Emptiest" in capsys.readouterr().out


def test_each_station_hears_what_became_of_its_own_tasks_in_time() -> None:
    scenario = SCENARIOS["poisson"]
    heard: list[Any] = []

    class Listens:
        def __init__(self, *, rng: np.random.Generator) -> None:
            self.mine = 0
            heard.append(self)
            self.outcomes: list[Any] = []

        def decide(self, observation: Any) -> Any:
            self.mine += 1
            return registry.create("least_expected_delay", rng=rng()).decide(observation)

        def record(self, outcome: Any) -> None:
            self.outcomes.append(outcome)

    episode = draw(scenario, rng())
    LivePolicy(Listens).place(episode, rng())
    assert sum(one.mine for one in heard) == episode.tasks
    told = [outcome for one in heard for outcome in one.outcomes]
    assert 0 < len(told) < episode.tasks
    for one in heard:
        assert len(one.outcomes) <= one.mine
    assert all(outcome.completed and outcome.service_delay_s > 0.0 for outcome in told)


def test_a_choice_that_is_none_is_said_in_the_simulator() -> None:
    with pytest.raises(WrongChoice, match=r"chose 99; the candidates that are alive are 0"):
        placed_by(f"{HERE}:Wild")


# Under guard, and as its rule.


def test_an_own_learned_class_decides_under_guard_and_an_own_rule_may_stand_in() -> None:
    guarded = deciding(
        policy=f"{HERE}:Learned",
        policy_options={"weights": "none"},
        guard_rules=(f"{HERE}:Emptiest", "ring"),
    )
    assert isinstance(guarded, Guard)
    decision = guarded.decide(observe(backlog=[4.0, 1.0, 2.0], capacity=[1.0] * 3))
    # Nobody has vouched for its weights.
    assert (decision.policy, decision.reason) == ("emptiest", "no verdict yet")
    assert set(rule_factories((f"{HERE}:Emptiest",))) == {f"{HERE}:Emptiest"}
    with pytest.raises(ValueError, match="is learned; name rules"):
        rule_factories((f"{HERE}:Learned",))

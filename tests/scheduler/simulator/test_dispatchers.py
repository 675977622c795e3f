"""Policies by name, and policies compared on common arrivals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scheduler.simulator import dispatchers, rules
from scheduler.simulator.comparison import Plan, compare
from scheduler.simulator.dispatchers import (
    LEARNED,
    InvalidPolicy,
    PolicySpec,
    dispatcher,
    learning_rng,
    measuring_rng,
    parse_policies,
)
from scheduler.simulator.scenario import CapacityChange, Scenario
from scheduler.simulator.service import Discipline, service_delay_s
from scheduler.simulator.workload import draw

SMALL = Scenario(name="small", servers=4, tasks_per_slot_max=5, slots=10, capacity_range=(1, 6))


def test_options_are_read_in_their_types_and_spelt_the_same() -> None:
    text = "shadow_price:kappa=0.35,fresh=true,own=B"
    spec = PolicySpec.parse(text)
    assert spec.options == {"kappa": 0.35, "fresh": True, "own": "B"}
    assert str(spec) == text
    assert str(PolicySpec.parse("opt_ts")) == "opt_ts"


def test_commas_separate_options_and_policies() -> None:
    text = "opt_ts, power_of_two:sample=capacity,own=B,shadow_price:kappa=1,fresh=false,local"
    assert [str(spec) for spec in parse_policies(text)] == [
        "opt_ts",
        "power_of_two:sample=capacity,own=B",
        "shadow_price:kappa=1,fresh=false",
        "local",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kappa=1,opt_ts", "option 'kappa=1' stands before any policy"),
        ("shadow_price:kappa", "option 'kappa' is not spelt key=value"),
        ("shadow_price:=1", "not spelt key=value"),
    ],
)
def test_misspelt_policies_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidPolicy, match=message):
        parse_policies(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimal", "unknown policy 'optimal'; choose one of local"),
        ("power_of_two:size=3", "power_of_two:size=3: .*no option size"),
        ("slow_server_aware:alpha=high", "slow_server_aware:alpha=high: "),
        ("lad_ts_published", "lad_ts_published: needs a folder of checkpoints, or episodes="),
    ],
)
def test_policies_that_cannot_be_built_say_why(text: str, message: str) -> None:
    with pytest.raises(InvalidPolicy, match=message):
        dispatcher(text, SMALL, 0)


def test_learned_policies_are_those_that_can_be_trained() -> None:
    from scheduler.learning import learners

    assert set(learners.names()) <= set(LEARNED)
    assert set(dispatchers.names()) == {*rules.names(), *LEARNED}


def test_a_trained_run_is_found_by_policy_scenario_seed_and_options(tmp_path: Path) -> None:
    from scheduler.learning.trainer import TrainingRun, train

    with pytest.raises(InvalidPolicy, match=r"no run of it on small with seed 3 .* none at all"):
        dispatcher("dqn", SMALL, 3, checkpoints=tmp_path)
    for hidden in (4, 8):
        run = TrainingRun(
            policy="dqn",
            scenario=SMALL,
            options={"hidden": hidden, "pool_min": 10, "batch": 4},
            seed=3,
            episodes=2,
            folder=tmp_path / f"hidden{hidden}",
            tensorboard=False,
        )
        train(run, lambda report: None)
    episode = draw(SMALL, measuring_rng(0, 0))
    for hidden in (4, 8):
        found = dispatcher(f"dqn:hidden={hidden}", SMALL, 3, checkpoints=tmp_path)
        text = f"dqn:hidden={hidden},pool_min=10,batch=4,episodes=2"
        trained_now = dispatcher(text, SMALL, 3)
        placed = found.place(episode, np.random.default_rng(0))
        assert (placed == trained_now.place(episode, np.random.default_rng(0))).all()
    elsewhere = SMALL.replace(name="elsewhere", refresh_s=2.0)
    dispatcher("dqn:trained_on=small", elsewhere, 3, checkpoints=tmp_path)
    with pytest.raises(InvalidPolicy, match="dqn on small, seed 3"):
        dispatcher("dqn", elsewhere, 3, checkpoints=tmp_path)
    larger = SMALL.replace(name="larger", servers=5)
    with pytest.raises(InvalidPolicy, match=r"array 'network/.* has shape"):
        dispatcher("dqn:trained_on=small", larger, 3, checkpoints=tmp_path)


def test_rules_that_learn_are_fitted_on_other_episodes_than_they_are_measured_on() -> None:
    fitted = dispatcher("water_filling", SMALL, 0)
    rng = learning_rng(0)
    work = sum(draw(SMALL, rng).work_N.sum() for _ in range(16)) / (16 * SMALL.slots)
    assert fitted.arrivals_per_s == pytest.approx(work)  # type: ignore[attr-defined]
    assert measuring_rng(0, 0).random() != learning_rng(0).random()


def plan(*policies: str, **changes: Any) -> Plan:
    specs = tuple(PolicySpec.parse(text) for text in policies)
    return Plan(policies=specs, **({"episodes": 3, "seeds": 2} | changes))


def test_every_policy_meets_the_same_arrivals() -> None:
    asked = plan("opt_ts", "local", "opt_ts")
    (result,) = compare(asked, [SMALL])
    first, local, again = result.policies
    assert first.mean_s_E == again.mean_s_E == result.reference.mean_s_E
    assert first.gap == (0.0, 0.0, 0.0)
    by_hand = []
    for seed in range(2):
        for number in range(3):
            episode = draw(SMALL, measuring_rng(seed, number))
            delay_s_N = service_delay_s(episode, episode.origin_N, Discipline())
            by_hand.append(delay_s_N.mean())
    assert local.mean_s_E == pytest.approx(tuple(by_hand))
    assert local.delays.mean_s == pytest.approx(np.mean(by_hand))
    ratios = np.array(by_hand) / np.array(first.mean_s_E)
    assert local.gap is not None
    assert local.gap.gap == pytest.approx(100 * (ratios.mean() - 1))
    assert result.bound_s < first.delays.mean_s
    assert first.over_bound == pytest.approx(100 * (first.delays.mean_s / result.bound_s - 1))


def test_the_reference_stays_first_come_first_served() -> None:
    asked = plan("opt_ts", discipline=Discipline(order="srpt"))
    (result,) = compare(asked, [SMALL.replace(capacity_range=(1, 3))])
    (srpt,) = result.policies
    assert srpt.delays.mean_s < result.reference.delays.mean_s
    assert srpt.gap is not None
    assert srpt.gap.high < 0


def test_tasks_that_are_never_done_leave_no_gap() -> None:
    dead = SMALL.replace(changes=(CapacityChange(at_s=5.0, server=0, factor=0.0),), slots=10)
    (result,) = compare(plan("random"), [dead.replace(capacity_published=False)])
    assert result.policies[0].delays.mean_s == np.inf
    assert result.policies[0].gap is None


def test_processes_change_nothing() -> None:
    scenarios = [SMALL, SMALL.replace(name="poisson", task_arrivals="poisson", load=0.8)]
    asked = plan("power_of_two", "pred_own", episodes=2)
    assert compare(asked, scenarios, jobs=2) == compare(asked, scenarios)


def test_an_empty_plan_is_refused() -> None:
    with pytest.raises(ValueError, match="a policy, an episode and a seed"):
        Plan(policies=())

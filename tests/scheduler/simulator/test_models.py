"""Several models in a simulated cluster: no task goes to a server that does not draw its model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.learning import learners
from scheduler.simulator import rules, scenarios
from scheduler.simulator.bounds import mean_delay_bound_s
from scheduler.simulator.dispatch import Dispatcher
from scheduler.simulator.dispatchers import dispatcher, parse_policies
from scheduler.simulator.environment import PlacementEnv
from scheduler.simulator.scenario import CapacityChange, InvalidScenario, ModelServed, Scenario
from scheduler.simulator.service import Discipline, service_delay_s
from scheduler.simulator.workload import Episode, draw

POLICIES = (
    *rules.names(),
    "water_filling:split=deficit",
    "smooth_wrr:by_work=true,staggered=true",
    "least_queue:count=tasks,ties=random",
    "power_of_two:sample=capacity,own=B",
    "least_expected_delay:own=B,use_capacity=false",
    "least_marginal_harm:fresh=true",
    "lad_ts",
    "lad_ts_plus",
    "lad_ts_plus:reorder=true,price=0.5",
)


@st.composite
def clusters(draw_one: st.DrawFn) -> Scenario:
    """A few servers, models that overlap, stations that draw nothing, perhaps an outage."""
    servers = draw_one(st.integers(1, 6))
    some = st.lists(st.integers(0, servers - 1), min_size=1, max_size=servers, unique=True)
    served = draw_one(st.lists(some, min_size=1, max_size=3))
    changes: tuple[CapacityChange, ...] = ()
    out = draw_one(st.integers(0, servers - 1))
    if all(set(one) != {out} for one in served):
        away = CapacityChange(at_s=1.0, server=out, factor=0.0)
        changes = (away, replace(away, at_s=2.5, factor=1.0))
    return Scenario(
        name="several models",
        servers=servers,
        tasks_per_slot_max=draw_one(st.integers(1, 6)),
        slots=4,
        station_order="random",
        tasks_by_index=False,
        refresh_s=draw_one(st.sampled_from((0.0, 0.4, 1.0))),
        capacity_seed=draw_one(st.integers(0, 99)),
        models=tuple(ModelServed(servers=tuple(one), share=1.0 / len(served)) for one in served),
        changes=changes,
    )


def built(text: str, scenario: Scenario) -> Dispatcher:
    [spec] = parse_policies(text)
    return dispatcher(spec, scenario, 0, checkpoints=None)


@pytest.mark.parametrize("policy", POLICIES)
def test_no_task_goes_to_a_server_that_does_not_draw_it(policy: str) -> None:
    @settings(max_examples=12 if policy in ("pred_own", "shadow_price") else 40, deadline=None)
    @given(clusters())
    def holds(scenario: Scenario) -> None:
        episode = draw(scenario, np.random.default_rng(3))
        server_N = built(policy, scenario).place(episode, np.random.default_rng(5))
        assert episode.serves_MB[episode.model_N, server_N].all()

    holds()


def of_model(episode: Episode, model: int) -> Episode:
    """The episode without the other models' tasks."""
    tasks = episode.model_N == model
    per_task = [name for name in episode.__dataclass_fields__ if name.endswith("_N")]
    return replace(episode, **{name: getattr(episode, name)[tasks] for name in per_task})


@pytest.mark.parametrize(
    "policy",
    [
        *("local", "round_robin", "smooth_wrr", "least_expected_delay", "slow_server_aware"),
        *("least_expected_delay:own=B", "least_queue", "least_queue:count=tasks", "ring", "opt_ts"),
        *("water_filling:split=deficit,carry=true", "lad_ts_plus", "lad_ts_plus:price=0.5"),
    ],
)
@pytest.mark.parametrize("refresh_s", [0.0, 0.7])
def test_models_that_share_no_server_leave_each_other_alone(policy: str, refresh_s: float) -> None:
    halves = (ModelServed(servers=(0, 3, 4), share=0.5), ModelServed(servers=(1, 2), share=0.5))
    scenario = scenarios.get("orins_0.8").replace(
        slots=200, refresh_s=refresh_s, models=halves, steps_tail=1.3
    )
    episode = draw(scenario, np.random.default_rng(2))
    rule = built(policy, scenario)
    together_N = rule.place(episode, np.random.default_rng(1))
    for model in range(2):
        alone_N = rule.place(of_model(episode, model), np.random.default_rng(1))
        assert together_N[episode.model_N == model].tolist() == alone_N.tolist()


def test_policies_are_compared_on_two_models_and_a_variant() -> None:
    scenario = scenarios.get("orins_models_0.8").replace(slots=400)
    episode = draw(scenario, np.random.default_rng(7))
    share_M = np.bincount(episode.model_N) / episode.tasks
    assert share_M == pytest.approx([0.5, 0.15, 0.35], abs=0.1)
    assert episode.serves_MB.tolist() == [
        [True, False, True, False, True],
        [True, False, False, False, False],
        [False, True, False, True, False],
    ]
    delays_s = {}
    for policy in ("random", "ring", "opt_ts", "lad_ts"):
        server_N = built(policy, scenario).place(episode, np.random.default_rng(1))
        delays_s[policy] = service_delay_s(episode, server_N, Discipline()).mean()
    assert mean_delay_bound_s(episode).mean_s <= min(delays_s.values())
    assert max(delays_s["ring"], delays_s["lad_ts"], delays_s["opt_ts"]) < 0.8 * delays_s["random"]


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ((ModelServed(servers=(), share=1.0),), r"models.servers is \(\); it must be some of 0..4"),
        ((ModelServed(servers=(5,), share=1.0),), r"models.servers is \(5,\)"),
        ((ModelServed(servers=(0,), share=0.4),), "models.share is 0.4; it must be 1 in all"),
        ((ModelServed(servers=(0,), share=float("nan")),), "models.share is nan"),
    ],
)
def test_impossible_models_are_refused(models: tuple[ModelServed, ...], said: str) -> None:
    with pytest.raises(InvalidScenario, match=said):
        scenarios.get("orins_0.8").replace(models=models)


def test_who_chooses_among_all_servers_refuses_several_models() -> None:
    scenario = scenarios.DEFAULT.replace(
        models=(ModelServed(servers=(0,), share=0.5), ModelServed(servers=(1,), share=0.5))
    )
    with pytest.raises(ValueError, match="environments have one model"):
        PlacementEnv(scenario)
    with pytest.raises(ValueError, match="has several models; dqn chooses among all servers"):
        learners.create("dqn", scenario, {}, seed=0)

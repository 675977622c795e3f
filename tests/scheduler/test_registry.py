"""What a policy is stands once: the facts that a node acts on, and that they are so."""

from __future__ import annotations

import numpy as np
import pytest

from edge_node.config import NodeConfig
from edge_node.dispatch.mover import MoverSettings
from edge_node.dispatch.timekeeper import TimekeeperSettings
from edge_node.guard.deciding import guard_settings, takes_published_weights
from edge_node.tasks.lifecycle_limits import LifecycleLimits
from edge_node.tasks.moving import moving_of
from scheduler.observation import Observation
from scheduler.policies import heuristics
from scheduler.registry import SPECS, PolicySpec, create, names, spec_of


def chosen(name: str, servers: int) -> int:
    ones_B = np.ones(servers)
    observation = Observation(
        node_ids=tuple(f"node-{index}" for index in range(servers)),
        local=0,
        work=10.0,
        input_bits=8000,
        backlog_B=0.0 * ones_B,
        own_B=0.0 * ones_B,
        capacity_B=ones_B,
        link_s_B=0.0 * ones_B,
        staleness_s_B=0.0 * ones_B,
        alive_B=ones_B > 0.0,
    )
    return create(name, rng=np.random.default_rng(0)).decide(observation).choice


@pytest.mark.parametrize("name", SPECS)
def test_a_policy_decides_for_the_candidates_that_it_says(name: str) -> None:
    if spec_of(name).any_candidates:
        assert name in names()
        assert 0 <= chosen(name, 1) < 1
        assert 0 <= chosen(name, 60) < 60
    else:
        assert name not in names()
        # Its weights are for so many candidates as they were trained for, and none ship.
        with pytest.raises(ValueError, match="needs the option checkpoint_path"):
            chosen(name, 60)


def test_a_name_that_nobody_knows_is_answered_with_those_that_are() -> None:
    with pytest.raises(
        ValueError,
        match=r"unknown policy 'x'; choose one of local, .*, lad_ts_published, or your own as "
        r"package\.module:Class$",
    ):
        spec_of("x")


def test_only_a_learned_policy_has_weights() -> None:
    for facts in ({"validated": True}, {"takes_published": True}, {"any_candidates": False}):
        with pytest.raises(AssertionError):
            PolicySpec(factory=heuristics.local, **facts)


@pytest.mark.parametrize("name", SPECS)
def test_what_a_node_does_follows_from_what_its_policy_is(name: str) -> None:
    config, spec = NodeConfig(policy=name), spec_of(name)
    assert moving_of(config) == ("waiting" if spec.by_expected_delay else "none")
    assert (name in guard_settings(config).trusted_versions) == spec.validated
    assert takes_published_weights(config) == spec.takes_published
    for told in ("none", "waiting", "running"):
        config = NodeConfig(policy=name, move=told)
        assert moving_of(config) == told
        assert TimekeeperSettings.of(config).move_waiting == (told == "waiting")
        assert MoverSettings.of(config).moving == told
        assert LifecycleLimits.of(config).takeable == (told == "running")
    # The former name.
    for said, meant in ((True, "waiting"), (False, "none")):
        assert moving_of(NodeConfig(policy=name, move_waiting=said)) == meant


def test_weights_that_are_named_are_not_replaced() -> None:
    config = NodeConfig(policy="lad_ts", policy_options={"checkpoint": "weights.safetensors"})
    assert not takes_published_weights(config)


def test_the_facts_of_policies_that_are_easily_mistaken() -> None:
    def having(fact: str) -> set[str]:
        return {name for name, spec in SPECS.items() if getattr(spec, fact)}

    assert having("learned") == {"lad_ts", "lad_ts_plus", "lad_ts_published"}
    assert having("validated") == {"lad_ts", "lad_ts_plus"}
    assert having("by_expected_delay") == having("learned") | {
        "least_expected_delay",
        "slow_server_aware",
        "ring",
    }

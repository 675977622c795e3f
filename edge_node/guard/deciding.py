"""Who decides placements, as the operator configured it: a rule, or a learned policy under guard.

Owns the way from settings to a policy. What a policy is stands in `scheduler.registry`, when a
learned one decides in `scheduler.guard`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

import numpy as np

from edge_node.clock import Clock
from edge_node.config import NodeConfig
from edge_node.errors import InvalidRequest
from scheduler.guard.candidates import rule_factories
from scheduler.guard.guard import Guard, GuardSettings
from scheduler.guard.verdict import configured_version
from scheduler.policy import Policy
from scheduler.registry import SPECS, PolicySpec, create, spec_of

log = logging.getLogger(__name__)

# How long a failure of the learned policy stands where no slot is configured.
GUARD_SLOT_S = 1.0


def policy_spec(config: NodeConfig) -> PolicySpec:
    """What the policy is that the operator wants.

    Raises:
        InvalidRequest: there is none of that name.
    """
    try:
        return spec_of(config.policy)
    except ValueError as error:
        raise InvalidRequest(f"{error}.", param="policy") from None


def policy_of(config: NodeConfig, *, clock: Clock, shared_s: Callable[[], float]) -> Policy:
    """The policy that the operator wants, under guard if it is a learned one.

    `shared_s` gives a reading that the cluster's nodes agree on.

    Raises:
        InvalidRequest: it, its options or one of the guard's rules cannot be had.
    """
    rng = policy_coin(config)
    try:
        policy = create(config.policy, rng=rng, **config.policy_options)
    except ValueError as error:
        raise InvalidRequest(f"{error}.", param="policy") from None
    if not policy_spec(config).learned:
        return policy
    if config.guard_rule is not None:
        log.warning("guard_rule is the former name: write guard_rules = ['%s']", config.guard_rule)
    try:
        factories = rule_factories(config.rules_compared)
    except ValueError as error:
        raise InvalidRequest(f"{error}.", param="guard_rules") from None
    return Guard(
        guard_settings(config),
        learned=policy,
        version=configured_version(config.policy, config.policy_options),
        rules={name: make(rng) for name, make in factories.items()},
        now_s=clock.now_s,
        shared_s=shared_s,
    )


def guard_settings(config: NodeConfig) -> GuardSettings:
    """What the guard takes from the configuration."""
    validated = (name for name, spec in SPECS.items() if spec.validated)
    return GuardSettings(
        wanted=config.policy,
        rules=config.rules_compared,
        pinned=config.pin_policy,
        margin=config.guard_margin,
        decision_budget_s=config.decision_budget_s,
        slot_s=config.slot_s or GUARD_SLOT_S,
        window_s=config.guard_window_s,
        window_tasks=config.guard_window_tasks,
        trusted_versions=frozenset(configured_version(name, {}) for name in validated),
    )


def policy_coin(config: NodeConfig) -> np.random.Generator:
    """Each node's own, though all of a cluster may share a seed: equal coins choose equal nodes."""
    if config.policy_seed is None:
        return np.random.default_rng()
    name = hashlib.sha256(config.node_id.encode()).digest()
    return np.random.default_rng([config.policy_seed, int.from_bytes(name[:8], "big")])


def takes_published_weights(config: NodeConfig) -> bool:
    """Whether what this node's learner publishes replaces the weights it started with."""
    return policy_spec(config).takes_published and not config.policy_options

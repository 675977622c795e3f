"""The cluster as /v1/cluster shows it."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from edge_node.domain import Learning, NodeState
from edge_node.snapshot import ClusterSnapshot, LearnerProgress
from scheduler.guard.status import GuardStatus

Json = dict[str, Any]
# Of this node's software, as `dedgeai --version` says it.
VERSION = importlib.metadata.version("dedgeai")


def cluster_object(snapshot: ClusterSnapshot) -> Json:
    """The cluster as /v1/cluster shows it; times in seconds, work in work units."""
    return {
        "object": "cluster",
        "version": VERSION,
        "node": snapshot.node_id,
        "policy": snapshot.policy,
        "guard": _guard_object(snapshot.guard),
        "learner": _learner_object(snapshot.learner),
        "tasks_in_flight": snapshot.tasks_in_flight,
        "own": node_object(snapshot.own),
        "peers": [
            {
                "address": peer.address,
                "alive": peer.alive,
                "staleness_s": peer.staleness_s,
                "link_s": peer.link_s,
                "clock_ahead_s": peer.clock_ahead_s,
                **node_object(peer.state),
            }
            for peer in snapshot.peers
        ],
        "removed": [
            {"node": one.node_id, "address": one.address or None, "removed_at": one.at_unix_s}
            for one in snapshot.removed
        ],
    }


def _guard_object(guard: GuardStatus | None) -> Json | None:
    """Who decides and why; shares in 0..1, `worse` as a share of the rule's mean delay."""
    if guard is None:
        return None
    verdict = guard.verdict
    return {
        "wanted": guard.wanted,
        "deciding": guard.deciding,
        "rule": guard.rule,
        "rules": list(guard.rules),
        "reason": guard.reason,
        "pinned": guard.pinned,
        "weights": guard.version,
        "decisions": guard.decisions,
        "learned_share": guard.learned_share,
        "learned_share_total": guard.learned_share_total,
        "counts_as_learned": guard.counts_as_learned,
        "replay": None
        if verdict is None
        else {
            "rule": verdict.rule,
            "rule_means_s": dict(verdict.rule_means_s),
            "tasks": verdict.tasks,
            "judged_unix_s": verdict.judged_unix_s,
            "learned_mean_s": verdict.learned_mean_s,
            "rule_mean_s": verdict.rule_mean_s,
            "worse": verdict.worse,
            "worse_low": verdict.worse_low,
            "worse_high": verdict.worse_high,
            "failed": verdict.failed,
        },
        "live": {"cycles": guard.live_cycles, "worse": guard.live_worse},
    }


def node_object(state: NodeState | None) -> Json:
    """What a node said of itself; of one that said nothing, only that it takes no work."""
    if state is None:
        return {"node": None, "accepting": False}
    return {
        "node": state.node_id,
        "accepting": state.accepting,
        "paused": state.paused,
        "backlog": state.backlog,
        "capacity": state.capacity,
        "queued": state.queued,
        "running": state.running,
        # Who computes rows of what it draws now.
        "helped_by": state.helped_by,
        "model": state.model,
        "model_fingerprint": state.model_fingerprint,
        "models": [served.name for served in state.serves],
        "incarnation": state.incarnation,
        "sequence": state.sequence,
        "rest_url": state.rest_url,
        "grpc_address": state.grpc_address,
        # Of the list of API keys that nodes pass on.
        "keys_version": state.keys[0] or None,
        "device": state.device,
        "emulated_device": state.emulated_device or None,
        "reading": None if state.summary is None else vars(state.summary),
        "learning": _learning_object(state.learning),
    }


def _learning_object(learning: Learning | None) -> Json | None:
    """A node's part in learning; None from a node of version 0.1.0."""
    if learning is None:
        return None
    weights = learning.weights
    return {
        "policy": learning.policy,
        "willing": learning.willing,
        "learner": learning.learner,
        "weights": None
        if weights is None
        else {
            "version": weights.version,
            "generation": weights.generation,
            "sha256": weights.sha256,
        },
    }


def _learner_object(progress: LearnerProgress | None) -> Json | None:
    """How far the learner beside this node is; None while another one learns, or none."""
    if progress is None:
        return None
    return {
        "entries": dict(progress.entries),
        "decisions": progress.decisions,
        "updates": progress.updates,
        "refusal": progress.refusal or None,
    }

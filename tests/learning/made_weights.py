"""Weights as a learner publishes them."""

from __future__ import annotations

from pathlib import Path

from edge_node.learning.cluster_learner import save_weights
from edge_node.store.published_weights import Published
from scheduler.learning.live_learner import LiveLearner
from tests.scheduler.learning.lived import NODE_IDS, transitions


def made(folder: Path, *, generation: int, seed: int = 0) -> Published:
    """A file of weights that can decide, different for every seed."""
    learner = LiveLearner(NODE_IDS, {"pool_min": 10}, seed=seed)
    for transition in transitions(60):
        learner.add(transition)
    learner.update()
    weights = learner.checkpoint(generation=generation, metrics={})
    return save_weights(weights, folder, created_unix_s=1.7e9)

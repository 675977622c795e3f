"""Weights as a learner publishes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edge_node.learning.cluster_learner import save_weights
from edge_node.store.published_weights import Published
from tests.scheduler.learning.test_live_learner import untrained


def made(folder: Path, *, generation: int, seed: int = 0) -> Published:
    """A file of weights that can decide, different for every seed."""
    weights = untrained(seed=seed)
    numbered = replace(weights, info=replace(weights.info, episodes=generation))
    return save_weights(numbered, folder, created_unix_s=1.7e9)

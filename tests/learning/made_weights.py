"""Weights as a learner publishes them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from edge_node.learned_weights import LearnedWeights
from edge_node.learning.cluster_learner import save_weights
from edge_node.store.published_weights import Published
from tests.scheduler.learning.test_live_learner import untrained


def made(folder: Path, *, generation: int, seed: int = 0) -> Published:
    """A file of weights that can decide, different for every seed."""
    weights = untrained(seed=seed)
    numbered = replace(weights, info=replace(weights.info, episodes=generation))
    return save_weights(numbered, folder, created_unix_s=1.7e9)


def told_of(published: Published) -> tuple[LearnedWeights, bytes]:
    """What is told of weights, and their file, as they travel."""
    content = published.path.read_bytes()
    weights = LearnedWeights(
        policy=published.policy,
        version=published.version,
        generation=published.generation,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
    )
    return weights, content

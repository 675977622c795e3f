"""A node that has neither experience nor weights, for tests of everything else."""

from __future__ import annotations

from edge_node.errors import InvalidRequest, WeightsGone
from edge_node.experience_page import ExperiencePage
from edge_node.learned_weights import LearnedWeights


class NothingLearned:
    """A `ports.LearningDesk` that has nothing and takes nothing."""

    weights_bytes_max = 0

    async def read_experience(self, after: str, *, entries_max: int) -> ExperiencePage:
        return ExperiencePage(last=after, entries=())

    def weights(self, sha256: str) -> tuple[LearnedWeights, bytes]:
        raise WeightsGone("Nothing is held here.")

    async def take_weights(self, weights: LearnedWeights, content: bytes) -> None:
        raise InvalidRequest("Nothing is taken here.")

    async def take_verdict(self, form: str, verdict: bytes) -> None:
        raise InvalidRequest("Nothing is taken here.")

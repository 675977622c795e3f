"""Weights that a learner has published, as nodes tell each other of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LearnedWeights:
    """Weights that passed a learner's checks, as they are told of.

    Attributes:
        policy: name of the algorithm.
        version: that decisions with them carry.
        generation: number of the publication.
        sha256: of the file, in hexadecimal.
        size_bytes: of the file.
    """

    policy: str
    version: str
    generation: int
    sha256: str
    size_bytes: int

    @property
    def rank(self) -> tuple[int, str]:
        """What is greater replaces what is lesser, wherever the two meet."""
        return self.generation, self.sha256

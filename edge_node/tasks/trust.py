"""How much of the capacity that a peer claims is believed: what its work has shown.

Pure. What is measured is what an origin can measure by its own clock: from the placement of a task
to its end, over the work that was ahead of it there by the peer's own account, its own included. A
peer that claims more than it does is found out by the tasks that it draws; one that exaggerates its
queue as well is believed no shorter delays. What is allowed for: rows that share steps, queues that
others fill meanwhile, and what a task takes beside the drawing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Of what was shown, or is known of others, up to which a claim is believed.
TOLERANCE = 4.0
# Outcomes before they count, and the weight of all former ones at the next.
OUTCOMES_MIN = 3
FORMER_WEIGHT = 0.9
# After which without an outcome a peer is taken for new: it may have been mended.
FORGET_S = 600.0
# Work units per second, whatever was shown: who held all his tasks in vain comes last, and is not
# shut out where no other node draws a task's model.
BELIEVED_MIN = 0.01
# Seconds of a task that are no drawing: the way there and back, and two processes.
BESIDE_S = 0.25


@dataclass(kw_only=True)
class ShownService:
    """Of one peer, as one origin has seen it."""

    _work: float = 0.0
    _seconds: float = 0.0
    _outcomes: int = 0
    _at_s: float = -math.inf

    def drawn(self, *, work_ahead: float, seconds: float, now_s: float) -> None:
        """A task ended with its image, `seconds` after `work_ahead` was ahead of its end."""
        self._note(work_ahead, max(0.0, seconds - BESIDE_S), now_s)

    def held_in_vain(self, *, seconds: float, now_s: float) -> None:
        """A task was taken back that the peer had held for so long."""
        self._note(0.0, seconds, now_s)

    def time_passed(self, now_s: float) -> None:
        """Forgets what was shown too long ago."""
        if self._outcomes and now_s - self._at_s > FORGET_S:
            self._work = self._seconds = 0.0
            self._outcomes = 0

    @property
    def capacity(self) -> float | None:
        """Work units per second as shown; None where too little was."""
        if self._outcomes < OUTCOMES_MIN:
            return None
        return self._work / self._seconds if self._seconds > 0.0 else math.inf

    def believed(self, claimed: float, *, known: float) -> float:
        """Work units per second to count on.

        Args:
            claimed: by the peer.
            known: of the fastest node that is known not by its word alone; 0 where there is none.
        """
        shown = self.capacity
        if shown is None:
            return min(claimed, TOLERANCE * known) if known > 0.0 else claimed
        return min(claimed, max(TOLERANCE * shown, BELIEVED_MIN))

    def _note(self, work: float, seconds: float, now_s: float) -> None:
        self._work = FORMER_WEIGHT * self._work + work
        self._seconds = FORMER_WEIGHT * self._seconds + seconds
        self._outcomes += 1
        self._at_s = now_s

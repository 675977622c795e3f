"""One row of a guided step that another device computes: what is asked, given and used.

Owns both messages, and what a device that draws remembers of who helps it. Pure: times are given.
Who asks whom is the node's (`edge_node/dispatch/helping.py`, by `scheduler/shared_steps.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_node.checkpoint import Latents
from edge_node.domain import Drawing, Fence, ModelFingerprint, NodeId, TaskId

NOBODY = NodeId("")
# Of the device that is asked; whoever asked draws on alone.
BUSY = "busy"
LEASED = "leased"
NOBODY_IDLE = "nobody_idle"
NO_ANSWER = "no_answer"
SWITCHED_OFF = "switched_off"
ANOTHER_MODEL = "another_model"
NO_MEMORY = "no_memory"
UNUSABLE = "unusable"
REFUSALS = (
    *(BUSY, LEASED, NOBODY_IDLE, NO_ANSWER, SWITCHED_OFF, ANOTHER_MODEL, NO_MEMORY, UNUSABLE),
)

# After nobody would help, before somebody is asked again.
ASK_AGAIN_S = 0.1
# The same after a row that did not come in time or was none, doubled each time it happens.
MISSED_S, MISSED_S_MAX = 1.0, 60.0
# After which an answer is not expected any more.
ANSWER_S_MAX = 10.0


@dataclass(frozen=True, kw_only=True)
class RowWanted:
    """The unconditional row of a step.

    Attributes:
        task_id, fence: of the attempt that draws.
        drawing: what is drawn.
        fingerprint: of the model as it is served where it is drawn.
        step: denoising steps done before it.
        latents: the latent as it stands then; no velocity.
        pair_s: what both rows take where it is drawn.
        row_s: what one of them does.
        leader: the node where it is drawn; a worker does not say.
    """

    task_id: TaskId
    fence: Fence
    drawing: Drawing
    fingerprint: ModelFingerprint
    step: int
    latents: Latents
    pair_s: float
    row_s: float
    leader: NodeId = NOBODY

    def refused(self, why: str) -> RowGiven:
        """The answer of one who does not compute it."""
        return self._given(refused=why)

    def computed(self, velocity: Latents, *, took_s: float) -> RowGiven:
        """The answer of one who has."""
        return self._given(velocity=velocity, took_s=took_s)

    def _given(
        self, *, velocity: Latents | None = None, refused: str = "", took_s: float = 0.0
    ) -> RowGiven:
        return RowGiven(
            task_id=self.task_id,
            fence=self.fence,
            drawing_sha256=self.drawing.sha256,
            step=self.step,
            velocity=velocity,
            refused=refused,
            took_s=took_s,
        )


@dataclass(frozen=True, kw_only=True)
class RowGiven:
    """What came of it.

    Attributes:
        task_id, fence, drawing_sha256, step: of what was asked.
        velocity: as the `latent` of these; None where there is none.
        refused: why there is none; one of `REFUSALS`.
        took_s: what computing it took.
    """

    task_id: TaskId
    fence: Fence
    drawing_sha256: str
    step: int
    velocity: Latents | None = None
    refused: str = ""
    took_s: float = 0.0

    def answers(self, wanted: RowWanted) -> bool:
        """Whether it is of that step of that drawing."""
        return (self.task_id, self.fence, self.drawing_sha256, self.step) == (
            wanted.task_id,
            wanted.fence,
            wanted.drawing.sha256,
            wanted.step,
        )


class Leader:
    """Who helps a device that draws: nobody, or whoever gave the last row that was asked for.

    The first row of a drawing that is asked for is not waited for: meanwhile the whole step is
    computed here, and the answer says whether the next one may be shared; unless the last row that
    was asked for was of use, of whichever drawing. So nobody is waited for who was not of use.
    """

    def __init__(self) -> None:
        self._asked: RowWanted | None = None
        self._asked_s = 0.0
        self._given: RowGiven | None = None
        self._helped: tuple[TaskId, Fence] | None = None
        # Whether the last row that was asked for was of use.
        self._useful = False
        self._misses = 0
        self._ask_again_s = 0.0

    def is_helped(self, task_id: TaskId, fence: Fence) -> bool:
        """Whether the next step of a drawing is to be shared."""
        return self._useful or self._helped == (task_id, fence)

    def may_ask(self, *, now_s: float) -> bool:
        """Whether somebody is to be asked for a row now: one at a time, and not too often."""
        waits = self._asked is not None and now_s < self._asked_s + ANSWER_S_MAX
        return not waits and now_s >= self._ask_again_s

    def ask(self, wanted: RowWanted, *, now_s: float) -> None:
        """It is asked for."""
        self._asked, self._asked_s, self._given = wanted, now_s, None

    def answered(self, given: RowGiven, *, now_s: float) -> None:
        """Takes in an answer; one to something else is not looked at."""
        if self._asked is None or not given.answers(self._asked):
            return
        key = (self._asked.task_id, self._asked.fence)
        self._asked, self._given = None, given
        if given.velocity is not None:
            self._helped = key
            return
        self._helped, self._useful = None, False
        self._ask_again_s = max(self._ask_again_s, now_s + ASK_AGAIN_S)

    def answer_to(self, wanted: RowWanted) -> RowGiven | None:
        """What was answered to it, if anything was."""
        given = self._given
        return given if given is not None and given.answers(wanted) else None

    def used(self) -> None:
        """A row that was given was of use."""
        self._useful, self._misses = True, 0

    def missed(self, *, now_s: float) -> None:
        """A row was waited for in vain: the device draws alone for a while, whatever comes."""
        self._asked = self._helped = None
        self._useful = False
        self._ask_again_s = now_s + min(MISSED_S * 2.0**self._misses, MISSED_S_MAX)
        self._misses += 1

    def forget(self) -> None:
        """Nobody can be asked any more."""
        self._asked = self._given = self._helped = None
        self._useful = False


def patience_s(row_s: float) -> float:
    """How long one waits for the other row when the own one is done: as computing it would take.

    Args:
        row_s: what the own row took.
    """
    return row_s

"""What a node would have lived through: a small cluster, decisions and their true delays."""

from __future__ import annotations

import numpy as np

from scheduler.experience import PooledDecision, RecordedDecision
from scheduler.learning.transition_assembler import Transition, TransitionAssembler
from scheduler.observation import Observation
from scheduler.policy import Decision, Outcome

NODE_IDS = ("a", "b", "c")
CAPACITY_B = np.array([4.0, 2.0, 0.5])
LIFE = "00000000000001-a"


def lived(decisions: int, *, seed: int = 0) -> list[PooledDecision | Outcome]:
    """Decisions drawn uniformly at random, each followed by its outcome."""
    rng = np.random.default_rng(seed)
    backlog_B, now_s = np.zeros(3), 0.0
    entries: list[PooledDecision | Outcome] = []
    for sequence in range(decisions):
        gap_s = rng.exponential(1.5)
        now_s += gap_s
        backlog_B = np.maximum(backlog_B - gap_s * CAPACITY_B, 0.0)
        work, choice = rng.uniform(0.5, 1.5), int(rng.integers(3))
        entries.append(_decided(sequence, now_s, work, backlog_B.copy(), choice))
        backlog_B[choice] += work
        delay_s = float(backlog_B[choice] / CAPACITY_B[choice])
        outcome = Outcome(decision_id=f"t{sequence}/1", service_delay_s=delay_s, completed=True)
        entries.append(outcome)
    return entries


def transitions(decisions: int) -> list[Transition]:
    """The same, joined."""
    assembler = TransitionAssembler(outcome_wait_s=1e4, waiting_max=2 * decisions)
    for entry in lived(decisions):
        assembler.add(entry, now_s=0.0)
    return assembler.take()


def _decided(
    sequence: int, now_s: float, work: float, backlog_B: np.ndarray, choice: int
) -> PooledDecision:
    observation = Observation(
        node_ids=NODE_IDS,
        local=0,
        work=work,
        input_bits=8000,
        backlog_B=backlog_B,
        own_B=np.zeros(3),
        capacity_B=CAPACITY_B,
        link_s_B=np.zeros(3),
        staleness_s_B=np.zeros(3),
        alive_B=np.ones(3, np.bool_),
    )
    recorded = RecordedDecision(
        decision_id=f"t{sequence}/1",
        node_id="a",
        decided_unix_s=1.7e9 + now_s,
        slot=int(now_s // 2.0),
        index_in_slot=0,
        steps=10,
        observation=observation,
        decision=Decision(choice=choice, policy="random"),
    )
    return PooledDecision(life=LIFE, sequence=sequence, recorded=recorded)

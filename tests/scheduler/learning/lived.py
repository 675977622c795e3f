"""What nodes would have lived through: a small cluster, decisions and their true delays."""

from __future__ import annotations

import numpy as np

from scheduler.experience import PooledDecision, RecordedDecision
from scheduler.observation import Observation, Traffic
from scheduler.policy import Decision, Outcome

NODE_IDS = ("a", "b", "c")
CAPACITY_B = np.array([4.0, 2.0, 0.5])
BEGAN_UNIX_S = 1.7e9


def lived(
    decisions: int, *, seed: int = 0, true_B: np.ndarray = CAPACITY_B
) -> list[PooledDecision | Outcome]:
    """Decisions drawn uniformly at random, each followed by its outcome.

    Nodes decide by turns; `true_B` is how fast the servers are, whatever nodes believe.
    """
    rng = np.random.default_rng(seed)
    backlog_B, now_s = np.zeros(3), 0.0
    entries: list[PooledDecision | Outcome] = []
    for number in range(decisions):
        gap_s = rng.exponential(1.5)
        now_s += gap_s
        backlog_B = np.maximum(backlog_B - gap_s * true_B, 0.0)
        work, choice = rng.uniform(0.5, 1.5), int(rng.integers(3))
        entries.append(decided(number, now_s, work, backlog_B.copy(), choice))
        backlog_B[choice] += work
        delay_s = float(backlog_B[choice] / true_B[choice])
        entries.append(outcome(number, delay_s))
    return entries


def outcome(number: int, delay_s: float, *, attempt: int = 1) -> Outcome:
    return Outcome(decision_id=f"t{number}/{attempt}", service_delay_s=delay_s, completed=True)


def decided(
    number: int,
    now_s: float,
    work: float,
    backlog_B: np.ndarray,
    choice: int,
    *,
    attempt: int = 1,
    servers: int = 3,
) -> PooledDecision:
    """The `number`-th decision of the cluster, by one of three nodes in turn."""
    node = number % 3
    names = (*NODE_IDS, *(f"d{i}" for i in range(servers)))[:servers]
    one_B = np.ones(servers)
    observation = Observation(
        node_ids=names,
        local=min(node, servers - 1),
        work=work,
        input_bits=8000,
        backlog_B=np.resize(backlog_B, servers),
        own_B=0.0 * one_B,
        capacity_B=np.resize(CAPACITY_B, servers),
        link_s_B=0.0 * one_B,
        staleness_s_B=0.0 * one_B,
        alive_B=one_B > 0.0,
        traffic=Traffic(mean_work=1.0, load=0.1),
    )
    recorded = RecordedDecision(
        decision_id=f"t{number}/{attempt}",
        node_id=NODE_IDS[node],
        decided_unix_s=BEGAN_UNIX_S + now_s,
        slot=int(now_s // 2.0),
        index_in_slot=0,
        steps=10,
        observation=observation,
        decision=Decision(choice=choice, policy="random"),
    )
    life = f"{node:014d}-{NODE_IDS[node]}"
    return PooledDecision(life=life, sequence=number // 3, recorded=recorded)

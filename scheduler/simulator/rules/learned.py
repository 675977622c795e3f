"""Greedy rules with tables that they learn from episodes of their own.

Owns the two tables and how they are learned. *Ahead*: in a slotted scenario stations place one
after another on the same published state, so a station can expect what those before it have placed
by now. *Price*: work put on a server delays every task that comes there later in the same busy
period; charging a task for that makes it as unselfish as `kappa` says.

Both tables depend on the rule's own placements, so they are learned by fictitious play: run with
the tables, measure them anew, and mix what was measured into the mean of all rounds. Learn on
other seeds than those that are reported.

Arrays end in their dimension: N tasks, B servers, S stations, T slots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from scheduler.policies.heuristics import Own, check_own
from scheduler.simulator.queueing import FloatArray, IntArray, serve_fcfs
from scheduler.simulator.rules.greedy import place_cheapest
from scheduler.simulator.rules.view import facts_of, own_weight, stations
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.workload import Episode, draw


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What was learned.

    Attributes:
        ahead_SB: mean work that other stations have placed on a server in a slot before a
            station's turn comes, Gcycles.
        later_TB: M, the mean number of later tasks that are delayed by work put on a server in a
            slot.
    """

    ahead_SB: FloatArray
    later_TB: FloatArray


@dataclass(frozen=True, kw_only=True)
class PredOwn:
    """Greedy with prediction: argmin (backlog + ahead + m own + w) / f + link.

    Attributes:
        own: how often own unseen work counts. "B" reaches the reference results: what a station
            places says what the others place as well, better than their mean does.
        extrapolate: published backlogs shrink at the published capacity between publications.
        tables: None until `fit`.
    """

    own: Own = "B"
    extrapolate: bool = True
    tables: Tables | None = None

    def __post_init__(self) -> None:
        check_own(self.own)

    def fit(
        self,
        scenario: Scenario,
        rng: np.random.Generator,
        *,
        rounds: int = 10,
        episodes_per_round: int = 8,
    ) -> PredOwn:
        """The same rule with tables for the scenario, learned on episodes that `rng` draws."""
        tables = no_tables(scenario)
        for turn, episodes in enumerate(_rounds(scenario, rng, rounds, episodes_per_round)):
            rule = replace(self, tables=tables)
            measured = [measure(episode, rule.place(episode, rng)) for episode in episodes]
            tables = _mixed(tables, measured, turn)
        return replace(self, tables=tables)

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, (N,); draws nothing.

        Raises:
            ValueError: not fitted, or fitted to another number of servers or slots.
        """
        tables = _fitting(self.tables, episode, "pred_own")
        facts = facts_of(episode, extrapolate=self.extrapolate)
        own = own_weight(self.own, episode.scenario)
        return place_cheapest(episode, facts, own=own, ahead_SB=tables.ahead_SB)


@dataclass(frozen=True, kw_only=True)
class ShadowPrice:
    """Greedy that pays for the delay of others: the cost of `PredOwn` + kappa (w / f) M.

    Attributes:
        kappa: 0 is selfish; 1 charges all expected harm. The mean falls and the tail grows with
            it, for large tasks have to wait or to go to slow servers.
        fresh: the true state; nothing is predicted then and no own work is unseen.
        own, extrapolate, tables: as for `PredOwn`.
    """

    kappa: float = 1.0
    own: Own = "B"
    fresh: bool = False
    extrapolate: bool = True
    tables: Tables | None = None

    def __post_init__(self) -> None:
        check_own(self.own)
        if not (math.isfinite(self.kappa) and self.kappa >= 0.0):
            raise ValueError(f"kappa must be 0 or more, not {self.kappa!r}")

    def fit(
        self,
        scenario: Scenario,
        rng: np.random.Generator,
        *,
        rounds: int = 75,
        episodes_per_round: int = 8,
    ) -> ShadowPrice:
        """The same rule with tables for the scenario, learned on episodes that `rng` draws."""
        tables = no_tables(scenario)
        for turn, episodes in enumerate(_rounds(scenario, rng, rounds, episodes_per_round)):
            rule = replace(self, tables=tables)
            measured = [measure(episode, rule.place(episode, rng)) for episode in episodes]
            tables = _mixed(tables, measured, turn)
        return replace(self, tables=tables)

    def place(self, episode: Episode, rng: np.random.Generator) -> IntArray:
        """The server of each task, (N,); draws nothing.

        Raises:
            ValueError: not fitted, or fitted to another number of servers or slots.
        """
        tables = _fitting(self.tables, episode, "shadow_price")
        fresh = self.fresh or episode.scenario.refresh_s == 0.0
        return place_cheapest(
            episode,
            facts_of(episode, fresh=self.fresh, extrapolate=self.extrapolate),
            own=own_weight(self.own, episode.scenario),
            ahead_SB=None if fresh else tables.ahead_SB,
            price_TB=self.kappa * tables.later_TB,
        )


def no_tables(scenario: Scenario) -> Tables:
    """Nothing expected, no price: where learning starts."""
    return Tables(
        ahead_SB=np.zeros((stations(scenario), scenario.servers)),
        later_TB=np.zeros((scenario.slots, scenario.servers)),
    )


def measure(episode: Episode, server_N: IntArray) -> Tables:
    """The tables that are true of one episode, first come first served."""
    scenario = episode.scenario
    delay_s_N = serve_fcfs(
        episode.arrival_s_N, server_N, episode.work_N, episode.since_s_K, episode.capacity_KB
    )
    shape = (stations(scenario), scenario.servers)
    ahead_SB = np.zeros(shape)
    if scenario.task_arrivals == "slotted":
        ahead_SB = _ahead(episode.slot_N, episode.origin_N, server_N, episode.work_N, *shape)
    later_TB = _later(
        episode.slot_N,
        server_N,
        episode.arrival_s_N,
        episode.arrival_s_N + delay_s_N,
        scenario.slots,
        scenario.servers,
    )
    return Tables(ahead_SB=ahead_SB, later_TB=later_TB)


def _rounds(
    scenario: Scenario, rng: np.random.Generator, rounds: int, per_round: int
) -> list[list[Episode]]:
    """Episodes of each round; drawn anew for eight rounds, then used again in turn.

    Without the scenario's changes of capacity: they come as a surprise.
    """
    scenario = scenario.replace(changes=())
    drawn = [[draw(scenario, rng) for _ in range(per_round)] for _ in range(min(rounds, 8))]
    return [drawn[turn % len(drawn)] for turn in range(rounds)]


def _mixed(tables: Tables, measured: list[Tables], turn: int) -> Tables:
    """The mean of all rounds, later ones weighing more: the first prices are far off."""
    share = 2.0 / (turn + 2.0)
    ahead_SB = np.mean([one.ahead_SB for one in measured], axis=0)
    later_TB = np.mean([one.later_TB for one in measured], axis=0)
    return Tables(
        ahead_SB=tables.ahead_SB + share * (ahead_SB - tables.ahead_SB),
        later_TB=tables.later_TB + share * (later_TB - tables.later_TB),
    )


def _fitting(tables: Tables | None, episode: Episode, name: str) -> Tables:
    if tables is None:
        raise ValueError(f"{name} needs fit() before it can place")
    needed = no_tables(episode.scenario)
    if (tables.ahead_SB.shape, tables.later_TB.shape) != (
        needed.ahead_SB.shape,
        needed.later_TB.shape,
    ):
        raise ValueError(
            f"{name} was fitted to {tables.later_TB.shape} slots and servers, "
            f"{episode.scenario.name} has {needed.later_TB.shape}"
        )
    return tables


@njit(cache=True)
def _ahead(
    slot_N: IntArray,
    origin_N: IntArray,
    server_N: IntArray,
    work_N: FloatArray,
    stations: int,
    servers: int,
) -> FloatArray:
    """Mean work on each server in a slot when a station's first task of the slot is placed."""
    sum_SB = np.zeros((stations, servers))
    turns_S = np.zeros(stations)
    last_slot_S = np.full(stations, -1)
    slot_B, slot = np.zeros(servers), -1
    for task in range(len(slot_N)):
        if slot_N[task] != slot:
            slot = slot_N[task]
            slot_B[:] = 0.0
        station = origin_N[task]
        if last_slot_S[station] != slot:
            last_slot_S[station] = slot
            sum_SB[station] += slot_B
            turns_S[station] += 1.0
        slot_B[server_N[task]] += work_N[task]
    for station in range(stations):
        if turns_S[station] > 0.0:
            sum_SB[station] /= turns_S[station]
    return sum_SB


@njit(cache=True)
def _later(
    slot_N: IntArray,
    server_N: IntArray,
    arrival_s_N: FloatArray,
    done_s_N: FloatArray,
    slots: int,
    servers: int,
) -> FloatArray:
    """Number of later tasks in the busy period that work put on a server in a slot falls into.

    The mean over the tasks placed there in the slot. Where none was, work at the slot's start
    counts: it falls into the busy period of the last task before, or finds the server idle and
    delays nobody. Counted from the last task back.
    """
    sum_TB = np.zeros((slots, servers))
    tasks_TB = np.zeros((slots, servers))
    later_B = np.zeros(servers)
    next_s_B, next_slot_B = np.full(servers, np.inf), np.full(servers, slots)
    for task in range(len(slot_N) - 1, -1, -1):
        server, slot = server_N[task], slot_N[task]
        # What arrives just as the server runs empty is not delayed, whatever rounding says.
        busy = next_s_B[server] < done_s_N[task] - 1e-12
        later_B[server] = later_B[server] + 1.0 if busy else 0.0
        for between in range(slot + 1, next_slot_B[server]):
            sum_TB[between, server] = later_B[server]
            tasks_TB[between, server] = 1.0
        sum_TB[slot, server] += later_B[server]
        tasks_TB[slot, server] += 1.0
        next_s_B[server], next_slot_B[server] = arrival_s_N[task], slot
    return sum_TB / np.maximum(tasks_TB, 1.0)

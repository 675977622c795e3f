"""Rules as plain Python: what a station sees, one task at a time, with nothing compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from scheduler.observation import Observation, Traffic
from scheduler.simulator.scenario import CapacityChange, Scenario
from scheduler.simulator.workload import Episode, draw


@dataclass
class Seen:
    """One task and what its station knows; arrays by server."""

    task: int
    slot: int
    station: int
    work: float
    backlog: np.ndarray
    own: np.ndarray
    capacity: np.ndarray
    link_s: np.ndarray
    waiting: np.ndarray  # unfinished tasks, as published
    own_tasks: np.ndarray
    stations: int
    traffic: Traffic  # of all stations, as measured up to the publication

    @property
    def living(self) -> list[int]:
        return [i for i in range(len(self.capacity)) if self.capacity[i] > 0]

    def cheapest(self, cost: np.ndarray) -> int:
        """Ties: larger capacity, local, earlier."""
        return min(self.living, key=lambda i: (cost[i], -self.capacity[i], i != self.station, i))

    def observation(self) -> Observation:
        servers = len(self.capacity)
        return Observation(
            node_ids=tuple(f"node{index}" for index in range(servers)),
            local=self.station,
            work=self.work,
            input_bits=1,
            backlog_B=self.backlog,
            own_B=self.own,
            capacity_B=self.capacity,
            link_s_B=self.link_s,
            staleness_s_B=np.zeros(servers),
            alive_B=self.capacity > 0,
            dispatchers=self.stations,
            traffic=self.traffic,
        )


Rule = Callable[[Seen], int]


def play(
    episode: Episode, rule: Rule, *, fresh: bool = False, extrapolate: bool = True
) -> list[int]:
    """Places every task by `rule`; the servers as lists of unfinished tasks, first come first."""
    return [server for _, server in placements(episode, rule, fresh=fresh, extrapolate=extrapolate)]


def placements(
    episode: Episode, rule: Rule, *, fresh: bool, extrapolate: bool
) -> Iterator[tuple[Seen, int]]:
    scenario, servers = episode.scenario, episode.servers
    stations = servers if scenario.dispatchers == "all" else 1
    queues: list[list[float]] = [[] for _ in range(servers)]
    refresh_s = 0.0 if fresh else scenario.refresh_s
    now_s, published = 0.0, 0
    backlog, waiting = np.zeros(servers), np.zeros(servers)
    capacity = episode.believed_KB[0]
    own, own_tasks = np.zeros((stations, servers)), np.zeros((stations, servers))
    traffic = traffic_of(episode, capacity, before=0, published_s=0.0)
    for task in range(episode.tasks):
        arrival_s = float(episode.arrival_s_N[task])
        known = published
        while refresh_s and (published + 1) * refresh_s <= arrival_s + 1e-9:
            published += 1
            at_s = min(published * refresh_s, arrival_s)
            serve(queues, episode, now_s, at_s)
            now_s = at_s
            backlog, waiting = totals(queues)
            capacity = believed(episode, at_s)
            own, own_tasks = np.zeros_like(own), np.zeros_like(own)
        if published > known:
            traffic = traffic_of(episode, capacity, before=task, published_s=now_s)
        serve(queues, episode, now_s, arrival_s)
        if refresh_s == 0:
            backlog, waiting = totals(queues)
            capacity = believed(episode, arrival_s)
        elif extrapolate:
            backlog = np.maximum(backlog - capacity * (arrival_s - now_s), 0.0)
        now_s = arrival_s
        station = int(episode.origin_N[task])
        size = np.full(servers, episode.result_mbit_N[task])
        size[np.arange(servers) != station] += episode.input_mbit_N[task]
        seen = Seen(
            task=task,
            slot=int(episode.slot_N[task]),
            station=station,
            work=float(episode.work_N[task]),
            backlog=backlog.copy(),
            own=own[station].copy(),
            capacity=capacity.copy(),
            link_s=size / episode.link_mbit_s_B,
            waiting=waiting.copy(),
            own_tasks=own_tasks[station].copy(),
            stations=stations,
            traffic=traffic,
        )
        server = rule(seen)
        yield seen, server
        queues[server].append(seen.work)
        if refresh_s:
            own[station, server] += seen.work
            own_tasks[station, server] += 1


def traffic_of(
    episode: Episode, capacity: np.ndarray, *, before: int, published_s: float
) -> Traffic:
    """As stations measure it: ten mean services at a load of 1 are believed to have gone before."""
    work, refresh_s = float(episode.work_N[:before].sum()), episode.scenario.refresh_s
    mean_work = (work + float(episode.work_N[0])) / (before + 1)
    total = max(float(capacity.sum()), 1e-9)
    prior_s = refresh_s + 10.0 * mean_work * float((capacity > 0).sum()) / total
    load = (work / total + prior_s) / (published_s + prior_s)
    return Traffic(mean_work=mean_work, load=load, report_period_s=refresh_s)


def serve(queues: list[list[float]], episode: Episode, from_s: float, to_s: float) -> None:
    starts = [*episode.since_s_K.tolist(), np.inf]
    for stretch, capacity_B in enumerate(episode.capacity_KB):
        passed_s = min(to_s, starts[stretch + 1]) - max(from_s, starts[stretch])
        for server, queue in enumerate(queues):
            work = capacity_B[server] * max(passed_s, 0.0)
            while queue and work >= queue[0] - 1e-9:
                work -= queue.pop(0)
            if queue and work > 0:
                queue[0] -= work


def totals(queues: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([sum(queue) for queue in queues]), np.array([float(len(q)) for q in queues])


def believed(episode: Episode, at_s: float) -> np.ndarray:
    last = np.searchsorted(episode.since_s_K, at_s, side="right") - 1
    believed_B: np.ndarray = episode.believed_KB[last]
    return believed_B


SLOTTED = Scenario(
    name="slotted", servers=5, tasks_per_slot_max=5, slots=10, capacity_range=(1, 6),
    tasks_by_index=False,
)  # fmt: skip
POISSON = SLOTTED.replace(name="poisson", task_arrivals="poisson", load=0.9, refresh_s=0.7)
OUTAGES = tuple(
    CapacityChange(at_s=at_s, server=server, factor=factor)
    for at_s, server, factor in ((2.2, 0, 0.0), (4.0, 3, 0.0), (5.5, 1, 0.2), (7.5, 0, 1.0))
)
# Equal servers tie often; the others see old, true or wrong states, and servers that die.
SCENARIOS = {
    one.name: one
    for one in (
        SLOTTED,
        SLOTTED.replace(name="equal", capacities=(2.0,) * 5, link_mbit_s=(450, 450)),
        SLOTTED.replace(name="random_order", station_order="random", refresh_s=2.0),
        SLOTTED.replace(name="one_master", dispatchers="first", tasks_per_slot_max=20),
        SLOTTED.replace(name="outages", changes=OUTAGES),
        SLOTTED.replace(name="believed", changes=OUTAGES, capacity_published=False),
        POISSON,
        POISSON.replace(name="poisson_fresh", refresh_s=0.0),
        POISSON.replace(name="poisson_outages", changes=OUTAGES),
    )
}


def episode_of(name: str, seed: int = 0) -> Episode:
    return draw(SCENARIOS[name], np.random.default_rng(seed))

"""The placement problem as environments: Gymnasium for one agent, PettingZoo for the stations.

Owns observations, actions, rewards and their spaces; servers, reports and delays are the
simulator's own kernels. This text is the specification of the decision process.

State. Servers 0..B-1 with backlogs, first come first served; stations 0..S-1 with tasks to place
(S = B, or 1 where the scenario has a single dispatcher). An episode is drawn from the scenario:
tasks with their times of arrival, in a fixed order.

Observation: a vector of float32, all 0 or more and not normalised.

| entries | of | unit | meaning |
|---|---|---|---|
| 3, or 3 N | task | Mbit, Mbit, Gcycles | upload d, result, work rho z; 0 without a task |
| B | server | Gcycles | backlog as last reported, worked off since at the reported capacity |
| B | server | Gcycles | what the observing station has placed there since that report |
| B | server | Gcycles/s | capacity as last reported, 0 while the server is away |
| B | server | Mbit/s | rate of the link to it |
| B | server | - | 1 for the observing station's own server, to which no upload is paid, else 0 |

`StationsAtOnce` observes up to N = `tasks_per_slot_max` tasks, the others one. The paper's state
is d, work and the reported backlogs of these, besides the latent, which is the policy's.

Reports come at multiples of the scenario's `refresh_s`, before the tasks that arrive then; if that
is 0, every observation shows the true backlogs.

Action. The index of the server for each task. Every server may be chosen, also one that is away:
the task then waits for its return.

Transition. A task joins its server's queue at its arrival; the queue is worked off at the true
capacity, whatever is believed of it.

Reward. Minus the service delay of the task in seconds (paper eq. 2), known and paid at once;
`StationsAtOnce` pays the sum over the station's tasks of the slot. The sum of all rewards is minus
the sum of all service delays, so that, undiscounted, the best policy has the least mean delay.

Start. Idle servers, the first task observed. End. Terminated when every task of the episode is
placed; never truncated.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from numba import njit
from numpy.typing import NDArray
from pettingzoo import AECEnv, ParallelEnv

from scheduler.simulator.queueing import FloatArray, IntArray, work_off_s
from scheduler.simulator.rules.view import Facts, View, book, facts_of, link_s, look, open_view
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.workload import Episode, draw

Observation = NDArray[np.float32]
Options = dict[str, Any] | None
TASK_FIELDS = 3
SERVER_FIELDS = 5


class PlacementEnv(gymnasium.Env[Observation, np.int64]):
    """One agent places all tasks, one at a time, in the place of each task's station.

    Options of `reset`: "episode", an Episode to play instead of a drawn one.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - as the base class has it

    def __init__(self, scenario: Scenario) -> None:
        _require_learnable(scenario)
        self._scenario = scenario
        self.observation_space = _observations(1, scenario)
        self.action_space = Discrete(scenario.servers)

    def reset(
        self, *, seed: int | None = None, options: Options = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Idle servers and the first task of an episode."""
        super().reset(seed=seed)
        self._run = _Run(_episode(self._scenario, self.np_random, options))
        return self._run.observe_task(), self._about_task()

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Places the observed task; the info tells its delay and what is observed next."""
        delay_s = float(self._run.place(np.array([action]))[0])
        info = self._about_task() | {"service_delay_s": delay_s}
        return self._run.observe_task(), -delay_s, self._run.done, False, info

    def _about_task(self) -> dict[str, Any]:
        """Index and station of the observed task within the episode."""
        if self._run.done:
            return {}
        return {"task": self._run.task, "station": self._run.station}


class StationsInTurn(AECEnv[str, Observation, np.int64]):  # type: ignore[misc]
    """Every station is an agent; one task a step, in the order in which the tasks are served.

    A station observes its task when it is its turn and no task otherwise.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - as the base class has it
        "name": "placement_in_turn_v0",
        "render_modes": [],
        "is_parallelizable": False,
    }

    def __init__(self, scenario: Scenario) -> None:
        super().__init__()
        _require_learnable(scenario)
        self._scenario = scenario
        self._rng = np.random.default_rng()
        self.possible_agents = _agents(scenario)
        self.observation_spaces = {
            agent: _observations(1, scenario) for agent in self.possible_agents
        }
        self.action_spaces = {agent: Discrete(scenario.servers) for agent in self.possible_agents}
        self.render_mode = None

    def observation_space(self, agent: str) -> Space[Observation]:
        """The same for every agent."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Discrete[np.int64]:
        """The same for every agent."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: Options = None) -> None:
        """Idle servers and the first task of an episode."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._run = _Run(_episode(self._scenario, self._rng, options))
        self.agents = list(self.possible_agents)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        self.agent_selection = _agent(self._run.station)

    def observe(self, agent: str) -> Observation:
        """What the station of the agent knows now."""
        return self._run.observe_station(_station(agent))

    def step(self, action: np.int64) -> None:
        """Places the selected agent's task and selects the next task's station."""
        agent = self.agent_selection
        if self.terminations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[agent] = 0.0
        self._clear_rewards()
        self.rewards[agent] = -float(self._run.place(np.array([action]))[0])
        if self._run.done:
            self.terminations = dict.fromkeys(self.agents, True)
        else:
            self.agent_selection = _agent(self._run.station)
        self._accumulate_rewards()


class StationsAtOnce(ParallelEnv[str, Observation, IntArray]):  # type: ignore[misc]
    """Every station is an agent and places all its tasks of a slot in one step.

    An action has a server for each of up to N = `tasks_per_slot_max` tasks; those beyond the
    station's tasks of the slot are ignored. All stations decide on the same reports; the tasks are
    then served in the episode's order. Only for slotted arrivals.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - as the base class has it
        "name": "placement_at_once_v0",
        "render_modes": [],
    }

    def __init__(self, scenario: Scenario) -> None:
        if scenario.task_arrivals != "slotted":
            raise ValueError(f"{scenario.name} has {scenario.task_arrivals} arrivals, not slots")
        _require_learnable(scenario)
        self._scenario = scenario
        self._rng = np.random.default_rng()
        tasks = scenario.tasks_per_slot_max
        self.possible_agents = _agents(scenario)
        self.observation_spaces = {
            agent: _observations(tasks, scenario) for agent in self.possible_agents
        }
        self.action_spaces = {
            agent: MultiDiscrete(np.full(tasks, scenario.servers)) for agent in self.possible_agents
        }
        self.render_mode = None

    def observation_space(self, agent: str) -> Space[Observation]:
        """The same for every agent."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> MultiDiscrete:
        """The same for every agent."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: Options = None
    ) -> tuple[dict[str, Observation], dict[str, dict[str, Any]]]:
        """Idle servers and the first slot of an episode."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._run = _Run(_episode(self._scenario, self._rng, options))
        self.agents = list(self.possible_agents)
        return self._observations(), {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, IntArray]
    ) -> tuple[
        dict[str, Observation],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """Places the slot; an agent's info has its tasks' delays in seconds."""
        tasks, episode = self._run.slot_tasks, self._run.episode
        origin_M, index_M = episode.origin_N[tasks], episode.index_N[tasks]
        server_SN = np.stack([np.asarray(actions[agent], np.int64) for agent in self.agents])
        delay_s_M = self._run.place(server_SN[origin_M, index_M])
        rewards, infos = {}, {}
        for station, agent in enumerate(self.agents):
            own_s = delay_s_M[origin_M == station]
            rewards[agent] = -float(own_s.sum())
            infos[agent] = {"service_delay_s": own_s}
        observations = self._observations()
        ended = dict.fromkeys(self.agents, self._run.done)
        truncated = dict.fromkeys(self.agents, False)
        if self._run.done:
            self.agents = []
        return observations, rewards, ended, truncated, infos

    def _observations(self) -> dict[str, Observation]:
        return {agent: self._run.observe_slot(_station(agent)) for agent in self.agents}


class _Run:
    """One episode under way: places tasks in its order and says what stations know.

    Attributes:
        task: index of the task to be placed next; `done` when there is none.
    """

    def __init__(self, episode: Episode) -> None:
        self.episode = episode
        self.task = 0
        self._facts = facts_of(episode)
        self._view = open_view(self._facts)
        look(self._facts, self._view, episode.arrival_s_N[0])

    @property
    def done(self) -> bool:
        """Whether every task is placed."""
        return self.task == self.episode.tasks

    @property
    def station(self) -> int:
        """Whose task is next."""
        return int(self.episode.origin_N[self.task])

    @property
    def slot_tasks(self) -> slice:
        """The tasks from the next one on that arrive in its slot."""
        slot = self.episode.slot_N[self.task]
        end = int(np.searchsorted(self.episode.slot_N, slot, side="right"))
        return slice(self.task, end)

    def place(self, server_M: IntArray) -> FloatArray:
        """Places the next M tasks and looks at the reports that the task after them sees.

        Returns:
            their service delays in seconds, (M,).
        """
        servers = self.episode.servers
        if self.task + len(server_M) > self.episode.tasks:
            raise ValueError("the episode has ended; reset the environment")
        if not ((server_M >= 0) & (server_M < servers)).all():
            raise ValueError(f"placements {server_M.tolist()} are not all in 0..{servers - 1}")
        delay_s_M = _serve(self._facts, self._view, self.task, server_M)
        self.task += len(server_M)
        if not self.done:
            look(self._facts, self._view, self.episode.arrival_s_N[self.task])
        return delay_s_M

    def observe_task(self) -> Observation:
        """The next task as its station sees it; after the last, servers as station 0 sees them."""
        return self.observe_station(0 if self.done else self.station)

    def observe_station(self, station: int) -> Observation:
        """What a station knows, with the next task if it is its own."""
        own = not self.done and self.station == station
        tasks = slice(self.task, self.task + 1) if own else slice(0, 0)
        return self._encode(station, tasks, rows=1)

    def observe_slot(self, station: int) -> Observation:
        """What a station knows, with all its tasks of the next slot."""
        rows = self.episode.scenario.tasks_per_slot_max
        if self.done:
            return self._encode(station, slice(0, 0), rows=rows)
        first = self.slot_tasks.start
        own = np.flatnonzero(self.episode.origin_N[self.slot_tasks] == station)
        return self._encode(station, first + own, rows=rows)

    def _encode(self, station: int, tasks: slice | IntArray, *, rows: int) -> Observation:
        episode, view = self.episode, self._view
        sizes = (episode.input_mbit_N, episode.result_mbit_N, episode.work_N)
        found = np.stack([field[tasks] for field in sizes], axis=1)
        task_part = np.zeros((rows, TASK_FIELDS))
        task_part[: len(found)] = found
        home_B = np.zeros(episode.servers)
        home_B[station] = 1.0
        own_B = view.own_SB[station]
        parts = (view.backlog_B, own_B, view.capacity_B, episode.link_mbit_s_B, home_B)
        return np.concatenate([task_part.ravel(), *parts]).astype(np.float32)


@njit(cache=True)
def _serve(facts: Facts, view: View, first: int, server_M: IntArray) -> FloatArray:
    """Service delay of each of the tasks from `first` on, seconds, (M,)."""
    delay_s_M = np.empty(len(server_M))
    for position, server in enumerate(server_M):
        task = first + position
        now_s = facts.arrival_s_N[task]
        look(facts, view, now_s)
        book(facts, view, task, server)
        backlog = view.true_B[server]
        delay_s = work_off_s(backlog, server, now_s, facts.since_s_K, facts.capacity_KB)
        delay_s_M[position] = delay_s + link_s(facts, task, server)
    return delay_s_M


def _episode(scenario: Scenario, rng: np.random.Generator, options: Options) -> Episode:
    """The episode that the options bring along, or a drawn one that has tasks."""
    if options is not None and "episode" in options:
        given: Episode = options["episode"]
        if given.tasks == 0 or given.servers != scenario.servers:
            raise ValueError(f"the given episode has {given.tasks} tasks, {given.servers} servers")
        return given
    while True:
        episode = draw(scenario, rng)
        if episode.tasks > 0:
            return episode


def _require_learnable(scenario: Scenario) -> None:
    """Refuses what an agent here cannot be told, and tasks without a finite reward.

    That is a server that never comes back, and models that not every server draws: observations
    and actions have no room for them.
    """
    if scenario.models:
        raise ValueError(f"{scenario.name}: environments have one model that every server draws")
    last = {c.server: c.factor for c in sorted(scenario.changes, key=lambda change: change.at_s)}
    for server, factor in last.items():
        if factor == 0.0:
            raise ValueError(f"{scenario.name}: server {server} never comes back")


def _observations(tasks: int, scenario: Scenario) -> Space[Observation]:
    size = tasks * TASK_FIELDS + scenario.servers * SERVER_FIELDS
    # Backlogs have no bound; checkers of environments ask for a finite one.
    space: Space[Any] = Box(0.0, float(np.finfo(np.float32).max), (size,), np.float32)
    return space


def _agents(scenario: Scenario) -> list[str]:
    stations = scenario.servers if scenario.dispatchers == "all" else 1
    return [_agent(station) for station in range(stations)]


def _agent(station: int) -> str:
    return f"station_{station}"


def _station(agent: str) -> int:
    return int(agent.removeprefix("station_"))

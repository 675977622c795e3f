"""An episode as the stations' agents live it: a slot is seen, placed, and paid for.

Owns what every learner needs of the simulator: the states of all tasks of a slot, the queues as
they were last published, and the transition that each task becomes. All agents decide a slot at
once, which is exact, for they see the queues at the slot's start only.

The decision problem (paper section IV):

| | what | unit |
|---|---|---|
| state | input d_n and work rho z of the task, published backlog q_b of each server | Mbit, Gcycles |
| action | the server, 0..B-1 | |
| reward | minus the service delay (paper eq. 2), at least -PENALTY_S | s |
| next state | of the same station's next task: in the slot, else the first of the next slot | |
| end | none: an episode is cut after its last slot, whose last tasks are followed by the state of their station's first task of that slot with the queues that the slot leaves | |

Arrays end in their dimensions: N tasks of the slot in order of service, A agents (dispatching
stations), M most tasks of one agent in the slot, S features, B servers.
"""  # noqa: E501 (a table's row is one line)

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scheduler.features import SingleArray, StateScale, encode
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.slotted_cluster import SlottedCluster
from scheduler.simulator.workload import Episode, capacities

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
NextState = Literal["code", "fixed"]
StateKind = Literal["raw", "normal"]
# A task on a server that never comes back is delayed for ever, which no critic can regress on.
PENALTY_S = 1000.0
# Found on the default scenario (LAD-TS, 60 episodes, two seeds): gap to Opt-TS 2.4 %. Dividing all
# servers' backlogs alike, by 500 or 1000 Gcycles, leaves 2.7 or 2.5 %, 100 leaves 3.0 %.
NORMAL_BACKLOG_S = 20.0


@dataclass(frozen=True, kw_only=True)
class StationSlot:
    """One slot before it is placed.

    Attributes:
        index: of the slot.
        agent_N: station of each task.
        order_N: its index among the station's tasks in the slot, the paper's n.
        last_N: whether it is its station's last in the slot.
        state_NS: states of the tasks, float32.
        state_ASM: the same by agent; zeros where an agent has fewer than M tasks.
    """

    index: int
    agent_N: IntArray
    order_N: IntArray
    last_N: BoolArray
    state_NS: SingleArray
    state_ASM: SingleArray

    def rows(self, value_AFM: Tensor) -> Tensor:
        """The tasks' own columns of a table of features by agent, (N, F)."""
        return value_AFM.transpose(1, 2)[
            torch.from_numpy(self.agent_N), torch.from_numpy(self.order_N)
        ]


@dataclass(frozen=True, kw_only=True)
class PlacedSlot:
    """What became of a slot's tasks.

    Attributes:
        delay_s_N: service delays, seconds.
        reward_N: of each task, float32.
        following_NS: the state that follows each task.
    """

    delay_s_N: FloatArray
    reward_N: SingleArray
    following_NS: SingleArray


class StationSlots:
    """Steps through an episode slot by slot.

    Args:
        episode: of a slotted scenario.
        scale: of the states.
        next_state: "fixed", or "code": the queues in the state after a station's last task of a
            slot are zeros, for the authors read them before they are updated
            (docs/paper.md, "next state").

    Attributes:
        slot: to be placed next; None when the episode is over.
        tasks: where its tasks lie in the episode's arrays.
    """

    def __init__(self, episode: Episode, scale: StateScale, *, next_state: NextState) -> None:
        self._cluster = SlottedCluster(episode)
        self._scale = scale
        self._next_state = next_state
        self._agents = agents(episode.scenario)
        self._published_B = self._cluster.backlog_B.copy()
        self.tasks = self._cluster.tasks
        self.slot: StationSlot | None = self._see()

    def place(self, server_N: IntArray) -> PlacedSlot:
        """Places the slot's tasks and goes on to the next slot."""
        delay_s_N = self.serve(np.arange(len(server_N)), server_N)
        return PlacedSlot(
            delay_s_N=delay_s_N, reward_N=reward(delay_s_N), following_NS=self.end_slot()
        )

    def serve(self, row_M: IntArray, server_M: IntArray) -> FloatArray:
        """Places some tasks of the slot, by their rows in it; their delays, seconds, (M,)."""
        if self.slot is None:
            raise ValueError("every slot of the episode has been placed")
        return self._cluster.serve(self.tasks.start + row_M, server_M)

    def end_slot(self) -> SingleArray:
        """Goes on to the next slot once all tasks are placed; the state after each, (N, S)."""
        placed = self.slot
        if placed is None:
            raise ValueError("every slot of the episode has been placed")
        self._cluster.end_slot()
        self._publish()
        if self._cluster.done:
            self.slot = None
        else:
            self.tasks = self._cluster.tasks
            self.slot = self._see()
        return self._following(placed, self.slot or placed)

    def _following(self, placed: StationSlot, after: StationSlot) -> SingleArray:
        """The state after each task: its successor's in the slot, or the next slot's first."""
        first_N = after.order_N == 0
        first_AS = np.empty((self._agents, placed.state_NS.shape[1]), np.float32)
        first_AS[after.agent_N[first_N]] = after.state_NS[first_N]
        if self._next_state == "code":
            first_AS[:, 2:] = 0.0
        else:
            first_AS[:, 2:] = self._published_B / np.array(self._scale.backlog_B)
        following_NS = np.empty_like(placed.state_NS)
        following_NS[:-1] = placed.state_NS[1:]
        following_NS[placed.last_N] = first_AS[placed.agent_N[placed.last_N]]
        return following_NS

    def _publish(self) -> None:
        """Refreshes the published queues if a report fell due within the slot just placed."""
        scenario = self._cluster.episode.scenario
        now_s = self._cluster.slot * scenario.slot_s
        last_s = now_s - scenario.slot_s
        every_s = scenario.refresh_s
        # A slot's start counts as reached in spite of rounding: 10 x .1 s is a whole second.
        reports = [math.floor(at_s / every_s + 1e-9) for at_s in (last_s, now_s)] if every_s else []
        if not reports or reports[1] > reports[0]:
            self._published_B = self._cluster.backlog_B.copy()

    def _see(self) -> StationSlot:
        episode, tasks = self._cluster.episode, self.tasks
        agent_N, order_N = episode.origin_N[tasks], episode.index_N[tasks]
        state_NS = encode(
            episode.input_mbit_N[tasks], episode.work_N[tasks], self._published_B, self._scale
        )
        state_ASM = np.zeros((self._agents, state_NS.shape[1], int(order_N.max()) + 1), np.float32)
        state_ASM[agent_N, :, order_N] = state_NS
        return StationSlot(
            index=self._cluster.slot,
            agent_N=agent_N,
            order_N=order_N,
            last_N=np.append(order_N[1:] == 0, True),
            state_NS=state_NS,
            state_ASM=state_ASM,
        )


def reward(delay_s_N: FloatArray) -> SingleArray:
    """Of each task: minus its delay, which no critic could regress on if it were for ever."""
    penalty: SingleArray = -np.minimum(delay_s_N, PENALTY_S).astype(np.float32)
    return penalty


def state_scale(scenario: Scenario, kind: StateKind) -> StateScale:
    """What the states of a scenario are divided by.

    "normal": inputs and works by their largest, so that they lie in 0..1; each backlog by what
    its server works off in twenty seconds.
    """
    if kind == "raw":
        return StateScale()
    largest_mbit, density = scenario.input_mbit[1], scenario.density_range[1]
    return StateScale(
        input_mbit=largest_mbit,
        work=density * (largest_mbit if scenario.work_per_mbit else scenario.steps_range[1] - 1),
        backlog_B=tuple(NORMAL_BACKLOG_S * capacities(scenario)),
    )


def agents(scenario: Scenario) -> int:
    """A, the number of stations with tasks of their own."""
    return scenario.servers if scenario.dispatchers == "all" else 1

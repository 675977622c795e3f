"""Servers that draw step by step, take drawings from each other and help: event by event.

Owns what the other kernels leave out: a task is placed, may go on elsewhere between two of its
steps (`scheduler.running_moves`, the rule that nodes follow), and an idle server may compute the
other row of its steps (`scheduler.shared_steps`). A server draws one task at a time and never idles
while it holds one, but for the row that it had begun for another. A step or row under way, and the
decoding after the last step, are never interrupted. Capacities do not change, and placement sees
the servers as they are.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from scheduler.longest_wait import after_arrival
from scheduler.observation import Observation, Traffic
from scheduler.policy import Policy
from scheduler.running_moves import Held, Line, MoveOrder, best_take
from scheduler.shared_steps import StepTimes, best_helper, shared_s
from scheduler.simulator.queueing import FloatArray, IntArray

# Of `least_remaining`: who waited so many times the longest wait lately goes first.
PROMOTION_LOAD = 0.9


@dataclass(frozen=True, kw_only=True)
class Moving:
    """How servers take drawings from each other.

    Attributes:
        order: which drawing comes first, and on every server.
        cost_s: for which a drawing stands still that moves: its last step there to its first here.
        age_s: until a server hears of what happened on another, and acts.
        moves_max: of one task.
        seen: drawings of another server that one knows of, first in line.
    """

    order: MoveOrder = "oldest"
    cost_s: float = 0.1
    age_s: float = 0.05
    moves_max: int = 3
    seen: int = 8


@dataclass(frozen=True, kw_only=True)
class Helping:
    """How idle servers help others.

    Attributes:
        exchange_s: for a latent there and a velocity back.
        age_s: for which a server has been idle before another one knows.
        row_share: of a guided step, what one of its rows takes.
    """

    exchange_s: float = 0.0045
    age_s: float = 0.05
    row_share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What became of the tasks, (N,), and of the servers' time, (B,).

    Attributes:
        delay_s_N: of each task.
        moves_N: how often it moved.
        helped_N: its steps of which another server computed a row.
        held_up_s_N: for which it waited for a row that its server had begun for another one.
        helping_s_B: for which each server computed for others.
    """

    delay_s_N: FloatArray
    moves_N: IntArray
    helped_N: IntArray
    held_up_s_N: FloatArray
    helping_s_B: FloatArray


@dataclass(kw_only=True, eq=False)
class _Task:
    number: int
    arrival_s: float
    steps: int
    decoding: float
    done: int = 0
    moves: int = 0
    server: int = -1
    goes_to: int | None = None
    helped: int = 0
    held_up_s: float = 0.0

    @property
    def left(self) -> float:
        return self.steps - self.done + self.decoding

    @property
    def next_work(self) -> float:
        return 1.0 if self.done < self.steps else self.decoding


@dataclass(kw_only=True)
class _Server:
    capacity: float
    held: list[_Task] = field(default_factory=list)
    drawn: _Task | None = None
    drawn_until_s: float = 0.0
    coming: _Task | None = None
    longest_s: float = 0.0
    arrived_s: float = 0.0
    # Whom it helps, until when it computes the row of a step under way there, and who helps here.
    helps: int | None = None
    helping_until_s: float = 0.0
    helping_s: float = 0.0
    helper: int | None = None
    idle_since_s: float = 0.0

    @property
    def idle(self) -> bool:
        """Whether it has nothing of its own to do, and nothing is on its way here."""
        return not self.held and self.coming is None

    def load(self, now_s: float) -> float:
        """Work units here and on their way here; of the step under way what is left of it."""
        held = sum(one.left for one in self.held if one.goes_to is None)
        if self.drawn is not None and self.drawn.goes_to is None:
            done = self.drawn.next_work - (self.drawn_until_s - now_s) * self.capacity
            held -= max(0.0, done)
        return held + (self.coming.left if self.coming is not None else 0.0)


class MovingCluster:
    """One run. Work is counted in steps.

    Args:
        capacity_B: steps per second.
        arrival_s_N: sorted.
        steps_N: denoising steps.
        origin_N: the server at which each task is asked for.
        decoding: what follows the last step, in steps.
        policy: places each task as it comes.
        moving: None where tasks stay.
        helping: None where nobody helps.
    """

    def __init__(
        self,
        *,
        capacity_B: Sequence[float],
        arrival_s_N: FloatArray,
        steps_N: IntArray,
        origin_N: IntArray,
        decoding: float,
        policy: Policy,
        moving: Moving | None,
        helping: Helping | None = None,
    ) -> None:
        self._servers = [_Server(capacity=one) for one in capacity_B]
        self._ids = tuple(f"server-{number}" for number in range(len(capacity_B)))
        self._capacity_B = np.array(capacity_B)
        self._tasks = [
            _Task(number=number, arrival_s=float(at_s), steps=int(steps), decoding=decoding)
            for number, (at_s, steps) in enumerate(zip(arrival_s_N, steps_N, strict=True))
        ]
        self._origin_N = origin_N
        self._policy = policy
        self._moving = moving
        self._helping = helping
        self._order: MoveOrder = "oldest" if moving is None else moving.order
        work = float(steps_N.mean()) + decoding
        span_s = max(float(arrival_s_N[-1]), 1e-9)
        load = work * len(steps_N) / span_s / float(self._capacity_B.sum())
        self._traffic = Traffic(mean_work=work, load=load)
        self._events: list[tuple[float, int, str, int]] = []
        self._count = itertools.count()
        self._looking = False
        self._now_s = 0.0
        self._end_s_N = np.zeros(len(self._tasks))

    def run(self) -> Moved:
        """Draws them all."""
        happen = {
            "came": self._came,
            "stepped": self._stepped,
            "landed": self._landed,
            "row done": self._draw,
        }
        for task in self._tasks:
            self._later(task.arrival_s, "came", task.number)
        while self._events:
            self._now_s, _, what, number = heapq.heappop(self._events)
            if what == "look":
                self._looking = False
                self._look()
                continue
            happen[what](number)
            if self._moving is not None and not self._looking:
                self._looking = True
                self._later(self._now_s + self._moving.age_s, "look", 0)
        arrival_s_N = np.array([task.arrival_s for task in self._tasks])
        return Moved(
            delay_s_N=self._end_s_N - arrival_s_N,
            moves_N=np.array([task.moves for task in self._tasks]),
            helped_N=np.array([task.helped for task in self._tasks]),
            held_up_s_N=np.array([task.held_up_s for task in self._tasks]),
            helping_s_B=np.array([one.helping_s for one in self._servers]),
        )

    def _later(self, at_s: float, what: str, number: int) -> None:
        heapq.heappush(self._events, (at_s, next(self._count), what, number))

    # What happens.

    def _came(self, number: int) -> None:
        task = self._tasks[number]
        backlog_B = np.array([one.load(self._now_s) for one in self._servers])
        nothing_B = np.zeros(len(backlog_B))
        seen = Observation(
            node_ids=self._ids,
            local=int(self._origin_N[number]),
            work=task.left,
            input_bits=0,
            backlog_B=backlog_B,
            own_B=nothing_B,
            capacity_B=self._capacity_B,
            link_s_B=nothing_B,
            staleness_s_B=nothing_B,
            alive_B=np.ones(len(backlog_B), dtype=bool),
            dispatchers=len(backlog_B),
            traffic=self._traffic,
        )
        self._arrive(task, self._policy.decide(seen).choice, waits=backlog_B)

    def _arrive(self, task: _Task, server: int, *, waits: FloatArray | None = None) -> None:
        here = self._servers[server]
        wait_s = (here.load(self._now_s) if waits is None else waits[server]) / here.capacity
        elapsed_s = self._now_s - here.arrived_s
        here.longest_s = after_arrival(here.longest_s, float(wait_s), elapsed_s)
        here.arrived_s = self._now_s
        here.held.append(task)
        task.server = server
        if self._now_s < here.helping_until_s:
            if len(here.held) == 1:
                task.held_up_s += here.helping_until_s - self._now_s
                self._later(here.helping_until_s, "row done", server)
            return
        self._draw(server)

    def _stepped(self, server: int) -> None:
        here = self._servers[server]
        task = here.drawn
        assert task is not None, "a step of nobody"
        here.drawn = None
        if task.done == task.steps:
            here.held.remove(task)
            here.idle_since_s = self._now_s
            self._end_s_N[task.number] = self._now_s
            if task.goes_to is not None:  # it ended before it could leave
                self._servers[task.goes_to].coming = None
        else:
            task.done += 1
            if task.goes_to is not None:
                self._leave(task)
        self._draw(server)

    def _leave(self, task: _Task) -> None:
        assert self._moving is not None
        left = self._servers[task.server]
        left.held.remove(task)
        left.idle_since_s = self._now_s
        task.moves += 1
        self._later(self._now_s + self._moving.cost_s, "landed", task.number)

    def _landed(self, number: int) -> None:
        task = self._tasks[number]
        assert task.goes_to is not None, "nobody wanted it"
        server, task.goes_to = task.goes_to, None
        self._servers[server].coming = None
        self._arrive(task, server)

    def _draw(self, server: int) -> None:
        here = self._servers[server]
        waiting = [one for one in here.held if one.goes_to is None]
        if here.drawn is None and waiting:
            here.drawn = min(waiting, key=lambda one: self._key(one, here))
            takes_s = here.drawn.next_work / here.capacity
            if self._helping is not None:
                takes_s = self._shared(server, here.drawn, takes_s, self._helping)
            here.drawn_until_s = self._now_s + takes_s
            self._later(here.drawn_until_s, "stepped", server)
        elif here.drawn is None:
            self._let_go(here)

    def _key(self, task: _Task, here: _Server) -> tuple[float, ...]:
        """What the worker's order is (`edge_node.worker.queue_order`)."""
        if self._order == "oldest":
            return task.done == 0, task.arrival_s, task.number
        service_s = (task.steps + task.decoding) / here.capacity
        due_s = task.arrival_s + PROMOTION_LOAD * here.longest_s + service_s
        due = due_s if due_s <= self._now_s else np.inf
        return due, task.left, task.number

    # Help.

    def _shared(self, server: int, task: _Task, alone_s: float, helping: Helping) -> float:
        """Seconds that the next step of a task takes, of which an idle server may do a row."""
        here = self._servers[server]
        self._let_go(self._servers[server], keep=task.done < task.steps)
        if task.done == task.steps:
            return alone_s
        own = self._step_times(server, helping)
        name = best_helper(
            own,
            [
                self._step_times(number, helping)
                for number, one in enumerate(self._servers)
                if self._may_help(one, server, helping)
            ],
            exchange_s=helping.exchange_s,
            present=None if here.helper is None else self._ids[here.helper],
        )
        if name is None:
            self._let_go(here)
            return alone_s
        number = self._ids.index(name)
        helper = self._servers[number]
        if here.helper != number:
            self._let_go(here)
            here.helper, helper.helps = number, server
        times = self._step_times(number, helping)
        row_s = times.row_s + helping.exchange_s
        helper.helping_until_s = self._now_s + row_s
        helper.helping_s += row_s
        task.helped += 1
        return shared_s(own, times, exchange_s=helping.exchange_s)

    def _may_help(self, one: _Server, leader: int, helping: Helping) -> bool:
        known = self._now_s >= one.idle_since_s + helping.age_s
        free = one.helps in (None, leader) and self._now_s >= one.helping_until_s
        return one.idle and known and free

    def _let_go(self, here: _Server, *, keep: bool = False) -> None:
        """Nobody helps here any more, or not one who has work of his own."""
        if here.helper is None:
            return
        helper = self._servers[here.helper]
        if not (keep and helper.idle):
            here.helper = helper.helps = None

    def _step_times(self, server: int, helping: Helping) -> StepTimes:
        pair_s = 1.0 / self._servers[server].capacity
        return StepTimes(node_id=self._ids[server], pair_s=pair_s, row_s=pair_s * helping.row_share)

    # Moves.

    def _line(self, server: int) -> Line:
        assert self._moving is not None
        here = self._servers[server]
        staying = [one for one in here.held if one.goes_to is None]
        staying.sort(key=lambda one: (one is not here.drawn, self._key(one, here)))
        held = [
            Held(
                task_id=str(one.number),
                age_s=self._now_s - one.arrival_s,
                work_left=one.left,
                step_work=1.0,
                begun=one.done > 0 or one is here.drawn,
                movable=one.moves < self._moving.moves_max,
            )
            for one in staying[: self._moving.seen]
        ]
        return Line(
            node_id=self._ids[server],
            capacity=here.capacity,
            backlog=here.load(self._now_s),
            held=held,
        )

    def _look(self) -> None:
        """Each server in turn decides for itself; the first to ask for a drawing has it."""
        moving = self._moving
        assert moving is not None
        lines = [self._line(server) for server in range(len(self._servers))]
        for server, here in enumerate(self._servers):
            if here.coming is not None:
                continue
            take = best_take(lines[server], lines, cost_s=moving.cost_s, order=moving.order)
            if take is None:
                continue
            task = self._tasks[int(take.task_id)]
            if task.goes_to is not None:
                continue  # another one was sooner
            task.goes_to, here.coming = server, task
            if self._servers[task.server].drawn is not task:
                self._leave(task)

"""What the tasks of this origin that are not final are together, and client by client. Pure.

Owns the sums alone; which tasks there are is the lifecycle's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from edge_node.domain import Task


@dataclass(frozen=True, kw_only=True)
class ClientLoad:
    """Of one client: how many tasks, and their work in work units, drawn or not."""

    tasks: int = 0
    work: float = 0.0


NOTHING = ClientLoad()


class InFlight:
    """Sums over tasks that are accepted, or about to be, and not final; of each client by model.

    Attributes:
        prompt_bytes: that their prompts take in memory, and about as much again on disk.
    """

    def __init__(self) -> None:
        self.prompt_bytes = 0
        self._clients: dict[str, dict[str, ClientLoad]] = {}

    def of(self, client: str, models: Collection[str] | None = None) -> ClientLoad:
        """What a client has in flight; with models its work is that for these alone."""
        loads = self._clients.get(client)
        if loads is None:
            return NOTHING
        return ClientLoad(
            tasks=sum(load.tasks for load in loads.values()),
            work=sum(
                load.work for model, load in loads.items() if models is None or model in models
            ),
        )

    def add(self, task: Task) -> None:
        """A task is taken up."""
        self.prompt_bytes += task.drawing.prompt_bytes
        loads = self._clients.setdefault(task.turns, {})
        load = loads.get(task.drawing.model, NOTHING)
        more = replace(load, tasks=load.tasks + 1, work=load.work + task.work)
        loads[task.drawing.model] = more

    def remove(self, task: Task) -> None:
        """A task that was added is over."""
        self.prompt_bytes -= task.drawing.prompt_bytes
        loads = self._clients[task.turns]
        load = loads[task.drawing.model]
        if load.tasks == 1:  # exactly nothing, whatever the work was rounded to
            del loads[task.drawing.model]
            if not loads:
                del self._clients[task.turns]
        else:
            less = replace(load, tasks=load.tasks - 1, work=load.work - task.work)
            loads[task.drawing.model] = less


def work_ahead(backlog: float, *, own: float, others: int) -> float:
    """Work that is done before a client's last task, where it takes turns with others.

    While one of them has `own` to be drawn, each of `others` is given as much and no more.
    """
    return min(backlog, own * (1 + others))

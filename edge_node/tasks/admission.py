"""Whether a request may enter, or is refused at once with an honest time to come back. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from edge_node.config import NodeConfig
from edge_node.tasks.in_flight import ClientLoad, work_ahead

# Of the places at a node, for all tasks of one client: others find some, however many it asks for.
# Who has no key may use them all while nobody else has tasks: a proxy's address may be everybody.
CLIENT_SHARE_MAX = 0.75


@dataclass(frozen=True, kw_only=True)
class AdmissionLimits:
    """Bounds of what one origin holds.

    Attributes:
        tasks_in_flight_max: tasks accepted by this node and not final.
        wait_s_max: expected time in the cluster's queues above which nothing more is let in.
    """

    tasks_in_flight_max: int = 2000
    wait_s_max: float = 3600.0

    @classmethod
    def of(cls, config: NodeConfig) -> AdmissionLimits:
        """From the node's settings."""
        return cls(
            tasks_in_flight_max=config.tasks_in_flight_max, wait_s_max=config.queue_wait_s_max
        )


@dataclass(frozen=True, kw_only=True)
class TurnTaker:
    """The client of a request, where clients take turns at devices.

    Attributes:
        load: what it has in flight here.
        others: further clients who have tasks at one device, as many as at any.
        has_key: it is an API key; otherwise an address.
    """

    load: ClientLoad
    others: int
    has_key: bool = True


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why not now, and in how many seconds a place is expected."""

    message: str
    retry_after_s: float


def admit(
    *,
    works: tuple[float, ...],
    in_flight: int,
    backlog: float,
    capacity: float,
    limits: AdmissionLimits,
    turns: TurnTaker | None = None,
) -> Refusal | None:
    """Judges a request of `len(works)` tasks.

    Args:
        works: of the tasks, in work units.
        in_flight: tasks that this origin holds now.
        backlog: work units in front of all live candidates.
        capacity: their work units per second; 0 when none is ready.
        limits: the bounds.
        turns: who asks; None where nobody takes turns.

    Returns:
        None to let it in, or the refusal. The time named is when enough of the work held now will
        have been done, at the capacity measured now.
    """
    if capacity <= 0:
        return None  # nobody can draw at present; the deadline decides, not the queue
    if turns is not None:
        share = max(1, int(CLIENT_SHARE_MAX * limits.tasks_in_flight_max))
        over = turns.load.tasks + len(works) - share
        if over > 0 and (turns.has_key or turns.others):
            held = max(turns.load.tasks, 1)
            task_s = turns.load.work / held * (1 + turns.others) / capacity
            return Refusal(
                message=_share_said(turns, share),
                retry_after_s=max(1.0, over * task_s),
            )
        if turns.others:
            own = turns.load.work + sum(works)
            backlog = work_ahead(backlog, own=own, others=turns.others)
    wait_s = backlog / capacity
    surplus = in_flight + len(works) - limits.tasks_in_flight_max
    if surplus > 0:
        task_s = max(backlog, sum(works)) / max(in_flight, len(works)) / capacity
        return Refusal(
            message=f"This node holds {in_flight} tasks of at most "
            f"{limits.tasks_in_flight_max}. Come back after the time in Retry-After, or ask "
            "another node.",
            retry_after_s=max(1.0, surplus * task_s),
        )
    if wait_s > limits.wait_s_max:
        return Refusal(
            message=f"The cluster is {wait_s:.0f} s behind, and its operator allows "
            f"{limits.wait_s_max:.0f} s. Come back after the time in Retry-After.",
            retry_after_s=max(1.0, wait_s - limits.wait_s_max),
        )
    return None


def _share_said(turns: TurnTaker, share: int) -> str:
    tasks = turns.load.tasks
    if turns.has_key:
        has = f"This key has {tasks} tasks at this node that are not finished, of at most {share}."
    else:
        has = (
            f"Your address has {tasks} tasks at this node that are not finished, of at most "
            f"{share} while others wait."
        )
    return f"{has} Come back after the time in Retry-After, or ask another node."

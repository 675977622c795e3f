"""Whether a request may enter, or is refused at once with an honest time to come back. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from edge_node.config import NodeConfig


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
) -> Refusal | None:
    """Judges a request of `len(works)` tasks.

    Args:
        works: of the tasks, in work units.
        in_flight: tasks that this origin holds now.
        backlog: work units in front of all live candidates.
        capacity: their work units per second; 0 when none is ready.
        limits: the bounds.

    Returns:
        None to let it in, or the refusal. The time named is when enough of the work held now will
        have been done, at the capacity measured now.
    """
    if capacity <= 0:
        return None  # nobody can draw at present; the deadline decides, not the queue
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

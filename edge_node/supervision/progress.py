"""Whether a worker gets on with what it holds, by two accounts of it: its own and the node's.

Owns since when it does not. Pure: told what the worker says of its queue, how many drawings it was
given that have not ended, and when. A worker has nothing to get on with only if both accounts say
so; else it does a step now and then, or it is stuck, be it that it draws and does no step, that it
lets its queue wait while it draws nothing, or that it has lost a drawing which the node waits for.
"""

from __future__ import annotations

from edge_node.domain import WorkerLoad


class Progress:
    """One connection to a worker, from `began_s` on."""

    def __init__(self, *, began_s: float) -> None:
        self._since_s = began_s
        self._load: WorkerLoad | None = None
        self._given = 0

    def heard(self, load: WorkerLoad | None, *, given: int, now_s: float) -> None:
        """The worker spoke; `load` is None while it does not draw anything yet."""
        before, was_busy = self._load, self._busy
        self._load, self._given = load, given
        stepped = before is None or load is None or load.steps_done != before.steps_done
        if stepped or not was_busy:
            self._since_s = now_s

    def forgive(self, seconds: float) -> None:
        """So long nobody listened to it: that time does not count."""
        self._since_s += seconds

    def stuck(self, *, now_s: float, allowed_s: float) -> str | None:
        """What it has failed to do for longer than `allowed_s`; None if it has not."""
        stuck_s = now_s - self._since_s
        load = self._load
        if load is None or not self._busy or stuck_s <= allowed_s:
            return None
        if load.running:
            what = "it draws but has done no step"
        elif load.queued:
            what = f"it lets {load.queued} drawings wait and has drawn nothing"
        else:
            what = f"it has not known of the {self._given} drawings that it was given"
        return f"{what} for {stuck_s:.1f} s"

    @property
    def _busy(self) -> bool:
        load = self._load
        return load is not None and (load.running + load.queued + self._given) > 0

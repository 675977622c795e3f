"""What each key may ask for, and has asked for: a rate, images a day, and tasks that are open.

A rate is kept by each node for itself, as it is the node that it spares. Images and open tasks are
the cluster's: every node says with its state what was asked for at it, and counts what the others
said last. So whoever asks several nodes within a heartbeat may get a little more. A day is UTC's.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from edge_node.access.keys import Client
from edge_node.clock import Clock
from edge_node.domain import NodeId, NodeState
from edge_node.errors import DEdgeAIError

log = logging.getLogger(__name__)

DAY_S = 86_400
WRITE_EVERY_S = 5.0
# Clients of whom a state tells: those who have asked for most.
TOLD_MAX = 200


class RateExceeded(DEdgeAIError):
    """The key asks oftener than it may."""

    code = "rate_limit_exceeded"
    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"


class TooManyOpen(RateExceeded):
    """Too many tasks of the key are not finished."""

    code = "too_many_open_tasks"


class QuotaUsedUp(RateExceeded):
    """The key has had its images for the day."""

    code = "quota_used_up"


class KeyUse:
    """The account of one node.

    Args:
        path: keeps the day's images across restarts; a kill loses the last few seconds.
        own_id: this node.
        clock: says which day it is, and how time passes.
        open_tasks: how many tasks of a client this node has accepted that are not final.
        states: gives what all nodes said last, this one may be among them.
        task_s: seconds that a task of a client takes in its turn, about.
    """

    def __init__(
        self,
        path: Path,
        *,
        own_id: NodeId,
        clock: Clock,
        open_tasks: Callable[[str], int],
        states: Callable[[], Iterable[NodeState]],
        task_s: Callable[[str], float],
    ) -> None:
        self._path = path
        self._own_id = own_id
        self._clock = clock
        self._open_tasks = open_tasks
        self._states = states
        self._task_s = task_s
        self._day, self._images = _read(path)
        # Asked for at this moment, and not known to be accepted.
        self._claimed: Counter[str] = Counter()
        # Clients with limits that count for the cluster, as far as they have asked.
        self._limited: set[str] = set(self._images)
        # By client: requests that it may make at once, and when that was counted.
        self._left: dict[str, tuple[float, float]] = {}
        self._written = True

    # For REST.

    def ask(self, client: Client) -> None:
        """A request comes; raises RateExceeded where it is one too many."""
        per_minute = client.limits.requests_per_minute
        if per_minute is None:
            return
        now_s = self._clock.now_s()
        left, counted_s = self._left.get(client.id, (float(per_minute), now_s))
        left = min(float(per_minute), left + (now_s - counted_s) * per_minute / 60.0)
        if left < 1.0:
            raise RateExceeded(
                f"This key may make {per_minute} requests a minute at a node. Come back after the "
                "time in Retry-After.",
                retry_after_s=(1.0 - left) * 60.0 / per_minute,
            )
        self._left[client.id] = left - 1.0, now_s

    def claim(self, client: Client, images: int) -> None:
        """Somebody asks for images; `settle` says what became of it.

        Raises:
            QuotaUsedUp, TooManyOpen: he has had his share.
        """
        self._begin_day()
        limits, key_id = client.limits, client.id
        if limits.images_per_day is not None:
            used = self._images[key_id] + sum(
                images for day, images, _ in self._of_others(key_id) if day == self._day
            )
            if used + images > limits.images_per_day:
                raise QuotaUsedUp(
                    f"This key may ask for {limits.images_per_day} images a day, and has asked for "
                    f"{used}. The day ends at midnight UTC; Retry-After says when that is.",
                    retry_after_s=DAY_S - self._clock.unix_s() % DAY_S,
                )
        if limits.open_tasks_max is not None:
            there = sum(opened for _, _, opened in self._of_others(key_id))
            opened = self._open_tasks(key_id) + self._claimed[key_id] + there
            if opened + images > limits.open_tasks_max:
                raise TooManyOpen(
                    f"This key may have {limits.open_tasks_max} tasks that are not finished, and "
                    f"has {opened}. Come back after the time in Retry-After.",
                    retry_after_s=max(1.0, self._task_s(key_id)),
                )
        if limits.images_per_day is None and limits.open_tasks_max is None:
            return
        self._limited.add(key_id)
        self._images[key_id] += images
        self._claimed[key_id] += images
        self._written = False

    def settle(self, client: Client, images: int, *, accepted: bool) -> None:
        """What was claimed is accepted and counts, or is not and does not."""
        if client.id not in self._claimed:
            return
        self._claimed[client.id] -= images
        if not accepted:
            self._images[client.id] -= images
        if not self._claimed[client.id]:
            del self._claimed[client.id]

    # For other nodes, and a later life.

    def told(self) -> tuple[tuple[str, int, int, int], ...]:
        """(client, day, images of that day, open tasks) of those who have limits."""
        if not self._limited:
            return ()
        self._begin_day()
        rows = (
            (client, self._day, self._images[client], self._open_tasks(client))
            for client in self._limited
        )
        most = sorted(rows, key=lambda row: (-row[2], -row[3], row[0]))
        return tuple(row for row in most[:TOLD_MAX] if row[2] or row[3])

    async def run(self) -> None:
        """Writes what changed, until it is cancelled, and then once more."""
        try:
            while True:
                await asyncio.sleep(WRITE_EVERY_S)
                self._write()
        finally:
            self._write()

    def _of_others(self, client: str) -> list[tuple[int, int, int]]:
        return [
            row[1:]
            for state in self._states()
            if state.node_id != self._own_id
            for row in state.key_use
            if row[0] == client
        ]

    def _begin_day(self) -> None:
        day = int(self._clock.unix_s() // DAY_S)
        if day != self._day:
            self._day, self._images, self._written = day, Counter(self._claimed), False

    def _write(self) -> None:
        if self._written:
            return
        self._written = True
        beside = self._path.with_name(f"{self._path.name}.partial")
        try:
            beside.write_text(json.dumps({"day": self._day, "images": self._images}))
            beside.replace(self._path)
        except OSError as problem:
            log.error("what keys have used is not kept: %s", problem)


def _read(path: Path) -> tuple[int, Counter[str]]:
    try:
        document = json.loads(path.read_text())
        images = {str(client): int(count) for client, count in document["images"].items()}
        return int(document["day"]), Counter(images)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        log.error("%s cannot be read, and the day begins anew for all keys: %s", path, problem)
    return -1, Counter()

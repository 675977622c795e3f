"""What a node and the learner process beside it tell each other through the node's store.

Owns two keys: `<prefix>learner:told`, by which the node says whether to learn and from whose pools,
and `<prefix>learner:progress`, by which the learner says how far it is. What the node told is
forgotten when the node is gone for a while: a learner that outlives its node does not go on
publishing beside the one that took over.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

from edge_node.domain import NodeId
from edge_node.json_text import parsed
from edge_node.snapshot import LearnerProgress
from edge_node.store.connection import Command, StoreConnection

# After so long without its node a learner waits; the node repeats itself several times meanwhile.
TOLD_KEEP_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the node wants of its learner.

    Attributes:
        learns: it shall learn now; otherwise it waits.
        pools: other nodes whose experience it reads, and where (host:port).
        clock_began_unix_s: of the node's clock, by which the learner dates; None from a node that
            does not say.
        at_s: the node's reading when it said so, which tells a repetition from an echo.
    """

    learns: bool
    pools: tuple[tuple[NodeId, str], ...] = ()
    clock_began_unix_s: float | None = None
    at_s: float | None = field(default=None, compare=False)


class LearnerBoard:
    """Both keys of one node; over a connection that the caller starts and closes.

    Every method raises StoreUnavailable.
    """

    def __init__(self, connection: StoreConnection, *, node_id: str) -> None:
        self._connection = connection
        self._told_key = f"dedgeai:{node_id}:learner:told"
        self._progress_key = f"dedgeai:{node_id}:learner:progress"

    async def tell(self, told: Told) -> None:
        """By the node, more often than TOLD_KEEP_S."""
        said = {"clock_began": told.clock_began_unix_s, "at": told.at_s}
        text = json.dumps({"learns": told.learns, "pools": told.pools, **said})
        await self._run("SET", self._told_key, text, "PX", int(TOLD_KEEP_S * 1000))

    async def told(self) -> Told | None:
        """By the learner; None when no node has said anything for a while.

        For how long the store keeps it goes by the clock of the day: a step of that may take it
        away early, or leave it there.
        """
        found = _read(await self._run("GET", self._told_key))
        try:
            pools = tuple((NodeId(str(one)), str(address)) for one, address in found["pools"])
            return Told(
                learns=found["learns"] is True,
                pools=pools,
                clock_began_unix_s=_reading(found.get("clock_began")),
                at_s=_reading(found.get("at")),
            )
        except (KeyError, TypeError, ValueError):
            return None  # of another version; what is not understood is not obeyed

    async def report(self, progress: LearnerProgress) -> None:
        """By the learner."""
        await self._run("SET", self._progress_key, json.dumps(dataclasses.asdict(progress)))

    async def progress(self) -> LearnerProgress | None:
        """By the node; None before a learner of this version has reported."""
        found = _read(await self._run("GET", self._progress_key))
        try:
            return LearnerProgress(
                entries={str(one): int(count) for one, count in found["entries"].items()},
                decisions=int(found["decisions"]),
                updates=int(found["updates"]),
                refusal=str(found["refusal"]),
            )
        except (KeyError, OverflowError, TypeError, ValueError, AttributeError):
            return None

    async def _run(self, *command: Any) -> Any:
        whole: Command = command
        return (await self._connection.execute([whole], durable=False))[0]


def _reading(said: Any) -> float | None:
    return said if isinstance(said, float) and math.isfinite(said) else None


def _read(text: bytes | None) -> dict[str, Any]:
    try:
        found = parsed(text or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}

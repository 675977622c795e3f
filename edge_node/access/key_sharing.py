"""A node takes the greatest signed list of keys that any other one holds.

Every state says which list its node holds, so one that was away hears of it with the first. Who
serves a list that is not signed, or is not what he said, breaks a rule of the wire.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from edge_node.access.key_file import KeyFile
from edge_node.access.keys import UnreadableKeys
from edge_node.access.signed_list import NotSigned
from edge_node.domain import NodeId, NodeState
from edge_node.errors import DEdgeAIError, MalformedMessage
from edge_node.ports import Peers

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25


class KeySharing:
    """The lists of the others.

    Args:
        keys: of this node.
        states: gives what the others said last.
        on_broken: told of who broke a rule.
        material: gives the certificates in use, the same object as long as they are the same.
    """

    def __init__(
        self,
        keys: KeyFile,
        *,
        states: Callable[[], Iterable[NodeState]],
        on_broken: Callable[[NodeId, MalformedMessage], None],
        material: Callable[[], object],
    ) -> None:
        self._keys = keys
        self._states = states
        self._on_broken = on_broken
        self._material = material
        self._checked_by = material()
        self._unreadable: tuple[int, str] | None = None

    async def run(self, peers: Peers) -> None:
        """Looks for a greater list until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.look(peers)

    async def look(self, peers: Peers) -> None:
        """Fetches the greatest list that another node holds, if it is greater than this one's."""
        material = self._material()
        if material is not self._checked_by:
            self._checked_by = material
            await self._keys.check_again()
        told = sorted(self._states(), key=lambda state: state.keys, reverse=True)
        for state in told:
            if state.keys <= self._keys.held or state.keys == self._unreadable:
                return
            peer = peers.client(state.node_id)
            if peer is None:
                continue
            try:
                text = await peer.fetch_keys()
            except DEdgeAIError as error:
                log.debug("keys of %s: %s", state.node_id, error.message)
                continue
            if text:  # else it has begun anew since, and has none yet
                await self._take(text, state)

    async def _take(self, text: bytes, state: NodeState) -> None:
        try:
            offered = await self._keys.offer(text)
        except UnreadableKeys as problem:
            log.error("the keys that node %s holds cannot be read: %s", state.node_id, problem)
            self._unreadable = state.keys
        except NotSigned as problem:
            error = MalformedMessage(f"The list of keys does not count: {problem}.")
            self._on_broken(state.node_id, error)
        else:
            if offered < state.keys:
                error = MalformedMessage("The list of keys is older than was told.")
                self._on_broken(state.node_id, error)

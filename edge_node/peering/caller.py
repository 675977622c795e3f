"""Who is at the other end of a connection, as far as that is known, and how he behaves.

Owns the names under which conduct is remembered, and the word about it in the log. Without TLS a
caller is where he calls from: an address can be told from another, who sits there cannot. On
loopback everybody calls from one address, so there each message is refused for itself.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from dataclasses import dataclass

from edge_node.clock import Clock
from edge_node.config import LOOPBACK_HOSTS
from edge_node.domain import NodeId
from edge_node.errors import DEdgeAIError, SetAside
from edge_node.tasks.conduct import Conduct

log = logging.getLogger(__name__)

# Between two lines about broken rules: whoever breaks them chooses how often.
TELL_AGAIN_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who calls.

    Attributes:
        host: IP address that he calls from; None where it has none.
        node_id: as his certificate says; None where there is no TLS.
    """

    host: str | None = None
    node_id: NodeId | None = None

    @property
    def who(self) -> str:
        """Under which his conduct is remembered; empty where he cannot be told from others."""
        if self.node_id is not None:
            return f"node {self.node_id}"
        if self.host is None or is_loopback(self.host):
            return ""
        return f"the node at {self.host}"


NOBODY_KNOWN = Caller()


def who_is_at(address: str) -> str:
    """Under which the conduct of whoever listens at host:port is remembered, without TLS."""
    host = address.rpartition(":")[0].strip("[]")
    return f"the node at {address if is_loopback(host) else host}"


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    if host in LOOPBACK_HOSTS:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class PeerConduct:
    """What is done about broken rules: counted, told, and after a few times no more heard.

    Args:
        clock: says until when.
        on_broken: told the RPC in which a rule was broken.
        conduct: remembers.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        on_broken: Callable[[str], None] = lambda rpc: None,
        conduct: Conduct | None = None,
    ) -> None:
        self._clock = clock
        self._on_broken = on_broken
        self._conduct = conduct or Conduct()
        self._told_s = float("-inf")
        self._untold = 0

    def refuse_aside(self, who: str) -> None:
        """Raises SetAside where nothing is asked of him, and nothing of his heard."""
        left_s = self._conduct.aside_s(who, now_s=self._clock.now_s()) if who else 0.0
        if left_s > 0.0:
            raise SetAside(
                f"{who} broke the rules of the wire too often and is not heard for another "
                f"{left_s:.0f} s.",
                retry_after_s=left_s,
            )

    def broke(self, who: str, rpc: str, error: DEdgeAIError) -> None:
        """Somebody broke a rule in a call."""
        self._on_broken(rpc)
        now_s = self._clock.now_s()
        if now_s - self._told_s < TELL_AGAIN_S:
            self._untold += 1
        else:
            more = f"; {self._untold} more since it was told last" if self._untold else ""
            name = who or "a caller on this machine"
            log.warning("%s broke a rule in %s: %s%s", name, rpc, error.message, more)
            self._told_s, self._untold = now_s, 0
        if who and self._conduct.broke(who, now_s=now_s):
            log.error("%s is set aside: it broke the rules of the wire too often", who)

    @property
    def count_aside(self) -> int:
        """How many are not heard now."""
        return self._conduct.count_aside(now_s=self._clock.now_s())

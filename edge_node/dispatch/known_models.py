"""Which models may be asked for at this node: its own and those that live peers serve.

Owns what a name means, and what a client is told of a model that nobody serves now. Limits and
costs are the serving node's own; of two fingerprints with one name, those that placement goes by.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_node.clock import Clock
from edge_node.config import NodeConfig
from edge_node.dispatch.own_node import OwnNode
from edge_node.domain import ServedModel
from edge_node.errors import ModelAway, ModelNotFound, NodeNotReady, not_served
from edge_node.model_names import served_name
from edge_node.ports import Peers
from edge_node.tasks.cluster_view import ClusterView

# When to ask again for a model whose nodes are silent, or that of a node not met yet.
AWAY_RETRY_S = 5.0
# After its start a node has met all that run, and what it has not heard of is not served.
MEETING_S = 2.0


@dataclass(frozen=True, kw_only=True)
class KnownModelsSettings:
    """What is meant where a request names no model.

    Attributes:
        default_model: by the operator; None for the node's own.
        own_name: under which the worker will serve the node's own, by its settings.
    """

    default_model: str | None = None
    own_name: str = ""

    @classmethod
    def of(cls, config: NodeConfig) -> KnownModelsSettings:
        """From the node's settings."""
        own_name = served_name(
            engine=config.engine, model=config.model, model_name=config.model_name
        )
        return cls(default_model=config.default_model, own_name=own_name)


class KnownModels:
    """Names, limits and costs of what the cluster draws, as this node knows them.

    Args:
        settings: which one is meant where none is named.
        node: this node.
        view: what peers said.
        clock: tells who is alive.
    """

    def __init__(
        self, settings: KnownModelsSettings, *, node: OwnNode, view: ClusterView, clock: Clock
    ) -> None:
        self.settings = settings
        self._node = node
        self._view = view
        self._clock = clock
        self._began_s = clock.now_s()
        self._peers: Peers | None = None

    def start(self, peers: Peers) -> None:
        """From now on peers may be met."""
        self._peers = peers

    def names(self) -> tuple[str, ...]:
        """Models that some live node serves."""
        return self._view.models(now_s=self._clock.now_s())

    def find(self, name: str | None = None) -> ServedModel:
        """What a model draws and costs; without a name the one that is meant then.

        Raises:
            ModelNotFound: no node of the cluster serves it.
            ModelAway: those that do are silent, or have not been met yet.
            NodeNotReady: this node's own model is meant, or may be, and is not loaded.
        """
        if name is None:
            return self._default()
        served = self._node.served_as(name) or self._view.served(name, now_s=self._clock.now_s())
        if served is None:
            raise self._why_not(name)
        return served

    def _default(self) -> ServedModel:
        name = self._default_name()
        try:
            return self.find(name)
        except ModelNotFound as missing:  # the client named no such model
            raise ModelNotFound(
                f"No model was named, or an alias, which means {name[:100]!r} at this node. "
                f"{missing.message} Name one, or have the operator of this node set default_model.",
                param="model",
            ) from None

    def _default_name(self) -> str:
        if self.settings.default_model is not None:
            return self.settings.default_model
        if self._node.served is not None:
            return self._node.served.name
        names = self.names()
        if self.settings.own_name in names:
            return self.settings.own_name  # others draw it while this node loads it
        if self._node.draws:
            raise self._node.why_not_drawing()
        if not names:
            raise NodeNotReady(
                "This node draws nothing itself, and none that does is heard at present. Try again "
                "after the time in Retry-After, or ask another node.",
                retry_after_s=AWAY_RETRY_S,
            )
        return names[0]

    def _why_not(self, name: str) -> ModelAway | ModelNotFound | NodeNotReady:
        now_s, shown = self._clock.now_s(), name[:100]
        servers = self._view.servers(name, now_s=now_s)
        alive = [n for n in servers if self._view.is_alive(n, now_s=now_s)]
        if alive:
            return ModelNotFound(
                f"The model {shown!r} is served by {', '.join(alive)}, and this node cannot tell "
                "what it takes: their version is older, or their figures make no sense. Ask them.",
                param="model",
            )
        if servers:
            return ModelAway(
                f"The model {shown!r} is served by {', '.join(servers)} alone, which cannot be "
                "heard at present. Try again after the time in Retry-After.",
                param="model",
                retry_after_s=AWAY_RETRY_S,
            )
        if self._node.served is None and self._node.draws:
            return self._node.why_not_drawing()  # it may be this node's own
        unmet = self._peers is not None and None in self._peers.addresses.values()
        if unmet and now_s - self._began_s < MEETING_S:
            return ModelAway(
                f"The model {shown!r} may be served by a node that has not been met yet. Try again "
                "after the time in Retry-After.",
                param="model",
                retry_after_s=MEETING_S,
            )
        return ModelNotFound(not_served(name, self.names()), param="model")

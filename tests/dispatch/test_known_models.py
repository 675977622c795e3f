"""What a name means at a node, and what is said where nobody serves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from edge_node.config import NodeConfig
from edge_node.dispatch.known_models import KnownModels, KnownModelsSettings
from edge_node.domain import WorkerDescription
from edge_node.errors import ModelAway, ModelNotFound, NodeNotReady
from tests.dispatch.one_node import OWN
from tests.dispatch.parts import READY, HandClock, SetWorker, a_view, own_node, peer_state
from tests.tasks.test_serving import SERVED

OTHER = replace(SERVED, name="other", steps_max=9, steps_default=9)


class Known:
    """A node's models, between its worker and one peer that serves another."""

    def __init__(
        self,
        *,
        description: WorkerDescription | None = READY,
        default_model: str | None = None,
        **peer: Any,
    ) -> None:
        self.clock, worker = HandClock(), SetWorker()
        worker.description = description
        self.view = a_view(self.clock)
        self.node = own_node(self.clock, worker, view=self.view)
        self.models = KnownModels(
            KnownModelsSettings(default_model=default_model),
            node=self.node,
            view=self.view,
            clock=self.clock,
        )
        state = peer_state(**{"model": "other", "serves": (OTHER,), **peer})
        self.view.state_received(state, now_s=self.clock.now_s())

    def refused(self, name: str | None = None) -> Exception:
        with pytest.raises((ModelAway, ModelNotFound, NodeNotReady)) as told:
            self.models.find(name)
        return told.value


def test_own_models_and_those_of_live_peers_may_be_asked_for() -> None:
    known = Known()
    assert known.models.names() == ("m", "other")
    assert known.models.find() == known.models.find("m") == known.node.served
    assert known.models.find("other") == OTHER
    assert Known(default_model="other").models.find() == OTHER


def test_a_name_that_nobody_serves_is_refused_with_those_that_are() -> None:
    error = Known().refused("x" * 1000)
    assert isinstance(error, ModelNotFound)
    assert str(error).endswith("x' is not served here. Served are: m, other.")
    assert len(str(error)) < 200


def test_who_named_no_model_is_told_which_was_meant() -> None:
    error = Known(default_model="gone").refused()
    assert isinstance(error, ModelNotFound)
    assert str(error) == (
        "No model was named, or an alias, which means 'gone' at this node. The model 'gone' is not "
        "served here. Served are: m, other. Name one, or have the operator of this node set "
        "default_model."
    )


def test_a_model_whose_nodes_are_silent_is_away_until_they_are_given_up() -> None:
    known = Known()
    known.clock.time_s += 3.0
    error = known.refused("other")
    assert isinstance(error, ModelAway)
    assert (error.retry_after_s, "served by peer alone" in error.message) == (5.0, True)
    known.view.forget(peer_state().node_id)
    assert isinstance(known.refused("other"), ModelNotFound)


def test_a_node_that_loads_does_not_say_of_any_name_that_it_is_unknown() -> None:
    known = Known(description=WorkerDescription(state="loading"))
    assert isinstance(known.refused(), NodeNotReady)
    assert isinstance(known.refused("m"), NodeNotReady)
    assert known.models.find("other") == OTHER


def test_a_node_that_loads_what_others_draw_means_that() -> None:
    known = Known(description=WorkerDescription(state="loading"))
    known.models.settings = KnownModelsSettings.of(NodeConfig(model_name="other"))
    assert known.models.find() == OTHER
    known.models.settings = KnownModelsSettings.of(NodeConfig(model_name="another"))
    assert isinstance(known.refused(), NodeNotReady)
    named = [
        KnownModelsSettings.of(NodeConfig(**fields)).own_name
        for fields in ({}, {"engine": "emulated"}, {"model": "models/sd3_medium"})
    ]
    assert named == ["tiny-sd3", "sd3-medium-emulated", "sd3_medium"]


def test_before_all_peers_were_met_a_model_may_be_theirs() -> None:
    known = Known()
    peers: Any = SimpleNamespace(addresses={"10.0.0.9:9080": None})
    known.models.start(peers)
    assert isinstance(known.refused("third"), ModelAway)
    known.clock.time_s += 2.0
    assert isinstance(known.refused("third"), ModelNotFound), "who is not there by now is off"


def test_what_a_node_of_an_older_version_draws_cannot_be_costed() -> None:
    error = Known(serves=()).refused("other")
    assert isinstance(error, ModelNotFound)
    assert "is served by peer, and this node cannot tell" in error.message


@pytest.mark.parametrize("silent", [False, True])
def test_a_gateway_means_the_first_that_is_served(silent: bool) -> None:
    known = Known(description=WorkerDescription(state="none"))
    assert known.models.find() == OTHER
    if silent:
        known.clock.time_s += 3.0
        assert "draws nothing itself" in str(known.refused())
    else:
        first = replace(SERVED, name="a")
        state = peer_state(sequence=2, serves=(OTHER, first))
        known.view.state_received(state, now_s=known.clock.now_s())
        assert known.models.find() == first


def test_the_own_node_is_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Known()
    asked: Callable[..., Any] = known.view.served
    monkeypatch.setattr(known.view, "served", lambda *a, **k: pytest.fail("a peer was asked"))
    assert known.models.find("m").name == "m"
    assert asked("m", now_s=100.0) is not None
    assert known.view.servers("m", now_s=100.0) == (OWN,)

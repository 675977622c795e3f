"""Sums of what each client has in flight, of some models or all."""

from __future__ import annotations

from dataclasses import replace

from edge_node.tasks.in_flight import NOTHING, ClientLoad, InFlight
from tests.tasks.test_cluster_view import task


def test_a_clients_work_is_counted_for_the_models_that_share_a_queue() -> None:
    load = InFlight()
    for model, work in (("m", 3.0), ("m+ink", 4.0), ("other", 50.0)):
        load.add(replace(task(model, work), client="ab12", turns="ab12"))
    load.add(replace(task("m", 7.0), client="cd34", turns="cd34"))
    assert load.of("ab12") == ClientLoad(tasks=3, work=57.0)
    assert load.of("ab12", ("m", "m+ink")) == ClientLoad(tasks=3, work=7.0)
    assert load.of("ab12", ("elsewhere",)) == ClientLoad(tasks=3, work=0.0)
    assert load.of("nobody", ("m",)) == NOTHING
    load.remove(replace(task("m+ink", 4.0), client="ab12", turns="ab12"))
    assert load.of("ab12", ("m", "m+ink")) == ClientLoad(tasks=2, work=3.0)

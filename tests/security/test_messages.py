"""No message of another node spoils a view, a record or an answer, whatever is in its fields."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from dedgeai.v1 import node_pb2, worker_pb2

from edge_node.clock import SystemClock
from edge_node.errors import MalformedMessage
from edge_node.peering import message_rules
from edge_node.peering.caller import Caller, PeerConduct
from edge_node.peering.node_codec import state_from_proto
from tests.security.messages import BASES, Judge, messages

# `python -m tests.security` sends 100,000 and weighs the process.
MESSAGES = 4000
# The worker's own, which no other node sends.
OF_A_WORKER = {
    *("DescribeRequest", "DescribeResponse", "DrawRequest", "WatchLoadRequest"),
    *("WatchLoadResponse", "DrawManyRequest", "DrawManyResponse", "ModelVariant"),
    *("ShareRowsRequest", "ShareRowsResponse", "GiveRowRequest", "GiveRowResponse"),
}


def test_every_field_of_every_message_has_its_rule() -> None:
    found = {}
    for module in (node_pb2, worker_pb2):
        pending = list(module.DESCRIPTOR.message_types_by_name.values())
        while pending:
            one: Any = pending.pop()
            if one.GetOptions().map_entry or one.full_name.split(".")[2] in OF_A_WORKER:
                continue
            pending += one.nested_types
            found[one.full_name.removeprefix("dedgeai.v1.")] = {f.name for f in one.fields}
    assert {name: set(rules) for name, rules in message_rules.RULES.items()} == found


@pytest.mark.parametrize("kind", BASES)
def test_what_is_in_order_passes(kind: str) -> None:
    judge = Judge()
    judge.judge(kind, BASES[kind])
    assert (judge.taken, judge.refused) == (1, 0)


def test_no_message_does_harm() -> None:
    judge = Judge()
    for kind, message in messages(MESSAGES):
        judge.judge(kind, message)
    assert judge.taken + judge.refused == MESSAGES
    assert judge.refused > MESSAGES / 4


def test_what_is_said_again_is_checked_once_and_a_change_of_it_anew() -> None:
    served = node_pb2.ServedModel(name="m", work_model=worker_pb2.WorkModel(fixed_steps=1.0))
    state = node_pb2.NodeState(node_id="b", serves=[served])
    first, again = (state_from_proto(state).serves[0] for _ in range(2))
    assert again is first
    assert again.work_model.fixed_steps == 1.0
    state.serves[0].work_model.fixed_steps = 2.0
    assert state_from_proto(state).serves[0].work_model.fixed_steps == 2.0
    state.serves[0].work_model.fixed_steps = float("nan")
    for _ in range(2):
        with pytest.raises(MalformedMessage):
            state_from_proto(state)


def test_what_was_checked_is_remembered_within_bounds() -> None:
    for number in range(2000):
        message_rules.check(node_pb2.ServedModel(name="m" * 300, steps_max=number))
    kept = message_rules._KEPT_RULES
    assert 0 < len(kept) <= 256
    many = [worker_pb2.WorkModel.SizeCost(width_px=n, height_px=n, rho=1.0) for n in range(1000)]
    large = node_pb2.ServedModel(name="m", work_model=worker_pb2.WorkModel(size_costs=many))
    message_rules.check(large)
    assert large.SerializeToString() not in kept


def test_the_log_of_broken_rules_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    conduct = PeerConduct(SystemClock())
    for number in range(10_000):
        who = Caller(host=f"10.{number % 7}.0.{number % 251}").who
        conduct.broke(who, "Offload", MalformedMessage("x"))
    lines = [one for one in caplog.messages if "broke a rule" in one]
    assert len(lines) <= 2
    assert conduct.count_aside <= 256
    assert sum(map(len, caplog.messages)) < 256 * 200

"""How much a key may ask for: a rate at a node, images a day and open tasks of the cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_node.access.key_use import (
    DAY_S,
    KeyUse,
    QuotaUsedUp,
    RateExceeded,
    TooManyOpen,
)
from edge_node.access.keys import Client, KeyLimits, Scope
from edge_node.domain import NodeId, NodeState
from tests.set_clock import SetClock

OWN, PEER = NodeId("own"), NodeId("peer")
# 6 hours into a day.
MORNING_UNIX_S = 20_000 * DAY_S + 6 * 3600.0


def client(**limits: int) -> Client:
    return Client(id="ab12", scopes=frozenset(Scope), limits=KeyLimits(**limits))


class Node:
    """One node's account, and what the other says."""

    def __init__(self, folder: Path, clock: SetClock | None = None) -> None:
        self.clock = clock or SetClock(MORNING_UNIX_S)
        self.open = 0
        self.task_s = 7.5
        self.states: list[NodeState] = []
        self.use = KeyUse(
            folder / "key_use.json",
            own_id=OWN,
            clock=self.clock,
            open_tasks=lambda _: self.open,
            states=lambda: self.states,
            task_s=lambda _: self.task_s,
        )

    def hear(self, *key_use: tuple[str, int, int, int], node_id: NodeId = PEER) -> None:
        self.states.append(NodeState(node_id=node_id, incarnation=1, sequence=1, key_use=key_use))

    def accept(self, who: Client, images: int) -> None:
        self.use.claim(who, images)
        self.use.settle(who, images, accepted=True)
        self.open += images


def test_a_rate_lets_so_many_come_at_once_and_then_one_after_the_other(tmp_path: Path) -> None:
    node, who = Node(tmp_path), client(requests_per_minute=30)
    for _ in range(30):
        node.use.ask(who)
    with pytest.raises(RateExceeded, match="30 requests a minute") as refused:
        node.use.ask(who)
    assert refused.value.retry_after_s == pytest.approx(2.0)
    node.clock.now += 1.5
    with pytest.raises(RateExceeded) as refused:
        node.use.ask(who)
    assert refused.value.retry_after_s == pytest.approx(0.5)
    node.clock.now += 0.6
    node.use.ask(who)
    node.clock.now += 3600.0
    for _ in range(30):
        node.use.ask(who)
    with pytest.raises(RateExceeded):
        node.use.ask(who)
    for _ in range(1000):
        node.use.ask(client())


def test_a_days_images_are_counted_at_all_nodes(tmp_path: Path) -> None:
    node, who = Node(tmp_path), client(images_per_day=10)
    node.accept(who, 4)
    node.hear(("ab12", 20_000, 3, 0), ("other", 20_000, 99, 0))
    node.hear(("ab12", 19_999, 50, 0), node_id=NodeId("late"))
    node.hear(("ab12", 20_000, 50, 0), node_id=OWN)
    node.accept(who, 3)
    with pytest.raises(QuotaUsedUp, match="10 images a day, and has asked for 10") as refused:
        node.use.claim(who, 1)
    assert refused.value.retry_after_s == 18 * 3600.0
    assert node.use.told() == (("ab12", 20_000, 7, 7),)
    node.clock.now += DAY_S
    node.accept(who, 10)
    assert node.use.told() == (("ab12", 20_001, 10, 17),)


def test_what_is_not_accepted_is_given_back(tmp_path: Path) -> None:
    node, who = Node(tmp_path), client(images_per_day=2, open_tasks_max=2)
    for _ in range(5):
        node.use.claim(who, 2)
        with pytest.raises(QuotaUsedUp):
            node.use.claim(who, 1)
        node.use.settle(who, 2, accepted=False)
    node.accept(who, 2)
    with pytest.raises(QuotaUsedUp):
        node.use.claim(who, 1)


def test_open_tasks_are_counted_at_all_nodes_and_while_they_are_accepted(tmp_path: Path) -> None:
    node, who = Node(tmp_path), client(open_tasks_max=5)
    node.hear(("ab12", 1, 0, 2))
    node.accept(who, 1)
    node.use.claim(who, 1)
    with pytest.raises(TooManyOpen, match="5 tasks that are not finished, and has 4") as refused:
        node.use.claim(who, 2)
    assert refused.value.retry_after_s == 7.5
    node.use.settle(who, 1, accepted=True)
    node.task_s = 0.1
    with pytest.raises(TooManyOpen) as refused:
        node.use.claim(who, 9)
    assert refused.value.retry_after_s == 1.0
    node.open = 0
    node.accept(who, 3)


def test_who_has_no_limits_is_not_counted(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.accept(client(requests_per_minute=1), 1000)
    assert node.use.told() == ()
    assert node.use.told() == ()


def test_a_restart_gives_nobody_his_day_again(tmp_path: Path) -> None:
    node, who = Node(tmp_path), client(images_per_day=10)
    node.accept(who, 8)
    node.use._write()
    again = Node(tmp_path, node.clock)
    with pytest.raises(QuotaUsedUp):
        again.use.claim(who, 3)
    assert again.use.told() == (("ab12", 20_000, 8, 0),)
    again.accept(who, 1)
    again.use._write()
    again.use._write()
    assert Node(tmp_path, node.clock).use.told() == (("ab12", 20_000, 9, 0),)
    (tmp_path / "key_use.json").write_text("rubbish")
    Node(tmp_path, node.clock).use.claim(who, 10)


def test_a_state_tells_of_those_who_asked_for_most(tmp_path: Path) -> None:
    node = Node(tmp_path)
    for number in range(300):
        who = Client(
            id=f"c{number}", scopes=frozenset(Scope), limits=KeyLimits(images_per_day=1000)
        )
        node.use.claim(who, number + 1)
        node.use.settle(who, number + 1, accepted=True)
    told = node.use.told()
    node.open = 1
    node.clock.now += DAY_S
    assert {row[1:] for row in node.use.told()} == {(20_001, 0, 1)}, "of today"
    node.open = 0
    assert node.use.told() == ()
    assert len(told) == 200
    assert (told[0][0], told[-1][0]) == ("c299", "c100")

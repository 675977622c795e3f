"""When a waiting task goes to another node: hand-worked values, capacity 2 units/s everywhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_node.domain import NodeId, TaskId
from edge_node.tasks.lifecycle_protocol import WaitingAttempt
from edge_node.tasks.moving import is_turn, task_to_move
from tests.tasks.test_cluster_view import OTHER, OWN, PEER, state, task, view_of


def waiting(
    name: str, executor: NodeId, *, dispatch: int = 1, input_bits: int = 1000, client: str = ""
) -> WaitingAttempt:
    one = replace(task(work=10.0, input_bits=input_bits), id=TaskId(name), turns=client)
    return WaitingAttempt(task=one, executor=executor, dispatch=dispatch)


# At the own node a task of 10 units takes 5 s and must gain 2.5 s: 7.5 s; the link takes 1 ms.
@pytest.mark.parametrize(("backlog_there", "moves"), [(15.1, True), (14.9, False)])
def test_a_move_must_gain_half_a_service(backlog_there: float, moves: bool) -> None:
    view = view_of(state(OWN), state(PEER, backlog=backlog_there))
    found = task_to_move([waiting("a", PEER)], view=view, now_s=100.0)
    assert found == (TaskId("a") if moves else None)


def test_the_last_of_the_longest_queue_goes_first() -> None:
    view = view_of(state(OWN), state(PEER, backlog=40.0), state(OTHER, backlog=60.0))
    there = [
        waiting("early", OTHER, dispatch=1),
        waiting("late", OTHER, dispatch=2),
        waiting("shorter queue", PEER, dispatch=9),
    ]
    assert task_to_move(there, view=view, now_s=100.0) == "late"


def test_where_clients_take_turns_the_last_is_of_who_has_the_most_there() -> None:
    view = view_of(state(OWN), state(PEER, backlog=40.0))
    there = [
        waiting("one", PEER, dispatch=1, client="a"),
        waiting("two", PEER, dispatch=2, client="a"),
        waiting("quick", PEER, dispatch=3, client="b"),
    ]
    assert task_to_move(there, view=view, now_s=100.0) == "two"


def test_what_takes_long_to_send_stays() -> None:
    view = view_of(state(OWN, backlog=40.0), state(PEER))
    # 40 s by a link of 1 Mbit/s, against 20 s of waiting.
    large = waiting("a", OWN, input_bits=40_000_000)
    assert task_to_move([large], view=view, now_s=100.0) is None
    assert task_to_move([waiting("a", OWN)], view=view, now_s=100.0) == "a"


def test_there_must_be_a_living_node_to_go_to() -> None:
    there = [waiting("a", PEER)]
    assert task_to_move([], view=view_of(state(OWN)), now_s=100.0) is None
    draining = view_of(state(OWN, accepting=False), state(PEER, backlog=99.0))
    assert task_to_move(there, view=draining, now_s=100.0) is None
    # The executor fell silent: that is for the lease to find.
    view = view_of(state(OWN), state(PEER, backlog=99.0))
    assert task_to_move(there, view=view, now_s=200.0) is None


def test_nodes_take_turns() -> None:
    nodes = [PEER, OWN, OTHER]
    turns = [
        [is_turn(n, nodes, shared_s=0.1 * k + 0.05, turn_s=0.1) for n in nodes] for k in range(9)
    ]
    assert all(sum(turn) == 1 for turn in turns)
    assert [sum(turn[i] for turn in turns) for i in range(3)] == [3, 3, 3]


def test_no_gain_is_no_reason() -> None:
    view = view_of(state(OWN), state(PEER, backlog=15.0))
    assert task_to_move([waiting("a", PEER, input_bits=0)], view=view, now_s=100.0) is None


def test_the_one_that_gains_most_moves_and_its_own_wait_elsewhere_counts() -> None:
    view = view_of(state(OWN, backlog=20.0), state(PEER, backlog=60.0), state(OTHER, backlog=40.0))
    there = [waiting("a", PEER, input_bits=0), waiting("b", OTHER, input_bits=0)]
    # 30 s against 10 + 7.5, 20 s against the same.
    assert task_to_move(there, view=view, now_s=100.0) == "a"
    assert task_to_move(there[1:], view=view, now_s=100.0) == "b"
    # 15 s are less than 17.5.
    near = view_of(state(OWN, backlog=20.0), state(PEER, backlog=30.0))
    assert task_to_move(there[:1], view=near, now_s=100.0) is None


def test_the_first_sent_of_two_stays_whatever_their_order() -> None:
    view = view_of(state(OWN), state(PEER, backlog=40.0))
    there = [waiting("late", PEER, dispatch=2), waiting("early", PEER, dispatch=1)]
    assert task_to_move(there, view=view, now_s=100.0) == "late"
    same = [waiting("first", PEER), waiting("second", PEER)]
    assert task_to_move(same, view=view, now_s=100.0) == "first"


def test_an_executor_that_takes_nothing_more_keeps_what_it_has() -> None:
    view = view_of(state(OWN), state(PEER, backlog=99.0, accepting=False), state(OTHER))
    assert task_to_move([waiting("a", PEER)], view=view, now_s=100.0) is None


def test_the_turn_is_by_name_and_a_shared_reading() -> None:
    names = [PEER, OWN, OTHER]  # other, own, peer
    assert [
        next(n for n in names if is_turn(n, names, shared_s=shared_s, turn_s=2.0))
        for shared_s in (0.0, 1.9, 2.0, 4.0, 6.0)
    ] == [OTHER, OTHER, OWN, PEER, OTHER]

"""Servers that draw step by step, and what moving changes."""

from dataclasses import replace

import numpy as np
import pytest

from scheduler.observation import Observation
from scheduler.policy import Decision, Outcome
from scheduler.simulator.moving_cluster import Helping, Moved, Moving, MovingCluster
from scheduler.simulator.queueing import serve_fcfs

CAPACITY_B = (3.5, 2.2, 2.2, 0.8, 0.4)
DECODING = 0.7


class Placed:
    """Each task in turn where it is told."""

    def __init__(self, servers: list[int]) -> None:
        self._servers = iter(servers)

    def decide(self, observation: Observation) -> Decision:
        return Decision(choice=next(self._servers), policy="placed")

    def record(self, outcome: Outcome) -> None:
        """Learns nothing."""


def run(
    arrival_s: list[float],
    steps: list[int],
    servers: list[int],
    moving: Moving | None,
    capacity_B: tuple[float, ...] = CAPACITY_B,
    helping: Helping | None = None,
) -> Moved:
    return MovingCluster(
        capacity_B=capacity_B,
        arrival_s_N=np.array(arrival_s),
        steps_N=np.array(steps),
        origin_N=np.zeros(len(steps), dtype=np.int64),
        decoding=DECODING,
        policy=Placed(servers),
        moving=moving,
        helping=helping,
    ).run()


def many(
    seed: int, tasks: int = 300, rate_hz: float = 0.45
) -> tuple[list[float], list[int], list[int]]:
    rng = np.random.default_rng(seed)
    at_s = np.cumsum(rng.exponential(1.0 / rate_hz, tasks))
    return at_s.tolist(), rng.integers(10, 20, tasks).tolist(), rng.integers(5, size=tasks).tolist()


def test_without_moves_it_is_the_other_simulator() -> None:
    at_s, steps, servers = many(1)
    found = run(at_s, steps, servers, None)

    expected_s_N = serve_fcfs(
        np.array(at_s),
        np.array(servers),
        np.array(steps) + DECODING,
        np.zeros(1),
        np.array([CAPACITY_B]),
    )
    assert found.delay_s_N == pytest.approx(expected_s_N)
    assert not found.moves_N.any()


def test_an_idle_fast_server_goes_on_with_what_a_slow_one_began() -> None:
    moving = Moving(cost_s=0.5, age_s=0.0)
    found = run([0.0], [10], [1], moving, capacity_B=(4.0, 0.5))
    # One step there in 2 s, half a second on the way, nine steps and the decoding here.
    assert found.delay_s_N[0] == pytest.approx(2.0 + 0.5 + (9 + DECODING) / 4.0)
    assert found.moves_N[0] == 1


@pytest.mark.parametrize("order", ["oldest", "least_remaining"])
@pytest.mark.parametrize("seed", range(4))
def test_every_task_ends_and_moves_at_most_so_often(seed: int, order: str) -> None:
    at_s, steps, servers = many(seed, rate_hz=0.5)
    moving = Moving(order=order, moves_max=2, cost_s=0.02)  # type: ignore[arg-type]
    found = run(at_s, steps, servers, moving)

    alone_s_N = (np.array(steps) + DECODING) / max(CAPACITY_B)
    assert (found.delay_s_N > alone_s_N - 1e-9).all()
    assert 0 < found.moves_N.max() <= 2


def test_equal_servers_with_one_task_each_leave_them_where_they_are() -> None:
    found = run([0.0, 0.1, 0.2], [12, 15, 18], [0, 1, 2], Moving(), capacity_B=(2.0,) * 4)
    assert not found.moves_N.any()


def test_moving_makes_mixed_servers_faster() -> None:
    """Where placement knows nothing, by far; by how much with a rule that does, the benchmark."""
    at_s, steps, servers = many(7, tasks=600)
    stay, move = run(at_s, steps, servers, None), run(at_s, steps, servers, Moving())
    assert move.delay_s_N.mean() < 0.5 * stay.delay_s_N.mean()


HELPING = Helping(exchange_s=0.05, age_s=0.0)


def helped(
    arrival_s: list[float],
    steps: list[int],
    servers: list[int],
    *,
    capacity_B: tuple[float, ...],
    helping: Helping = HELPING,
    moving: Moving | None = None,
) -> Moved:
    return run(arrival_s, steps, servers, moving, capacity_B=capacity_B, helping=helping)


def test_an_idle_server_computes_the_other_row_of_every_step() -> None:
    found = helped([0.0], [10], [0], capacity_B=(2.0, 2.0))
    assert found.delay_s_N[0] == pytest.approx(10 * (0.25 + 0.05) + DECODING / 2.0)
    assert found.helped_N.tolist() == [10]
    assert found.helping_s_B == pytest.approx([0.0, 10 * (0.25 + 0.05)])


def test_a_faster_helper_is_waited_for_no_longer_than_the_own_row_takes() -> None:
    found = helped([0.0], [10], [1], capacity_B=(8.0, 2.0))
    assert found.delay_s_N[0] == pytest.approx((10 / 2 + DECODING) / 2.0)


def test_one_that_is_too_slow_does_not_help() -> None:
    found = helped([0.0], [10], [0], capacity_B=(2.0, 1.1))
    assert found.delay_s_N[0] == pytest.approx((10 + DECODING) / 2.0)
    assert not found.helped_N.any()


def test_own_work_begins_when_the_row_under_way_is_done() -> None:
    # The second comes in the midst of the first row that is computed for the first one.
    found = helped([0.0, 0.1], [10, 2], [0, 1], capacity_B=(2.0, 2.0))
    assert found.held_up_s_N == pytest.approx([0.0, 0.2])
    assert found.delay_s_N[1] == pytest.approx(0.2 + (2 + DECODING) / 2.0)
    # Helped once, then not while the other draws, and again when it idles.
    alone = next(step for step in range(1, 10) if 0.3 + step * 0.5 >= 0.3 + (2 + DECODING) / 2.0)
    assert found.helped_N.tolist() == [10 - alone, 0]


def test_a_server_helps_one_at_a_time() -> None:
    found = helped([0.0, 0.0], [10, 10], [0, 1], capacity_B=(2.0, 2.0, 2.0))
    assert found.helping_s_B[2] <= found.delay_s_N.max()
    first, second = found.helped_N.tolist()
    assert first == 10
    assert 0 < second < 10, "the first done is helped no more, and then the helper is free"


def test_who_idles_is_known_a_while_later() -> None:
    found = helped([0.0], [10], [0], capacity_B=(2.0, 2.0), helping=replace(HELPING, age_s=1.1))
    # Two whole steps take a second, the third one ends at 1.5 s.
    assert found.helped_N.tolist() == [7]


@pytest.mark.parametrize("moving", [None, Moving(cost_s=0.02)])
@pytest.mark.parametrize("seed", range(4))
def test_helping_loses_nothing_and_makes_servers_faster(seed: int, moving: Moving | None) -> None:
    at_s, steps, servers = many(seed, rate_hz=0.3)
    alone = run(at_s, steps, servers, moving)
    found = run(at_s, steps, servers, moving, helping=HELPING)
    longest_s = 0.5 / min(CAPACITY_B) + HELPING.exchange_s
    assert (found.helped_N <= np.array(steps)).all()
    assert found.held_up_s_N.max() <= longest_s
    assert found.delay_s_N.mean() < alone.delay_s_N.mean()
    assert alone.helped_N.sum() == 0

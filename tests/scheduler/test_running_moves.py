"""What a device takes from another one, and that it ends."""

import random
from dataclasses import replace

import pytest

from scheduler.running_moves import Held, Line, best_take

DRAWN = Held(task_id="a", age_s=5.0, work_left=10.0, step_work=1.0, begun=True, movable=True)
WAITS = replace(DRAWN, task_id="w", work_left=15.0, begun=False)
IDLE = Line(node_id="fast", capacity=4.0, backlog=0.0, held=())
COST_S = 0.05


def line(*held: Held, capacity: float = 0.5, node_id: str = "slow") -> Line:
    """A device with these drawings."""
    backlog = sum(one.work_left for one in held)
    return Line(node_id=node_id, capacity=capacity, backlog=backlog, held=held)


def test_a_fast_device_that_idles_goes_on_with_what_a_slow_one_draws() -> None:
    take = best_take(IDLE, [line(DRAWN)], cost_s=COST_S)

    assert take is not None
    assert (take.task_id, take.source, take.reason) == ("a", "slow", "idle")
    # Half a step there, the move, and the rest here, instead of all of it there.
    assert take.gain_s == pytest.approx(20.0 - (1.0 + COST_S + 9.5 / 4.0))


@pytest.mark.parametrize(
    ("other", "cost_s"),
    [
        (line(replace(DRAWN, movable=False)), COST_S),
        (line(DRAWN, capacity=4.0), COST_S),
        (line(DRAWN, capacity=8.0), COST_S),
        (line(replace(DRAWN, work_left=1.2)), COST_S),
        (line(DRAWN), 10.0),
        (line(DRAWN, node_id="fast"), COST_S),
    ],
    ids=["no moves left", "equal", "faster there", "almost done", "costs too much", "itself"],
)
def test_what_gains_nothing_stays(other: Line, cost_s: float) -> None:
    assert best_take(IDLE, [other], cost_s=cost_s) is None


def test_a_slow_device_takes_what_waits_sooner_than_it_would_have_to_end_it() -> None:
    slow = replace(IDLE, node_id="slow", capacity=1.0)
    busy = line(DRAWN, WAITS, capacity=4.0, node_id="fast")
    # It waits 2.5 s, and takes 11.25 s longer here.
    take = best_take(slow, [busy], cost_s=COST_S)

    assert take is not None
    assert take.task_id == "w"
    assert best_take(replace(slow, capacity=0.3), [busy], cost_s=COST_S) is None


def test_who_has_work_takes_nothing_but_what_is_older_and_gains_much() -> None:
    younger = replace(DRAWN, task_id="y", age_s=1.0, work_left=12.0)
    busy = line(younger, capacity=4.0, node_id="fast")
    take = best_take(busy, [line(DRAWN, WAITS)], cost_s=COST_S)

    assert take is not None
    assert (take.task_id, take.reason) == ("a", "aside")
    assert best_take(busy, [line(DRAWN, capacity=2.0)], cost_s=COST_S) is None
    older = line(replace(younger, age_s=9.0), capacity=4.0, node_id="fast")
    assert best_take(older, [line(DRAWN)], cost_s=COST_S) is None
    shorter = best_take(older, [line(DRAWN)], cost_s=COST_S, order="least_remaining")
    assert shorter is not None
    assert shorter.task_id == "a"


def test_devices_do_not_take_a_drawing_from_each_other_by_turns() -> None:
    """Whatever they hold: what was taken as it stands is not wanted back."""
    rng = random.Random(5)
    taken = 0
    for _ in range(3000):
        lines = [
            line(
                *(
                    Held(
                        task_id=f"{node}-{place}",
                        age_s=rng.uniform(0.0, 60.0),
                        work_left=rng.uniform(0.5, 20.0),
                        step_work=1.0,
                        begun=place == 0,
                        movable=True,
                    )
                    for place in range(rng.randrange(3))
                ),
                capacity=rng.choice((0.4, 0.8, 2.2, 3.5)),
                node_id=node,
            )
            for node in ("a", "b")
        ]
        take = best_take(lines[0], lines, cost_s=COST_S)
        if take is None:
            continue
        taken += 1
        moved = next(one for one in lines[1].held if one.task_id == take.task_id)
        first = moved.begun or not lines[0].held
        here = (moved, *lines[0].held) if first else (*lines[0].held, moved)
        there = tuple(one for one in lines[1].held if one is not moved)
        own = line(*there, capacity=lines[1].capacity, node_id="b")
        back = best_take(own, [line(*here, capacity=lines[0].capacity, node_id="a")], cost_s=COST_S)
        assert back is None or back.task_id != take.task_id, (lines, take, back)
    assert taken > 300

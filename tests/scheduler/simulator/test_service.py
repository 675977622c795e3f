from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from scheduler.longest_wait import FADE
from scheduler.simulator.queueing import FloatArray, IntArray, serve_fcfs
from scheduler.simulator.scenario import CapacityChange, Scenario
from scheduler.simulator.service import (
    Discipline,
    InvalidDiscipline,
    longest_wait_s,
    service_delay_s,
)
from scheduler.simulator.workload import Episode, draw, one_model

DISCIPLINES = [
    Discipline(order="sjf"),
    Discipline(order="srpt"),
    Discipline(order="sjf", ageing=0.3),
    Discipline(order="srpt", ageing=0.05),
    Discipline(order="srpt", promotion=(0.5, 1.0)),
    Discipline(order="sjf", promotion=(0.2, 2.0)),
    Discipline(order="srpt", promotion_load=0.5),
    Discipline(order="srpt", ageing=0.1, promotion=(0.3, 0.5), promotion_load=0.7),
]
CHANGES = (
    CapacityChange(at_s=1.3, server=0, factor=0.2),
    CapacityChange(at_s=2.0, server=1, factor=0.0),
    CapacityChange(at_s=3.7, server=1, factor=1.5),
    CapacityChange(at_s=4.1, server=0, factor=2.0),
)
SMALL = Scenario(
    name="small",
    servers=3,
    capacities=(3.0, 2.0, 1.0),
    tasks_per_slot_max=3,
    slots=5,
    density_range=(0.05, 0.4),
    tasks_by_index=False,
)


def episode_of(arrivals: list[float], works: list[float], steps: list[int]) -> Episode:
    """Tasks on one server of capacity 1 Gcycle/s, with nothing to transfer."""
    scenario = Scenario(name="by hand", servers=1, capacities=(1.0,), slots=10)
    size = len(works)
    return Episode(
        scenario=scenario,
        arrival_s_N=np.array(arrivals),
        slot_N=np.array(arrivals, dtype=np.int64),
        origin_N=np.zeros(size, np.int64),
        index_N=np.arange(size),
        input_mbit_N=np.zeros(size),
        result_mbit_N=np.zeros(size),
        steps_N=np.array(steps),
        work_N=np.array(works),
        link_mbit_s_B=np.ones(1),
        since_s_K=np.zeros(1),
        capacity_KB=np.ones((1, 1)),
        believed_KB=np.ones((1, 1)),
        **one_model(tasks=size, servers=1),
    )


def test_srpt_by_hand() -> None:
    # 0 starts with steps of 2 s; 1 comes at 1 and must wait for the step's end at 2; it is done
    # at 3. 2 comes at 3 as long as what is left of 0 (4 s), which was placed first: 0 goes on.
    episode = episode_of([0.0, 1.0, 3.0], [6.0, 1.0, 4.0], [3, 1, 2])
    delay_s_N = service_delay_s(episode, np.zeros(3, np.int64), Discipline(order="srpt"))
    assert delay_s_N.tolist() == [7.0, 2.0, 8.0]


def test_promotion_by_hand() -> None:
    # 0 is due 2 + 1 x 4 s after it came: at 6, a step boundary of 1, it comes before what is short.
    arrivals, works, steps = [0.0, 0.0, 4.0, 5.0], [4.0, 3.0, 3.0, 3.0], [1, 1, 3, 3]
    episode = episode_of(arrivals, works, steps)
    placed = np.zeros(4, np.int64)
    srpt = service_delay_s(episode, placed, Discipline(order="srpt"))
    assert srpt.tolist() == [7.0, 3.0, 6.0, 8.0]
    arrivals, works, steps = [0.0, 0.0, 3.0, 4.0], [4.0, 3.0, 3.0, 3.0], [1, 1, 3, 3]
    episode = episode_of(arrivals, works, steps)
    srpt = service_delay_s(episode, placed, Discipline(order="srpt"))
    assert srpt.tolist() == [13.0, 3.0, 3.0, 5.0]
    promoted = service_delay_s(episode, placed, Discipline(order="srpt", promotion=(1.0, 1.0)))
    # Due at 5: task 2 has done two of its steps and is interrupted.
    assert promoted.tolist() == [9.0, 3.0, 7.0, 9.0]


def test_promotion_by_load_by_hand() -> None:
    # 2 and 3 find 3 and 4 s of work. So at 3 the bound on ages beyond the own service is 4 s: task
    # 0, due at 4 + 4 = 8 without 4, goes on behind what is short until then.
    arrivals, works = [0.0, 0.0, 1.0, 2.0, 4.0, 6.0], [4.0, 3.0, 2.0, 2.0, 2.0, 2.0]
    episode = episode_of(arrivals, works, [1, 1, 1, 1, 1, 1])
    placed = np.zeros(6, np.int64)
    srpt = service_delay_s(episode, placed, Discipline(order="srpt"))
    assert srpt.tolist() == [15.0, 3.0, 4.0, 5.0, 5.0, 5.0]
    longest_s = longest_wait_s(*arguments_of(episode, placed))
    assert longest_s.tolist() == [0.0, 4.0, 6.0, 7.0, 7.0, 7.0]
    half = Discipline(order="srpt", promotion_load=0.5)
    # Due at 4 + .5 x 7: at 9, the next end of a task, it goes before 5, which is shorter.
    assert service_delay_s(episode, placed, half).tolist() == [13.0, 3.0, 4.0, 5.0, 5.0, 9.0]
    # One that comes at 8 would wait 7 s still, at 60 the past is forgotten at 1 s in 20.
    later = episode_of([*arrivals, 40.0], [*works, 1.0], [1] * 7)
    longest_s = longest_wait_s(*arguments_of(later, np.zeros(7, np.int64)))
    assert longest_s[-1] == pytest.approx(longest_s[-2] - 0.05 * 34.0)


def test_no_server_knows_when_the_run_ends() -> None:
    # What comes later changes nothing of what was done before: the same first half, whole and cut.
    scenario = SMALL.replace(slots=40, tasks_per_slot_max=4)
    episode = draw(scenario, np.random.default_rng(8))
    server_N = np.random.default_rng(9).integers(0, 3, episode.tasks)
    half = int(np.searchsorted(episode.arrival_s_N, 20.0))
    fields = {
        name: value[:half]
        for name, value in vars(episode).items()
        if name.endswith("_N") and isinstance(value, np.ndarray)
    }
    cut = dataclasses.replace(episode, scenario=scenario.replace(slots=20), **fields)
    for discipline in (Discipline(), *DISCIPLINES):
        whole_s = service_delay_s(episode, server_N, discipline)[:half]
        cut_s = service_delay_s(cut, server_N[:half], discipline)
        done = episode.arrival_s_N[:half] + whole_s < 20.0
        assert done.sum() > half / 3
        np.testing.assert_array_equal(whole_s[done], cut_s[done])


@pytest.mark.parametrize("changes", [(), CHANGES], ids=["steady", "changing"])
@pytest.mark.parametrize("discipline", DISCIPLINES, ids=str)
def test_agrees_with_a_search_over_all_waiting(
    discipline: Discipline, changes: tuple[CapacityChange, ...]
) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        scenario = SMALL if seed % 2 else SMALL.replace(task_arrivals="poisson", load=1.3)
        episode = draw(scenario.replace(changes=changes), rng)
        server_N = rng.integers(0, 3, episode.tasks)
        expected = searched_delay_s(episode, server_N, discipline)
        got = service_delay_s(episode, server_N, discipline)
        np.testing.assert_allclose(got, expected, atol=1e-9, rtol=0, err_msg=f"seed {seed}")


@pytest.mark.parametrize("changes", [(), CHANGES], ids=["steady", "changing"])
def test_first_come_first_served_is_the_paper_s_server(
    changes: tuple[CapacityChange, ...],
) -> None:
    episode = draw(Scenario(name="default", changes=changes), np.random.default_rng(0))
    server_N = np.random.default_rng(1).integers(0, 20, episode.tasks)
    expected = episode.transfer_s(server_N) + serve_fcfs(
        episode.arrival_s_N, server_N, episode.work_N, episode.since_s_K, episode.capacity_KB
    )
    assert np.array_equal(service_delay_s(episode, server_N, Discipline()), expected)
    # Everything is overdue at once, so it is first come first served through the other kernel.
    overdue = Discipline(order="srpt", promotion=(0.0, 0.0))
    np.testing.assert_allclose(service_delay_s(episode, server_N, overdue), expected, atol=1e-9)


def test_order_changes_no_unfinished_work() -> None:
    episode = draw(SMALL, np.random.default_rng(3))
    server_N = np.zeros(episode.tasks, np.int64)
    last = [
        (episode.arrival_s_N + service_delay_s(episode, server_N, discipline)).max()
        for discipline in [Discipline(), *DISCIPLINES]
    ]
    assert np.ptp(last) < 0.01  # transfers of the last task differ, its completion does not


def test_a_server_that_never_comes_back() -> None:
    gone = SMALL.replace(changes=(CapacityChange(at_s=2.0, server=0, factor=0.0),))
    episode = draw(gone, np.random.default_rng(4))
    server_N = np.zeros(episode.tasks, np.int64)
    for discipline in [Discipline(), *DISCIPLINES]:
        delay_s_N = service_delay_s(episode, server_N, discipline)
        assert np.isinf(delay_s_N[episode.arrival_s_N >= 2.0]).all()
        assert np.isfinite(delay_s_N).any()


def arguments_of(
    episode: Episode, server_N: IntArray
) -> tuple[FloatArray, IntArray, FloatArray, FloatArray, FloatArray]:
    return (
        episode.arrival_s_N,
        server_N,
        episode.work_N,
        episode.since_s_K,
        episode.capacity_KB,
    )


def test_the_longest_wait_is_that_of_first_come_first_served() -> None:
    episode = draw(SMALL.replace(servers=1, capacities=(2.0,)), np.random.default_rng(5))
    arguments = arguments_of(episode, np.zeros(episode.tasks, np.int64))
    waited_s_N = serve_fcfs(*arguments) - episode.work_N / 2.0
    faded_s_N = waited_s_N + FADE * episode.arrival_s_N
    expected_s_N = np.maximum.accumulate(faded_s_N) - FADE * episode.arrival_s_N
    np.testing.assert_allclose(longest_wait_s(*arguments), expected_s_N, atol=1e-12)


def test_disciplines_from_a_command_line() -> None:
    assert Discipline.parse("fcfs") == Discipline()
    parsed = Discipline.parse("srpt", promotion="15,1", promotion_load="0.5", ageing="0.1")
    assert parsed == Discipline(order="srpt", ageing=0.1, promotion=(15, 1), promotion_load=0.5)
    for order, options, words in [
        ("lifo", {}, "fcfs, sjf, srpt"),
        ("srpt", {"promotion": "15"}, "promotion is '15'"),
        ("srpt", {"promotion": "15;1"}, "2 numbers"),
        ("srpt", {"ageing": "fast"}, "a number"),
        ("srpt", {"promotion_load": "-1"}, "0 or more"),
        ("srpt", {"promotion": "nan,1"}, "0 or more"),
        ("fcfs", {"ageing": "0.1"}, "already"),
    ]:
        with pytest.raises(InvalidDiscipline, match=words):
            Discipline.parse(order, **options)


def test_placements_outside_the_cluster_are_refused() -> None:
    episode = draw(SMALL, np.random.default_rng(6))
    for wrong in (np.full(episode.tasks, 3), np.full(episode.tasks, -1), np.zeros(1, np.int64)):
        with pytest.raises(ValueError, match="task"):
            service_delay_s(episode, wrong, Discipline(order="srpt"))


def searched_delay_s(episode: Episode, server_N: IntArray, discipline: Discipline) -> FloatArray:
    """The same delays from a plain loop that looks at every waiting task before every step."""
    delay_s_N = np.empty(episode.tasks)
    for server in range(episode.servers):
        now_s = 0.0
        waiting: dict[int, int] = {}
        coming = [int(task) for task in np.flatnonzero(server_N == server)]
        while coming or waiting:
            if not waiting:
                now_s = max(now_s, float(episode.arrival_s_N[coming[0]]))
            while capacity_at(episode, server, now_s) == 0.0:
                now_s = min(float(since) for since in episode.since_s_K if since > now_s)
            while coming and episode.arrival_s_N[coming[0]] <= now_s:
                task = coming.pop(0)
                waiting[task] = episode.steps_N[task] if discipline.order == "srpt" else 1
            task = first_in_line(episode, server_N, waiting, server, now_s, discipline)
            parts = episode.steps_N[task] if discipline.order == "srpt" else 1
            now_s = worked_until_s(episode, server, now_s, episode.work_N[task] / parts)
            waiting[task] -= 1
            if waiting[task] == 0:
                del waiting[task]
                delay_s_N[task] = now_s - episode.arrival_s_N[task]
    return delay_s_N + episode.transfer_s(server_N)


def first_in_line(
    episode: Episode,
    server_N: IntArray,
    waiting: dict[int, int],
    server: int,
    now_s: float,
    discipline: Discipline,
) -> int:
    capacity = capacity_at(episode, server, now_s)
    c0_s, c1 = discipline.promotion or (0.0, 1.0)
    overdue, by_key = [], []
    for task, left in waiting.items():
        arrival_s, work = episode.arrival_s_N[task], episode.work_N[task]
        parts = episode.steps_N[task] if discipline.order == "srpt" else 1
        due_s = arrival_s + c0_s
        if discipline.promotion_load is not None:
            due_s += discipline.promotion_load * lived_through_s(episode, server_N, server, now_s)
        due_s += c1 * work / capacity
        promotes = discipline.promotion is not None or discipline.promotion_load is not None
        if promotes and due_s <= now_s:
            overdue.append((due_s, task))
        remaining_s = left * (work / parts) / capacity
        by_key.append((remaining_s - (discipline.ageing or 0.0) * (now_s - arrival_s), task))
    return min(overdue or by_key)[1]


def lived_through_s(episode: Episode, server_N: IntArray, server: int, now_s: float) -> float:
    """The longest wait lately, as of the last arrival up to now, found anew from the beginning."""
    longest_s, seen_s, done_s = 0.0, 0.0, 0.0
    for task in np.flatnonzero(server_N == server):
        arrival_s = float(episode.arrival_s_N[task])
        if arrival_s > now_s:
            break
        capacity = capacity_at(episode, server, arrival_s)
        if capacity > 0.0:
            wait_s = work_between(episode, server, arrival_s, done_s) / capacity
            longest_s = max(longest_s - FADE * (arrival_s - seen_s), wait_s)
            seen_s = arrival_s
        done_s = worked_until_s(
            episode, server, max(done_s, arrival_s), float(episode.work_N[task])
        )
    return longest_s


def capacity_at(episode: Episode, server: int, now_s: float) -> float:
    stretch = sum(bool(since_s <= now_s) for since_s in episode.since_s_K) - 1
    return float(episode.capacity_KB[stretch, server])


def worked_until_s(episode: Episode, server: int, now_s: float, work: float) -> float:
    for since_s in [*episode.since_s_K, np.inf]:
        if since_s <= now_s:
            continue
        capacity = capacity_at(episode, server, now_s)
        if capacity * (since_s - now_s) >= work:
            return now_s + work / capacity
        work -= capacity * (since_s - now_s)
        now_s = float(since_s)
    return float("inf")


def work_between(episode: Episode, server: int, from_s: float, to_s: float) -> float:
    edges = [from_s, *(float(s) for s in episode.since_s_K if from_s < s < to_s), to_s]
    if to_s <= from_s:
        return 0.0
    return sum(
        capacity_at(episode, server, start_s) * (end_s - start_s)
        for start_s, end_s in itertools.pairwise(edges)
    )

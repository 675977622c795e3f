from __future__ import annotations

import numpy as np
import pytest

from scheduler.simulator.queueing import drain, serve_fcfs, work_off_s
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.service import Discipline, service_delay_s
from scheduler.simulator.statistics import student_quantile
from scheduler.simulator.workload import draw

# Server 0 doubles at 2 s; server 1 is away from 2 to 3 s and for good from 5 s on.
SINCE_S_K = np.array([0.0, 2.0, 3.0, 5.0])
CAPACITY_KB = np.array([[1.0, 2.0], [2.0, 0.0], [2.0, 1.0], [2.0, 0.0]])


def test_work_through_changes_of_capacity_by_hand() -> None:
    for work, server, start_s, needed_s in [
        (1.0, 0, 0.5, 1.0),
        (3.0, 0, 0.0, 2.5),
        (0.0, 0, 1.0, 0.0),
        (4.0, 0, 10.0, 2.0),
        (4.0, 1, 0.0, 2.0),
        (5.0, 1, 0.0, 4.0),
        (1.0, 1, 2.0, 2.0),
        (2.0, 1, 3.0, 2.0),
        (2.1, 1, 3.0, np.inf),
        (0.0, 1, 6.0, 0.0),
    ]:
        assert work_off_s(work, server, start_s, SINCE_S_K, CAPACITY_KB) == needed_s


def test_backlogs_through_changes_of_capacity_by_hand() -> None:
    backlog_B = np.array([10.0, 5.0])
    drain(backlog_B, 1.0, 4.0, SINCE_S_K, CAPACITY_KB)
    assert backlog_B.tolist() == [5.0, 2.0]
    drain(backlog_B, 4.0, 9.0, SINCE_S_K, CAPACITY_KB)
    assert backlog_B.tolist() == [0.0, 1.0]


def test_first_come_first_served_by_hand() -> None:
    # Server 0: 2 Gcycles at 0, done at 2; 3 at 1, which start at 2 and end at 3.5. Server 1: 4 at
    # 1, of which 2 are done when it goes at 2; the rest ends at 5. 1 more at 3 is never done.
    delay_s_N = serve_fcfs(
        np.array([0.0, 1.0, 1.0, 3.0]),
        np.array([0, 0, 1, 1]),
        np.array([2.0, 3.0, 4.0, 1.0]),
        SINCE_S_K,
        CAPACITY_KB,
    )
    assert delay_s_N.tolist() == [2.0, 2.5, 4.0, np.inf]


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_agrees_with_the_wait_of_m_d_1(load: float) -> None:
    scenario = Scenario(
        name="m/d/1",
        servers=1,
        capacities=(2.0,),
        task_arrivals="poisson",
        load=load,
        slots=20_000,
        density_range=(1.0, 1.0),
        steps_range=(1, 2),
        tasks_by_index=False,
    )
    wait_s_E = []
    for seed in range(30):
        episode = draw(scenario, np.random.default_rng(seed))
        server_N = np.zeros(episode.tasks, np.int64)
        delay_s_N = service_delay_s(episode, server_N, Discipline())
        wait_s_E.append((delay_s_N - episode.transfer_s(server_N) - 0.5).mean())
    expected_s = load / (2.0 * (1.0 - load)) * 0.5  # Pollaczek and Khinchine, service of .5 s
    half_s = student_quantile(0.975, 29) * np.std(wait_s_E, ddof=1) / 30**0.5
    assert half_s < 0.03 * expected_s
    assert abs(np.mean(wait_s_E) - expected_s) < half_s

from __future__ import annotations

import itertools

import numpy as np
import pytest

from scheduler.simulator.bounds import mean_delay_bound_s, serve_pooled
from scheduler.simulator.scenario import CapacityChange, Scenario
from scheduler.simulator.service import Discipline, service_delay_s
from scheduler.simulator.workload import Episode, draw

TINY = Scenario(
    name="tiny",
    servers=2,
    capacities=(3.0, 2.0),
    tasks_per_slot_max=2,
    slots=2,
    density_range=(0.1, 0.4),
    steps_range=(5, 15),
    tasks_by_index=False,
)
CHANGES = (
    CapacityChange(at_s=0.6, server=0, factor=0.1),
    CapacityChange(at_s=1.5, server=0, factor=1.2),
    CapacityChange(at_s=1.0, server=1, factor=0.0),
    CapacityChange(at_s=1.8, server=1, factor=1.0),
)
SRPT = Discipline(order="srpt")


def test_the_pooled_machine_by_hand() -> None:
    # 0 needs 4; at 1, 2 of it are done and 1 (1 unit) comes first, until 1.5; the machine stands
    # still from 2 to 4, so what is left of 0, 1 unit at 2, is done at 4.5.
    done_s_N, busy_s_N = serve_pooled(
        np.array([0.0, 1.0]),
        np.array([4.0, 1.0]),
        np.array([0.0, 2.0, 4.0]),
        np.array([2.0, 0.0, 2.0]),
        True,
    )
    assert done_s_N.tolist() == [4.5, 1.5]
    assert busy_s_N == pytest.approx([(2 * 0.5 + 1 * 1.75 + 1 * 4.25) / 4, 1.25])


def test_remaining_and_original_work_differ() -> None:
    # At 3, 0 has 1 of 4 left; a task of 2 comes: only by original work does it come first.
    arguments = np.array([0.0, 3.0]), np.array([4.0, 2.0]), np.zeros(1), np.ones(1)
    assert serve_pooled(*arguments, True)[0].tolist() == [4.0, 6.0]
    assert serve_pooled(*arguments, False)[0].tolist() == [6.0, 5.0]


def finely(episode: Episode) -> Episode:
    """The same tasks in so many steps that a server can switch almost at any instant."""
    fields = {name: getattr(episode, name) for name in episode.__dataclass_fields__}
    return Episode(**fields | {"steps_N": np.full(episode.tasks, 50)})


@pytest.mark.parametrize("changes", [(), CHANGES], ids=["steady", "changing"])
def test_no_placement_is_below_the_bound(changes: tuple[CapacityChange, ...]) -> None:
    tightest = np.inf
    for seed in range(8):
        scenario = TINY.replace(changes=changes)
        episode = finely(draw(scenario, np.random.default_rng(seed)))
        bounds = mean_delay_bound_s(episode)
        for placement in itertools.product(range(2), repeat=episode.tasks):
            mean_s = service_delay_s(episode, np.array(placement), SRPT).mean()
            assert mean_s >= bounds.mean_s
            tightest = min(tightest, mean_s / bounds.mean_s)
    assert tightest < 1.5


def test_one_server_is_the_pooled_machine() -> None:
    scenario = TINY.replace(servers=1, capacities=(2.0,), slots=10, steps_range=(1, 2))
    episode = finely(draw(scenario, np.random.default_rng(0)))
    mean_s = service_delay_s(episode, np.zeros(episode.tasks, np.int64), SRPT).mean()
    assert mean_s == pytest.approx(mean_delay_bound_s(episode).pooled_srpt_s, rel=0.01)


def test_the_bound_of_the_default_scenario() -> None:
    bounds = [
        mean_delay_bound_s(draw(Scenario(name="default"), np.random.default_rng(seed))).mean_s
        for seed in range(30)
    ]
    # 3.314 +-.103 elsewhere, on other arrivals.
    assert np.mean(bounds) == pytest.approx(3.44, abs=0.005)


def test_a_task_alone_is_as_fast_as_the_fastest_server() -> None:
    quiet = TINY.replace(task_arrivals="poisson", load=0.01, slots=2000)
    bounds = mean_delay_bound_s(draw(quiet, np.random.default_rng(0)))
    assert bounds.mean_s == bounds.fastest_server_s
    assert bounds.pooled_srpt_s < bounds.mean_busy_time_s < bounds.fastest_server_s


def test_servers_that_never_come_back_have_no_finite_bound() -> None:
    gone = tuple(CapacityChange(at_s=0.5, server=server, factor=0.0) for server in range(2))
    episode = draw(TINY.replace(changes=gone), np.random.default_rng(0))
    assert mean_delay_bound_s(episode).mean_s == np.inf

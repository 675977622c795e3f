from __future__ import annotations

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from pettingzoo.test import api_test as check_api
from pettingzoo.test import parallel_api_test as check_parallel_api
from pettingzoo.test import parallel_seed_test as check_parallel_seed
from pettingzoo.test import seed_test as check_seed

from scheduler.simulator import scenarios
from scheduler.simulator.environment import PlacementEnv, StationsAtOnce, StationsInTurn
from scheduler.simulator.queueing import FloatArray, IntArray
from scheduler.simulator.scenario import CapacityChange, Scenario
from scheduler.simulator.service import Discipline, service_delay_s
from scheduler.simulator.slotted_cluster import SlottedCluster
from scheduler.simulator.workload import Episode, draw

SMALL = Scenario(name="small", servers=3, tasks_per_slot_max=4, slots=6)
STALE = SMALL.replace(name="stale", refresh_s=2.5, station_order="random", tasks_by_index=False)
OUTAGE = SMALL.replace(
    name="outage",
    changes=(
        CapacityChange(at_s=1.5, server=0, factor=0.0),
        CapacityChange(at_s=4.5, server=0, factor=0.5),
    ),
)
POISSON = SMALL.replace(name="poisson", task_arrivals="poisson", load=1.2, refresh_s=0.3)
SLOTTED = [SMALL, STALE, OUTAGE]
# The environments have nothing to show, which PettingZoo remarks on.
NOTHING_TO_RENDER = pytest.mark.filterwarnings("ignore:Environment has not defined a render")


def played(episode: Episode, server_N: IntArray) -> tuple[FloatArray, FloatArray]:
    """Delays and observed task and backlogs of every step of `PlacementEnv`."""
    env = PlacementEnv(episode.scenario)
    observation, info = env.reset(options={"episode": episode})
    observed, delay_s = [], []
    for task, server in enumerate(server_N):
        assert info["task"] == task
        assert info["station"] == episode.origin_N[task]
        observed.append(observation[: 3 + episode.servers])
        observation, reward, terminated, truncated, info = env.step(server)
        assert not truncated
        assert terminated == (task + 1 == episode.tasks)
        assert reward == -info["service_delay_s"]
        delay_s.append(-reward)
    return np.array(delay_s), np.array(observed)


@pytest.mark.parametrize("scenario", [*SLOTTED, POISSON], ids=lambda scenario: scenario.name)
def test_gymnasium_accepts_the_environment(scenario: Scenario) -> None:
    check_env(PlacementEnv(scenario), skip_render_check=True)


@NOTHING_TO_RENDER
@pytest.mark.parametrize("scenario", [*SLOTTED, POISSON], ids=lambda scenario: scenario.name)
def test_pettingzoo_accepts_stations_in_turn(scenario: Scenario) -> None:
    check_api(StationsInTurn(scenario), num_cycles=30)
    check_seed(lambda: StationsInTurn(scenario), num_cycles=30)


@pytest.mark.parametrize("scenario", SLOTTED, ids=lambda scenario: scenario.name)
def test_pettingzoo_accepts_stations_at_once(scenario: Scenario) -> None:
    check_parallel_api(StationsAtOnce(scenario), num_cycles=30)
    check_parallel_seed(lambda: StationsAtOnce(scenario), num_cycles=30)


@NOTHING_TO_RENDER
def test_a_single_dispatcher_is_a_single_agent() -> None:
    scenario = scenarios.get("fdedge").replace(slots=3)
    check_api(StationsInTurn(scenario), num_cycles=30)
    check_parallel_api(StationsAtOnce(scenario), num_cycles=30)
    assert StationsInTurn(scenario).possible_agents == ["station_0"]


@pytest.mark.parametrize("scenario", [*SLOTTED, POISSON], ids=lambda scenario: scenario.name)
def test_delays_are_those_of_the_servers(scenario: Scenario) -> None:
    episode = draw(scenario, np.random.default_rng(0))
    server_N = np.random.default_rng(1).integers(0, 3, episode.tasks)
    delay_s_N, observed = played(episode, server_N)
    expected = service_delay_s(episode, server_N, Discipline())
    np.testing.assert_allclose(delay_s_N, expected, atol=1e-12)
    tasks = np.stack([episode.input_mbit_N, episode.result_mbit_N, episode.work_N], axis=1)
    np.testing.assert_allclose(observed[:, :3], tasks, rtol=1e-6)


def test_backlogs_are_those_of_the_slotted_cluster() -> None:
    episode = draw(OUTAGE, np.random.default_rng(0))
    server_N = np.random.default_rng(1).integers(0, 3, episode.tasks)
    _, observed = played(episode, server_N)
    cluster = SlottedCluster(episode)
    while not cluster.done:
        tasks = cluster.tasks
        expected = np.tile(cluster.backlog_B, (tasks.stop - tasks.start, 1))
        np.testing.assert_allclose(observed[tasks, 3:], expected, rtol=1e-6)
        cluster.place(server_N[tasks])


@pytest.mark.parametrize("scenario", SLOTTED, ids=lambda scenario: scenario.name)
def test_all_environments_pay_the_same(scenario: Scenario) -> None:
    episode = draw(scenario, np.random.default_rng(0))
    server_N = np.random.default_rng(1).integers(0, 3, episode.tasks)
    delay_s_N, _ = played(episode, server_N)

    in_turn = StationsInTurn(scenario)
    in_turn.reset(options={"episode": episode})
    for task, server in enumerate(server_N):
        agent = in_turn.agent_selection
        assert agent == f"station_{episode.origin_N[task]}"
        in_turn.step(server)
        assert in_turn.rewards[agent] == -delay_s_N[task]
    assert all(in_turn.terminations.values())

    at_once = StationsAtOnce(scenario)
    at_once.reset(options={"episode": episode})
    for slot in range(scenario.slots):
        actions = {agent: np.zeros(4, np.int64) for agent in at_once.agents}
        for task in map(int, np.flatnonzero(episode.slot_N == slot)):
            own = actions[f"station_{episode.origin_N[task]}"]
            own[episode.index_N[task]] = server_N[task]
        _, rewards, ended, _, _ = at_once.step(actions)
        for station in range(3):
            own_N = (episode.slot_N == slot) & (episode.origin_N == station)
            reward = rewards[f"station_{station}"]
            assert reward == pytest.approx(-delay_s_N[own_N].sum(), abs=1e-9)
    assert all(ended.values())
    assert at_once.agents == []


def test_by_hand() -> None:
    # Two servers of 2 and 1 Gcycles/s and two tasks of 4 Gcycles at once; no transfer to speak of.
    scenario = SMALL.replace(
        servers=2,
        capacities=(2.0, 1.0),
        tasks_per_slot_max=1,
        slots=2,
        density_range=(4.0, 4.0),
        steps_range=(1, 2),
        input_mbit=(1e-9, 1e-9),
        result_mbit=(1e-9, 1e-9),
    )
    env = PlacementEnv(scenario)
    observation, _ = env.reset(seed=0)
    assert observation[2:9].tolist() == [4.0, 0.0, 0.0, 0.0, 0.0, 2.0, 1.0]
    assert observation[11:].tolist() == [1.0, 0.0]
    delays_s = []
    # Slot 0: both on server 0, 2 and 4 s; slot 1: 6 left there, so 5 s, and 4 s on server 1.
    for server in (0, 0, 0, 1):
        observation, reward, ended, _, info = env.step(np.int64(server))
        delays_s.append(-reward)
        if info.get("task") == 1:  # station 1 has placed nothing, and has no news of station 0
            assert observation[3:7].tolist() == [0.0, 0.0, 0.0, 0.0]
        if info.get("task") == 3:  # what was placed in this slot is not reported yet
            assert observation[3:7].tolist() == [6.0, 0.0, 0.0, 0.0]
    assert delays_s == pytest.approx([2.0, 4.0, 5.0, 4.0], abs=1e-8)
    assert ended


def test_an_agent_sees_what_it_placed_since_the_report() -> None:
    env = PlacementEnv(SMALL.replace(dispatchers="first", refresh_s=100.0))
    observation, _ = env.reset(seed=0)
    placed_B = np.zeros(3)
    for server in (2, 0, 2):
        placed_B[server] += observation[2]
        observation, *_ = env.step(np.int64(server))
        np.testing.assert_allclose(observation[3:6], 0.0)
        np.testing.assert_allclose(observation[6:9], placed_B, rtol=1e-6)


def test_what_cannot_be_an_environment() -> None:
    with pytest.raises(ValueError, match="not slots"):
        StationsAtOnce(POISSON)
    for kind in (PlacementEnv, StationsInTurn, StationsAtOnce):
        with pytest.raises(ValueError, match="server 0 never comes back"):
            kind(OUTAGE.replace(changes=OUTAGE.changes[:1]))
    env = PlacementEnv(SMALL)
    env.reset(seed=0)
    for action in (-1, 3):
        with pytest.raises(ValueError, match=r"0\.\.2"):
            env.step(np.int64(action))
    ended = False
    while not ended:
        _, _, ended, _, _ = env.step(np.int64(0))
    with pytest.raises(ValueError, match="has ended"):
        env.step(np.int64(0))
    with pytest.raises(ValueError, match="given episode"):
        env.reset(options={"episode": draw(Scenario(name="default"), np.random.default_rng(0))})

"""What agents see of a slot and what their tasks become, against the episode's own arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scheduler.features import StateScale, encode
from scheduler.learning.station_slots import PENALTY_S, StationSlots, agents, state_scale
from scheduler.simulator.scenario import CapacityChange, Scenario
from scheduler.simulator.slotted_cluster import SlottedCluster
from scheduler.simulator.workload import capacities, draw

TINY = Scenario(name="tiny", servers=3, tasks_per_slot_max=4, slots=6)


@pytest.mark.parametrize("order", ["index", "random"])
@pytest.mark.parametrize("next_state", ["fixed", "code"])
def test_states_delays_and_successors(order: Any, next_state: Any) -> None:
    episode = draw(TINY.replace(station_order=order), np.random.default_rng(1))
    cluster = SlottedCluster(episode)
    slots = StationSlots(episode, StateScale(), next_state=next_state)
    rng = np.random.default_rng(2)
    while (slot := slots.slot) is not None:
        tasks, queue_B = slots.tasks, cluster.backlog_B.copy()
        assert tasks == cluster.tasks
        for row, task in enumerate(range(tasks.start, tasks.stop)):
            state = [episode.input_mbit_N[task], episode.work_N[task], *queue_B]
            np.testing.assert_allclose(slot.state_NS[row], state, rtol=1e-6)
            agent, index = episode.origin_N[task], episode.index_N[task]
            np.testing.assert_array_equal(slot.state_ASM[agent, :, index], slot.state_NS[row])
        server_N = rng.integers(3, size=len(slot.agent_N))
        placed = slots.place(server_N)
        np.testing.assert_allclose(placed.delay_s_N, cluster.place(server_N))
        np.testing.assert_allclose(placed.reward_N, -placed.delay_s_N, rtol=1e-6)
        after = slots.slot or slot
        for row in range(len(slot.agent_N)):
            if not slot.last_N[row]:
                np.testing.assert_array_equal(placed.following_NS[row], slot.state_NS[row + 1])
                continue
            first = np.flatnonzero((after.agent_N == slot.agent_N[row]) & (after.order_N == 0))[0]
            wanted_S = after.state_NS[first].copy()
            wanted_S[2:] = 0.0 if next_state == "code" else cluster.backlog_B
            np.testing.assert_allclose(placed.following_NS[row], wanted_S, rtol=1e-6)
    with pytest.raises(ValueError, match="every slot of the episode has been placed"):
        slots.place(np.zeros(1, np.int64))


def test_queues_are_seen_as_they_were_last_published() -> None:
    scenario = TINY.replace(slot_s=0.1, refresh_s=0.2)
    slots = StationSlots(draw(scenario, np.random.default_rng(1)), StateScale(), next_state="fixed")
    seen = []
    while (slot := slots.slot) is not None:
        seen.append(slot.state_NS[0, 2:].copy())
        slots.place(np.zeros(len(slot.agent_N), np.int64))
    assert not seen[0].any()
    for earlier, later in ((0, 1), (2, 3), (4, 5)):
        np.testing.assert_array_equal(seen[earlier], seen[later])
    assert (seen[2] != seen[0]).any()
    assert (seen[4] != seen[2]).any()


def test_a_server_that_never_comes_back_costs_the_penalty() -> None:
    scenario = TINY.replace(changes=(CapacityChange(at_s=0.0, server=0, factor=0.0),))
    dead = int(np.argmax(capacities(scenario)))
    slots = StationSlots(draw(scenario, np.random.default_rng(1)), StateScale(), next_state="fixed")
    assert slots.slot is not None
    placed = slots.place(np.full(len(slots.slot.agent_N), dead))
    assert np.isinf(placed.delay_s_N).all()
    assert (placed.reward_N == -PENALTY_S).all()


def test_one_master_is_one_agent() -> None:
    scenario = TINY.replace(dispatchers="first")
    assert (agents(TINY), agents(scenario)) == (3, 1)
    slots = StationSlots(draw(scenario, np.random.default_rng(1)), StateScale(), next_state="fixed")
    assert slots.slot is not None
    assert slots.slot.state_ASM.shape[0] == 1


def test_normal_states_are_of_order_one() -> None:
    scale = state_scale(Scenario(name="default"), "normal")
    assert (scale.input_mbit, scale.work) == (5.0, 0.3072 * 14)
    np.testing.assert_allclose(scale.backlog_B, 20.0 * capacities(Scenario(name="default")))
    assert state_scale(TINY, "raw") == StateScale()
    again = StateScale.from_array(scale.array())
    np.testing.assert_array_equal(again.array(), scale.array())


def test_what_is_no_number_is_refused_by_name() -> None:
    good, one = np.array([2.0, 3.0]), np.array([1.0, 1.0])
    state_NS = encode(good, one, np.array([4.0]), StateScale(backlog_B=(2.0,)))
    np.testing.assert_array_equal(state_NS, [[2.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    with pytest.raises(ValueError, match="work of task 1 is nan"):
        encode(good, np.array([1.0, np.nan]), np.array([4.0]), StateScale())
    with pytest.raises(ValueError, match="backlog of server 1 of task 0 is inf"):
        encode(good, one, np.array([4.0, np.inf]), StateScale())
    with pytest.raises(ValueError, match=r"cannot be divided by 0\.0"):
        StateScale(work=0.0)
    with pytest.raises(ValueError, match="3 servers; the scale is for 2"):
        encode(good, one, np.ones(3), StateScale(backlog_B=(1.0, 1.0)))

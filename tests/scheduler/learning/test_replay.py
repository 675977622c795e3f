"""Ring buffers of several agents, worked by hand, and what a latent's place in the memory is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scheduler.features import StateScale
from scheduler.learning.choice import Diverged, best, drawn, explored
from scheduler.learning.latent_memory import LatentMemory
from scheduler.learning.replay import ReplayStack
from scheduler.learning.station_slots import StationSlots
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.workload import draw


def pool(capacity: int = 4) -> ReplayStack:
    return ReplayStack(2, capacity, {"value": (1, torch.float32), "action": (1, torch.int64)})


def add(stack: ReplayStack, agent: list[int], order: list[int], value: list[float]) -> None:
    stack.add(
        np.array(agent),
        np.array(order),
        value=torch.tensor(value, dtype=torch.float32),
        action=torch.tensor(value, dtype=torch.int64),
    )


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def held(stack: ReplayStack, agent: int) -> set[float]:
    rows = stack.sample(400, generator()).view(2, -1)[agent]
    return set(stack.field("value", rows)[:, 0].tolist())


def test_each_agent_has_a_ring_of_its_own_and_loses_its_oldest() -> None:
    stack = pool()
    add(stack, [0, 0, 0, 1], [0, 1, 2, 0], [1, 2, 3, 10])
    assert stack.size_A.tolist() == [3, 1]
    assert held(stack, 0) == {1, 2, 3}
    add(stack, [1, 0, 0], [0, 0, 1], [11, 4, 5])
    assert stack.size_A.tolist() == [4, 2]
    assert held(stack, 0) == {2, 3, 4, 5}
    assert held(stack, 1) == {10, 11}


def test_more_than_a_pool_holds_at_once_is_refused() -> None:
    with pytest.raises(ValueError, match="5 transitions at once; a pool holds 4"):
        add(pool(), [0] * 5, list(range(5)), [1.0] * 5)


def test_a_batch_is_uniform_over_what_is_held() -> None:
    stack = pool()
    add(stack, [0] * 4 + [1], [0, 1, 2, 3, 0], [0, 1, 2, 3, 9])
    add(stack, [0], [0], [4])
    rows = stack.sample(40_000, generator()).view(2, -1)[0]
    counts = torch.bincount(stack.field("action", rows)[:, 0], minlength=5)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:] / 40_000, 0.25, atol=0.01)


def test_runs_are_consecutive_and_oldest_first_across_the_seam() -> None:
    stack = pool()
    for start in (0, 3, 6):
        add(stack, [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2], [start, start + 1, start + 2] * 2)
    rows_XL = stack.sample_runs(200, 3, generator())
    values_XL = stack.field("value", rows_XL)[:, :, 0]
    assert {tuple(run) for run in values_XL.tolist()} == {(5, 6, 7), (6, 7, 8)}


def test_state_goes_to_another_pool_and_both_go_on_alike() -> None:
    first, second = pool(), pool()
    add(first, [0, 0, 1], [0, 1, 0], [1, 2, 3])
    second.load_state({name: value.clone() for name, value in first.state().items()})
    for stack in (first, second):
        add(stack, [0, 0, 0], [0, 1, 2], [4, 5, 6])
    assert held(first, 0) == held(second, 0) == {2, 4, 5, 6}


def test_choices_follow_chances_and_refuse_what_is_no_number() -> None:
    chance_NB = torch.tensor([[0.2, 0.0, 0.8]]).expand(20_000, -1)
    counts = torch.bincount(drawn(chance_NB, generator()), minlength=3) / 20_000
    np.testing.assert_allclose(counts, [0.2, 0.0, 0.8], atol=0.01)
    assert best(torch.tensor([[1.0, 3.0, 3.0]])).tolist() == [1]
    shares = torch.bincount(explored(chance_NB, 0.3, generator()), minlength=3) / 20_000
    np.testing.assert_allclose(shares, [0.1, 0.1, 0.8], atol=0.01)
    for bad in (float("nan"), float("inf")):
        for choose in (best, lambda values: drawn(values, generator())):
            with pytest.raises(Diverged, match=f"output {bad} for server 1, task 0"):
                choose(torch.tensor([[0.1, bad]]))


def test_a_latent_is_read_where_the_same_slot_left_it_an_episode_ago() -> None:
    scenario = Scenario(name="tiny", servers=3, tasks_per_slot_max=4, slots=5)
    episode = draw(scenario, np.random.default_rng(0))
    memory = LatentMemory(scenario, "episode", generator())
    assert memory.value_TANB.shape == (6, 3, 4, 3)
    slots = StationSlots(episode, StateScale(), next_state="fixed")
    before_S = None
    while (slot := slots.slot) is not None:
        rows, following = memory.rows(slot), memory.following_rows(slot)
        value_NB = memory.value_TANB[slot.index, slot.agent_N, slot.order_N]
        assert torch.equal(memory.flat[rows], value_NB)
        assert torch.equal(slot.rows(memory.table(slot)), value_NB)
        last_N = torch.from_numpy(slot.last_N)
        assert torch.equal(following[:-1][~last_N[:-1]], rows[1:][~last_N[:-1]])
        next_NB = memory.value_TANB[slot.index + 1, slot.agent_N[slot.last_N], 0]
        assert torch.equal(memory.flat[following][last_N], next_NB)
        if before_S is not None:
            first_N = torch.from_numpy(slot.order_N == 0)
            assert torch.equal(before_S, rows[first_N])  # a successor reads what was promised
        before_S = following[last_N]
        slots.place(np.zeros(len(rows), np.int64))


def test_the_papers_latent_is_the_previous_slots() -> None:
    scenario = Scenario(name="tiny", servers=3, tasks_per_slot_max=4, slots=5)
    memory = LatentMemory(scenario, "slot", generator())
    assert memory.value_TANB.shape == (1, 3, 4, 3)
    slots = StationSlots(draw(scenario, np.random.default_rng(0)), StateScale(), next_state="code")
    first = slots.slot
    assert first is not None
    slots.place(np.zeros(len(first.agent_N), np.int64))
    second = slots.slot
    assert second is not None
    assert memory.rows(first)[0] == memory.rows(second)[0]
    copy = memory.copy()
    copy.flat[memory.rows(first)] = 0.0
    assert memory.flat[memory.rows(first)].abs().min() > 0

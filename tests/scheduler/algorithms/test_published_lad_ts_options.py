"""LAD-TS as printed where its code departs: what the memory keeps, and when it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scheduler.algorithms.published_lad_ts import BoolArray, PublishedLadTs
from scheduler.learning import learners
from scheduler.learning.choice import Diverged
from scheduler.learning.station_slots import StationSlots
from scheduler.learning.trainer import arrivals
from scheduler.simulator.scenario import Scenario

SCENARIO = Scenario(
    name="options", servers=3, capacity_range=(4, 10), tasks_per_slot_max=5, slots=12
)


def learner_of(scenario: Scenario = SCENARIO, **options: Any) -> PublishedLadTs:
    wanted = {"pool_min": 10, "batch": 16, "pool": 500, **options}
    learner = learners.create("lad_ts_published", scenario, wanted, seed=5)
    assert isinstance(learner, PublishedLadTs)
    return learner


def first_slot(learner: PublishedLadTs) -> Tensor:
    """The memory's rows after the first slot was decided."""
    slots = StationSlots(arrivals(SCENARIO, seed=1, episode=0), learner.scale, next_state="fixed")
    assert slots.slot is not None
    learner._decide(slots.slot, learner.memory, learner.noise, learner.generator)
    return learner.memory.flat[learner.memory.rows(slots.slot)]


def test_the_memory_keeps_x_0_itself_or_its_softmax() -> None:
    raw, softmax = first_slot(learner_of(keeps="raw")), first_slot(learner_of())
    torch.testing.assert_close(torch.softmax(raw, 1), softmax)
    torch.testing.assert_close(softmax.sum(1), torch.ones(len(softmax)))
    assert (raw.sum(1) - 1.0).abs().min() > 0.01


def test_raw_latents_leave_the_range_of_numbers_within_an_episode() -> None:
    scenario = SCENARIO.replace(slots=60)
    episode = arrivals(scenario, seed=1, episode=0)
    with pytest.raises(Diverged):
        learner_of(scenario, keeps="raw", memory="slot").train_episode(episode)
    delay_s_N, _ = learner_of(scenario, keeps="softmax", memory="slot").train_episode(episode)
    assert np.isfinite(delay_s_N).all()


def test_where_a_slot_brings_one_task_both_ways_to_learn_are_one() -> None:
    scenario = SCENARIO.replace(tasks_per_slot_max=1, slots=40)
    by_slot, by_task = learner_of(scenario), learner_of(scenario, update="task")
    for index in range(2):
        episode = arrivals(scenario, seed=2, episode=index)
        slot_s_N, task_s_N = (one.train_episode(episode)[0] for one in (by_slot, by_task))
        np.testing.assert_array_equal(slot_s_N, task_s_N)
    same = zip(by_slot.actor.parameters(), by_task.actor.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)


def test_each_station_learns_once_for_each_of_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_of(update="task", pool_min=0)
    learned_A = np.zeros(3, np.int64)
    learn = PublishedLadTs.learn

    def counted(self: PublishedLadTs, learning_A: BoolArray | None = None) -> Tensor:
        assert learning_A is not None
        nonlocal learned_A
        learned_A += learning_A
        return learn(self, learning_A)

    monkeypatch.setattr(PublishedLadTs, "learn", counted)
    episode = arrivals(SCENARIO, seed=3, episode=0)
    _, means = learner.train_episode(episode)
    np.testing.assert_array_equal(learned_A, np.bincount(episode.origin_N))
    assert np.isfinite(list(means.values())).all()


def test_task_by_task_each_transition_is_followed_by_the_next() -> None:
    learner = learner_of(update="task", next_state="fixed", pool_min=10_000)
    episode = arrivals(SCENARIO, seed=4, episode=0)
    delay_s_N, _ = learner.train_episode(episode)
    for agent in range(3):
        count = int(learner.pool.size_A[agent])
        assert count == (episode.origin_N == agent).sum()
        rows = torch.arange(agent * 500, agent * 500 + count)
        state, following, paid = (
            learner.pool.field(name, rows) for name in ("state", "next_state", "reward")
        )
        torch.testing.assert_close(following[:-1], state[1:])
        own_s_N = delay_s_N[episode.origin_N == agent]
        np.testing.assert_allclose(paid[:, 0].numpy(), -own_s_N, rtol=1e-6)


def test_stations_act_side_by_side_task_by_task(monkeypatch: pytest.MonkeyPatch) -> None:
    # All go to server 0: second tasks wait for all first ones, not for those of station 0 alone.
    learner = learner_of(SCENARIO.replace(slots=1), update="task")

    def to_the_first(*_: object, turn: int, **__: object) -> Tensor:
        return torch.zeros(int((episode.index_N == turn).sum()), dtype=torch.int64)

    monkeypatch.setattr(learner, "_decide", to_the_first)
    episode = arrivals(SCENARIO.replace(slots=1), seed=5, episode=0)
    delay_s_N, _ = learner.train_episode(episode)
    order_N = np.lexsort((episode.origin_N, episode.index_N))
    done_s_N = np.cumsum(episode.work_N[order_N]) / episode.capacity_KB[0, 0]
    servers_N = np.zeros(episode.tasks, np.int64)
    waited_s_N = (delay_s_N - episode.transfer_s(servers_N))[order_N]
    np.testing.assert_allclose(waited_s_N, done_s_N, rtol=1e-9)


def test_an_agent_that_does_not_learn_stays_as_it_is() -> None:
    masked, whole = learner_of(), learner_of()
    for one in (masked, whole):
        one.train_episode(arrivals(SCENARIO, seed=6, episode=0))
    before = [table[0].clone() for table, *_ in masked._kept_rows(np.zeros(3, bool))]
    losses, of_all = masked.learn(np.array([False, True, True])), whole.learn()
    assert not torch.equal(losses, of_all), "means are of those that learned"
    after, wanted = (
        [table for table, *_ in one._kept_rows(np.zeros(3, bool))] for one in (masked, whole)
    )
    assert len(after) > 20
    moved = 0
    for kept, now, all_learned in zip(before, after, wanted, strict=True):
        assert torch.equal(now[0], kept)
        assert torch.equal(now[1:], all_learned[1:])
        moved += not torch.equal(all_learned[0], kept)
    assert moved == len(after), "an update changes them all"

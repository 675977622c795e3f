from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scheduler.simulator import scenarios
from scheduler.simulator.scenario import CapacityChange, InvalidScenario, Scenario
from scheduler.simulator.workload import Episode, draw


def drawn(name: str) -> Episode:
    return draw(scenarios.get(name), np.random.default_rng(0))


def load_of(episode: Episode) -> float:
    scenario = episode.scenario
    served = episode.capacity_KB[0].sum() * scenario.slots * scenario.slot_s
    return float(episode.work_N.sum() / served)


def test_every_scenario_can_be_drawn() -> None:
    for name in scenarios.names():
        episode = drawn(name)
        assert episode.scenario.name == name
        assert episode.tasks > 0
        assert scenarios.description(name).endswith(".")


def test_the_scenarios_of_the_sweeps() -> None:
    assert scenarios.get("default") == Scenario(name="default")
    assert scenarios.get("B=40").servers == 40
    assert scenarios.get("N=40").slots == 300
    assert scenarios.get("f_max=30").capacity_range == (10, 30)
    assert drawn("z_max=20").steps_N.max() == 19
    assert scenarios.get("stale_5").refresh_s == 5.0


def test_fdedge_has_one_dispatcher_and_work_by_size() -> None:
    episode = drawn("fdedge")
    assert set(episode.origin_N) == {0}
    density_N = episode.work_N / episode.input_mbit_N
    assert density_N.min() >= 0.1024
    assert density_N.max() <= 0.3072
    assert len(set(episode.work_N)) == episode.tasks


def test_few_tasks_are_most_of_a_heavy_tail() -> None:
    work_N = np.sort(drawn("heavy_tail").work_N)
    assert work_N[-len(work_N) // 5 :].sum() > 0.5 * work_N.sum()
    assert 0.8 < load_of(drawn("heavy_tail")) < 1.0


@pytest.mark.parametrize("load", scenarios.ORIN_LOADS)
def test_orins_have_the_load_of_their_name(load: float) -> None:
    episode = drawn(f"orins_{load:g}")
    assert load_of(episode) == pytest.approx(load, rel=0.1)
    assert episode.work_N.mean() / 42.6 == pytest.approx(3.5, rel=0.02)
    assert set(episode.steps_N) == set(range(10, 20))
    assert drawn(f"orins_drift_{load:g}").capacity_KB[2].tolist() == pytest.approx(
        [26.7, 42.6, 26.7, 10.0, 5.0]
    )


def test_disturbances_hit_the_fastest() -> None:
    for name, published in (("capacity_drop", True), ("capacity_drop_believed", False)):
        episode = drawn(name)
        fast = np.argsort(-episode.capacity_KB[0], kind="stable")[:2]
        assert episode.since_s_K.tolist() == [0.0, 20.0]
        assert (episode.capacity_KB[1, fast] == episode.capacity_KB[0, fast] * 0.1).all()
        assert np.array_equal(episode.believed_KB, episode.capacity_KB) == published
    away = drawn("outage").capacity_KB
    assert (away == 0.0).sum(axis=1).tolist() == [0, 1, 0]


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        """
        base = "N=40"
        servers = 3
        capacities = [30, 20.5, 10.0]
        slot_s = 2
        station_order = "random"
        tasks_by_index = false
        steps_range = [2, 9]
        [[changes]]
        at_s = 4
        server = 1
        factor = 0.5
        """
    )
    assert scenarios.load(path) == scenarios.get("N=40").replace(
        name="mine",
        servers=3,
        capacities=(30.0, 20.5, 10.0),
        slot_s=2.0,
        station_order="random",
        tasks_by_index=False,
        steps_range=(2, 9),
        changes=(CapacityChange(at_s=4.0, server=1, factor=0.5),),
    )
    path.write_text('name = "yours"')
    assert scenarios.load(path) == Scenario(name="yours")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("serverz = 3", "unknown key 'serverz'; did you mean 'servers'?"),
        ("zzz = 3", "unknown key 'zzz'; known are name, servers"),
        ('base = "defualt"', "no scenario is called 'defualt'; did you mean 'default'?"),
        ("servers = 2.5", "servers is 2.5; it must be a whole number"),
        ("servers = true", "servers is True; it must be a whole number"),
        ("servers = 0", "servers is 0; it must be at least 1"),
        ('slot_s = "1"', "slot_s is '1'; it must be a number"),
        ("slot_s = nan", "slot_s is nan; it must be positive"),
        ("tasks_by_index = 1", "tasks_by_index is 1; it must be true or false"),
        ("name = 3", "name is 3; it must be a string"),
        ("steps_range = [1, 2, 3]", r"steps_range is \[1, 2, 3\]; it must be an array of 2"),
        ("steps_range = 5", "steps_range is 5; it must be an array of 2"),
        ("steps_range = [5, 5]", "half-open and not empty"),
        ("steps_range = [1.0, 5.0]", "steps_range is 1.0; it must be a whole number"),
        ("steps_tail = 0.0", "steps_tail is 0.0; it must be positive"),
        ('task_arrivals = "bursts"', "one of 'slotted', 'poisson'"),
        ('task_arrivals = "poisson"', "load is None; it must be positive"),
        ("load = 0.5", "load is 0.5; it must be None"),
        ("capacities = [1.0]", "capacities is .*; it must be one for each of 20"),
        ("task_seed = -1", "task_seed is -1"),
        ("changes = 3", "changes is 3; it must be an array"),
        ("changes = [3]", "changes is 3; it must be a table of at_s, factor, server"),
        ("[[changes]]\nat_s = 1.0", "it must be a table of at_s, factor, server"),
        ("[[changes]]\nat = 1.0", "unknown key 'changes.at'; did you mean 'at_s'?"),
        (
            "[[changes]]\nat_s = 1.0\nserver = 20\nfactor = 0.5",
            "changes.server is 20; it must be in 0..19",
        ),
        ("servers = ", "no readable TOML file"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(InvalidScenario, match=words) as caught:
        scenarios.load(path)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    for name in ("absent.toml", "bytes.toml", "."):
        with pytest.raises(InvalidScenario, match="no readable TOML file"):
            scenarios.load(tmp_path / name)

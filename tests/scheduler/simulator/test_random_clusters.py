"""Random clusters have the distribution that is documented, and a seed names them for good."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from scheduler.simulator.random_clusters import clusters, draw_cluster, weights_seed
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.workload import draw, mean_work


@pytest.fixture(scope="module")
def drawn() -> list[Scenario]:
    return clusters(7, 800, family="training")


def test_servers_loads_speeds_and_report_periods_cover_what_is_documented(
    drawn: list[Scenario],
) -> None:
    servers = np.array([one.servers for one in drawn])
    assert (servers.min(), servers.max()) == (2, 64)
    # Log-uniform: as many below the geometric mean of 2 and 65 as above it.
    assert np.mean(servers < (2 * 65) ** 0.5) == pytest.approx(0.5, abs=0.06)
    spreads = [max(one.capacities or ()) / min(one.capacities or ()) for one in drawn]
    assert max(spreads) > 10.0
    assert min(spreads) < 1.1
    assert all(0.0 < speed <= 50.0 for one in drawn for speed in one.capacities or ())
    poisson = [one for one in drawn if one.task_arrivals == "poisson"]
    slotted = [one for one in drawn if one.task_arrivals == "slotted"]
    assert len(poisson) / len(drawn) == pytest.approx(0.5, abs=0.06)
    assert min(one.refresh_s for one in poisson) == pytest.approx(0.02, rel=0.05)
    assert max(one.refresh_s for one in poisson) == pytest.approx(2.0, rel=0.05)
    assert {one.refresh_s == one.slot_s for one in slotted} == {True}
    assert min(one.slot_s for one in slotted) == pytest.approx(0.2, rel=0.05)
    assert max(one.slot_s for one in slotted) == pytest.approx(2.0, rel=0.05)


def test_loads_are_uniform_over_what_is_documented(drawn: list[Scenario]) -> None:
    loads = np.array([expected_load(one) for one in drawn])
    assert loads.min() == pytest.approx(0.2, abs=0.02)
    assert loads.max() == pytest.approx(1.7, abs=0.02)
    assert loads.mean() == pytest.approx(0.95, abs=0.05)
    assert np.mean(loads < 0.95) == pytest.approx(0.5, abs=0.06)


def expected_load(cluster: Scenario) -> float:
    """What arrives per second over what is worked off per second, on average."""
    if cluster.load is not None:
        return cluster.load
    per_slot = cluster.servers * (cluster.tasks_per_slot_max + 1) / 2 * mean_work(cluster)
    return per_slot / cluster.slot_s / sum(cluster.capacities or ())


def test_a_third_of_the_clusters_has_tasks_of_equal_size_and_a_third_heavy_tails(
    drawn: list[Scenario],
) -> None:
    equal = [one for one in drawn if one.density_range[0] == one.density_range[1]]
    heavy = [one for one in equal if one.steps_tail is not None]
    assert len(heavy) / len(drawn) == pytest.approx(1 / 3, abs=0.06)
    assert (len(equal) - len(heavy)) / len(drawn) == pytest.approx(1 / 3, abs=0.06)


def test_an_episode_has_the_load_and_about_the_length_that_its_cluster_promises() -> None:
    for place, cluster in enumerate(clusters(11, 25, family="validation")):
        episode = draw(cluster, np.random.default_rng(place))
        duration_s = cluster.slots * cluster.slot_s
        load = float(episode.work_N.sum()) / duration_s / sum(cluster.capacities or ())
        # Work of heavy tails has a standard deviation of 3 to 4 times its mean.
        assert load == pytest.approx(expected_load(cluster), rel=0.3), cluster.name
        assert 500 <= episode.tasks <= 60_000, cluster.name


def test_a_cluster_depends_on_seed_family_and_place_only() -> None:
    five = clusters(3, 5, family="test")
    assert clusters(3, 2, family="test") == five[:2]
    assert draw_cluster(np.random.default_rng([920_003, 3, 4])) == five[4]
    others = [*clusters(4, 5, family="test"), *clusters(3, 5, family="training")]
    others += clusters(3, 5, family="validation")
    assert not {one.capacities for one in five} & {one.capacities for one in others}


def test_the_seed_of_a_test_follows_from_every_byte_of_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\x01" * 100)
    seed = weights_seed(path)
    assert seed == int(hashlib.sha256(b"\x01" * 100).hexdigest()[:16], 16)
    path.write_bytes(b"\x01" * 99 + b"\x02")
    assert weights_seed(path) != seed
    assert len(clusters(seed, 1, family="test")) == 1

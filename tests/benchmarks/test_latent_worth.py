"""What parts of LAD-TS are worth: runs that are paired by seed, on clusters of the test family."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import latent_worth
from scheduler.learning import pretraining
from scheduler.simulator.random_clusters import clusters


def test_clusters_are_the_same_at_both_ages_of_state_and_drawn_for_testing() -> None:
    fresh, old, slotted = latent_worth.regimes(3, 2).values()
    assert [one.refresh_s for one in fresh] == [0.02, 0.02]
    assert [one.refresh_s for one in old] == [1.0, 1.0]
    assert [one.capacities for one in fresh] == [one.capacities for one in old]
    assert all(one.refresh_s == one.slot_s for one in slotted)
    names = {one.name for one in clusters(3, 16, family="test")}
    assert {one.name for one in (*fresh, *old, *slotted)} <= names


def test_an_interval_covers_what_seeds_and_clusters_could_have_been() -> None:
    log_SC = np.log1p(np.array([[0.10, 0.10, 0.10], [0.30, 0.30, 0.30]]))
    found = latent_worth.interval(log_SC)
    assert found["mean"] == pytest.approx(100 * (np.sqrt(1.1 * 1.3) - 1))
    assert (found["low"], found["high"]) == (pytest.approx(10.0), pytest.approx(30.0))
    same = latent_worth.interval(np.full((3, 4), np.log(0.98)))
    assert same == {key: pytest.approx(-2.0) for key in ("mean", "low", "high")}


def test_runs_are_paired_with_those_that_keep_their_latents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "VALIDATION_CLUSTERS", 1)
    for variant, changes in (("kept", []), ("plain", ["steps=1", "start=zero", "noise=none"])):
        asked = ["--out", str(tmp_path / "runs" / variant), "--seed", "4", "--rounds", "1"]
        pretraining.main([*asked, *(word for one in changes for word in ("--set", one))])
    results = tmp_path / "worth.json"
    latent_worth.main([str(tmp_path / "runs"), "--clusters", "1", "--json", str(results)])
    found = json.loads(results.read_text())
    kept, plain = found["variants"]
    assert (kept["variant"], plain["variant"]) == ("kept", "plain")
    assert plain["runs"][0]["config"]["steps"] == 1
    for name, regime in plain["regimes"].items():
        assert kept["regimes"][name]["over_kept"]["mean"] == 0.0
        over = 1.0 + regime["over_best_rule"]["mean"] / 100.0
        base = 1.0 + kept["regimes"][name]["over_best_rule"]["mean"] / 100.0
        assert over / base - 1.0 == pytest.approx(regime["over_kept"]["mean"] / 100.0)


def test_without_the_runs_to_compare_with_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "zero").mkdir()
    with pytest.raises(SystemExit):
        latent_worth.main([str(tmp_path)])

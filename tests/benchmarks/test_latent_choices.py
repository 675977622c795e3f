"""The latent's share of choices, on a few of them."""

from __future__ import annotations

import pytest

from benchmarks import latent_choices
from scheduler.simulator import scenarios


def test_what_a_latent_changes_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    short = scenarios.get("orins_0.8").replace(slots=200)
    monkeypatch.setattr(scenarios, "get", lambda name: short)
    old, fresh = (latent_choices.changed("orins_0.8", age_s, 2) for age_s in (5.0, 0.001))
    assert old["choices"] == fresh["choices"] > 50
    assert 0 < old["changed"] < old["choices"]
    assert old["changed_percent"] == 100.0 * old["changed"] / old["choices"]
    assert fresh["changed"] < old["changed"], "on fresh state the ring and the latent fade"

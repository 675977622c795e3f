from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scheduler.simulator.environment import PlacementEnv
from scheduler.simulator.reference_trace import InvalidTrace, load_trace, replay
from scheduler.simulator.service import Discipline, service_delay_s

GOLDEN = Path(__file__).parents[2] / "golden"
TRACES = [GOLDEN / "reference_trace_small.npz", GOLDEN / "reference_trace_default.npz"]
Arrays = dict[str, np.ndarray]


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_the_simulator_agrees_with_the_authors(path: Path) -> None:
    trace = load_trace(path)
    found = replay(trace)
    assert found.tasks == trace.episode.tasks > 100
    assert found.delay_s_max < 1e-9
    assert found.queue_s_max < 1e-9
    at_once = service_delay_s(trace.episode, trace.action_N, Discipline())
    np.testing.assert_allclose(at_once, trace.service_delay_s_N, atol=1e-9, rtol=0)


def test_the_environment_agrees_with_the_authors() -> None:
    trace = load_trace(TRACES[0])
    env = PlacementEnv(trace.episode.scenario)
    observation, _ = env.reset(options={"episode": trace.episode})
    for task, action in enumerate(trace.action_N):
        np.testing.assert_allclose(observation[3:7], trace.queue_NB[task], rtol=1e-6, atol=1e-6)
        observation, reward, *_ = env.step(action)
        assert -reward == pytest.approx(trace.service_delay_s_N[task], abs=1e-9)


def arrays_of(path: Path) -> Arrays:
    with np.load(path) as archive:
        return dict(archive)


def savez(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


def test_a_departure_is_seen(tmp_path: Path) -> None:
    arrays = arrays_of(TRACES[0])
    arrays["decisions"][50, -1] += 1e-6
    arrays["queue_at_slot_start_gcycles"][70, 2] += 1e-3
    savez(tmp_path / "late.npz", arrays)
    found = replay(load_trace(tmp_path / "late.npz"))
    assert found.delay_s_max == pytest.approx(1e-6)
    assert found.queue_s_max == pytest.approx(1e-3 / arrays["capacity_gcycles_s"][2])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95, 0.999])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    whole = TRACES[1].read_bytes()
    path = tmp_path / "short.npz"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InvalidTrace, match=r"short\.npz"):
        load_trace(path)


def test_a_damaged_file(tmp_path: Path) -> None:
    damaged = bytearray(TRACES[1].read_bytes())
    damaged[2000:3000] = bytes(1000)
    path = tmp_path / "damaged.npz"
    path.write_bytes(damaged)
    with pytest.raises(InvalidTrace, match="cannot be read"):
        load_trace(path)


def test_files_of_other_kinds(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("slot,origin\n0,0\n")
    for name in ("one.npy", "text.npz", "absent.npz", "."):
        with pytest.raises(InvalidTrace):
            load_trace(tmp_path / name)


def without(name: str) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.__delitem__(name)


def setting(name: str, place: Any, value: Any) -> Callable[[Arrays], None]:
    return lambda arrays: arrays[name].__setitem__(place, value)


def shortened(name: str) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.__setitem__(name, arrays[name][:-1])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without("decisions"), "no array decisions"),
        (without("columns"), "no array columns"),
        (setting("columns", 7, "choice"), "no column action"),
        (shortened("columns"), "no column service_delay_s"),
        (shortened("queue_at_slot_start_gcycles"), r"queues are \(109, 4\)"),
        (shortened("rate_mbit_s"), "rates"),
        (shortened("decisions"), r"not 109 tasks x 4 servers"),
        (setting("decisions", (3, 7), 4.0), r"action holds servers beyond 0\.\.3"),
        (setting("decisions", (3, 1), 0.5), "origin holds numbers that are not whole"),
        (setting("decisions", (3, 3), np.nan), "input_mbit holds numbers below 0 or"),
        (setting("decisions", (3, 8), -1.0), "service_delay_s holds numbers below 0"),
        (setting("decisions", (3, 5), 0.0), "steps holds zeros"),
        (setting("decisions", (3, 0), 40.0), "slots fall"),
        (setting("capacity_gcycles_s", 0, 0.0), "capacity_gcycles_s holds zeros"),
        (setting("rate_mbit_s", 0, np.inf), "not finite"),
    ],
)
def test_what_is_wrong_with_a_trace(
    tmp_path: Path, spoil: Callable[[Arrays], None], words: str
) -> None:
    arrays = arrays_of(TRACES[0])
    spoil(arrays)
    savez(tmp_path / "wrong.npz", arrays)
    with pytest.raises(InvalidTrace, match=words):
        load_trace(tmp_path / "wrong.npz")

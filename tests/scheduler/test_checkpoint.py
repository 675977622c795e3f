"""Checkpoints come back as they were written, or not at all and for a stated reason."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from scheduler import checkpoint
from scheduler.checkpoint import Checkpoint, CheckpointInfo, InvalidCheckpoint


def example(**arrays: np.ndarray) -> Checkpoint:
    info = CheckpointInfo(
        kind="policy",
        policy="lad_ts",
        scenario={"name": "tiny", "steps_range": [1, 15]},
        config={"hidden": 20, "state": "normal"},
        seed=3,
        episodes=60,
        code_version="0.1.0",
        metrics={"gap_to_opt_ts": 0.025},
    )
    default = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "one": np.array(True)}
    return Checkpoint(info=info, arrays=arrays or default)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "policy.safetensors"
    checkpoint.save(path, example())
    loaded = checkpoint.load(path, kind="policy")
    assert loaded.info.metrics == {"gap_to_opt_ts": 0.025}
    assert loaded.info.scenario == {"name": "tiny", "steps_range": [1, 15]}
    assert loaded.info.shapes == {"weight": [2, 3], "one": []}
    assert loaded.arrays["weight"].dtype == np.float32
    np.testing.assert_array_equal(loaded.arrays["weight"], example().arrays["weight"])
    assert loaded.arrays["one"].shape == ()
    assert sorted(entry.name for entry in path.parent.iterdir()) == [path.name]


def test_an_absent_file_is_said_to_be_absent(tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match=r"none\.safetensors: there is no such file"):
        checkpoint.load(tmp_path / "none.safetensors", kind="policy")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "policy.safetensors"
    checkpoint.save(path, example())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InvalidCheckpoint, match=r"truncated or no checkpoint at all \(\d+ bytes"):
        checkpoint.load(path, kind="policy")


def test_another_format_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    arrays = {"weight": np.zeros(2, np.float32)}
    path.write_bytes(safetensors.numpy.save(arrays, {"format_version": "7"}))
    with pytest.raises(InvalidCheckpoint, match="format version 7; this code reads version 1"):
        checkpoint.load(path, kind="policy")
    path.write_bytes(safetensors.numpy.save(arrays))
    with pytest.raises(InvalidCheckpoint, match="no format version"):
        checkpoint.load(path, kind="policy")
    path.write_bytes(safetensors.numpy.save(arrays, {"format_version": "1", "seed": "3"}))
    with pytest.raises(InvalidCheckpoint, match="metadata lack code_version, config, episodes"):
        checkpoint.load(path, kind="policy")


def test_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    checkpoint.save(path, example())
    with pytest.raises(InvalidCheckpoint, match="a policy checkpoint; a training one is needed"):
        checkpoint.load(path, kind="training")


def test_wrong_shapes_name_the_array_and_both_shapes(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    checkpoint.save(path, example())
    metadata = {"shapes": json.dumps({"weight": [3, 2], "one": []})}
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata() | metadata
    path.write_bytes(safetensors.numpy.save(example().arrays, metadata))
    with pytest.raises(InvalidCheckpoint, match=r"'weight' has shape \(2, 3\); it must be \(3, 2"):
        checkpoint.load(path, kind="policy")
    with pytest.raises(InvalidCheckpoint, match="array 'bias' is missing"):
        checkpoint.require_shapes(path, example().arrays, {"bias": (2,)})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_neither_written_nor_read(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "policy.safetensors"
    checkpoint.save(path, example())
    good = path.read_bytes()
    weight = np.ones((2, 3), np.float32)
    weight[1, 2] = bad
    with pytest.raises(InvalidCheckpoint, match=rf"'weight' is {bad} at \(1, 2\)"):
        checkpoint.save(path, example(weight=weight))
    assert path.read_bytes() == good
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata() | {"shapes": json.dumps({"weight": [2, 3]})}
    path.write_bytes(safetensors.numpy.save({"weight": weight}, metadata))
    with pytest.raises(InvalidCheckpoint, match=rf"'weight' is {bad} at \(1, 2\)"):
        checkpoint.load(path, kind="policy")


def test_the_last_good_one_stays_when_the_disk_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "policy.safetensors"
    checkpoint.save(path, example())
    good = path.read_bytes()

    def refuse(handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, example(weight=np.zeros(3, np.float32)))
    assert path.read_bytes() == good
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_it_is_whole_on_disk_before_it_has_its_name_and_then_so_is_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "policy.safetensors"
    synced: list[tuple[bool, bool, int]] = []

    def note(handle: int) -> None:
        status = os.fstat(handle)
        synced.append((stat.S_ISDIR(status.st_mode), path.exists(), status.st_size))

    monkeypatch.setattr(os, "fsync", note)
    checkpoint.save(path, example())
    (file, folder) = synced
    assert file == (False, False, path.stat().st_size)
    assert folder[:2] == (True, True)


def test_a_refusal_is_told_though_the_disk_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = [OSError("disk full")]

    def refuse(handle: int) -> None:
        if refusals:
            raise refusals.pop()

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tmp_path / "policy.safetensors", example())
    assert list(tmp_path.iterdir()) == []


def test_metadata_that_are_damaged_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    checkpoint.save(path, example())
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata() | {"seed": "{"}
    path.write_bytes(safetensors.numpy.save(example().arrays, metadata))
    with pytest.raises(InvalidCheckpoint, match="metadata are damaged"):
        checkpoint.load(path, kind="policy")


def test_whole_numbers_need_not_be_finite_and_what_is_more_is_let_through(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    arrays = {"counts": np.array([1, 2]), "weight": np.array([0.5, 1.5])}
    checkpoint.save(path, example(**arrays))
    assert checkpoint.load(path, kind="policy").arrays["counts"].tolist() == [1, 2]
    checkpoint.require_shapes(path, arrays, {"weight": [2]})

"""Sums of a model's files: recorded, compared, and what is said of what differs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edge_node.cli import main
from edge_node.worker.tiny_sd3 import model_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(model_folder(), tmp_path / "model")
    return tmp_path / "model"


def verify(folder: Path, *more: str) -> int:
    return main(["weights", "verify", "--set", f"model={folder}", *more])


def test_sums_are_recorded_once_and_compared_from_then_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(folder) == 0
    assert "Recorded the sums of 4 files" in capsys.readouterr().out
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert verify(folder) == 0
    assert "All 4 files are as" in capsys.readouterr().out
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-100, 2)
        byte = file.read(1)
        file.seek(-100, 2)
        file.write(bytes([byte[0] ^ 1]))
    (folder / "text_encoder" / "model.safetensors").unlink()
    assert verify(folder) == 1
    said = capsys.readouterr().out
    assert f"{weights} has the sum " in said
    assert "text_encoder/model.safetensors cannot be read: No such file" in said
    assert "2 of 4 files are not as" in said


def test_a_list_may_lie_elsewhere_and_be_written_anew(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sums = tmp_path / "sums"
    sums.write_text(f"{'0' * 64}  vae/diffusion_pytorch_model.safetensors\n")
    assert verify(folder, "--sums", str(sums)) == 1
    assert verify(folder, "--sums", str(sums), "--record") == 0
    assert verify(folder, "--sums", str(sums)) == 0
    assert not (folder / "SHA256SUMS").exists()
    capsys.readouterr()
    for content, said in (("x\n", "Line 1 of .* is no sum"), ("", "has no sums")):
        sums.write_text(content)
        assert verify(folder, "--sums", str(sums)) == 2
        assert said.split(".*")[-1].strip() in capsys.readouterr().err


def test_what_is_no_model_has_no_sums(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(tmp_path / "absent") == 2
    assert "does not exist" in capsys.readouterr().err

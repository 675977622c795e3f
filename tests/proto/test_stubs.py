"""The committed stubs are what the .proto files say, and those keep buf's standard style."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

PROTO = Path(__file__).parent.parent.parent / "proto"
FORMER = PROTO.parent / "tests" / "golden" / "v0.1.0" / "wire.binpb"
TOOLS = Path(sys.executable).parent
SOURCES = (
    "dedgeai/v1/node.proto",
    "dedgeai/v1/worker.proto",
    "dedgeai/v1/load_report.proto",
)


def test_committed_stubs_match_the_proto_files(tmp_path: Path) -> None:
    kinds = ("python_out", "pyi_out", "grpc_python_out", "mypy_grpc_out")
    outputs = [f"--{kind}={tmp_path}" for kind in kinds]
    plugin = f"--plugin={TOOLS / 'protoc-gen-mypy_grpc'}"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", plugin, *outputs, *SOURCES]
    subprocess.run(command, cwd=PROTO, check=True)
    generated = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert len(generated) == 12
    for path in generated:
        committed = PROTO / path.relative_to(tmp_path)
        assert committed.read_text() == path.read_text(), f"{committed.name}: run `make proto`"


def buf(*arguments: str, folder: Path = PROTO) -> subprocess.CompletedProcess[str]:
    command = [str(TOOLS / "buf"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_style_is_bufs_standard() -> None:
    done = buf("lint")
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_that_0_1_0_says_is_taken_away_or_given_another_meaning(tmp_path: Path) -> None:
    done = buf("breaking", "--against", str(FORMER))
    assert done.returncode == 0, done.stdout + done.stderr
    # And it would be seen: a field of another type, one without its number kept free.
    shutil.copytree(PROTO, tmp_path / "proto", ignore=shutil.ignore_patterns("*.py*"))
    node = tmp_path / "proto" / "dedgeai" / "v1" / "node.proto"
    said = node.read_text()
    for before, after in (
        ("uint64 incarnation = 2;", "string incarnation = 2;"),
        ("  double backlog = 4;\n", ""),
        ("  rpc GetJob(GetJobRequest) returns (GetJobResponse);\n", ""),
    ):
        assert said.count(before) == 1
        node.write_text(said.replace(before, after))
        done = buf("breaking", "--against", str(FORMER), folder=tmp_path / "proto")
        assert done.returncode == 100, done.stdout + done.stderr

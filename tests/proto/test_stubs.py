"""The committed stubs are what the .proto files say, and those keep buf's standard style."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROTO = Path(__file__).parent.parent.parent / "proto"
TOOLS = Path(sys.executable).parent
SOURCES = ("dedgeai/v1/node.proto", "dedgeai/v1/worker.proto")


def test_committed_stubs_match_the_proto_files(tmp_path: Path) -> None:
    kinds = ("python_out", "pyi_out", "grpc_python_out", "mypy_grpc_out")
    outputs = [f"--{kind}={tmp_path}" for kind in kinds]
    plugin = f"--plugin={TOOLS / 'protoc-gen-mypy_grpc'}"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", plugin, *outputs, *SOURCES]
    subprocess.run(command, cwd=PROTO, check=True)
    generated = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert len(generated) == 8
    for path in generated:
        committed = PROTO / path.relative_to(tmp_path)
        assert committed.read_text() == path.read_text(), f"{committed.name}: run `make proto`"


def test_style_is_bufs_standard() -> None:
    done = subprocess.run([TOOLS / "buf", "lint"], cwd=PROTO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

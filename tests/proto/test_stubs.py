"""The committed stubs are what the .proto files say, and those keep buf's standard style."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROTO = Path(__file__).parent.parent.parent / "proto"
SOURCES = ("dedgeai/v1/node.proto", "dedgeai/v1/worker.proto")


def test_committed_stubs_match_the_proto_files(tmp_path: Path) -> None:
    outputs = [f"--{kind}={tmp_path}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", *outputs, *SOURCES]
    subprocess.run(command, cwd=PROTO, check=True)
    generated = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert len(generated) == 6
    for path in generated:
        committed = PROTO / path.relative_to(tmp_path)
        assert committed.read_text() == path.read_text(), f"{committed.name}: run `make proto`"


def test_style_is_bufs_standard() -> None:
    buf = Path(sys.executable).parent / "buf"
    done = subprocess.run([buf, "lint"], cwd=PROTO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

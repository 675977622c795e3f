"""Whether CUDA works, found out by running it, in a process of its own.

Owns that process and its time limit. It must not import torch: a CUDA that crashes or hangs is a
finding, not the end of the doctor. Run on a CPU by a test; not run on a device.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from edge_node.config import NodeConfig
from edge_node.console.doctor_checks.finding import Finding
from edge_node.telemetry.jetson import is_jetson

# Bounds a hang; importing torch from a cold disk and CUDA's first call take a part of it.
PROBE_S_MAX = 120.0
_KILLED_S_MAX = 5.0
# Unit roundoff of fp16.
_ROUNDOFF = 2.0**-11
# The image whose torch is built for the device: docs/facts.md.
_RIGHT_TORCH = "docker compose -f deploy/compose.yaml up -d"


def has_gpu(root: Path) -> bool:
    """Whether the machine has an NVIDIA GPU: a Jetson's, or one with NVIDIA's kernel driver."""
    return is_jetson(root) or (root / "proc/driver/nvidia/version").exists()


def examine_gpu(config: NodeConfig, root: Path, *, device: str = "cuda") -> list[Finding]:
    """Findings on a kernel that was really run, and on fp16."""
    if config.engine != "sd3":
        return _skipped(f"the engine is {config.engine}")
    if config.worker_socket is not None:
        return _skipped(f"the worker at {config.worker_socket} brings its own torch")
    if device == "cuda" and not has_gpu(root):
        return _skipped("no NVIDIA GPU: the worker draws on the CPU")
    facts = _probe(device)
    if isinstance(facts, Finding):
        return [facts]
    torch_is = f"torch {facts['torch']}"
    if "fp32_error" not in facts:
        seen = f"{torch_is} finds no CUDA device"
        return [Finding(check="cuda", level="fail", seen=seen, remedy=_RIGHT_TORCH)]
    # A sum of n rounded terms is off by some sqrt(n) roundoffs: Higham and Mary 2019, "A new
    # approach to probabilistic rounding error analysis". Sums kept in fp32 are well within.
    error_max = math.sqrt(facts["side"]) * _ROUNDOFF
    where = f"{torch_is} on {facts['device']}"
    return [
        _judged("cuda", facts["fp32_error"], seen=f"a kernel ran, {where}", error_max=error_max),
        _judged("fp16", facts["fp16_error"], seen="a product in fp16", error_max=error_max),
    ]


def _judged(check: str, error: float | None, *, seen: str, error_max: float) -> Finding:
    if error is None:
        seen += ": not finite"
    else:
        seen += f": off by {error:.1e} of its size, {error_max:.1e} allowed"
    if error is not None and error <= error_max:
        return Finding(check=check, level="ok", seen=seen)
    remedy = _RIGHT_TORCH if check == "cuda" else 'dtype = "bfloat16" in the configuration'
    return Finding(check=check, level="fail", seen=seen, remedy=remedy)


def _skipped(seen: str) -> list[Finding]:
    return [Finding(check=check, level="skipped", seen=seen) for check in ("cuda", "fp16")]


def _probe(device: str) -> dict[str, Any] | Finding:
    """What the probe printed, or how it failed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_node.console.doctor_checks.gpu_probe", device],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said, complained = process.communicate(timeout=PROBE_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        # A process that hangs inside the driver does not even die; waiting for it is no use.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_KILLED_S_MAX)
        return _failed(f"no kernel ran within {PROBE_S_MAX:g} s", remedy="sudo reboot")
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return _failed(f"the kernel's process ended by {name}", remedy="sudo dmesg | tail -n 30")
    if process.returncode > 0:
        last = (complained.strip().splitlines() or ["it said nothing"])[-1]
        missing = "No module named 'torch'" in last
        remedy = "pip install 'dedgeai[worker]'" if missing else _RIGHT_TORCH
        return _failed(f"no kernel ran: {last}", remedy=remedy)
    facts: dict[str, Any] = json.loads(said.splitlines()[-1])
    return facts


def _failed(seen: str, *, remedy: str) -> Finding:
    return Finding(check="cuda", level="fail", seen=seen, remedy=remedy)

"""The Jetson's own settings: power mode, clocks, heat, swap.

Owns what they mean for drawing. It reads, through telemetry/jetson.py, and sets nothing. Written
against documented layouts; not run on a device.
"""

from __future__ import annotations

import re
from pathlib import Path

from edge_node.console.doctor_checks.finding import Finding, sized
from edge_node.telemetry.jetson import DeviceReading, is_jetson, power_mode_names, read_text

# Dense fp16 TFLOPS of the 64 GB module by power mode: docs/facts.md. Half of the best is where a
# mode is worth a warning: 30 W, the factory's choice, is 4.3 times slower.
_FP16_TFLOPS = {"MAXN": 42.6, "50W": 26.7, "30W": 10.0, "15W": 5.0}
_SLOW_SHARE = 0.5
# nvpmodel's number of MAXN on an AGX Orin, where nvpmodel.conf does not say otherwise.
_MAXN_NUMBER = 0


def examine_device(reading: DeviceReading, root: Path) -> list[Finding]:
    """Findings on everything here."""
    return [
        _power_mode(reading, root),
        _clocks(reading),
        _throttling(reading),
        _swap(root),
    ]


def _power_mode(reading: DeviceReading, root: Path) -> Finding:
    mode = reading.power_mode
    if mode is None:
        seen = "no nvpmodel status"
        if is_jetson(root):
            seen += "; in a container, mount /var/lib/nvpmodel and /etc/nvpmodel.conf read-only"
        return Finding(check="power_mode", level="skipped", seen=seen)
    numbers = {name: number for number, name in power_mode_names(root).items()}
    tflops = _FP16_TFLOPS.get(mode.removeprefix("MODE_"))
    if tflops is None:
        return Finding(check="power_mode", level="ok", seen=f"{mode}, of unknown speed")
    seen = f"{mode}: {tflops} of {_FP16_TFLOPS['MAXN']} TFLOPS in fp16"
    if tflops >= _SLOW_SHARE * _FP16_TFLOPS["MAXN"]:
        return Finding(check="power_mode", level="ok", seen=seen)
    return Finding(
        check="power_mode",
        level="warn",
        seen=seen,
        remedy=f"sudo nvpmodel -m {numbers.get('MAXN', _MAXN_NUMBER)}",
    )


def _clocks(reading: DeviceReading) -> Finding:
    low_hz, high_hz = reading.gpu_clock_min_hz, reading.gpu_clock_max_hz
    if low_hz is None or high_hz is None:
        return Finding(check="clocks", level="skipped", seen="no GPU clock to be read")
    if low_hz == high_hz:
        return Finding(check="clocks", level="ok", seen=f"GPU held at {high_hz / 1e6:.0f} MHz")
    return Finding(
        check="clocks",
        level="warn",
        seen=f"GPU moves between {low_hz / 1e6:.0f} and {high_hz / 1e6:.0f} MHz",
        remedy="sudo jetson_clocks",
    )


def _throttling(reading: DeviceReading) -> Finding:
    alerts, events = reading.throttle_alerts, reading.over_current_events
    if alerts is None and events is None:
        return Finding(check="throttling", level="skipped", seen="nothing tells of it")
    hot = ", ".join(f"{zone} {c:.0f} C" for zone, c in sorted(reading.temperature_c.items()))
    counted = "" if events is None else f"; {events} over-current alarms since boot"
    if alerts:
        return Finding(
            check="throttling",
            level="warn",
            seen=f"{', '.join(alerts)} now ({hot}){counted}",
            remedy="sudo jetson_clocks --fan",
        )
    return Finding(check="throttling", level="ok", seen=f"none now ({hot or 'no zones'}){counted}")


def _swap(root: Path) -> Finding:
    """Swap in compressed memory takes from what the GPU draws with; swap on a disk does not."""
    table = read_text(root / "proc/swaps")
    if table is None:
        return Finding(check="swap", level="skipped", seen="no /proc/swaps")
    rows = re.findall(r"^(/\S+)\s+\S+\s+(\d+)\s+(\d+)", table, re.MULTILINE)
    used = {name: (int(size) * 1024, int(used) * 1024) for name, size, used in rows}
    zram = [name for name in used if "zram" in name]
    seen = (
        ", ".join(f"{n} {sized(size)}, {sized(u)} used" for n, (size, u) in used.items()) or "none"
    )
    if not zram:
        return Finding(check="swap", level="ok", seen=seen)
    total = sum(used[name][0] for name in zram)
    off = f"sudo swapoff {' '.join(zram)}"
    return Finding(
        check="swap",
        level="warn",
        seen=f"zram: {len(zram)} devices of {sized(total)} compress into the memory that "
        f"the GPU shares ({sized(sum(used[name][1] for name in zram))} used)",
        remedy=f"sudo systemctl disable nvzramconfig && {off}" if is_jetson(root) else off,
    )

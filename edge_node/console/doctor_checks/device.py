"""The Jetson's own settings: power mode, clocks, heat, swap.

Owns what they mean for drawing. It reads, through telemetry/jetson.py, and sets nothing. Written
against documented layouts; not run on a device.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_node.console.doctor_checks.finding import Finding, sized
from edge_node.telemetry.jetson import DeviceReading, is_jetson, power_mode_names, read_text


@dataclass(frozen=True, kw_only=True)
class _Module:
    """A Jetson module: dense fp16 TFLOPS of its power modes by name, from docs/facts.md."""

    name: str
    fp16_tflops: Mapping[str, float]


_AGX_ORIN = _Module(
    name="AGX Orin 64 GB", fp16_tflops={"MAXN": 42.6, "50W": 26.7, "30W": 10.0, "15W": 5.0}
)
_ORIN_NX = _Module(
    name="Orin NX 16 GB",
    fp16_tflops={"MAXN_SUPER": 19.2, "MAXN": 15.0, "25W": 6.7, "15W": 10.0, "10W": 5.0},
)
_ORIN_NANO = _Module(
    name="Orin Nano 8 GB", fp16_tflops={"MAXN_SUPER": 16.7, "25W": 15.0, "15W": 10.0, "7W": 6.7}
)
_ORIN_NANO_4 = _Module(
    name="Orin Nano 4 GB", fp16_tflops={"MAXN_SUPER": 8.4, "25W": 7.5, "10W": 5.1}
)
# By the board's number, as the device tree has it.
_MODULES = {
    "p3701-0005": _AGX_ORIN,
    "p3767-0000": _ORIN_NX,
    "p3767-0003": _ORIN_NANO,
    "p3767-0005": _ORIN_NANO,
    "p3767-0004": _ORIN_NANO_4,
}
_DEVICE_TREE = ("proc/device-tree/compatible", "sys/firmware/devicetree/base/compatible")
# Half of the best of its own is where a mode is worth a warning: an AGX Orin's 30 W, the factory's
# choice, is 4.3 times slower than MAXN. Some half: an Orin NX has 10.0 of 19.2 at 15 W.
_SLOW_SHARE = 0.5


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
    numbers = {_plain(name): number for number, name in power_mode_names(root).items()}
    module = _module(root, numbers.keys())
    # Of those that this device has: not every release gives a module its fastest one.
    known = {} if module is None else module.fp16_tflops
    here = {name: known[name] for name in numbers if name in known}
    tflops = here.get(_plain(mode))
    if module is None or tflops is None:
        return Finding(check="power_mode", level="ok", seen=f"{mode}, of unknown speed")
    best = max(here, key=lambda name: here[name])
    seen = f"{mode} of {module.name}: {tflops} of {here[best]} TFLOPS in fp16"
    if tflops >= _SLOW_SHARE * here[best]:
        return Finding(check="power_mode", level="ok", seen=seen)
    remedy = f"sudo nvpmodel -m {numbers[best]}"
    return Finding(check="power_mode", level="warn", seen=seen, remedy=remedy)


def _plain(mode: str) -> str:
    """A mode's name without what some releases put before it."""
    return mode.removeprefix("MODE_")


def _module(root: Path, modes: Collection[str]) -> _Module | None:
    """By the board's number; in a container that hides it, by modes that one module alone has."""
    for path in _DEVICE_TREE:
        tree = read_text(root / path)
        if tree is not None:
            named = [module for number, module in _MODULES.items() if number in tree]
            return named[0] if named else None
    return _AGX_ORIN if set(modes) == set(_AGX_ORIN.fp16_tflops) else None


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

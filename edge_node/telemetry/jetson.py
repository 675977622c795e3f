"""What a Jetson says of itself in sysfs and procfs, and the metrics made of it at every scrape.

Owns the paths, their units and where each is documented. What the machine does not have, refuses
to tell or calls offline is None or missing, never a zero. It starts no program and changes nothing.
Written against the documented layouts of JetPack 5, 6 (L4T 36.4) and 7 (L4T 39.2); not run on a
device.

Sources, named again where they are used:
  FACTS    docs/facts.md
  GUIDE    NVIDIA Jetson Linux Developer Guide, Platform Power and Performance, Jetson Orin Nano
           Series, Jetson Orin NX Series and Jetson AGX Orin Series (r35.6, r36.3)
  DEVFREQ  kernel, Documentation/ABI/testing/sysfs-class-devfreq
  HWMON    kernel, Documentation/hwmon/sysfs-interface.rst and ina3221.rst
  THERMAL  kernel, Documentation/driver-api/thermal/sysfs-api.rst
  OC       kernel of L4T, driver tegra23x-oc-event ("soctherm_oc")
  PROC     kernel, Documentation/filesystems/proc.rst
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from edge_node.clock import Clock
from edge_node.device_summary import DeviceSummary

# GPU load in per mille: FACTS names the first, second and last. The third is a link to the second
# on an Orin of JetPack 5, where the last is gone.
_GPU_LOAD_PATHS = (
    "sys/devices/platform/17000000.gpu/load",
    "sys/devices/platform/bus@0/17000000.gpu/load",
    "sys/devices/platform/gpu.0/load",
    "sys/devices/gpu.0/load",
)
# FACTS: .gpu since JetPack 6, .ga10b in JetPack 5. Frequencies in Hz: DEVFREQ.
_GPU_DEVFREQ = ("sys/class/devfreq/17000000.gpu", "sys/class/devfreq/17000000.ga10b")
# HWMON: in1..in3 are bus voltages in mV, curr1..curr3 currents in mA of the same channels; what
# follows are shunt voltages and sums, which are no rails. GUIDE: a channel without a rail is "NC".
_RAIL_CHANNELS = (1, 2, 3)
_NOT_CONNECTED = "NC"
# GUIDE: the rail of Orin NX and Nano that feeds all others; an AGX Orin has none.
_WHOLE_MODULE = "VDD_IN"
# THERMAL: millidegrees. A zone whose sensor has no power says -256 degrees.
_OFFLINE_CELSIUS = -256.0
# GUIDE: cooling devices of this type have cur_state above 0 while clocks are held down for heat.
# The fan, cpufreq and devfreq are cooling devices, too, and hot-surface-alert slows nothing.
_THROTTLE_ALERT = "-throttle-alert"
# GUIDE, "OC events": alarms of under-voltage, average and instantaneous over-current. Each slows
# the clocks while its throt_en is 1, for less than a scrape could see, and is counted.
_OVER_CURRENT_CHIP = "soctherm_oc"
_OVER_CURRENT_COUNT = re.compile(r"oc(\d+)_event_cnt")
# Prometheus' default scrape_interval, so that each counted alarm is in at least one scrape.
OVER_CURRENT_SHOWN_S = 60.0
# ina3221 is read over I2C, in milliseconds: scrapes that come together share a reading.
CACHED_S = 1.0
# sysfs gives at most a page; meminfo and nvpmodel.conf are a few.
_FILE_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class DeviceReading:
    """One look at the device; None or missing where it does not say.

    Attributes:
        gpu_load: share of time that the GPU was busy lately, 0..1.
        gpu_clock_min_hz, gpu_clock_max_hz: bounds in force, by power mode and jetson_clocks.
        power_w: by rail, as its label names it.
        temperature_c: by thermal zone; the hottest of zones that share a name.
        power_mode: name of the nvpmodel mode, or its number where no name is to be had.
        throttle_alerts: cooling devices that hold clocks down now; None where there are no such.
        over_current_events: alarms that slowed the clocks since boot.
    """

    gpu_load: float | None
    gpu_clock_hz: int | None
    gpu_clock_min_hz: int | None
    gpu_clock_max_hz: int | None
    power_w: Mapping[str, float]
    temperature_c: Mapping[str, float]
    power_mode: str | None
    throttle_alerts: tuple[str, ...] | None
    over_current_events: int | None
    memory_available_bytes: int | None


def read_device(root: Path = Path("/")) -> DeviceReading:
    """Everything at once; `root` is the folder that holds sys, proc, etc and var."""
    clocks = next((root / name for name in _GPU_DEVFREQ if (root / name).is_dir()), root / "none")
    return DeviceReading(
        gpu_load=_gpu_load(root),
        gpu_clock_hz=read_int(clocks / "cur_freq"),
        gpu_clock_min_hz=read_int(clocks / "min_freq"),
        gpu_clock_max_hz=read_int(clocks / "max_freq"),
        power_w=_power_w(root),
        temperature_c=_temperature_c(root),
        power_mode=read_power_mode(root),
        throttle_alerts=_throttle_alerts(root),
        over_current_events=_over_current_events(root),
        memory_available_bytes=_memory_available_bytes(root),
    )


def is_jetson(root: Path = Path("/")) -> bool:
    """By NVIDIA's release file (GUIDE), or in a container that hides it, by the GPU's clock."""
    known = ("etc/nv_tegra_release", *_GPU_DEVFREQ)
    return any((root / name).exists() for name in known)


def read_power_mode(root: Path = Path("/")) -> str | None:
    """The mode that nvpmodel last set, as its configuration names it (FACTS)."""
    status = re.search(r"\bpmode:(\d+)", read_text(root / "var/lib/nvpmodel/status") or "")
    if status is None:
        return None
    number = int(status[1])
    return power_mode_names(root).get(number, str(number))


def power_mode_names(root: Path = Path("/")) -> dict[int, str]:
    """Number and name of every mode, from `< POWER_MODEL ID=2 NAME=MODE_30W >` lines (FACTS)."""
    conf = read_text(root / "etc/nvpmodel.conf") or ""
    modes = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", conf, re.MULTILINE)
    return {int(number): name for number, name in modes}


def read_text(path: Path) -> str | None:
    """Content without the space around it; None if it cannot be had without waiting.

    Thermal zones of blocks that an Orin lacks, or has powered off, answer EAGAIN. A buffered file
    object has no text for that and fails in its own way, so the file is read without one.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        content = os.read(descriptor, _FILE_BYTES_MAX)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return content.decode(errors="replace").strip("\0 \t\r\n")


def read_int(path: Path) -> int | None:
    """Content as a whole number; None if it is none."""
    try:
        return int(read_text(path) or "")
    except ValueError:
        return None


def _gpu_load(root: Path) -> float | None:
    loads = (read_int(root / path) for path in _GPU_LOAD_PATHS)
    per_mille = next((load for load in loads if load is not None), None)
    return None if per_mille is None else per_mille / 1000.0


def _power_w(root: Path) -> dict[str, float]:
    power_w = {}
    for chip in _hwmon_chips(root, "ina3221"):
        for channel in _RAIL_CHANNELS:
            rail = read_text(chip / f"in{channel}_label")
            if not rail or rail == _NOT_CONNECTED:
                continue
            voltage_mv = read_int(chip / f"in{channel}_input")
            current_ma = read_int(chip / f"curr{channel}_input")
            if voltage_mv is not None and current_ma is not None:
                power_w[rail] = voltage_mv * current_ma / 1e6
    return power_w


def _hwmon_chips(root: Path, name: str) -> Iterator[Path]:
    """Chips by their name; the numbers of hwmon change from boot to boot (HWMON)."""
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if read_text(chip / "name") == name:
            yield chip


def _temperature_c(root: Path) -> dict[str, float]:
    temperature_c: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name, milli = read_text(zone / "type"), read_int(zone / "temp")
        if name and milli is not None and milli / 1000.0 > _OFFLINE_CELSIUS:
            temperature_c[name] = max(milli / 1000.0, temperature_c.get(name, _OFFLINE_CELSIUS))
    return temperature_c


def _throttle_alerts(root: Path) -> tuple[str, ...] | None:
    states = {}
    for cooling in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        name, state = read_text(cooling / "type"), read_int(cooling / "cur_state")
        if name and name.endswith(_THROTTLE_ALERT) and state is not None:
            states[name] = state
    return tuple(name for name, state in states.items() if state > 0) if states else None


def _over_current_events(root: Path) -> int | None:
    counts = []
    for chip in _hwmon_chips(root, _OVER_CURRENT_CHIP):
        for path in chip.glob("oc*_event_cnt"):
            alarm = _OVER_CURRENT_COUNT.fullmatch(path.name)
            count = read_int(path)
            if alarm and count is not None and read_int(chip / f"oc{alarm[1]}_throt_en") != 0:
                counts.append(count)
    return sum(counts) if counts else None


def _memory_available_bytes(root: Path) -> int | None:
    """MemAvailable, in KiB there (PROC); the GPU takes from the same memory."""
    line = re.search(r"^MemAvailable:\s+(\d+) kB", read_text(root / "proc/meminfo") or "", re.M)
    return int(line[1]) * 1024 if line else None


class DeviceCollector(Collector):
    """Reads the device when the registry is collected, at most once a second.

    Throttled is: a throttle alert stands now, or the count of over-current alarms grew within the
    last minute. With neither to be known there is no such metric; a first look has no growth yet.
    """

    def __init__(self, *, clock: Clock, root: Path = Path("/")) -> None:
        self._clock = clock
        self._root = root
        self._one_at_a_time = threading.Lock()
        self._reading: DeviceReading | None = None
        self._read_s = 0.0
        self._over_current_before: int | None = None
        self._over_current_grew_s: float | None = None
        self._throttled: bool | None = None

    def summary(self) -> DeviceSummary:
        """The same in few words: the hottest zone, and power of the whole module where it says."""
        with self._one_at_a_time:
            reading, _ = self._read()
        rails, zones = reading.power_w, reading.temperature_c
        whole = rails.get(_WHOLE_MODULE)
        return DeviceSummary(
            gpu_load=reading.gpu_load,
            temperature_c=max(zones.values(), default=None),
            power_w=whole if whole is not None else sum(rails.values()) if rails else None,
            power_mode=reading.power_mode or "",
        )

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Every family; one without a value is empty."""
        with self._one_at_a_time:
            reading, throttled = self._read()
        yield _gauge("gpu_load_ratio", "Share of time that the GPU was busy", reading.gpu_load)
        yield _gauge("gpu_clock_hertz", "GPU clock", reading.gpu_clock_hz)
        yield _gauge("gpu_clock_max_hertz", "Most that it may become", reading.gpu_clock_max_hz)
        yield _labelled("power_watts", "Power by rail", "rail", reading.power_w)
        yield _labelled("temperature_celsius", "Temperature", "zone", reading.temperature_c)
        mode = {} if reading.power_mode is None else {reading.power_mode: 1.0}
        yield _labelled("power_mode_info", "Mode of nvpmodel", "mode", mode)
        yield _gauge("throttled", "Whether the device holds its clocks down", throttled)
        yield _gauge("memory_available_bytes", "MemAvailable", reading.memory_available_bytes)

    def _read(self) -> tuple[DeviceReading, bool | None]:
        now_s = self._clock.now_s()
        if self._reading is None or now_s - self._read_s >= CACHED_S:
            self._reading, self._read_s = read_device(self._root), now_s
            self._throttled = self._is_throttled(self._reading, now_s)
        return self._reading, self._throttled

    def _is_throttled(self, reading: DeviceReading, now_s: float) -> bool | None:
        before, self._over_current_before = self._over_current_before, reading.over_current_events
        if before is None or reading.over_current_events is None:
            return None if reading.throttle_alerts is None else bool(reading.throttle_alerts)
        if reading.over_current_events > before:
            self._over_current_grew_s = now_s
        grew_s = self._over_current_grew_s
        lately = grew_s is not None and now_s - grew_s < OVER_CURRENT_SHOWN_S
        return lately or bool(reading.throttle_alerts)


def _gauge(name: str, documentation: str, value: float | None) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"dedgeai_device_{name}", documentation, value=value)


def _labelled(
    name: str, documentation: str, label: str, values: Mapping[str, float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"dedgeai_device_{name}", documentation, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family

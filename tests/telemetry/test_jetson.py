"""jetson.py on trees in the documented layouts; not run on a device."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from edge_node.device_summary import DeviceSummary
from edge_node.telemetry import device_watch
from edge_node.telemetry.jetson import (
    CACHED_S,
    OVER_CURRENT_SHOWN_S,
    DeviceCollector,
    power_mode_names,
    read_device,
)
from tests.set_clock import SetClock
from tests.telemetry.device_tree import NVPMODEL_CONF, lay, orin


def shown(collector: DeviceCollector) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(collector)
    lines = generate_latest(registry).decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name.removeprefix("dedgeai_device_"): float(value) for name, _, value in samples}


@pytest.mark.parametrize("jetpack", [5, 6, 7])
def test_an_orin_is_read_whole(tmp_path: Path, jetpack: int) -> None:
    reading = read_device(orin(tmp_path, jetpack=jetpack))
    assert reading.gpu_load == pytest.approx(0.734)
    assert (reading.gpu_clock_hz, reading.gpu_clock_max_hz) == (306_000_000, 624_750_000)
    assert reading.power_w == pytest.approx(
        {"VDD_GPU_SOC": 4.698, "VDD_CPU_CV": 1.8784, "VDDQ_VDD2_1V8AO": 2.0}
    )
    zone = "CPU-therm" if jetpack == 5 else "cpu-thermal"
    assert reading.temperature_c == {zone: 51.687, "tj-thermal": 52.0}
    assert reading.power_mode == "MODE_30W"
    assert reading.throttle_alerts == ()
    assert reading.over_current_events == 3
    assert reading.memory_available_bytes == 2000 * 1024


def test_what_is_absent_is_no_metric_and_no_zero(tmp_path: Path) -> None:
    assert shown(DeviceCollector(clock=SetClock(), root=tmp_path)) == {}
    reading = read_device(tmp_path)
    assert (reading.gpu_load, reading.power_mode, reading.throttle_alerts) == (None, None, None)


@pytest.mark.parametrize("content", ["", "N/A", "12 34", "\x00"])
def test_a_file_without_a_number_is_absent(tmp_path: Path, content: str) -> None:
    orin(tmp_path, jetpack=6)
    lay(tmp_path, {"sys/devices/platform/17000000.gpu/load": content})
    assert read_device(tmp_path).gpu_load is None


def test_a_zone_that_answers_try_again_is_absent_and_never_waited_for(tmp_path: Path) -> None:
    orin(tmp_path, jetpack=6)
    zone = tmp_path / "sys/class/thermal/thermal_zone3"
    lay(zone, {"type": "cv0-thermal"})
    os.mkfifo(zone / "temp")
    # A pipe that somebody may yet write to answers EAGAIN, as the zone of a block that is off.
    writer = os.open(zone / "temp", os.O_RDWR)
    try:
        assert sorted(read_device(tmp_path).temperature_c) == ["cpu-thermal", "tj-thermal"]
    finally:
        os.close(writer)


def test_a_mode_without_a_name_is_its_number(tmp_path: Path) -> None:
    lay(tmp_path, {"var/lib/nvpmodel/status": "pmode:0003"})
    assert read_device(tmp_path).power_mode == "3"
    lay(tmp_path, {"etc/nvpmodel.conf": NVPMODEL_CONF})
    assert read_device(tmp_path).power_mode == "MODE_50W"
    assert power_mode_names(tmp_path)[0] == "MAXN"


def test_the_metrics_have_their_names_and_labels(tmp_path: Path) -> None:
    clock = SetClock()
    collector = DeviceCollector(clock=clock, root=orin(tmp_path, jetpack=6))
    samples = shown(collector)
    assert samples["gpu_load_ratio"] == 0.734
    assert samples["gpu_clock_hertz"] == 306e6
    assert samples["gpu_clock_max_hertz"] == 624.75e6
    assert samples['power_watts{rail="VDD_CPU_CV"}'] == 1.8784
    assert samples['temperature_celsius{zone="tj-thermal"}'] == 52.0
    assert samples['power_mode_info{mode="MODE_30W"}'] == 1.0
    assert samples["throttled"] == 0.0
    assert samples["memory_available_bytes"] == 2000 * 1024


def test_scrapes_that_come_together_share_a_reading(tmp_path: Path) -> None:
    clock = SetClock()
    collector = DeviceCollector(clock=clock, root=orin(tmp_path, jetpack=6))
    assert shown(collector)["gpu_load_ratio"] == 0.734
    lay(tmp_path, {"sys/devices/platform/17000000.gpu/load": 10})
    clock.now += CACHED_S / 2
    assert shown(collector)["gpu_load_ratio"] == 0.734
    clock.now += CACHED_S
    assert shown(collector)["gpu_load_ratio"] == 0.01


def test_a_throttle_alert_counts_while_it_stands(tmp_path: Path) -> None:
    clock = SetClock()
    collector = DeviceCollector(clock=clock, root=orin(tmp_path, jetpack=6))
    alert = "sys/class/thermal/cooling_device1/cur_state"
    for state in (0, 1, 0):
        lay(tmp_path, {alert: state})
        clock.now += CACHED_S
        assert shown(collector)["throttled"] == state


def test_over_current_counts_for_a_minute_after_it_was_seen(tmp_path: Path) -> None:
    clock = SetClock()
    collector = DeviceCollector(clock=clock, root=orin(tmp_path, jetpack=7))
    chip = "sys/class/hwmon/hwmon5"
    assert shown(collector)["throttled"] == 0.0
    # An alarm that is counted and slows nothing.
    lay(tmp_path, {f"{chip}/oc2_event_cnt": 99})
    clock.now += CACHED_S
    assert shown(collector)["throttled"] == 0.0
    lay(tmp_path, {f"{chip}/oc3_event_cnt": 4})
    clock.now += CACHED_S
    assert shown(collector)["throttled"] == 1.0
    clock.now += OVER_CURRENT_SHOWN_S - 1.0
    assert shown(collector)["throttled"] == 1.0
    clock.now += 2.0
    assert shown(collector)["throttled"] == 0.0


def test_with_counters_alone_the_first_look_knows_nothing(tmp_path: Path) -> None:
    chip = "sys/class/hwmon/hwmon1"
    lay(tmp_path, {f"{chip}/name": "soctherm_oc", f"{chip}/oc1_event_cnt": 7})
    clock = SetClock()
    collector = DeviceCollector(clock=clock, root=tmp_path)
    assert "throttled" not in shown(collector)
    clock.now += CACHED_S
    assert shown(collector)["throttled"] == 0.0


def test_in_few_words_it_is_the_hottest_part_and_all_that_is_measured(tmp_path: Path) -> None:
    device = DeviceCollector(clock=SetClock(), root=orin(tmp_path, jetpack=6))
    summary = device.summary()
    assert summary.gpu_load == pytest.approx(0.734)
    assert summary.temperature_c == 52.0
    assert summary.power_w == pytest.approx(4.698 + 1.8784 + 2.0)
    assert summary.power_mode == "MODE_30W"
    lay(tmp_path, {"sys/class/hwmon/hwmon3/in1_label": "VDD_IN"})  # an NX, whose rail feeds all
    again = DeviceCollector(clock=SetClock(), root=tmp_path)
    assert again.summary().power_w == pytest.approx(4.698)
    assert DeviceCollector(clock=SetClock(), root=tmp_path / "none").summary() == DeviceSummary()


def test_the_device_is_looked_at_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_watch, "LOOK_S", 0.01)
    clock = SetClock()
    device = DeviceCollector(clock=clock, root=orin(tmp_path, jetpack=6))
    told: asyncio.Queue[DeviceSummary] = asyncio.Queue()

    async def story() -> None:
        watching = asyncio.create_task(device_watch.watch(device, told.put_nowait))
        async with asyncio.timeout(20):
            assert (await told.get()).gpu_load == pytest.approx(0.734)
            lay(tmp_path, {"sys/devices/platform/17000000.gpu/load": 120})
            clock.now += 5.0
            while (await told.get()).gpu_load != pytest.approx(0.12):
                pass
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(story())

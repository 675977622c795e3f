"""Trees as the documents named in jetson.py lay them out; none was copied from a device."""

from __future__ import annotations

from pathlib import Path

NVPMODEL_CONF = """\
< PARAM TYPE=CLOCK NAME=GPU >
MAX_FREQ /sys/class/devfreq/17000000.gpu/max_freq

# MAXN is the NONE power model to release all constraints
< POWER_MODEL ID=0 NAME=MAXN >
GPU MAX_FREQ -1
< POWER_MODEL ID=1 NAME=MODE_15W >
GPU MAX_FREQ 420750000
< POWER_MODEL ID=2 NAME=MODE_30W >
GPU MAX_FREQ 624750000
< POWER_MODEL ID=3 NAME=MODE_50W >
GPU MAX_FREQ 828750000
< PM_CONFIG DEFAULT=2 >
"""


def lay(root: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def orin(root: Path, *, jetpack: int) -> Path:
    gpu = {
        5: ("sys/devices/platform/gpu.0", "sys/class/devfreq/17000000.ga10b"),
        6: ("sys/devices/platform/17000000.gpu", "sys/class/devfreq/17000000.gpu"),
        7: ("sys/devices/platform/bus@0/17000000.gpu", "sys/class/devfreq/17000000.gpu"),
    }[jetpack]
    thermal = "sys/class/thermal"
    zone = "CPU-therm" if jetpack == 5 else "cpu-thermal"
    lay(
        root,
        {
            f"{gpu[0]}/load": 734,
            f"{gpu[1]}/cur_freq": 306000000,
            f"{gpu[1]}/min_freq": 306000000,
            f"{gpu[1]}/max_freq": 624750000,
            "sys/class/hwmon/hwmon0/name": "pwmfan",
            "sys/class/hwmon/hwmon3/name": "ina3221",
            "sys/class/hwmon/hwmon3/in1_label": "VDD_GPU_SOC",
            "sys/class/hwmon/hwmon3/in1_input": 18792,
            "sys/class/hwmon/hwmon3/curr1_input": 250,
            "sys/class/hwmon/hwmon3/in2_label": "VDD_CPU_CV",
            "sys/class/hwmon/hwmon3/in2_input": 18784,
            "sys/class/hwmon/hwmon3/curr2_input": 100,
            "sys/class/hwmon/hwmon3/in3_label": "VIN_SYS_5V0",
            "sys/class/hwmon/hwmon3/in4_input": 280,
            "sys/class/hwmon/hwmon3/in7_label": "sum of shunt voltages",
            "sys/class/hwmon/hwmon3/in7_input": 360,
            "sys/class/hwmon/hwmon3/curr7_input": 1,
            "sys/class/hwmon/hwmon4/name": "ina3221",
            "sys/class/hwmon/hwmon4/in1_label": "NC",
            "sys/class/hwmon/hwmon4/in1_input": 8,
            "sys/class/hwmon/hwmon4/curr1_input": 8,
            "sys/class/hwmon/hwmon4/in2_label": "VDDQ_VDD2_1V8AO",
            "sys/class/hwmon/hwmon4/in2_input": 5000,
            "sys/class/hwmon/hwmon4/curr2_input": 400,
            "sys/class/hwmon/hwmon5/name": "soctherm_oc",
            "sys/class/hwmon/hwmon5/oc1_event_cnt": 0,
            "sys/class/hwmon/hwmon5/oc1_throt_en": 1,
            "sys/class/hwmon/hwmon5/oc2_event_cnt": 40,
            "sys/class/hwmon/hwmon5/oc2_throt_en": 0,
            "sys/class/hwmon/hwmon5/oc3_event_cnt": 3,
            "sys/class/hwmon/hwmon5/oc3_throt_en": 1,
            f"{thermal}/thermal_zone0/type": zone,
            f"{thermal}/thermal_zone0/temp": 51687,
            f"{thermal}/thermal_zone1/type": "gpu-thermal",
            f"{thermal}/thermal_zone1/temp": -256000,
            f"{thermal}/thermal_zone2/type": "tj-thermal",
            f"{thermal}/thermal_zone2/temp": 52000,
            f"{thermal}/cooling_device0/type": "pwm-fan",
            f"{thermal}/cooling_device0/cur_state": 3,
            f"{thermal}/cooling_device1/type": "gpu-throttle-alert",
            f"{thermal}/cooling_device1/cur_state": 0,
            f"{thermal}/cooling_device2/type": "devfreq-17000000.gpu",
            f"{thermal}/cooling_device2/cur_state": 2,
            "var/lib/nvpmodel/status": "pmode:0002 fmode:fan_mode_quiet",
            "etc/nvpmodel.conf": NVPMODEL_CONF,
            "proc/meminfo": "MemTotal: 64325000 kB\nMemFree: 100 kB\nMemAvailable:   2000 kB",
        },
    )
    return root

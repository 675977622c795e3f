"""What a device says of itself in few words, for whoever looks at the cluster."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DeviceSummary:
    """One look at a device; None where it does not say.

    Attributes:
        gpu_load: share of time that the GPU was busy lately, 0..1.
        temperature_c: of its hottest part.
        power_w: of all that is measured.
        power_mode: name of the mode that was set; empty where it does not say.
    """

    gpu_load: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    power_mode: str = ""

"""Looks at the device now and then, so that the node can say how it is with its state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge_node.device_summary import DeviceSummary
from edge_node.telemetry.jetson import DeviceCollector

LOOK_S = 3.0


async def watch(device: DeviceCollector, told: Callable[[DeviceSummary], None]) -> None:
    """For as long as it runs; in a thread, because sensors may answer slowly."""
    while True:
        told(await asyncio.to_thread(device.summary))
        await asyncio.sleep(LOOK_S)

"""An hour of requests on emulated Orins, simulated, and several ways of it on the same requests.

Owns what the questions about moves and about helpers have in common; each has a script of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.cluster_twin import Devices, Request
from scheduler.policy import Policy
from scheduler.simulator.moving_cluster import Helping, Moved, Moving, MovingCluster
from scheduler.simulator.statistics import paired_gap


def simulated(
    devices: Devices,
    requests: Sequence[Request],
    *,
    policy: Policy,
    moving: Moving | None = None,
    helping: Helping | None = None,
) -> Moved:
    """The requests on the devices, with moves and helpers or without."""
    return MovingCluster(
        capacity_B=devices.capacities,
        arrival_s_N=np.array([one.at_s for one in requests]),
        steps_N=np.array([one.steps for one in requests]),
        origin_N=np.array([one.origin for one in requests]),
        decoding=devices.fixed_steps,
        policy=policy,
        moving=moving,
        helping=helping,
    ).run()


def against(found: Mapping[str, Sequence[Moved]], base: str) -> dict[str, dict[str, Any]]:
    """Mean delay and p99 of every way, seconds, and against one of them on the same requests.

    Args:
        found: runs of each way, paired by their place.
        base: the way that others are held against.
    """
    mean_s = {name: [float(one.delay_s_N.mean()) for one in runs] for name, runs in found.items()}
    p99_s = {
        name: [float(np.quantile(one.delay_s_N, 0.99)) for one in runs]
        for name, runs in found.items()
    }
    return {
        name: {
            "mean_s": float(np.mean(mean_s[name])),
            f"mean_against_{base}": paired_gap(mean_s[name], mean_s[base])._asdict(),
            "p99_s": float(np.mean(p99_s[name])),
            "p99_factor": float(np.mean(np.divide(p99_s[name], p99_s[base]))),
        }
        for name in found
    }

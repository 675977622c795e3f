"""Bounds and weights that others count on: documents, dashboards and the simulator's stations.

A value changed by accident would be found by nobody else: tests of behaviour take their own.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from edge_node.dispatch import own_node, placer, timekeeper
from edge_node.tasks import (
    cluster_view,
    fate,
    lifecycle_limits,
    links,
    membership,
    moving,
    slots,
    traffic,
)
from edge_node.tasks.admission import AdmissionLimits
from edge_node.tasks.cluster_view import ClusterViewLimits
from edge_node.tasks.hosting import HostingLimits
from edge_node.tasks.lifecycle_limits import LifecycleLimits
from edge_node.tasks.slots import SlotSettings


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (AdmissionLimits(), {"tasks_in_flight_max": 2000, "wait_s_max": 3600.0}),
        (
            HostingLimits(),
            {
                "hosted_max": 2000,
                "fences_remembered_max": 50_000,
                "checkpoint_bytes_max": 67_108_864,
                "origins_remembered_max": 1000,
            },
        ),
        (
            LifecycleLimits(),
            {
                "attempts_max": 5,
                "moves_max": 3,
                "lease_s": 5.0,
                "patience_s": 120.0,
                "patience_factor": 10.0,
                "placement_retry_s": 0.25,
                "finished_kept_max": 2000,
                "finished_bytes_max": 16_777_216,
                "checkpoint_bytes_max": 67_108_864,
                "takeable": False,
                "export_s": 5.0,
            },
        ),
        (
            ClusterViewLimits(),
            {
                "suspect_s": 3.0,
                "heartbeat_s": 0.5,
                "link_bits_s": 0.94e9,
                "dispatching_s": 2.0,
                "traffic_s": 60.0,
                "report_period_s": 0.05,
            },
        ),
        (SlotSettings(), {"slot_s": None, "latents_max": 64}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_limits_where_nothing_is_configured(limits: Any, expected: dict[str, object]) -> None:
    assert vars(limits) == expected


def test_bounds_of_memory_and_weights_of_averages() -> None:
    assert (lifecycle_limits.EVENTS_OF_A_LIFE_MAX, fate.STORY_LINES_MAX) == (1_000_000, 40)
    assert (membership.NEW_PEERS_MAX, membership.DEPARTED_MAX) == (64, 256)
    assert (cluster_view.HEARTBEATS_OVERDUE, cluster_view.UNSEEN_WEIGHT) == (1.5, 0.1)
    assert (cluster_view.LOAD_PRIOR_SERVICES, moving.GAIN_MIN_SERVICES) == (10.0, 0.5)
    assert (slots.SLOT_S_MIN, slots.SLOT_S_MAX, slots.NEUTRAL) == (0.1, 60.0, 0.0)
    assert traffic.SEEN_SHARE_MIN == 0.1
    assert (links.ROUND_TRIP_WEIGHT, links.DELAY_WEIGHT, links.SAMPLES_MAX) == (0.2, 0.2, 7)
    assert (links.SMALL_BITS_MAX, links.LARGE_BITS_MIN) == (1e5, 1e6)
    assert (links.THROUGHPUT_BITS_S, links.CLOCK_DRIFT) == ((1e6, 1e11), 1e-4)
    assert links.ReportDelay()._offset_s == math.inf
    assert (own_node.WORKER_DOUBT_S, own_node.CAPACITY_CHANGE_SHOWN) == (0.5, 0.02)
    assert (placer.FAILURE_PENALTY_S, timekeeper.LEASE_RENEWALS) == (60.0, 4)

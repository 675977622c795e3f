from __future__ import annotations

import re

from prometheus_client import CollectorRegistry

from edge_node.clock import SystemClock
from edge_node.domain import WorkerLoad
from edge_node.telemetry import metrics as metrics_module
from edge_node.telemetry.jetson import DeviceCollector
from edge_node.telemetry.metrics import NodeMetrics


def lines(metrics: NodeMetrics) -> list[str]:
    return metrics.render().decode().splitlines()


def test_delays_count_for_completed_tasks_only() -> None:
    metrics = NodeMetrics()
    for status, code in (("completed", ""), ("failed", "deadline_exceeded")):
        metrics.task_ended(
            status=status,
            code=code,
            remote=True,
            service_delay_s=4.0,
            queue_s=1.0,
            compute_s=2.5,
        )
    shown = lines(metrics)
    assert 'dedgeai_tasks_finished_total{code="deadline_exceeded",status="failed"} 1.0' in shown
    assert 'dedgeai_service_delay_seconds_sum{executor="remote"} 4.0' in shown
    assert 'dedgeai_service_delay_seconds_count{executor="remote"} 1.0' in shown
    assert 'dedgeai_compute_seconds_sum{executor="remote"} 2.5' in shown


def test_only_unwanted_ends_are_replacements() -> None:
    metrics = NodeMetrics()
    for reason in ("finished", "cancelled", "peer_failed"):
        metrics.attempt_ended(remote=True, reason=reason)
    assert [line for line in lines(metrics) if line.startswith("dedgeai_replacements_total{")] == [
        'dedgeai_replacements_total{reason="peer_failed"} 1.0'
    ]


def test_the_table_lists_exactly_what_is_shown() -> None:
    registry = CollectorRegistry()
    NodeMetrics(registry)
    registry.register(DeviceCollector(clock=SystemClock()))
    shown = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in registry.collect()
    }
    documented = re.findall(r"^\| (\w+) \|", metrics_module.__doc__ or "", re.MULTILINE)
    assert shown == {f"dedgeai_{name}" for name in documented}


def test_the_workers_own_account_is_asked_for_at_the_scrape() -> None:
    metrics = NodeMetrics()
    load: WorkerLoad | None = None
    metrics.watch_worker(lambda: load)
    assert "dedgeai_worker_queue_length 0.0" in lines(metrics)
    load = WorkerLoad(
        backlog=7.5, queued=3, running=1, capacity=2.0, steps_done=9, resident_bytes=4096
    )
    shown = lines(metrics)
    assert "dedgeai_worker_backlog_work_units 7.5" in shown
    assert "dedgeai_worker_queue_length 3.0" in shown
    assert "dedgeai_worker_resident_bytes 4096.0" in shown
    load = None
    assert "dedgeai_worker_resident_bytes 0.0" in lines(metrics)


def test_two_nodes_in_one_process_count_apart() -> None:
    first, second = NodeMetrics(), NodeMetrics()
    first.tasks_accepted(3)
    assert "dedgeai_tasks_accepted_total 3.0" in lines(first)
    assert "dedgeai_tasks_accepted_total 0.0" in lines(second)


def test_a_decision_leaves_its_time_its_staleness_and_its_start() -> None:
    metrics = NodeMetrics()
    metrics.decided(policy="lad_ts_plus", seconds=1e-4, staleness_s=0.004)
    metrics.latent_read(found=True)
    metrics.latent_read(found=False)
    metrics.slots_passed(3)
    metrics.latent_memory_changed(2)
    metrics.experience_dropped(4)
    shown = lines(metrics)
    assert 'dedgeai_placement_staleness_seconds_bucket{le="0.0025"} 0.0' in shown
    assert 'dedgeai_placement_staleness_seconds_bucket{le="0.005"} 1.0' in shown
    assert 'dedgeai_latent_reads_total{found="yes"} 1.0' in shown
    assert "dedgeai_slots_total 3.0" in shown
    assert "dedgeai_latent_memory_behind_slots 2.0" in shown
    assert "dedgeai_experience_dropped_total 4.0" in shown

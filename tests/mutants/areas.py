"""Which tests guard which room: the most telling first, for the first that fails ends a mutant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
# Of all tests here: fewer seeds of the simulated cluster than `make test` runs.
ENVIRONMENT = {"SEEDS": "25"}
CLUSTER = "tests/cluster/test_simulated_cluster.py"

# The longest prefix of a file counts. Every room here is in the sample; a file with a test of its
# own name in the first folder is tested by that before all else.
AREAS: dict[str, tuple[str, ...]] = {
    "edge_node/access": ("tests/access", "tests/api/test_key_check.py"),
    "edge_node/client": ("tests/client",),
    "edge_node/dispatch": ("tests/dispatch", CLUSTER),
    "edge_node/dispatch/task_traces.py": ("tests/dispatch/test_task_traces.py",),
    "edge_node/domain.py": ("tests/tasks", "tests/dispatch", "tests/store", "tests/peering"),
    "edge_node/log_lines.py": ("tests/test_log_lines.py",),
    "edge_node/mcp": ("tests/mcp", "tests/system/test_mcp.py"),
    "edge_node/moderation": ("tests/moderation",),
    "edge_node/peering/codec.py": ("tests/peering", "tests/upgrade/test_golden.py"),
    "edge_node/peering/load_report.py": ("tests/peering/test_load_report.py",),
    "edge_node/peering/node_codec.py": ("tests/peering", "tests/upgrade/test_golden.py"),
    "edge_node/peering/peer_links.py": ("tests/peering", CLUSTER),
    "edge_node/peering/service.py": ("tests/peering", CLUSTER),
    "edge_node/store/pending_writes.py": ("tests/store",),
    "edge_node/store/record_codec.py": ("tests/store", "tests/upgrade/test_golden.py"),
    "edge_node/trace_context.py": ("tests/test_trace_context.py",),
    "edge_node/tasks": ("tests/tasks", "tests/dispatch", CLUSTER),
    "edge_node/worker/active_rows.py": (
        "tests/worker/test_active_rows.py",
        "tests/worker/test_pure_parts.py",
        "tests/worker/test_step_engine.py",
    ),
    "edge_node/worker/attempts.py": (
        "tests/worker/test_attempts.py",
        "tests/worker/test_pure_parts.py",
        "tests/worker/test_step_engine.py",
    ),
    "edge_node/worker/fair_shares.py": ("tests/worker/test_fair_shares.py",),
    "edge_node/worker/queue_order.py": (
        "tests/worker/test_queue_order.py",
        "tests/worker/test_step_engine.py",
    ),
    "scheduler/checkpoint.py": ("tests/scheduler/test_checkpoint.py",),
    "scheduler/experience_codec.py": ("tests/store/test_experience_pool.py",),
    "scheduler/features.py": (
        "tests/scheduler/simulator/test_environment.py",
        "tests/scheduler/learning/test_replay.py",
        "tests/scheduler/learning/test_station_slots.py",
        "tests/scheduler/test_heuristics.py",
        "tests/scheduler/test_lad_ts_plus_policy.py",
        "tests/scheduler/test_published_lad_ts.py",
        "tests/scheduler/test_lad_ts_features.py",
    ),
    "scheduler/guard": ("tests/scheduler/guard",),
    "scheduler/policies": (
        "tests/scheduler/test_heuristics.py",
        "tests/scheduler/test_lad_ts_plus_policy.py",
        "tests/scheduler/test_published_lad_ts.py",
        "tests/scheduler/test_lad_ts_features.py",
        "tests/scheduler/simulator/test_lad_ts_plus_kernel.py",
    ),
}


def area_of(file: str) -> tuple[str, ...] | None:
    """Tests of a file's room; None for one that has none here."""
    found = [prefix for prefix in AREAS if file == prefix or file.startswith(f"{prefix}/")]
    if not found:
        return None
    return AREAS[max(found, key=len)]


def groups_of(file: str, root: Path = ROOT) -> list[str]:
    """Tests of a file, one pytest after the other: those of its own name, then its area's."""
    tests = area_of(file)
    if tests is None:
        return []
    own = f"{tests[0]}/test_{Path(file).stem}.py"
    first = [own] if (root / own).exists() and own not in tests else []
    return [*first, *(one for one in tests if (root / one).exists())]


def files_of_sample(root: Path = ROOT) -> list[str]:
    """Every file of every room."""
    found = set()
    for prefix in AREAS:
        path = root / prefix
        paths: Sequence[Path] = [path] if path.is_file() else sorted(path.rglob("*.py"))
        found |= {str(one.relative_to(root)) for one in paths if one.exists()}
    return sorted(found)

"""Prometheus' configuration, its alerts and the dashboards, against what a node really exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from edge_node.clock import SystemClock
from edge_node.config import NodeConfig
from edge_node.config_sources import load_config
from edge_node.telemetry import metrics as metrics_module
from edge_node.telemetry.jetson import DeviceCollector
from edge_node.telemetry.metrics import NodeMetrics
from scheduler.guard.guard import REASONS

from .files import DEPLOY, passes, tool

pytestmark = pytest.mark.deploy

PROMETHEUS = DEPLOY / "monitoring" / "prometheus"
GRAFANA = DEPLOY / "monitoring" / "grafana"
RULES = PROMETHEUS / "rules" / "alerts.yml"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
# Of Prometheus itself.
OWN = {"up": set(), "scrape_duration_seconds": set(), "ALERTS": {"alertname", "alertstate"}}
# Of node-exporter 1.9 with the collectors that compose.yaml turns on, and their own labels.
NODE_EXPORTER = {
    "node_cpu_seconds_total": {"cpu", "mode"},
    "node_disk_io_time_seconds_total": {"device"},
    "node_filesystem_avail_bytes": {"device", "fstype", "mountpoint"},
    "node_filesystem_size_bytes": {"device", "fstype", "mountpoint"},
    "node_memory_SwapFree_bytes": set(),
    "node_memory_SwapTotal_bytes": set(),
    "node_network_receive_bytes_total": {"device"},
    "node_network_transmit_bytes_total": {"device"},
    "node_pressure_cpu_waiting_seconds_total": set(),
    "node_pressure_memory_stalled_seconds_total": set(),
    "node_timex_offset_seconds": set(),
}
# Every target's, from the scrape configuration.
TARGET_LABELS = {"node", "instance", "job"}
METRIC = re.compile(r"\b(?:dedgeai|node|scrape)_[A-Za-z_]+\b|\bup\b|\bALERTS\b")


def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    return found


def panels(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["panels"]
    return found


def targets() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel.get("targets", []):
                yield f"{path.stem}: {panel['title']}", target


def queries() -> dict[str, str]:
    """Everything that asks Prometheus, by where it stands, variables filled in."""
    found = {f"alert {rule['alert']}": rule["expr"] for rule in rules()}
    for where, target in targets():
        expression = target["expr"].replace("$__rate_interval", "1m").replace("$node", "orin-1")
        found[f"{where} {target['refId']}"] = expression
    return found


def exported() -> dict[str, set[str]]:
    """Series names of a node, and their labels as metrics.py documents them."""
    registry = CollectorRegistry()
    NodeMetrics(registry)
    names = {
        "counter": ("_total",),
        "gauge": ("",),
        "histogram": ("_bucket", "_sum", "_count"),
    }
    series = {
        family.name + ending for family in registry.collect() for ending in names[family.type]
    }
    series |= {family.name for family in DeviceCollector(clock=SystemClock()).collect()}
    documented = re.findall(r"^\| (\w+) \| ([^|]*) \|", metrics_module.__doc__ or "", re.MULTILINE)
    labels = {
        f"dedgeai_{name}": set(unit.partition("; ")[2].split(", ")) - {""}
        for name, unit in documented
    }
    found = {}
    for one in series:
        family = re.sub(r"_(bucket|sum|count)$", "", one)
        found[one] = labels[family] | ({"le"} if one.endswith("_bucket") else set())
    return found


def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    promtool = tool("promtool")
    said = passes(promtool, "check", "config", PROMETHEUS / "prometheus.yml")
    assert "SUCCESS: 1 rule files found" in said
    for path in (PROMETHEUS / "targets.example").iterdir():
        assert all(one["labels"].keys() == {"node"} for one in yaml.safe_load(path.read_text()))


def test_every_alert_fires_when_it_should_and_not_before() -> None:
    promtool = tool("promtool")
    assert "SUCCESS" in passes(promtool, "check", "rules", RULES)
    cases = Path(__file__).parent / "alerts_test.yml"
    assert "SUCCESS" in passes(promtool, "test", "rules", cases, cwd=cases.parent)


def test_no_alert_is_without_a_case() -> None:
    cases = yaml.safe_load((Path(__file__).parent / "alerts_test.yml").read_text())["tests"]
    fired = {
        one["alertname"] for case in cases for one in case["alert_rule_test"] if one["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in rules()}


def test_every_alert_says_where_how_bad_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert "$labels.node" in rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith(".")


def test_thresholds_agree_with_the_settings() -> None:
    by_name = {rule["alert"]: rule["expr"] for rule in rules()}
    deadline_s = NodeConfig().deadline_s_default
    assert by_name["BacklogOverDeadline"].endswith(f"> {deadline_s:.0f}")
    tripped = re.findall(r'reason=~"([^"]+)"', by_name["GuardTripped"])
    assert set(tripped) == {"replay|live|error|not finite|over budget"}
    assert set(tripped[0].split("|")) <= set(REASONS)
    floor = load_config(DEPLOY / "dedgeai.toml", {}).memory_floor_bytes
    low = re.search(r"< (\d+) \* 1024 \* 1024 \* 1024", by_name["MemoryLow"])
    assert low
    assert int(low[1]) * 2**30 > floor
    scrape = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["global"]
    assert f">= {float(scrape['scrape_timeout'][:-1]) - 0.1:.1f}" in by_name["NodeFrozen"]


@pytest.mark.parametrize("where", queries())
def test_it_asks_for_what_a_node_exports(where: str) -> None:
    query = queries()[where]
    known = exported() | NODE_EXPORTER | OWN
    asked = set(METRIC.findall(re.sub(r'"[^"]*"', '""', query)))
    assert asked
    assert asked <= known.keys()
    labels = TARGET_LABELS.union(*(known[name] for name in asked))
    for name, selector in re.findall(r"(\w+)\{([^}]*)\}", query):
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector):
            assert label in known[name] | TARGET_LABELS, f"{name} has no label {label}"
    for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", query):
        assert {label.strip() for label in group.split(",")} <= labels


def test_every_query_is_promql(tmp_path: Path) -> None:
    promtool = tool("promtool")
    written = [
        {"record": f"query_{index}", "expr": query}
        for index, query in enumerate(queries().values())
    ]
    path = tmp_path / "queries.yml"
    path.write_text(json.dumps({"groups": [{"name": "queries", "rules": written}]}))
    assert f"{len(written)} rules found" in passes(promtool, "check", "rules", path)


def test_legends_name_labels_that_are_there() -> None:
    known = exported() | NODE_EXPORTER
    for where, target in targets():
        asked = METRIC.findall(target["expr"])
        labels = TARGET_LABELS.union(*(known.get(name, set()) for name in asked))
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels, where


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    assert dashboard["uid"] == f"dedgeai-{path.stem}"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "prometheus"
            assert panel["fieldConfig"]["defaults"]["unit"]


def test_what_the_overview_promises_is_on_it() -> None:
    titles = " ".join(panel["title"] for panel in panels(GRAFANA / "dashboards" / "overview.json"))
    for promised in ("Who draws", "Service delay", "Work ahead", "Offload", "Refused", "Learned"):
        assert promised in titles


def test_grafana_finds_source_and_dashboards() -> None:
    provisioned = GRAFANA / "provisioning"
    source = yaml.safe_load((provisioned / "datasources" / "prometheus.yaml").read_text())
    assert source["datasources"][0]["uid"] == "prometheus"
    interval = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["global"]
    assert source["datasources"][0]["jsonData"]["timeInterval"] == interval["scrape_interval"]
    provider = yaml.safe_load((provisioned / "dashboards" / "dedgeai.yaml").read_text())
    mounts = yaml.safe_load((DEPLOY / "compose.monitoring.yaml").read_text())
    mounted = {one["target"] for one in mounts["services"]["grafana"]["volumes"]}
    assert provider["providers"][0]["options"]["path"] in mounted

"""k3s manifests: valid by Kubernetes' schemas, and saying what compose.yaml says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from edge_node.config_sources import load_config

from .files import DEPLOY, compose

pytestmark = pytest.mark.deploy

K3S = DEPLOY / "k3s"
# The first with what the DaemonSet uses, and a recent one.
VERSIONS = ("1.29", "1.34")
UNITS = {"k": "Ki", "m": "Mi", "g": "Gi"}


def manifests() -> dict[str, dict[str, Any]]:
    named = yaml.safe_load((K3S / "kustomization.yaml").read_text())["resources"]
    return {name: yaml.safe_load((K3S / name).read_text()) for name in named}


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifests()["daemonset.yaml"]["spec"]["template"]["spec"]
    return spec


def containers() -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in (*pod()["initContainers"], *pod()["containers"])}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", manifests())
def test_the_schema_accepts_it(name: str, version: str) -> None:
    used = kubernetes_validate.validate(manifests()[name], version, strict=True)
    assert used.startswith(version)


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("daemonset.yaml", ("spec", "template", "spec", "hostNetworks"), True),
        ("daemonset.yaml", ("spec", "template", "spec", "terminationGracePeriodSeconds"), "2m"),
        ("disruption-budget.yaml", ("spec", "minAvailable"), [4]),
    ],
)
def test_the_schema_refuses_what_is_wrong(name: str, place: tuple[str, ...], value: object) -> None:
    manifest = inside = manifests()[name]
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


def test_every_file_is_applied() -> None:
    assert {path.name for path in K3S.glob("*.yaml")} == {*manifests(), "kustomization.yaml"}


def test_one_pod_per_labelled_jetson_one_at_a_time() -> None:
    spec = manifests()["daemonset.yaml"]["spec"]
    assert spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == 1
    assert spec["template"]["spec"]["nodeSelector"]["dedgeai.io/device"] == "jetson-agx-orin"
    assert pod()["runtimeClassName"] == manifests()["runtimeclass.yaml"]["metadata"]["name"]
    assert pod()["hostNetwork"]
    budget = manifests()["disruption-budget.yaml"]["spec"]
    # Pods of a DaemonSet have no scale: an integer minAvailable is all that works.
    assert isinstance(budget["minAvailable"], int)
    assert budget["selector"] == spec["selector"]


def test_the_configuration_is_one_that_a_node_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dedgeai.toml"
    path.write_text(manifests()["configmap.yaml"]["data"]["dedgeai.toml"])
    monkeypatch.setenv("DEDGEAI_NODE_ID", "orin-1")
    config = load_config(path, {})
    assert (config.node_id, config.discovery) == ("orin-1", "mdns")
    assert pod()["terminationGracePeriodSeconds"] > 2 * config.drain_s + 17
    with_id = [one for one in containers().values() if one["image"] == "dedgeai" and "args" in one]
    assert len(with_id) == 3
    for container in with_id:
        names = {entry["name"]: entry for entry in container["env"]}
        source = names["DEDGEAI_NODE_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
        assert source == "spec.nodeName"


def test_probes_look_where_the_node_answers() -> None:
    node = containers()["node"]
    assert node["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert node["readinessProbe"]["httpGet"]["path"] == "/readyz"
    ports = {one["name"]: one["containerPort"] for one in node["ports"]}
    config = load_config(None, {})
    assert ports == {"rest": config.rest_port, "grpc": config.grpc_port}
    for name in ("store", "worker", "learner"):
        assert "exec" in containers()[name]["livenessProbe"], name


def test_store_and_worker_end_after_the_node() -> None:
    for name in ("store", "worker"):
        assert containers()[name]["restartPolicy"] == "Always"
        assert containers()[name] in pod()["initContainers"]


def test_it_says_what_compose_says() -> None:
    every = compose("compose.yaml")["services"]
    assert containers()["store"]["image"] == every["store"]["image"]
    assert containers()["store"]["command"] == every["store"]["command"]
    for name in ("node", "worker", "learner", "store"):
        limit = every[name]["mem_limit"]
        memory = containers()[name]["resources"]["limits"]["memory"]
        assert memory == limit[:-1] + UNITS[limit[-1]], name
    for name in ("node", "worker", "learner"):
        assert containers()[name]["args"] == every[name]["command"]
        wanted = every[name]["environment"]
        given = {one["name"]: one.get("value") for one in containers()[name]["env"]}
        assert wanted.items() <= given.items()
        check = every[name]["healthcheck"]["test"][1:]
        probe = containers()[name]["livenessProbe"]
        assert "httpGet" in probe or probe["exec"]["command"] == check


def test_nothing_may_become_more_than_it_is() -> None:
    for name, container in containers().items():
        security = container["securityContext"]
        assert security["capabilities"]["drop"] == ["ALL"], name
        assert not security["allowPrivilegeEscalation"], name
        # The NVIDIA runtime's hooks write into the worker's root.
        assert security.get("readOnlyRootFilesystem", False) == (name != "worker")
    assert pod()["securityContext"]["runAsUser"] == 1000
    mounted = {one["name"]: one for one in containers()["worker"]["volumeMounts"]}
    assert mounted["models"]["readOnly"]

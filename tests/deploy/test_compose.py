"""Compose files: valid by the specification's schema, and holding what this project promises."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edge_node.clock import SystemClock
from edge_node.config_sources import load_config
from edge_node.console import deploy as deploy_command
from edge_node.console.inventory import read_inventory, render
from edge_node.node import STOP_GRACE_S
from edge_node.store.connection import StoreSettings
from edge_node.store.embedded_valkey import valkey_command, wait_until_ready
from edge_node.store.opening import FLUSH_S_MAX
from edge_node.store.task_ledger import LedgerSettings, TaskLedger

from .files import DEPLOY, compose

pytestmark = pytest.mark.deploy

SETS = {
    "one device": ("compose.yaml",),
    "with monitoring": ("compose.yaml", "compose.monitoring.yaml"),
    "monitoring alone": ("compose.monitoring.yaml",),
    "without a GPU": ("compose.yaml", "compose.cpu.yaml"),
}
SCHEMA = json.loads((Path(__file__).parent / "compose_spec" / "compose-spec.json").read_text())
MODULE_BYTES = 61 * 2**30
UNITS = {"k": 2**10, "m": 2**20, "g": 2**30}


def services(*names: str) -> dict[str, Any]:
    found: dict[str, Any] = compose(*names)["services"]
    return found


def lasting() -> dict[str, Any]:
    """Services of a device and its dashboards that run on and on."""
    every = services("compose.yaml", "compose.monitoring.yaml")
    return {name: one for name, one in every.items() if name not in ("folders", "doctor")}


def bytes_of(text: str) -> int:
    return int(text[:-1]) * UNITS[text[-1]]


def seconds_of(text: str) -> float:
    assert text.endswith("s")
    return float(text[:-1])


def check_schema(document: dict[str, Any]) -> None:
    jsonschema.validate(document, SCHEMA, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("names", SETS.values(), ids=SETS)
def test_the_schema_accepts_it(names: tuple[str, ...]) -> None:
    check_schema(compose(*names))


def test_the_schema_accepts_what_each_device_of_the_inventory_gets() -> None:
    for files in render(read_inventory(DEPLOY / "inventory.toml"), DEPLOY):
        environment = environment_of(files.rendered[".env"])
        document = compose(*environment["COMPOSE_FILE"].split(":"), environment=environment)
        check_schema(document)
        services = document["services"]
        assert services["worker"]["image"] == files.device.image
        assert services["node"]["labels"]["io.dedgeai.config"] == environment["CONFIG_DIGEST"]
        assert ("prometheus" in services) == files.monitoring


@pytest.mark.parametrize(
    ("key", "wrong"), [("mem_limits", "2g"), ("restart", 3), ("group_add", ["44", "44"])]
)
def test_the_schema_refuses_what_is_wrong(key: str, wrong: object) -> None:
    document = compose("compose.yaml")
    document["services"]["worker"][key] = wrong
    with pytest.raises(jsonschema.ValidationError):
        check_schema(document)


@pytest.mark.parametrize("names", SETS.values(), ids=SETS)
def test_what_is_named_is_there(names: tuple[str, ...]) -> None:
    document = compose(*names)
    for name, service in document["services"].items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in document["services"], name
            if how["condition"] == "service_healthy":
                assert "healthcheck" in document["services"][needed], needed
        for mount in service.get("volumes", []):
            if mount["type"] == "volume":
                assert mount["source"] in document["volumes"], name
            elif mount["source"].startswith("./monitoring"):
                assert (DEPLOY / mount["source"]).exists()


@pytest.mark.parametrize("name", lasting())
def test_every_service_is_kept_bounded_and_closed(name: str) -> None:
    service = lasting()[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}
    assert {"mem_limit", "stop_grace_period"} <= service.keys()
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "ports", "devices"}
    # The NVIDIA runtime's hooks write into the worker's root.
    assert service.get("read_only", False) == (name != "worker")
    assert re.search(r":v?\d+\.\d+\.\d+(-alpine)?$|^dedgeai:jetpack6$", service["image"])


def test_limits_leave_room_for_what_no_container_is_charged_for() -> None:
    limits = {name: bytes_of(service["mem_limit"]) for name, service in lasting().items()}
    assert sum(limits.values()) < MODULE_BYTES * 0.6
    # Weights at the peak of loading, and what CUDA and torch take.
    assert limits["worker"] > 6.03e9 + 3e9
    config = load_config(DEPLOY / "dedgeai.toml", {})
    assert limits["learner"] > config.learner_memory_bytes_max
    maxmemory = services("compose.yaml")["store"]["command"]
    data = bytes_of(maxmemory[maxmemory.index("--maxmemory") + 1].removesuffix("b"))
    assert limits["store"] >= 2 * data


def test_the_kernel_ends_the_store_last_and_learning_first() -> None:
    scores = {name: one.get("oom_score_adj", 0) for name, one in services("compose.yaml").items()}
    order = sorted(("learner", "worker", "node", "store"), key=scores.__getitem__, reverse=True)
    assert order == ["learner", "worker", "node", "store"]


@pytest.mark.parametrize("drain_s", [20.0, 120.0])
def test_a_node_may_drain_to_its_end(drain_s: float, tmp_path: Path) -> None:
    longest_s = drain_s + (drain_s + 1) + STOP_GRACE_S + 3 * FLUSH_S_MAX
    if drain_s == load_config(DEPLOY / "dedgeai.toml", {}).drain_s:
        node = services("compose.yaml")["node"]
        assert seconds_of(node["stop_grace_period"]) > longest_s
    path = tmp_path / "inventory.toml"
    path.write_text(
        (DEPLOY / "inventory.toml")
        .read_text()
        .replace("[defaults.settings]", f"[defaults.settings]\ndrain_s = {drain_s}")
    )
    for files in render(read_inventory(path), DEPLOY):
        assert seconds_of(environment_of(files.rendered[".env"])["STOP_GRACE"]) > longest_s


def test_only_the_node_is_on_the_network() -> None:
    modes = {name: one.get("network_mode") for name, one in services("compose.yaml").items()}
    on_it = {name for name, mode in modes.items() if mode == "host"}
    assert on_it == {"node", "doctor", "node-exporter"}
    assert {modes[name] for name in ("worker", "learner", "store", "folders")} == {"none"}


def test_the_worker_has_the_gpu_and_reads_the_models_only() -> None:
    worker = services("compose.yaml")["worker"]
    assert worker["runtime"] == "nvidia"
    assert worker["ipc"] == "host"
    for key, value in {
        "NVIDIA_VISIBLE_DEVICES": "all",
        "NVIDIA_DRIVER_CAPABILITIES": "all",
        "HF_HUB_OFFLINE": "1",
    }.items():
        assert worker["environment"][key] == value
    mounts = {mount["target"]: mount for mount in worker["volumes"]}
    assert mounts["/models"]["read_only"]
    assert not mounts["/models"]["bind"]["create_host_path"]


def test_the_doctor_sees_all_that_node_and_worker_see() -> None:
    every = services("compose.yaml")
    seen = {mount["target"] for mount in every["doctor"]["volumes"]}
    for name in ("node", "worker"):
        assert {mount["target"] for mount in every[name]["volumes"]} <= seen, name
    assert every["doctor"]["environment"] == every["worker"]["environment"]
    for key in ("runtime", "ipc", "group_add"):
        assert every["doctor"][key] == every["worker"][key]


def test_a_rehearsal_without_a_gpu_asks_for_nothing_of_a_jetson() -> None:
    text = json.dumps(services("compose.yaml", "compose.cpu.yaml"))
    for word in ('"runtime"', "nvpmodel", "/models", '"group_add"'):
        assert word not in text


def test_variables_are_explained_and_none_is_a_setting() -> None:
    used = set(re.findall(r"\$\{(\w+):-", (DEPLOY / "compose.yaml").read_text()))
    explained = environment_of((DEPLOY / "env.example").read_text())
    # Written by `dedgeai deploy` alone.
    assert used - {"CONFIG_DIGEST"} <= explained.keys()
    assert not [key for key in used | explained.keys() if key.startswith("DEDGEAI_")]
    node = compose("compose.yaml", environment=explained)["services"]["node"]
    assert node["image"] == explained["IMAGE"]


def test_the_example_config_is_what_compose_mounts() -> None:
    config = load_config(DEPLOY / "dedgeai.toml", {})
    every = services("compose.yaml")
    store = every["store"]["command"]
    assert config.redis_url == f"unix://{store[store.index('--unixsocket') + 1]}"
    for name in ("node", "worker", "learner"):
        targets = [mount["target"] for mount in every[name]["volumes"]]
        assert str(config.data_folder) in targets, name
        assert str(config.worker_socket.parent if config.worker_socket else "") in targets, name
        assert "/etc/dedgeai" in targets, name
    assert not config.learner
    assert not config.stability_license_accepted
    assert str(config.model).startswith("/models/")


def test_health_checks_look_at_their_own_process() -> None:
    for name in ("node", "worker", "learner"):
        service = services("compose.yaml")[name]
        config = ["--config", "/etc/dedgeai/dedgeai.toml"]
        assert service["command"] == [name, *config]
        assert service["healthcheck"]["test"] == ["CMD", "dedgeai", "health", *config, name]


def test_the_ledger_accepts_the_store_as_it_is_run() -> None:
    """With a real Valkey, which the command line of the compose file starts."""
    with tempfile.TemporaryDirectory(prefix="vk") as name:
        folder = Path(name)
        command = [
            part.replace("/run/dedgeai", name).replace("/data", name)
            for part in services("compose.yaml")["store"]["command"]
        ]
        command[0] = valkey_command(folder / "unused", folder / "unused.sock")[0]
        path = folder / "valkey.sock"
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            asyncio.run(wait_until_ready(path, 10.0))
            assert asyncio.run(promises_durability(f"unix://{path}"))
            assert path.stat().st_mode & 0o077 == 0
        finally:
            process.kill()
            process.wait()


async def promises_durability(url: str) -> bool:
    settings = LedgerSettings(
        store=StoreSettings(url=url), key_prefix="test:", idempotency_age_s_max=60
    )
    ledger = TaskLedger(settings, clock=SystemClock(), on_pending_changed=lambda count: None)
    await ledger.connect()
    try:
        return ledger.available and await ledger.next_incarnation() > 0
    finally:
        await ledger.close()


def environment_of(text: str) -> dict[str, str]:
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {key: value.strip("'") for key, _, value in (line.partition("=") for line in lines)}


def test_the_inventory_is_valid_and_every_node_knows_the_others() -> None:
    rendered = render(read_inventory(DEPLOY / "inventory.toml"), DEPLOY)
    addresses = {f"{one.device.address}:{one.config.grpc_port}" for one in rendered}
    assert len(addresses) == 5
    for files in rendered:
        own = f"{files.device.address}:{files.config.grpc_port}"
        assert set(files.config.peers) == addresses - {own}
        settings = tomllib.loads(files.rendered["config/dedgeai.toml"])
        assert settings["node_id"] == files.config.node_id
        plan = deploy_command.plan(files, ready_s_max=1.0)
        assert [type(step).__name__ for step in plan].count("AwaitReady") == 1

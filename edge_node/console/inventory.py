"""A cluster's devices as an operator writes them down, and the files that each of them needs.

Owns the inventory's format and what is rendered from it. Pure but for reading `deploy/` and the
check of settings; what is done with the files is `deploy.py`'s.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_node.config import LOOPBACK_HOSTS, NodeConfig
from edge_node.config_sources import load_config
from edge_node.console.toml_text import toml_value
from edge_node.errors import InvalidRequest
from edge_node.rest_tls import rest_scheme

# What compose.yaml and the inventory settle; the same for every node of a deployment.
_FIXED_SETTINGS = {
    "data_folder": "/var/lib/dedgeai",
    "redis_url": "unix:///run/dedgeai/valkey.sock",
    "worker_socket": "/run/dedgeai/worker.sock",
    "learner": False,
}
_USUAL_SETTINGS = {"rest_host": "0.0.0.0", "grpc_host": "0.0.0.0"}
# Beside dedgeai.toml on the device, and as its container sees it.
TLS_FOLDER = "config/tls"
_TLS_IN_CONTAINER = "/etc/dedgeai/tls"
_COPIED = ("compose.yaml", "restart-unhealthy.sh", "systemd")
_COPIED_FOR_MONITORING = (
    "compose.monitoring.yaml",
    "monitoring/prometheus/prometheus.yml",
    "monitoring/prometheus/rules",
    "monitoring/grafana",
)
# Beside drain_s for tasks and drain_s + 1 for connections: gRPC, three flushes, and some to spare.
_STOP_BESIDES_DRAIN_S = 30.0
_NODE_EXPORTER_PORT = 9100

# No quote: .env takes the rest as it stands between two of them.
_AbsoluteFolder = Annotated[str, Field(pattern=r"^/[^'\n]*$")]


class Device(BaseModel):
    """One device, its entry over the inventory's defaults.

    Attributes:
        host: name or address for ssh; `user` and `ssh_port` go with it.
        node_id: name in the cluster.
        address: on the LAN, as the other nodes and clients reach it.
        folder: of the compose project on the device; the user's own.
        image: with its tag, and better its digest.
        image_archives: files of `docker save`, loaded before anything is pulled.
        power_mode: of nvpmodel, 0 is MAXN; left as it is when not given.
        node_exporter: also run Prometheus' node exporter.
        settings: of dedgeai.toml.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:-]*$")
    user: str = Field(pattern=r"^[a-z_][a-z0-9_-]*$")
    ssh_port: int = Field(default=22, gt=0, le=65535)
    node_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")
    address: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*$")
    folder: _AbsoluteFolder = "/opt/dedgeai"
    image: str = Field(pattern=r"^[a-z0-9][A-Za-z0-9._:/@-]*$")
    image_archives: tuple[Path, ...] = ()
    models_folder: _AbsoluteFolder = "/models"
    data_folder: _AbsoluteFolder = "/var/lib/dedgeai"
    power_mode: int | None = Field(default=None, ge=0, le=15)
    node_exporter: bool = True
    settings: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DeviceFiles:
    """What one device gets.

    Attributes:
        rendered: path below the device's folder to content, made for this device.
        copied: path below the device's folder to the file here.
    """

    device: Device
    config: NodeConfig
    rendered: Mapping[str, str]
    copied: Mapping[str, Path]
    monitoring: bool

    @property
    def certified(self) -> bool:
        """Whether the node proves who it is, with what deploy makes for it."""
        return self.config.tls_folder == Path(_TLS_IN_CONTAINER)

    @property
    def needs_keys(self) -> bool:
        """Whether the node starts only with keys."""
        config = self.config
        reached = config.rest_host not in LOOPBACK_HOSTS
        return self.certified and reached and not config.allow_open_rest

    @property
    def rest_url(self) -> str:
        """Of the device's node, from elsewhere."""
        return f"{rest_scheme(self.config)}://{self.device.address}:{self.config.rest_port}"


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """Every device, in the order in which they are brought up to date."""

    devices: tuple[Device, ...]
    monitoring_node_id: str | None


def read_inventory(path: Path) -> Inventory:
    """Reads an inventory.

    Raises:
        InvalidRequest: with a sentence for what is wrong in it.
    """
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} is not valid TOML: {error}.") from None
    _refuse_unknown(document, {"defaults", "nodes", "monitoring"}, where=str(path))
    defaults, monitoring = document.get("defaults", {}), document.get("monitoring", {})
    _refuse_unknown(monitoring, {"node_id"}, where="[monitoring]")
    devices = tuple(
        _device(entry, defaults, position)
        for position, entry in enumerate(document.get("nodes", []), start=1)
    )
    inventory = Inventory(devices=devices, monitoring_node_id=monitoring.get("node_id"))
    _check(inventory)
    return inventory


def render(inventory: Inventory, source: Path) -> list[DeviceFiles]:
    """Every device's files; `source` is the folder with compose.yaml.

    Raises:
        InvalidRequest: settings that a node would refuse, or a file that is missing.
    """
    configs = {device.node_id: _config(device, inventory) for device in inventory.devices}
    return [_files(device, inventory, configs, source) for device in inventory.devices]


def toml_of(values: Mapping[str, Any], *, heading: str) -> str:
    """A TOML file of plain values, lists and flat tables."""
    lines = [*(f"# {line}" for line in heading.splitlines()), ""]
    lines += [f"{key} = {toml_value(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _device(entry: Any, defaults: Mapping[str, Any], position: int) -> Device:
    where = f"node {entry.get('node_id', position)}"
    _refuse_unknown({**defaults, **entry}, set(Device.model_fields), where=where)
    settings = {**defaults.get("settings", {}), **entry.get("settings", {})}
    try:
        return Device(**{**defaults, **entry, "settings": settings})
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise InvalidRequest(f"{where}: {key}: {problem['msg']}.") from None


def _refuse_unknown(table: Mapping[str, Any], known: set[str], *, where: str) -> None:
    for key in table.keys() - known:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InvalidRequest(f"{where}: {key} is not known here.{hint}")


def _check(inventory: Inventory) -> None:
    if not inventory.devices:
        raise InvalidRequest("The inventory has no [[nodes]].")
    for key in ("node_id", "host", "address"):
        values = [getattr(device, key) for device in inventory.devices]
        for value in values:
            # Several nodes behind one host would share its ports and its accelerator.
            if values.count(value) > 1:
                raise InvalidRequest(f"Two nodes have the {key} {value}.")
    ids = {device.node_id for device in inventory.devices}
    if inventory.monitoring_node_id not in {None, *ids}:
        raise InvalidRequest(f"[monitoring]: there is no node {inventory.monitoring_node_id}.")


def _settings(device: Device, inventory: Inventory) -> dict[str, Any]:
    settled = {"node_id", "peers", *_FIXED_SETTINGS}
    for key in sorted(settled & device.settings.keys()):
        raise InvalidRequest(
            f"node {device.node_id}: {key} follows from compose.yaml and the inventory; remove it "
            "from settings."
        )
    peers = [
        f"{other.address}:{_port(other, 'grpc_port')}"
        for other in inventory.devices
        if other is not device
    ]
    own: dict[str, Any] = {"node_id": device.node_id, "peers": peers}
    _demand_word_for_open_rest(device)
    # Unless the operator says in so many words that nobody has to prove anything.
    if not device.settings.get("allow_insecure_peering", False):
        own["tls_folder"] = _TLS_IN_CONTAINER
    return {**own, **_FIXED_SETTINGS, **_USUAL_SETTINGS, **device.settings}


def _demand_word_for_open_rest(device: Device) -> None:
    """In clear no list of keys is passed on, and deploy gives out none: someone has to mean it."""
    settings = device.settings
    in_clear = settings.get("allow_insecure_peering", False)
    told = {"allow_open_rest", "keys_file", "rest_host"} & settings.keys()
    if in_clear and not told:
        raise InvalidRequest(
            f"node {device.node_id}: with allow_insecure_peering nobody is asked for a key, so "
            "anyone who reaches REST may draw: say so with allow_open_rest = true in settings. "
            "Without both, deploy makes certificates and a first key."
        )


def _port(device: Device, key: str) -> int:
    return int(device.settings.get(key, NodeConfig.model_fields[key].default))


def _scheme(device: Device) -> dict[str, str]:
    """How Prometheus asks it, where that is not in clear."""
    return {"__scheme__": "https"} if device.settings.get("rest_tls") else {}


def _config(device: Device, inventory: Inventory) -> NodeConfig:
    """The device's settings, as the node itself will read them."""
    values = _settings(device, inventory)
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(toml_of(values, heading=""))
        file.flush()
        try:
            # Given again as overrides: this machine's DEDGEAI_ variables are not the device's.
            return load_config(Path(file.name), values)
        except InvalidRequest as error:
            raise InvalidRequest(f"node {device.node_id}: {error.message}") from None


def _files(
    device: Device, inventory: Inventory, configs: Mapping[str, NodeConfig], source: Path
) -> DeviceFiles:
    monitoring = device.node_id == inventory.monitoring_node_id
    heading = f"Written by `dedgeai deploy` for {device.node_id}, and overwritten by the next one."
    settings = toml_of(_settings(device, inventory), heading=heading)
    copied = _copied(source, (*_COPIED, *(_COPIED_FOR_MONITORING if monitoring else ())))
    config = configs[device.node_id]
    rendered = {
        "config/dedgeai.toml": settings,
        ".env": _environment(device, config, settings, copied=copied, monitoring=monitoring),
    }
    if monitoring:
        rendered |= _targets(inventory)
    return DeviceFiles(
        device=device, config=config, rendered=rendered, copied=copied, monitoring=monitoring
    )


def _copied(source: Path, names: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name in names:
        path = source / name
        if not path.exists():
            raise InvalidRequest(
                f"There is no {path}. Keep the inventory in a copy of deploy/, beside compose.yaml."
            )
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        found |= {str(file.relative_to(source)): file for file in files}
    return found


def _environment(
    device: Device,
    config: NodeConfig,
    settings: str,
    *,
    copied: Mapping[str, Path],
    monitoring: bool,
) -> str:
    """The device's .env; the install step adds the numbers of its groups."""
    monitored = b"".join(
        path.read_bytes() for name, path in copied.items() if name.startswith("monitoring/")
    )
    values = {
        "IMAGE": device.image,
        "MODELS_FOLDER": device.models_folder,
        "DATA_FOLDER": device.data_folder,
        "CONFIG_FOLDER": "./config",
        "STOP_GRACE": f"{2 * config.drain_s + _STOP_BESIDES_DRAIN_S:.0f}s",
        "COMPOSE_PROFILES": "node-exporter" if device.node_exporter else "",
        "COMPOSE_FILE": "compose.yaml" + (":compose.monitoring.yaml" if monitoring else ""),
        # Labels of the containers: other settings, other containers.
        "CONFIG_DIGEST": hashlib.sha256(settings.encode()).hexdigest()[:16],
        "MONITORING_DIGEST": hashlib.sha256(monitored).hexdigest()[:16],
    }
    return "".join(f"{key}='{value}'\n" for key, value in values.items())


def _targets(inventory: Inventory) -> dict[str, str]:
    """Prometheus' targets, which it reads again when they change."""
    nodes = [
        {
            "targets": [f"{device.address}:{_port(device, 'rest_port')}"],
            "labels": {"node": device.node_id, **_scheme(device)},
        }
        for device in inventory.devices
    ]
    devices = [
        {
            "targets": [f"{device.address}:{_NODE_EXPORTER_PORT}"],
            "labels": {"node": device.node_id},
        }
        for device in inventory.devices
        if device.node_exporter
    ]
    folder = "monitoring/prometheus/targets"
    return {
        f"{folder}/nodes.yaml": "".join(f"- {json.dumps(one)}\n" for one in nodes),
        f"{folder}/devices.yaml": "".join(f"- {json.dumps(one)}\n" for one in devices) or "[]\n",
    }

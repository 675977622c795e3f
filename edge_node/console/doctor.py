"""`dedgeai doctor`: looks at a device as its node would find it, and says what mends it.

Owns the order of the checks and how they are shown; each part of a device has a module in
doctor_checks. It changes nothing. The node may run meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_node.config import NodeConfig
from edge_node.console.doctor_checks.device import examine_device
from edge_node.console.doctor_checks.finding import Finding
from edge_node.console.doctor_checks.gpu import examine_gpu
from edge_node.console.doctor_checks.host import examine_disk, examine_port, examine_python
from edge_node.console.doctor_checks.model import examine_model
from edge_node.console.doctor_checks.peers import OwnNode, ask_own_node, certificate, examine_peers
from edge_node.console.doctor_checks.store import examine_store
from edge_node.errors import InvalidRequest
from edge_node.telemetry.jetson import read_device

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}


def run_doctor(load: Callable[[], NodeConfig], *, as_json: bool, console: Console) -> int:
    """Examines the device of the configuration that `load` gives, and prints.

    Returns:
        0 when nothing failed, else 1; a configuration that is none has failed.
    """
    try:
        config = load()
    except InvalidRequest as error:
        remedy = "dedgeai config check"
        findings = [Finding(check="config", level="fail", seen=error.message, remedy=remedy)]
    else:
        findings = asyncio.run(examine(config))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _show(findings, console)
    return 1 if any(finding.level == "fail" for finding in findings) else 0


async def examine(config: NodeConfig, *, root: Path = Path("/")) -> list[Finding]:
    """All findings, in the order in which a person would mend them.

    Args:
        config: of the node.
        root: folder that holds sys, proc, etc and var.
    """
    reading = read_device(root)
    tls, proof = certificate(config)
    own = await ask_own_node(config, tls=tls)
    local: tuple[tuple[str, Callable[[], Sequence[Finding]]], ...] = (
        ("python", lambda: examine_python(config)),
        ("device", lambda: examine_device(reading, root)),
        ("model", lambda: examine_model(config, reading, root, node_runs=own.holds_rest)),
        ("gpu", lambda: examine_gpu(config, root)),
        ("disk", lambda: examine_disk(config)),
        ("store", lambda: examine_store(config)),
        ("ports", lambda: _ports(config, own)),
    )
    findings = [found for name, check in local for found in _survived(name, check)]
    others = await examine_peers(
        config.node_id, config.peers, own.peers, clocks=own.clocks, tls=tls
    )
    return [*findings, *proof, *others]


def _ports(config: NodeConfig, own: OwnNode) -> list[Finding]:
    return [
        examine_port("rest", config.rest_host, config.rest_port, held_by_own_node=own.holds_rest),
        examine_port("grpc", config.grpc_host, config.grpc_port, held_by_own_node=own.holds_grpc),
    ]


def _survived(name: str, check: Callable[[], Sequence[Finding]]) -> Sequence[Finding]:
    """A file that cannot be read ends one check, not all of them."""
    try:
        return check()
    except OSError as error:
        seen = f"could not be looked at: {error}"
        remedy = "dedgeai doctor, as the user that runs the node"
        return [Finding(check=name, level="fail", seen=seen, remedy=remedy)]


def _show(findings: Sequence[Finding], console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "check", "seen"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        seen = Text(finding.seen)
        if finding.remedy:
            seen.append(f"\n-> {finding.remedy}", style="bold")
        style = _STYLES[finding.level]
        table.add_row(Text(finding.level, style=style), Text(finding.check), seen)
    console.print(table)
    counts = {level: sum(f.level == level for f in findings) for level in _STYLES}
    console.print(", ".join(f"{count} {level}" for level, count in counts.items()))

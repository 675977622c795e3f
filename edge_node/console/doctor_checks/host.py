"""The machine as any Linux has it: Python and its packages, disk, ports.

Owns the comparison with what the configuration asks for. A port that this node holds itself is no
finding; whether it does is told by those who ask it, in peers.py.
"""

from __future__ import annotations

import errno
import importlib.metadata
import os
import platform
import re
import shutil
import socket
from pathlib import Path

from edge_node.config import NodeConfig
from edge_node.console.doctor_checks.finding import Finding, sized

_PACKAGE = "dedgeai"
_REQUIREMENT = re.compile(r'([\w.-]+)(?:\[[^]]*])?>=([\d.]+)[^;]*(?:;\s*extra == "([\w-]+)")?')


def examine_python(config: NodeConfig) -> list[Finding]:
    """One finding on the interpreter and on the packages that this configuration needs."""
    extras = [
        extra
        for extra, needed in (
            ("worker", config.engine == "sd3" and config.worker_socket is None),
            ("embedded-store", config.redis_url is None),
            ("mdns", config.discovery == "mdns"),
            ("learner", config.learner),
        )
        if needed
    ]
    wrong = []
    for requirement in importlib.metadata.requires(_PACKAGE) or []:
        found = _REQUIREMENT.fullmatch(requirement)
        if found and (found[3] is None or found[3] in extras):
            version = installed_version(found[1])
            if version is None or _numbers(version) < _numbers(found[2]):
                wrong.append(f"{found[1]} {version or 'missing'}, {found[2]} needed")
    names = [_PACKAGE, "grpcio", "redis", *(["torch", "diffusers"] if "worker" in extras else [])]
    versions = [f"{name} {installed_version(name)}" for name in names if installed_version(name)]
    seen = ", ".join([f"Python {platform.python_version()}", *versions])
    if not wrong:
        return [Finding(check="python", level="ok", seen=seen)]
    wanted = f"{_PACKAGE}[{','.join(extras)}]" if extras else _PACKAGE
    remedy = f"pip install --upgrade '{wanted}'"
    return [Finding(check="python", level="fail", seen="; ".join([seen, *wrong]), remedy=remedy)]


def installed_version(name: str) -> str | None:
    """As the package's metadata has it; the package is not imported."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """The release, without what a local build adds."""
    release = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in release[0].split(".")) if release else ()


def examine_disk(config: NodeConfig) -> list[Finding]:
    """One finding on the room for all images that the configuration lets the node keep."""
    folder = config.data_folder.resolve()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        seen = f"{existing} cannot be written to by user {os.getuid()}"
        remedy = f"sudo install -d -o {os.getuid()} -g {os.getgid()} {folder}"
        return [Finding(check="disk", level="fail", seen=seen, remedy=remedy)]
    free = shutil.disk_usage(existing).free
    images_left = max(0, config.image_bytes_total_max - _stored_bytes(folder / "images"))
    started_left = max(0, config.init_image_bytes_total_max - _stored_bytes(folder / "init_images"))
    seen = f"{sized(free)} free for {folder}, which may grow by {sized(images_left + started_left)}"
    if free >= images_left + started_left:
        return [Finding(check="disk", level="ok", seen=seen)]
    if free < started_left:
        remedy = f"sudo du -xh --max-depth=2 {existing} | sort -h | tail, and remove what may go"
        return [Finding(check="disk", level="fail", seen=seen, remedy=remedy)]
    fitting = config.image_bytes_total_max - images_left + free - started_left
    remedy = f"image_bytes_total_max = {fitting} in the configuration"
    return [Finding(check="disk", level="warn", seen=seen, remedy=remedy)]


def _stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def examine_port(name: str, host: str, port: int, *, held_by_own_node: bool) -> Finding:
    """Whether the node could listen there, or does.

    Args:
        name: rest or grpc.
        host: to listen on.
        port: 0 for any.
        held_by_own_node: whether this very node answered there.
    """
    check = f"{name}_port"
    if held_by_own_node:
        return Finding(check=check, level="ok", seen=f"{host}:{port} is held by this node")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            remedy = f"{name}_host or {name}_port in the configuration"
            if error.errno == errno.EADDRINUSE:
                remedy = f"sudo ss -ltnp 'sport = :{port}', then stop it, or change {name}_port"
            seen = f"{host}:{port} cannot be had: {error.strerror or error}"
            return Finding(check=check, level="fail", seen=seen, remedy=remedy)
    return Finding(check=check, level="ok", seen=f"{host}:{port} is free")

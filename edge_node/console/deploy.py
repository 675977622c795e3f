"""`dedgeai deploy`: brings devices to what an inventory says, one after the other.

Owns the plan (files in, steps out) and carrying it out over the system's ssh. Every node's settings
are checked before anything is sent, every device is looked at before the first is changed, and the
first failure ends it: the devices after it were not touched. Not run on a device.
"""

from __future__ import annotations

import asyncio
import io
import shlex
import subprocess
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console

from edge_node.access.signed_list import LIST_NAME
from edge_node.console.cluster_keys import FIRST_KEY, ClusterKeys
from edge_node.console.inventory import TLS_FOLDER, DeviceFiles, read_inventory, render
from edge_node.console.rest_client import RestClient
from edge_node.errors import DEdgeAIError, InvalidRequest
from edge_node.peering.tls import KEY

if TYPE_CHECKING:
    from edge_node.console.certs import Authority

# ssh's own exit code, by its manual; every other one is the script's.
_SSH_FAILED = 255
_SSH_OPTIONS = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=15")
# Of pulling or loading an image of some 10 GB, and of waiting for the store to read its file.
_IMAGE_S_MAX = 3600.0
_START_S_MAX = 900.0
_SHORT_S_MAX = 120.0
_READY_POLL_S = 1.0
# Beside the inventory: the cluster's authority, and what it gave to nodes.
CERTS_FOLDER = "certs"
CERTIFICATE_DAYS = 365
RENEW_LEFT_DAYS = 120.0
_CONTAINER_UID = 1000
_CONFIG_IN_CONTAINER = "/etc/dedgeai/dedgeai.toml"


class DeployFailed(DEdgeAIError):
    """A device could not be brought to what was asked; what happened to the others is said."""

    code = "deploy_failed"


@dataclass(frozen=True, kw_only=True)
class DeployRequest:
    """What to deploy.

    Attributes:
        inventory: TOML, beside compose.yaml.
        only: node ids to bring up to date; all of them when empty.
        dry_run: print, and neither connect nor change anything.
        certificates_only: bring running nodes their certificates and API keys, and restart nothing.
        ready_s_max: how long a node may take until it would draw.
    """

    inventory: Path
    only: tuple[str, ...] = ()
    dry_run: bool = False
    certificates_only: bool = False
    ready_s_max: float = 900.0


@dataclass(frozen=True, kw_only=True)
class OnDevice:
    """Run a POSIX shell script on a device.

    Attributes:
        what: it does, in words.
        stdin: what it reads: files to unpack, by their paths, or one file as it is.
        if_it_fails: what the operator can do.
        timeout_s: after which it is given up.
    """

    what: str
    script: str
    stdin: Mapping[str, str | Path] | Path | None = None
    if_it_fails: str = ""
    timeout_s: float = _SHORT_S_MAX


@dataclass(frozen=True, kw_only=True)
class AwaitReady:
    """Ask the device's node until it would draw."""

    what: str
    timeout_s: float
    if_it_fails: str = ""


Step = OnDevice | AwaitReady


class _Devices(Protocol):
    """Carries a step out, or shows it. Raises DeployFailed."""

    def carry_out(self, files: DeviceFiles, step: Step) -> None: ...


def deploy(request: DeployRequest, *, console: Console) -> int:
    """Looks at all devices, then brings them up to date one by one; returns the exit code.

    Raises:
        InvalidRequest: the inventory or a node's settings cannot be honoured.
        DeployFailed: a device did not do what it should.
    """
    inventory = read_inventory(request.inventory)
    rendered = render(inventory, request.inventory.parent)
    wanted = _wanted(rendered, request.only)
    if request.certificates_only:
        _refuse_uncertified(wanted)
    certs = request.inventory.parent / CERTS_FOLDER
    if request.dry_run and any(files.certified for files in wanted):
        _say(console, f"certificates would be in {certs}")
        if any(files.needs_keys for files in wanted) and not (certs / LIST_NAME).exists():
            _say(console, f"the first API key, for everything, would be {certs / FIRST_KEY}")
    if not request.dry_run:
        wanted = [_certified(files, certs, console=console) for files in wanted]
    devices: _Devices = _Shown(console) if request.dry_run else _OverSsh()
    for files in wanted:
        _say(console, f"{files.device.node_id}: look")
        _carry_out(devices, files, look(files), done=[], untouched=wanted)
    for index, files in enumerate(wanted):
        done = [one.device.node_id for one in wanted[:index]]
        steps = (
            [_renew_step(files)]
            if request.certificates_only
            else plan(files, ready_s_max=request.ready_s_max)
        )
        for step in steps:
            _say(console, f"{files.device.node_id}: {step.what}")
            _carry_out(devices, files, step, done=done, untouched=wanted[index + 1 :])
    said = (
        "Nothing was sent: this was a dry run." if request.dry_run else "All of it is up to date."
    )
    _say(console, said)
    return 0


def _certified(files: DeviceFiles, folder: Path, *, console: Console) -> DeviceFiles:
    """With a certificate good for a while yet; authority and keys are made with the first."""
    if not files.certified:
        return files
    from edge_node.console.certs import Authority

    config, node_id = files.config, files.device.node_id
    if not folder.exists():
        Authority.begin(folder, cluster_name=config.cluster_name)
    authority = Authority(folder)
    if authority.cluster_name != config.cluster_name:
        raise InvalidRequest(
            f"{folder} has the authority of the cluster {authority.cluster_name}, and {node_id} is "
            f"of {config.cluster_name}. Keep a folder with an inventory for each."
        )
    if authority.left_days(node_id) < RENEW_LEFT_DAYS:
        hosts = dict.fromkeys([*authority.hosts(node_id), files.device.address])
        authority.issue(node_id, days=CERTIFICATE_DAYS, hosts=list(hosts))
    if files.needs_keys:
        _give_first_key(authority, console)
    made = folder / "nodes" / node_id
    tls = {f"{TLS_FOLDER}/{path.name}": path for path in sorted(made.iterdir())}
    return replace(files, copied={**files.copied, **tls})


def _give_first_key(authority: Authority, console: Console) -> None:
    """Nodes start with keys, or not at all: the operator's, beside the authority that signs it."""
    path = ClusterKeys(authority).give_first()
    if path is not None:
        _say(
            console,
            f"REST asks for API keys: {path} holds the first, which may do everything. Give out "
            f"others with: dedgeai keys add NAME --folder {authority.folder} --to URL",
        )


def look(files: DeviceFiles) -> OnDevice:
    """Whether the device could be deployed to; changes nothing but an empty folder."""
    device = files.device
    folder, models = shlex.quote(device.folder), shlex.quote(device.models_folder)
    script = f"""\
say() {{ echo "$@" >&2; exit 1; }}
docker info >/dev/null 2>&1 \\
    || say "Docker does not answer to $(id -un): sudo usermod -aG docker $(id -un), log in again."
docker compose version >/dev/null 2>&1 \\
    || say "Docker Compose is missing: sudo apt-get install docker-compose-v2."
docker info --format '{{{{json .Runtimes}}}}' | grep -q nvidia \\
    || say "Docker has no nvidia runtime: sudo nvidia-ctk runtime configure --runtime=docker."
mkdir -p {folder} 2>/dev/null && test -w {folder} \\
    || say "$(id -un) cannot write to" {folder}": sudo install -d -o $(id -un)" {folder}.
test -d {models} || say "There is no folder" {models}": put the weights there, or name another."
"""
    return OnDevice(what="look", script=script)


def plan(files: DeviceFiles, *, ready_s_max: float) -> list[Step]:
    """What brings one device up to date, in order."""
    folder = shlex.quote(files.device.folder)
    logs = f"ssh {_destination(files)} and: cd {folder} && docker compose ps && docker compose logs"
    back = f"What ran before: cd {folder} && cp -a last-good/. . && docker compose up -d."
    check = (
        f"docker compose run --rm -T --no-deps node config check --config {_CONFIG_IN_CONTAINER}"
    )
    return [
        *_power_steps(files),
        _install_step(files),
        *_image_steps(files),
        *_key_steps(files),
        OnDevice(
            what="check its settings with the new image",
            script=f"cd {folder}\ndocker compose run --rm -T folders\n{check}\n",
            if_it_fails="Its containers were left as they are.",
            timeout_s=_START_S_MAX,
        ),
        OnDevice(
            what="drain and start",
            # The node first and alone: it places elsewhere what its worker will not finish.
            script=f"cd {folder}\n"
            "docker compose stop node\ndocker compose up --detach --remove-orphans\n",
            if_it_fails=f"{logs}. {back}",
            timeout_s=_START_S_MAX,
        ),
        AwaitReady(
            what="wait until it would draw", timeout_s=ready_s_max, if_it_fails=f"{logs}. {back}"
        ),
        OnDevice(
            what="keep these files as the last good ones",
            script=f"cd {folder}\nrm -rf last-good\nmkdir last-good\n"
            "for name in .env compose.yaml compose.monitoring.yaml config monitoring; do\n"
            '    if [ -e "$name" ]; then cp -a "$name" last-good/; fi\ndone\n'
            # Going back is to what ran before, not to a certificate that may be over.
            f"rm -rf last-good/{TLS_FOLDER}\n",
        ),
    ]


def _power_steps(files: DeviceFiles) -> Iterable[OnDevice]:
    mode = files.device.power_mode
    if mode is None:
        return
    script = f"""\
mode() {{ sed -n 's/^.*pmode:0*\\([0-9][0-9]*\\).*$/\\1/p' /var/lib/nvpmodel/status; }}
if [ "$(mode)" != {mode} ]; then
    sudo -n nvpmodel -m {mode} </dev/null
    [ "$(mode)" = {mode} ] || {{ echo "nvpmodel was told {mode} and says $(mode)" >&2; exit 1; }}
    sudo -n jetson_clocks
fi
"""
    by_hand = (
        f"Run it there by hand, as it may ask for a reboot: sudo nvpmodel -m {mode} && sudo "
        "jetson_clocks. Or leave power_mode out."
    )
    yield OnDevice(what=f"set power mode {mode}", script=script, if_it_fails=by_hand)


def _install_step(files: DeviceFiles) -> OnDevice:
    """Files are unpacked beside the old ones first: a cut connection leaves those as they were."""
    script = f"""\
cd {shlex.quote(files.device.folder)}
rm -rf incoming
mkdir incoming
tar -x -f - -C incoming
for group in video render; do
    number="$(getent group "$group" | cut -d: -f3)"
    printf "%s_GID='%s'\\n" "$(echo "$group" | tr a-z A-Z)" "$number" >>incoming/.env
done
cp -a --remove-destination incoming/. .
rm -rf incoming
"""
    if files.monitoring:
        script += """\
if [ ! -e monitoring.env ]; then
    (umask 077
    printf 'GF_SECURITY_ADMIN_PASSWORD=%s\\n' "$(head -c 18 /dev/urandom | base64)" >monitoring.env)
fi
"""
    return OnDevice(
        what="copy its files",
        script=script,
        stdin={**files.rendered, **files.copied},
        if_it_fails="Its containers were left as they are.",
    )


def _image_steps(files: DeviceFiles) -> Iterable[OnDevice]:
    folder = shlex.quote(files.device.folder)
    for archive in files.device.image_archives:
        yield OnDevice(
            what=f"load {archive.name}",
            script="docker load\n",
            stdin=archive,
            if_it_fails="Its containers were left as they are.",
            timeout_s=_IMAGE_S_MAX,
        )
    yield OnDevice(
        what="pull the images that it lacks",
        script=f"cd {folder}\ndocker compose pull --quiet --policy missing\n",
        if_it_fails="Without a registry in reach, name archives in image_archives. Its containers "
        "were left as they are.",
        timeout_s=_IMAGE_S_MAX,
    )


def _key_steps(files: DeviceFiles) -> Iterable[OnDevice]:
    if not files.certified:
        return
    folder = shlex.quote(files.device.folder)
    yield OnDevice(
        what="give the key to the containers' user",
        script=f"cd {folder}\n{_give_key(TLS_FOLDER, files.device.image)}",
        if_it_fails="Its containers were left as they are.",
    )


def _give_key(folder: str, image: str) -> str:
    """The key is for the containers' user alone; and for the ssh user's group, who replaces it."""
    return f"""\
chmod 440 {folder}/{KEY}
if [ "$(id -u)" != {_CONTAINER_UID} ]; then
    docker run --rm --user 0:0 --network none --entrypoint chown \
        --volume "$PWD/{folder}:/tls" {image} \\
        "{_CONTAINER_UID}:$(id -g)" /tls/{KEY}
fi
"""


def _refuse_uncertified(wanted: Sequence[DeviceFiles]) -> None:
    for files in wanted:
        if not files.certified:
            raise InvalidRequest(
                f"{files.device.node_id} speaks in clear (allow_insecure_peering): it has no "
                "certificate to be renewed."
            )


def _renew_step(files: DeviceFiles) -> OnDevice:
    """A running node takes up what lies in its folder; what is put there it can read already."""
    script = f"""\
cd {shlex.quote(files.device.folder)}
[ -d {TLS_FOLDER} ] || {{ echo "it is not deployed yet" >&2; exit 1; }}
rm -rf incoming
mkdir incoming
tar -x -f - -C incoming
{_give_key(f"incoming/{TLS_FOLDER}", files.device.image)}\
cp -a --remove-destination incoming/{TLS_FOLDER}/. {TLS_FOLDER}/
rm -rf incoming
"""
    return OnDevice(
        what="renew its certificate and API keys",
        script=script,
        stdin={name: path for name, path in files.copied.items() if name.startswith(TLS_FOLDER)},
        if_it_fails="It goes on with the former ones.",
    )


def ssh_command(files: DeviceFiles, script: str) -> list[str]:
    """The local command that runs `script` on the device, stopping at its first failure."""
    options = [part for option in _SSH_OPTIONS for part in ("-o", option)]
    port = ["-p", str(files.device.ssh_port)]
    return ["ssh", *options, *port, _destination(files), f"sh -euc {shlex.quote(script)}"]


def _destination(files: DeviceFiles) -> str:
    return f"{files.device.user}@{files.device.host}"


def _wanted(rendered: Sequence[DeviceFiles], only: Sequence[str]) -> list[DeviceFiles]:
    ids = [files.device.node_id for files in rendered]
    for node_id in only:
        if node_id not in ids:
            raise InvalidRequest(f"The inventory has no node {node_id}: it has {', '.join(ids)}.")
    wanted = [files for files in rendered if not only or files.device.node_id in only]
    for files in wanted:
        for archive in files.device.image_archives:
            if not archive.is_file():
                raise InvalidRequest(f"There is no image archive {archive}.")
    return wanted


def _carry_out(
    devices: _Devices,
    files: DeviceFiles,
    step: Step,
    *,
    done: Sequence[str],
    untouched: Sequence[DeviceFiles],
) -> None:
    try:
        devices.carry_out(files, step)
    except DeployFailed as failure:
        rest = [one.device.node_id for one in untouched]
        sentences = [f"{files.device.node_id}: {step.what}: {failure.message}", step.if_it_fails]
        if done:
            sentences.append(f"Up to date: {', '.join(done)}.")
        if rest:
            sentences.append(f"Not touched: {', '.join(rest)}.")
        raise DeployFailed(" ".join(filter(None, sentences))) from None


class _OverSsh:
    """Really does it."""

    def carry_out(self, files: DeviceFiles, step: Step) -> None:
        if isinstance(step, AwaitReady):
            asyncio.run(_await_ready(files.rest_url, step.timeout_s))
        else:
            self._run(ssh_command(files, step.script), step)

    def _run(self, command: list[str], step: OnDevice) -> None:
        try:
            if isinstance(step.stdin, Path):
                with step.stdin.open("rb") as file:
                    done = subprocess.run(
                        command, stdin=file, capture_output=True, timeout=step.timeout_s
                    )
            else:
                sent = _tar(step.stdin) if step.stdin else b""
                done = subprocess.run(
                    command, input=sent, capture_output=True, timeout=step.timeout_s
                )
        except subprocess.TimeoutExpired:
            raise DeployFailed(f"no end within {step.timeout_s:g} s.") from None
        except OSError as error:
            raise DeployFailed(f"{command[0]} cannot be run here: {error.strerror}.") from None
        if done.returncode != 0:
            said = (done.stderr + done.stdout).decode(errors="replace").strip().splitlines()
            last = (said[-1] if said else "no output").rstrip(".")
            by_ssh = done.returncode == _SSH_FAILED
            hint = " It has to be reached without a password: see ssh-copy-id." if by_ssh else ""
            raise DeployFailed(f"ended with code {done.returncode}: {last}.{hint}")


class _Shown:
    """Prints every command, and every file with its content or where it comes from."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def carry_out(self, files: DeviceFiles, step: Step) -> None:
        if isinstance(step, AwaitReady):
            self._say(f"    GET {files.rest_url}/readyz until 200, {step.timeout_s:g} s at most")
            return
        sent = step.stdin
        if isinstance(sent, Path):
            self._say(f"    < {sent}")
        for name, content in {} if isinstance(sent, Path) else sorted((sent or {}).items()):
            path = f"{files.device.folder}/{name}"
            if isinstance(content, Path):
                self._say(f"    writes {path}: a copy of {content}")
            else:
                self._say(f"    writes {path}:")
                self._say_block(content)
        *ssh, _ = ssh_command(files, step.script)
        self._say(f"    {shlex.join(ssh)} sh -euc:")
        self._say_block(step.script)

    def _say_block(self, text: str) -> None:
        self._say("\n".join(f"      | {line}" for line in text.splitlines()))

    def _say(self, text: str) -> None:
        _say(self._console, text)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


async def _await_ready(url: str, timeout_s: float) -> None:
    async with RestClient(timeout_s=5.0) as client:
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if await client.is_ready(url):
                        return
                    failed = await client.why_failed(url)
                    if failed is not None:
                        raise DeployFailed(f"{url} will not get ready by itself: {failed}.")
                    await asyncio.sleep(_READY_POLL_S)
        except TimeoutError:
            said = "; ".join(await client.why_not_ready(url)) or "it does not answer"
            raise DeployFailed(
                f"{url}/readyz was not 200 within {timeout_s:g} s: {said}."
            ) from None


def _tar(files: Mapping[str, str | Path]) -> bytes:
    """Readable by everyone, as containers of other users read them, but for what is secret here."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.mtime = time.time()
            data = content.read_bytes() if isinstance(content, Path) else content.encode()
            mode = content.stat().st_mode if isinstance(content, Path) else 0o644
            entry.size, entry.mode = len(data), 0o755 if mode & 0o100 else 0o644
            if not mode & 0o004:
                entry.mode = 0o600
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()

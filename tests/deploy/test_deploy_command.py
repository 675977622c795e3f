"""`dedgeai deploy` against stand-ins for five devices.

`ssh` and `docker` are scripts on PATH: `ssh` really runs the remote command, with a shell, in a
folder of the device's own; `docker` notes what it was asked.
"""

from __future__ import annotations

import http.server
import io
import os
import re
import shlex
import subprocess
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edge_node import cli
from edge_node.access.keys import Scope
from edge_node.config_sources import load_config
from edge_node.console.certs import Authority
from edge_node.console.deploy import AwaitReady, DeployFailed, DeployRequest, OnDevice, deploy, plan
from edge_node.console.inventory import read_inventory, render, toml_of
from edge_node.errors import InvalidRequest
from edge_node.node_keys import open_keys
from edge_node.peering.tls import NodeTls

from .files import DEPLOY

pytestmark = pytest.mark.deploy

SSH = """\
#!/bin/sh
while [ "$1" = -o ] || [ "$1" = -p ]; do shift 2; done
export DEVICE="${1#*@}"
[ ! -e "$FLEET/$DEVICE.away" ] || { echo "ssh: connect to host $DEVICE: timed out" >&2; exit 255; }
echo "$1" >>"$FLEET/ssh.log"
cd "$FLEET/$DEVICE" && exec sh -c "$2"
"""
DOCKER = """\
#!/bin/sh
echo "$DEVICE: $PWD: docker $*" >>"$FLEET/docker.log"
case "$*" in
"info --format"*) echo '{"nvidia":{}}' ;;
*"config check"*)
    [ ! -e "$FLEET/$DEVICE.refuses" ] || { echo "model: no /models/x." >&2; exit 2; }
    ;;
*" up "*) touch "$FLEET/$DEVICE.up" ;;
load) cat >"$FLEET/$DEVICE.loaded" ;;
esac
"""
GIVE_KEY = (
    "run --rm --user 0:0 --network none --entrypoint chown --volume TLS:/tls dedgeai:jetpack6 "
    f"1000:{os.getgid()} /tls/node.key"
)
# What a shell would take apart.
FOLDER = 'a device of $HOME; "quoted" `id` & *'
INVENTORY = """\
[defaults]
user = "nvidia"
image = "dedgeai:jetpack6"
folder = {folder}
models_folder = {models}
{more}

[defaults.settings]
rest_port = {rest_port}
policy_options = {{"a b" = 0.5}}

[monitoring]
node_id = "orin-2"
"""


class Fleet:
    """Five devices at 127.0.0.1 and so on, whose nodes are ready once `docker compose up` ran."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts = [f"orin-{index}.lan" for index in range(1, 6)]
        for host in self.hosts:
            (folder / host).mkdir()
        for name, script in (("ssh", SSH), ("docker", DOCKER)):
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(script)
            path.chmod(0o755)
        (folder / "models").mkdir()
        self._server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), self._handler())
        serving = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        serving.start()

    @property
    def rest_port(self) -> int:
        return self._server.server_address[1]

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        folder, hosts = self.folder, self.hosts

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index = int(self.connection.getsockname()[0].rpartition(".")[2]) - 1
                ready = (folder / f"{hosts[index]}.up").exists()
                self.send_response(200 if ready and self.path == "/readyz" else 503)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def inventory(self, more: str = "") -> Path:
        """In a folder with links to the real files."""
        source = self.folder / "source"
        source.mkdir(exist_ok=True)
        for path in DEPLOY.iterdir():
            if path.name != "inventory.toml" and not (source / path.name).exists():
                (source / path.name).symlink_to(path)
        text = INVENTORY.format(
            folder=toml_string(f"{self.folder}/apps/{FOLDER}"),
            models=toml_string(f"{self.folder}/models"),
            rest_port=self.rest_port,
            more=more,
        )
        for index, host in enumerate(self.hosts, start=1):
            text += f'[[nodes]]\nnode_id = "orin-{index}"\nhost = "{host}"\n'
            text += f'address = "127.0.0.{index}"\n'
            text += f"folder = {toml_string(f'{self.folder}/{host}/{FOLDER}')}\n"
        path = source / "inventory.toml"
        path.write_text(text)
        return path

    def project(self, index: int) -> Path:
        return self.folder / f"orin-{index}.lan" / FOLDER

    def docker_said(self) -> list[str]:
        """Device and what Docker was asked, but for the first looks."""
        path = self.folder / "docker.log"
        lines = path.read_text().splitlines() if path.exists() else []
        said = (f"{line.split(':')[0]} {line.rpartition(': docker ')[2]}" for line in lines)
        return [line for line in said if " info" not in line and "version" not in line]


def toml_string(text: str) -> str:
    return toml_of({"x": text}, heading="").partition(" = ")[2].strip()


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    monkeypatch.setenv("FLEET", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    # Of the machine that deploys, and no device's.
    monkeypatch.setenv("DEDGEAI_NODE_ID", "laptop")
    monkeypatch.setenv("DEDGEAI_REST_PORT", "1")
    yield made
    made.close()


def run(path: Path, **options: Any) -> str:
    said = io.StringIO()
    request = DeployRequest(inventory=path, **options)
    assert deploy(request, console=Console(file=said, width=200)) == 0
    return said.getvalue()


def test_five_devices_are_brought_up_one_after_the_other(fleet: Fleet) -> None:
    run(fleet.inventory())
    for index in range(1, 6):
        project = fleet.project(index)
        settings = tomllib.loads((project / "config" / "dedgeai.toml").read_text())
        assert settings["node_id"] == f"orin-{index}"
        assert settings["peers"] == [f"127.0.0.{i}:9080" for i in range(1, 6) if i != index]
        assert settings["policy_options"] == {"a b": 0.5}
        assert (project / "compose.yaml").read_bytes() == (DEPLOY / "compose.yaml").read_bytes()
        assert os.access(project / "restart-unhealthy.sh", os.X_OK)
        environment = (project / ".env").read_text()
        assert "IMAGE='dedgeai:jetpack6'\n" in environment
        assert "VIDEO_GID='44'\n" in environment
        assert (project / "last-good" / ".env").read_text() == environment
        assert not (project / "incoming").exists()
        assert (project / "monitoring").exists() == (index == 2)
    each = [
        "compose pull --quiet --policy missing",
        *([GIVE_KEY] if os.getuid() != 1000 else []),
        "compose run --rm -T folders",
        "compose run --rm -T --no-deps node config check --config /etc/dedgeai/dedgeai.toml",
        "compose stop node",
        "compose up --detach --remove-orphans",
    ]
    said = [line.replace(str(fleet.folder), "") for line in fleet.docker_said()]
    assert [re.sub(r"--volume \S.*:/tls", "--volume TLS:/tls", line) for line in said] == [
        f"{host} {asked}" for host in fleet.hosts for asked in each
    ]
    log = (fleet.folder / "docker.log").read_text()
    assert f"orin-1.lan: {fleet.project(1)}: docker compose stop node" in log


def test_every_node_gets_a_certificate_of_its_own_and_keeps_it(fleet: Fleet) -> None:
    path = fleet.inventory()
    run(path)
    for index in range(1, 6):
        project = fleet.project(index)
        settings = tomllib.loads((project / "config" / "dedgeai.toml").read_text())
        assert settings["tls_folder"] == "/etc/dedgeai/tls"
        assert "allow_insecure_peering" not in settings
        folder = project / "config" / "tls"
        NodeTls(folder, node_id=f"orin-{index}", cluster_name="dedgeai")
        assert (folder / "node.key").stat().st_mode & 0o777 == 0o440
        names = {"node.pem", "node.key", "ca.pem", "keys.json"}
        assert {path.name for path in folder.iterdir()} == names
        assert not (project / "last-good" / "config" / "tls").exists()
    made = fleet.folder / "source" / "certs"
    assert (made / "authority.key").stat().st_mode & 0o777 == 0o600
    certificate = fleet.project(1) / "config" / "tls" / "node.pem"
    before = certificate.read_bytes()
    run(path)
    assert certificate.read_bytes() == before  # good for most of a year
    Authority(made).issue("orin-1", days=30)
    run(path, only=("orin-1",))
    renewed = NodeTls(certificate.parent, node_id="orin-1", cluster_name="dedgeai")
    assert renewed.expires_unix_s() - time.time() > 300 * 86_400


def test_certificates_alone_are_brought_without_a_restart(fleet: Fleet) -> None:
    path = fleet.inventory()
    with pytest.raises(DeployFailed, match=r"orin-1: renew .* it is not deployed yet"):
        run(path, certificates_only=True)
    assert fleet.docker_said() == []
    run(path)
    (fleet.folder / "docker.log").unlink()
    made = fleet.folder / "source" / "certs"
    Authority(made).issue("orin-2", days=365)
    settings = fleet.project(2) / "config" / "dedgeai.toml"
    settings.write_text("as somebody left it")
    run(path, certificates_only=True)
    assert {line.split()[1] for line in fleet.docker_said()} <= {"run"}
    assert settings.read_text() == "as somebody left it"
    for index in range(1, 6):
        project = fleet.project(index)
        folder = project / "config" / "tls"
        for name in ("node.pem", "node.key", "ca.pem", "keys.json"):
            of_node = made / "nodes" / f"orin-{index}" / name
            assert (folder / name).read_bytes() == of_node.read_bytes()
        assert (folder / "node.key").stat().st_mode & 0o777 == 0o440
        assert not (project / "incoming").exists()
    said = run(path, certificates_only=True, dry_run=True)
    assert "orin-5: renew its certificate and API keys" in said
    assert "compose" not in said.partition("orin-1: renew")[2]
    in_clear = "allow_insecure_peering = true\nallow_open_rest = true"
    path.write_text(path.read_text().replace("rest_port", f"{in_clear}\nrest_port", 1))
    with pytest.raises(InvalidRequest, match=r"orin-1 speaks in clear \(allow_insecure_peering\)"):
        run(path, certificates_only=True)


def test_who_says_so_in_so_many_words_goes_without(fleet: Fleet) -> None:
    path = fleet.inventory()
    insecure = "[defaults.settings]\nallow_insecure_peering = true"
    text = path.read_text()
    path.write_text(text.replace("[defaults.settings]", insecure))
    with pytest.raises(InvalidRequest, match=r"node orin-1: .*allow_open_rest = true"):
        run(path, only=("orin-1",))
    insecure += "\nallow_open_rest = true"
    path.write_text(text.replace("[defaults.settings]", insecure))
    run(path, only=("orin-1",))
    settings = tomllib.loads((fleet.project(1) / "config" / "dedgeai.toml").read_text())
    assert "tls_folder" not in settings
    assert not (fleet.project(1) / "config" / "tls").exists()
    assert not (fleet.folder / "source" / "certs").exists()


def test_the_first_deployment_gives_out_the_operators_key(fleet: Fleet) -> None:
    path = fleet.inventory()
    certs = fleet.folder / "source" / "certs"
    said = run(path)
    assert said.count(f"{certs}/operator.key holds the first") == 1
    key = (certs / "operator.key").read_text().strip()
    assert (certs / "operator.key").stat().st_mode & 0o777 == 0o600
    for index in range(1, 6):
        folder = fleet.project(index) / "config" / "tls"
        config = load_config(
            fleet.project(index) / "config" / "dedgeai.toml",
            {"node_id": f"orin-{index}", "rest_port": "8080"}
            | {"tls_folder": str(folder), "data_folder": str(fleet.folder / f"data-{index}")},
        )
        client = open_keys(config, NodeTls.of(config)).client(key)
        assert client is not None
        assert client.may(Scope.OPERATE)
    assert "operator.key" not in run(path)
    listed = (certs / "keys.json").read_bytes()
    assert (fleet.project(5) / "config" / "tls" / "keys.json").read_bytes() == listed


def test_an_open_deployment_gives_out_no_key(fleet: Fleet) -> None:
    path = fleet.inventory()
    text = path.read_text()
    path.write_text(
        text.replace("[defaults.settings]", "[defaults.settings]\nallow_open_rest = true")
    )
    run(path, only=("orin-1",))
    assert not (fleet.folder / "source" / "certs" / "keys.json").exists()
    settings = tomllib.loads((fleet.project(1) / "config" / "dedgeai.toml").read_text())
    assert settings["allow_open_rest"] is True


def test_one_authority_is_for_one_cluster(fleet: Fleet) -> None:
    path = fleet.inventory()
    run(path, only=("orin-1",))
    other = '[defaults.settings]\ncluster_name = "other"'
    path.write_text(path.read_text().replace("[defaults.settings]", other))
    with pytest.raises(InvalidRequest, match="authority of the cluster dedgeai, and orin-1 is of"):
        run(path, only=("orin-1",))


def test_monitoring_knows_all_and_keeps_its_password(fleet: Fleet) -> None:
    path = fleet.inventory()
    run(path)
    project = fleet.project(2)
    targets = (project / "monitoring/prometheus/targets/nodes.yaml").read_text()
    assert targets.count(f":{fleet.rest_port}") == 5
    assert '"labels": {"node": "orin-5"}' in targets
    password = project / "monitoring.env"
    assert password.read_text().startswith("GF_SECURITY_ADMIN_PASSWORD=")
    assert len(password.read_text()) > 40
    assert password.stat().st_mode & 0o777 == 0o600
    before = password.read_text()
    run(path, only=("orin-2",))
    assert password.read_text() == before


def test_the_second_device_fails_and_the_third_is_never_touched(fleet: Fleet) -> None:
    (fleet.folder / "orin-2.lan.refuses").touch()
    with pytest.raises(DeployFailed) as failure:
        run(fleet.inventory())
    assert failure.value.message == (
        "orin-2: check its settings with the new image: ended with code 2: model: no /models/x. "
        "Its containers were left as they are. Up to date: orin-1. "
        "Not touched: orin-3, orin-4, orin-5."
    )
    assert not (fleet.folder / "orin-2.lan.up").exists()
    assert not any(fleet.project(3).iterdir())


def test_a_device_that_is_away_stops_everything_before_anything(fleet: Fleet) -> None:
    (fleet.folder / "orin-4.lan.away").touch()
    with pytest.raises(
        DeployFailed, match=r"orin-4: look: .*timed out.*ssh-copy-id.*orin-1"
    ) as failure:
        run(fleet.inventory())
    assert "Up to date" not in failure.value.message
    assert fleet.docker_said() == []


def test_a_node_that_never_gets_ready_is_said(fleet: Fleet) -> None:
    docker = fleet.folder / "bin" / "docker"
    docker.write_text(docker.read_text().replace("touch", "true"))
    with pytest.raises(DeployFailed, match=r"orin-1: wait .*readyz was not 200 .*last-good"):
        run(fleet.inventory(), ready_s_max=0.2)


def test_a_dry_run_prints_all_and_does_nothing(fleet: Fleet) -> None:
    said = run(fleet.inventory(), dry_run=True)
    assert not (fleet.folder / "ssh.log").exists()
    assert not any(any((fleet.folder / host).iterdir()) for host in fleet.hosts)
    for index in range(1, 6):
        assert f"{fleet.project(index)}/config/dedgeai.toml:" in said
        assert f"nvidia@orin-{index}.lan sh -euc:" in said
        assert f"GET http://127.0.0.{index}:{fleet.rest_port}/readyz" in said
    assert '| node_id = "orin-3"' in said
    assert f"certificates would be in {fleet.folder / 'source' / 'certs'}" in said
    assert f"would be {fleet.folder / 'source' / 'certs' / 'operator.key'}" in said
    assert not (fleet.folder / "source" / "certs").exists()
    assert "| docker compose up --detach --remove-orphans" in said
    assert f"{fleet.project(2)}/monitoring/prometheus/rules/alerts.yml: a copy of" in said


def test_only_one_device(fleet: Fleet) -> None:
    path = fleet.inventory()
    run(path, only=("orin-3",))
    assert {line.split()[0] for line in fleet.docker_said()} == {"orin-3.lan"}
    with pytest.raises(InvalidRequest, match="no node orin-9: it has orin-1"):
        run(path, only=("orin-9",))


def test_archives_are_loaded_and_files_of_before_are_replaced(fleet: Fleet) -> None:
    archive = fleet.folder / "images.tar"
    archive.write_bytes(b"\0layers\n" * 1000)
    path = fleet.inventory(more=f'image_archives = ["{archive}"]')
    project = fleet.project(1)
    (project / "config").mkdir(parents=True)
    mounted = (project / "config").stat().st_ino
    (project / "config" / "dedgeai.toml").write_text("old")
    run(path, only=("orin-1",))
    assert (fleet.folder / "orin-1.lan.loaded").read_bytes() == archive.read_bytes()
    # Containers that run have this folder mounted.
    assert (project / "config").stat().st_ino == mounted
    assert (project / "config" / "dedgeai.toml").read_text().startswith("# Written by")
    archive.unlink()
    with pytest.raises(InvalidRequest, match="There is no image archive"):
        run(path)


def test_the_power_mode_is_set_only_where_it_differs(fleet: Fleet) -> None:
    files = render(read_inventory(fleet.inventory(more="power_mode = 0")), DEPLOY)[0]
    step = plan(files, ready_s_max=1.0)[0]
    assert isinstance(step, OnDevice)
    status, called = fleet.folder / "status", fleet.folder / "called"
    sudo = fleet.folder / "bin" / "sudo"
    sudo.write_text(
        f'#!/bin/sh\necho "$*" >>{shlex.quote(str(called))}\n'
        f'[ "$2" != nvpmodel ] || echo pmode:0000 >{shlex.quote(str(status))}\n'
    )
    sudo.chmod(0o755)
    script = step.script.replace("/var/lib/nvpmodel/status", shlex.quote(str(status)))
    for mode, wanted in (("pmode:0000 fmode:quiet\n", ""), ("pmode:0002\n", "-n nvpmodel -m 0")):
        status.write_text(mode)
        subprocess.run(["sh", "-euc", script], check=True)
        assert (called.read_text().splitlines()[0] if called.exists() else "") == wanted
    # One that needs a reboot ends well and changes nothing.
    sudo.write_text("#!/bin/sh\n")
    status.write_text("pmode:0002\n")
    done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "nvpmodel was told 0 and says 2\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ('image = "dedgeai:jetpack6"', 'imgae = "x"'),
            "imgae is not known here. Did you mean image?",
        ),
        (("[defaults.settings]", "[defaults.settings]\nsuspects = 1"), "node orin-1: suspects "),
        (("[defaults.settings]", "[defaults.settings]\nlearner = true"), "learner follows from"),
        (
            ('address = "127.0.0.2"', 'address = "127.0.0.1"'),
            "Two nodes have the address 127.0.0.1",
        ),
        (('host = "orin-3.lan"', 'host = "-oProxyCommand=x"'), "node orin-3: host: "),
        (('node_id = "orin-2"\n\n', 'node_id = "orin-7"\n\n'), "there is no node orin-7"),
        (("[defaults]", "[defaults"), "is not valid TOML"),
    ],
)
def test_a_wrong_inventory_says_what_is_wrong(
    fleet: Fleet, change: tuple[str, str], said: str
) -> None:
    path = fleet.inventory()
    text = path.read_text()
    if change[0].startswith("node_id"):
        change = ('[monitoring]\nnode_id = "orin-2"', '[monitoring]\nnode_id = "orin-7"')
    assert change[0] in text
    path.write_text(text.replace(*change, 1))
    with pytest.raises(InvalidRequest, match=said):
        run(path)
    assert not (fleet.folder / "ssh.log").exists()


def test_settings_survive_the_way_into_toml() -> None:
    values = {
        "text": 'quote " backslash \\ tab \t newline \n smile 🙂 delete \x7f',
        "numbers": [1, 2.5, -3e-7, float("inf")],
        "yes": True,
        "table": {"key with space": "x", 'a"b': [True, False]},
    }
    assert tomllib.loads(toml_of(values, heading="one\ntwo")) == values


def test_the_command_line_reaches_it(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(fleet.inventory())
    assert cli.main(["deploy", "--inventory", path, "--only", "orin-5", "--dry-run"]) == 0
    assert "orin-5: drain and start" in capsys.readouterr().out
    assert cli.main(["deploy", "--inventory", str(fleet.folder / "none.toml")]) == 2
    assert "none.toml cannot be read: No such file" in capsys.readouterr().err


def test_a_node_is_drained_before_it_is_changed_and_waited_for_after(fleet: Fleet) -> None:
    files = render(read_inventory(fleet.inventory()), DEPLOY)[1]
    steps = plan(files, ready_s_max=7.0)
    start = next(i for i, one in enumerate(steps) if "compose up" in getattr(one, "script", ""))
    script = getattr(steps[start], "script", "")
    assert script.index("stop node") < script.index("up --detach")
    waiting = steps[start + 1]
    assert isinstance(waiting, AwaitReady)
    assert waiting.timeout_s == 7.0

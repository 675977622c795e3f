"""`dedgeai doctor`: on documented trees, on this machine and on running nodes.

Power modes, clocks, throttling and swap of a Jetson are trees in the documented layouts, and the
GPU's probe runs on a CPU: neither was run on a device.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.cli import main
from edge_node.config import NodeConfig
from edge_node.console.certs import Authority
from edge_node.console.doctor import examine
from edge_node.console.doctor_checks import gpu, host, model, peers, store
from edge_node.console.doctor_checks.device import examine_device
from edge_node.console.doctor_checks.finding import Finding
from edge_node.console.local_cluster import GRPC_PORT_ABOVE, LocalCluster
from edge_node.telemetry.jetson import read_device
from edge_node.worker import model_files
from edge_node.worker.tiny_sd3 import model_folder
from tests.store.valkey_process import ValkeyProcess
from tests.system.local import EMULATED, free_port, on_cluster
from tests.telemetry.device_tree import NVPMODEL_CONF, lay, orin


@pytest.fixture
def valkey() -> Iterator[ValkeyProcess]:
    # Not tmp_path: its name would exceed what a Unix socket allows.
    with tempfile.TemporaryDirectory(prefix="vk") as folder:
        process = ValkeyProcess(Path(folder))
        yield process
        process.kill()


def of_device(root: Path, check: str) -> Finding:
    findings = examine_device(read_device(root), root)
    return next(finding for finding in findings if finding.check == check)


def of_model(root: Path, config: NodeConfig, *, node_runs: bool = False) -> dict[str, Finding]:
    found = model.examine_model(config, read_device(root), root, node_runs=node_runs)
    return {finding.check: finding for finding in found}


# The device.


@pytest.mark.parametrize(
    ("number", "level", "remedy"),
    [
        (0, "ok", ""),
        (1, "warn", "sudo nvpmodel -m 0"),
        (2, "warn", "sudo nvpmodel -m 0"),
        (3, "ok", ""),
    ],
)
def test_the_factory_power_mode_is_worth_a_warning(
    tmp_path: Path, number: int, level: str, remedy: str
) -> None:
    lay(orin(tmp_path, jetpack=6), {"var/lib/nvpmodel/status": f"pmode:000{number}"})
    found = of_device(tmp_path, "power_mode")
    assert (found.level, found.remedy) == (level, remedy)
    assert "TFLOPS" in found.seen


def test_maxn_has_the_number_that_the_device_gives_it(tmp_path: Path) -> None:
    orin(tmp_path, jetpack=7)
    lay(tmp_path, {"etc/nvpmodel.conf": NVPMODEL_CONF.replace("ID=0", "ID=7")})
    assert of_device(tmp_path, "power_mode").remedy == "sudo nvpmodel -m 7"


NANO, NX, NANO_4 = "p3767-0003", "p3767-0000", "p3767-0004"
SUPER_NANO = ("15W", "25W", "MAXN_SUPER", "7W")
SUPER_NX = ("MAXN_SUPER", "10W", "15W", "25W", "40W")


@pytest.mark.parametrize(
    ("board", "modes", "number", "level", "remedy"),
    [
        (NANO, SUPER_NANO, 2, "ok", ""),
        (NANO, SUPER_NANO, 1, "ok", ""),
        (NANO, SUPER_NANO, 0, "ok", ""),
        (NANO, SUPER_NANO, 3, "warn", "sudo nvpmodel -m 2"),
        # A release without the fast modes: its mode 0 is the best that there is.
        (NANO, ("15W", "7W"), 0, "ok", ""),
        (NX, SUPER_NX, 0, "ok", ""),
        (NX, SUPER_NX, 2, "ok", ""),
        (NX, SUPER_NX, 1, "warn", "sudo nvpmodel -m 0"),
        (NX, ("MAXN", "10W", "15W", "25W"), 3, "warn", "sudo nvpmodel -m 0"),
        (NX, SUPER_NX, 4, "ok", ""),  # of unknown speed
        (NANO_4, ("10W", "25W", "MAXN_SUPER"), 0, "ok", ""),
        ("p3834-0008", ("MAXN", "120W"), 1, "ok", ""),  # no module that is known
        (None, SUPER_NANO, 3, "ok", ""),  # a container hides the board
    ],
)
def test_each_module_is_judged_by_its_own_power_modes(
    tmp_path: Path,
    board: str | None,
    modes: tuple[str, ...],
    number: int,
    level: str,
    remedy: str,
) -> None:
    lines = [f"< POWER_MODEL ID={at} NAME={name} >" for at, name in enumerate(modes)]
    lay(
        orin(tmp_path, jetpack=6),
        {"etc/nvpmodel.conf": "\n".join(lines), "var/lib/nvpmodel/status": f"pmode:000{number}"},
    )
    if board is not None:
        tree = f"nvidia,{board}\0nvidia,tegra234\0"
        lay(tmp_path, {"proc/device-tree/compatible": tree})
    found = of_device(tmp_path, "power_mode")
    assert (found.level, found.remedy) == (level, remedy)
    assert modes[number] in found.seen


def test_a_container_that_hides_the_power_mode_is_told_what_to_mount(tmp_path: Path) -> None:
    orin(tmp_path, jetpack=6)
    (tmp_path / "var/lib/nvpmodel/status").unlink()
    found = of_device(tmp_path, "power_mode")
    assert found.level == "skipped"
    assert "mount /var/lib/nvpmodel" in found.seen


def test_clocks_that_move_are_worth_a_warning(tmp_path: Path) -> None:
    orin(tmp_path, jetpack=6)
    assert of_device(tmp_path, "clocks").remedy == "sudo jetson_clocks"
    lay(tmp_path, {"sys/class/devfreq/17000000.gpu/min_freq": 624750000})
    held = of_device(tmp_path, "clocks")
    assert (held.level, held.seen) == ("ok", "GPU held at 625 MHz")


def test_throttling_now_is_worth_a_warning(tmp_path: Path) -> None:
    orin(tmp_path, jetpack=6)
    assert of_device(tmp_path, "throttling").level == "ok"
    lay(tmp_path, {"sys/class/thermal/cooling_device1/cur_state": 1})
    found = of_device(tmp_path, "throttling")
    assert found.level == "warn"
    assert "gpu-throttle-alert now" in found.seen


def test_zram_is_worth_a_warning_and_swap_on_a_disk_is_not(tmp_path: Path) -> None:
    orin(tmp_path, jetpack=6)
    heading = "Filename\tType\tSize\tUsed\tPriority"
    disk = "/mnt/16GB.swap file 16777212 1024 -2"
    lay(tmp_path, {"proc/swaps": f"{heading}\n{disk}"})
    assert of_device(tmp_path, "swap").level == "ok"
    zram = "/dev/zram0 partition 2684000 0 5\n/dev/zram1 partition 2684000 0 5"
    lay(tmp_path, {"proc/swaps": f"{heading}\n{disk}\n{zram}"})
    found = of_device(tmp_path, "swap")
    assert found.level == "warn"
    off = "sudo swapoff /dev/zram0 /dev/zram1"
    assert found.remedy == f"sudo systemctl disable nvzramconfig && {off}"


def test_a_machine_that_is_no_jetson_is_not_warned(tmp_path: Path) -> None:
    findings = examine_device(read_device(tmp_path), tmp_path)
    assert {finding.level for finding in findings} == {"skipped"}


# The GPU.


def test_a_kernel_is_really_run() -> None:
    found = gpu.examine_gpu(NodeConfig(), Path("/"), device="cpu")
    assert [(finding.check, finding.level) for finding in found] == [("cuda", "ok"), ("fp16", "ok")]


@pytest.mark.parametrize(
    ("script", "seen", "remedy"),
    [
        ("kill -SEGV $$", "ended by SIGSEGV", "sudo dmesg | tail -n 30"),
        ("exec sleep 60", "no kernel ran within 0.5 s", "sudo reboot"),
        ("echo \"No module named 'torch'\" >&2; exit 1", "No module", "dedgeai[worker]"),
        ("echo 'no kernel image is available' >&2; exit 1", "no kernel image", "docker compose"),
        ('echo \'{"torch": "2.13.0+cpu", "side": 1024}\'', "finds no CUDA", "docker compose"),
    ],
)
def test_a_cuda_that_crashes_hangs_or_is_absent_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, seen: str, remedy: str
) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\n{script}\n")
    interpreter.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    monkeypatch.setattr(gpu, "PROBE_S_MAX", 0.5 if "sleep" in script else 60.0)
    (found,) = gpu.examine_gpu(NodeConfig(), orin(tmp_path / "root", jetpack=6))
    assert (found.check, found.level) == ("cuda", "fail")
    assert seen in found.seen
    assert remedy in found.remedy


@pytest.mark.parametrize("error", ["0.5", "null"])
def test_an_fp16_that_is_wrong_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    facts = f'{{"torch": "2.8.0", "side": 1024, "device": "Orin", "fp32_error": 1e-7, \
"fp16_error": {error}}}'
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\necho '{facts}'\n")
    interpreter.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    cuda, fp16 = gpu.examine_gpu(NodeConfig(), orin(tmp_path / "root", jetpack=6))
    assert (cuda.level, fp16.level) == ("ok", "fail")
    assert "bfloat16" in fp16.remedy


def test_an_emulated_engine_and_an_attached_worker_need_no_gpu(tmp_path: Path) -> None:
    root = orin(tmp_path, jetpack=6)
    for config in (
        NodeConfig(engine="emulated"),
        NodeConfig(worker_socket=Path("/run/w.sock"), redis_url="redis://localhost"),
    ):
        found = gpu.examine_gpu(config, root)
        assert {finding.level for finding in found} == {"skipped"}


# The model.


def test_the_tiny_model_is_whole_and_free(tmp_path: Path) -> None:
    found = of_model(orin(tmp_path, jetpack=6), NodeConfig(memory_floor_bytes=0))
    assert (found["weights"].level, found["licence"].level) == ("ok", "ok")


def test_a_model_that_was_cut_short_or_is_missing_fails(tmp_path: Path) -> None:
    copied = tmp_path / "sd3"
    shutil.copytree(model_folder(), copied)
    weights = next((copied / "vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    cut = of_model(tmp_path, NodeConfig(model=copied))["weights"]
    assert cut.level == "fail"
    assert "copy it again" in cut.seen
    assert cut.remedy.endswith(f"--local-dir {copied}")
    missing = of_model(tmp_path, NodeConfig(model=tmp_path / "none"))["weights"]
    assert (missing.level, "does not exist" in missing.seen) == ("fail", True)
    file = NodeConfig(model=Path("/models/sd3_medium_incl_clips.safetensors"))
    fetched = "sd3_medium_incl_clips.safetensors --local-dir /models"
    assert of_model(tmp_path, file)["weights"].remedy.endswith(fetched)


def test_a_licence_must_be_accepted_in_so_many_words(tmp_path: Path) -> None:
    copied = tmp_path / "sd3"
    shutil.copytree(model_folder(), copied)
    (copied / "LICENSE.md").write_text("Stability AI Community License Agreement")
    refused = of_model(tmp_path, NodeConfig(model=copied))["licence"]
    assert refused.level == "fail"
    assert "stability_license_accepted = true" in refused.remedy
    accepted = NodeConfig(model=copied, stability_license_accepted=True)
    assert of_model(tmp_path, accepted)["licence"].level == "ok"


def test_memory_is_compared_with_the_weights_in_their_precision(tmp_path: Path) -> None:
    config = NodeConfig(memory_floor_bytes=2**30)
    files = model_files.find(model_folder())
    root = orin(tmp_path / "orin", jetpack=6)
    weights = model.weight_bytes(config, files, root)
    assert model.weight_bytes(config, files, tmp_path) == 2 * weights  # float32 without a GPU

    def level(available: int, *, node_runs: bool = False) -> str:
        lay(root, {"proc/meminfo": f"MemAvailable: {available // 1024} kB"})
        return of_model(root, config, node_runs=node_runs)["memory"].level

    assert level(weights) == "fail"
    assert level(weights + 2**29) == "warn"
    assert level(2 * weights + 2**30) == "ok"
    assert level(2**30, node_runs=True) == "ok"


# Python, disk, ports.


def test_packages_that_are_missing_or_old_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = host.examine_python(NodeConfig())
    assert found.level == "ok", found.seen
    needed = ["redis>=99.1", 'absent>=1.0; extra == "worker"', 'ray>=2.40; extra == "ray"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needed)
    (found,) = host.examine_python(NodeConfig())
    assert found.level == "fail"
    assert "99.1 needed; absent missing, 1.0 needed" in found.seen
    assert "ray" not in found.seen
    assert found.remedy == "pip install --upgrade 'dedgeai[worker,embedded-store]'"
    (found,) = host.examine_python(NodeConfig(engine="emulated"))
    assert "absent" not in found.seen


def test_room_for_all_images_is_wanted(tmp_path: Path) -> None:
    few = NodeConfig(data_folder=tmp_path / "a/b", image_bytes_total_max=1024)
    few = few.model_copy(update={"init_image_bytes_total_max": 1024})
    assert host.examine_disk(few)[0].level == "ok"
    many = few.model_copy(update={"image_bytes_total_max": 2**60})
    (found,) = host.examine_disk(many)
    assert found.level == "warn"
    fitting = int(found.remedy.split()[2])
    again = many.model_copy(update={"image_bytes_total_max": fitting // 2})
    assert host.examine_disk(again)[0].level == "ok"
    more = few.model_copy(update={"init_image_bytes_total_max": 2**60})
    assert host.examine_disk(more)[0].level == "fail"


def test_a_port_of_somebody_else_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        taken = host.examine_port("rest", "127.0.0.1", port, held_by_own_node=False)
        assert taken.level == "fail"
        assert f"sport = :{port}" in taken.remedy
        own = host.examine_port("rest", "127.0.0.1", port, held_by_own_node=True)
        assert own.level == "ok"
    assert host.examine_port("rest", "127.0.0.1", port, held_by_own_node=False).level == "ok"
    elsewhere = host.examine_port("grpc", "192.0.2.1", port, held_by_own_node=False)
    assert "grpc_host" in elsewhere.remedy


# The store.


@pytest.mark.parametrize(
    ("options", "level", "remedy"),
    [
        ((), "ok", ""),
        (("--appendfsync", "everysec"), "fail", "CONFIG SET appendfsync always"),
        (
            ("--no-appendfsync-on-rewrite", "yes"),
            "fail",
            "CONFIG SET no-appendfsync-on-rewrite no",
        ),
        (("--appendonly", "no"), "fail", "CONFIG SET appendonly yes"),
        (("--maxmemory-policy", "allkeys-lru"), "warn", "CONFIG SET maxmemory-policy noeviction"),
    ],
)
def test_a_store_must_keep_what_it_is_told(
    valkey: ValkeyProcess, options: tuple[str, ...], level: str, remedy: str
) -> None:
    valkey.start(*options)
    (found,) = store.examine_store(NodeConfig(redis_url=valkey.url))
    assert found.level == level, found.seen
    assert remedy in found.remedy


def test_a_store_that_is_away_fails_and_no_password_is_shown() -> None:
    url = f"redis://user:secret@127.0.0.1:{free_port(1)}/0"
    (found,) = store.examine_store(NodeConfig(redis_url=url))
    assert found.level == "fail"
    assert "secret" not in found.seen + found.remedy


# Peers.


@pytest.mark.parametrize(
    ("skew_s", "level"), [(0.0, "ok"), (1.9, "ok"), (-1.9, "ok"), (2.1, "warn"), (-60.0, "warn")]
)
def test_a_skew_counts_from_what_a_date_can_show(skew_s: float, level: str) -> None:
    assert peers.judged_skew("orin-2", skew_s).level == level


@pytest.mark.parametrize(("skew_s", "level"), [(0.9, "ok"), (-0.9, "ok"), (1.1, "warn")])
def test_a_skew_that_the_nodes_measured_counts_in_full(skew_s: float, level: str) -> None:
    assert peers.judged_skew("orin-2", skew_s, known_to_s=0.0).level == level


def test_a_peer_that_is_away_fails() -> None:
    port = free_port(1)
    (found,) = asyncio.run(peers.examine_peers("orin-1", [f"127.0.0.1:{port}"]))
    assert (found.check, found.level) == ("peer", "fail")
    assert f"nc -zv 127.0.0.1 {port}" in found.remedy


def test_the_certificate_is_looked_at(tmp_path: Path) -> None:
    clear = NodeConfig(node_id="orin-1")
    assert peers.certificate(clear) == (None, [])
    missing = NodeConfig(node_id="orin-1", tls_folder=tmp_path / "nowhere")
    _, (found,) = peers.certificate(missing)
    assert (found.check, found.level) == ("tls", "fail")
    assert found.remedy.startswith("dedgeai certs issue orin-1")
    authority = Authority.begin(tmp_path / "certs", cluster_name="dedgeai")
    for days, level in ((300, "ok"), (20, "warn")):
        folder = authority.issue("orin-1", days=days)
        tls, (found,) = peers.certificate(NodeConfig(node_id="orin-1", tls_folder=folder))
        assert tls is not None
        assert (found.level, f"good for {days} days" in found.seen) == (level, True)
        assert ("certs rotate" in found.remedy) == (level == "warn")


# The whole.


def test_a_wrong_configuration_is_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--set", "polcy=local"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert set(found) == {"check", "level", "seen", "remedy"}
    assert (found["check"], found["level"]) == ("config", "fail")
    assert "policy" in found["seen"]


def test_an_orin_fresh_from_the_factory(tmp_path: Path) -> None:
    config = NodeConfig(
        data_folder=tmp_path / "data",
        engine="emulated",
        rest_port=free_port(1),
        grpc_port=free_port(1),
        image_bytes_total_max=1024,
    )
    findings = asyncio.run(examine(config, root=orin(tmp_path / "root", jetpack=6)))
    assert [f.check for f in findings if f.level == "warn"] == ["power_mode", "clocks"]
    assert [f.check for f in findings if f.level == "fail"] == []
    assert all(bool(f.remedy) == (f.level in ("warn", "fail")) for f in findings)


def test_the_doctor_itself_loads_no_torch() -> None:
    code = "import edge_node.console.doctor, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.system
def test_a_running_pair_is_found_well(tmp_path: Path) -> None:
    async def doctor(cluster: LocalCluster) -> tuple[int, list[dict[str, Any]]]:
        rest_port = int(cluster.urls[0].rpartition(":")[2])
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge_node.cli", "doctor", "--json"),
            *("--set", "node_id=node-0", "--set", "engine=emulated"),
            *("--set", f"data_folder={cluster.folder / 'node-0'}"),
            *("--set", f"rest_port={rest_port}"),
            *("--set", f"grpc_port={rest_port + GRPC_PORT_ABOVE}"),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode is not None
        return process.returncode, json.loads(output)

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        own = int(cluster.urls[0].rpartition(":")[2]) + GRPC_PORT_ABOVE
        # The peer's address is known from the running node alone.
        code, findings = await doctor(cluster)
        found = {finding["check"]: finding for finding in findings}
        assert code == 0, findings
        # By what the nodes told each other, not by the second of a Date header.
        assert re.fullmatch(r"[+-]0\.\d{3} s to node-1", found["clock_skew"]["seen"])
        for check in ("peer", "bandwidth", "clock_skew", "store", "rest_port", "grpc_port"):
            assert found[check]["level"] == "ok", found[check]
        assert "is node-1" in found["peer"]["seen"]
        assert "held by this node" in found["rest_port"]["seen"]
        assert "held by this node" in found["grpc_port"]["seen"]
        assert "appendfsync always" in found["store"]["seen"]
        metrics = (await http.get(f"{cluster.urls[0]}/metrics")).text
        assert "\ndedgeai_device_memory_available_bytes " in metrics
        # A node among its own peers, a peer, and the same peer by another name.
        named = [f"127.0.0.1:{own}", f"127.0.0.1:{own + 1}"]
        again = await peers.examine_peers("node-0", named, [f"localhost:{own + 1}"])
        told = [(f.level, f.seen) for f in again if f.check == "peer"]
        assert [level for level, _ in told] == ["fail", "ok"]
        assert "and so is this node" in told[0][1]

    on_cluster(tmp_path, EMULATED, EMULATED, test=test)

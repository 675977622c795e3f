"""Everything that a device without internet needs, in one tar: `make bundle`.

Wheels for Python 3.12 on aarch64 (those of docker/requirements.txt, by their hashes, and ours), the
list of container images, deploy/ and checksums. torch is not in it: a Jetson's own comes with the
base image or with JetPack. Images are not in it: save-images.sh puts those of images.txt into a
second file, on a machine that has Docker. Not run on a device.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).parent.parent
# Ubuntu 22.04 (JetPack 6) has glibc 2.35; the images' 24.04 is newer.
PLATFORMS = ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 36)))
TARGET = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "aarch64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.12.0",
    "python_version": "3.12",
    "sys_platform": "linux",
}
# What runs on a device: docker/requirements.txt is locked for these.
EXTRAS = ("worker", "embedded-store", "mdns", "learner", "mcp", "otel")
BROUGHT_BY_THE_DEVICE = {"torch"}
COMPOSE_FILES = ("compose.yaml", "compose.monitoring.yaml")


def target_requirements(lock: str) -> dict[str, str]:
    """Name to requirement with its hashes, of the lines of `lock` that count on a device.

    pip evaluates markers for the machine that it runs on, so they are settled here.
    """
    found = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", lock.strip()):
        lines = [line for line in block.splitlines() if not line.lstrip().startswith("#")]
        requirement = Requirement(lines[0].removesuffix("\\").strip())
        if requirement.marker is None or requirement.marker.evaluate(TARGET):
            hashes = [line.strip().removesuffix("\\").strip() for line in lines[1:] if line.strip()]
            name = canonicalize_name(requirement.name)
            found[name] = " \\\n    ".join([f"{name}{requirement.specifier}", *hashes])
    return found


def images(folder: Path) -> list[str]:
    """Every image that the compose files run, with its tag as it is by default."""
    texts = ((folder / name).read_text() for name in COMPOSE_FILES)
    named = (re.findall(r"^ +image: (\S+)$", text, re.MULTILINE) for text in texts)
    return sorted({re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", one) for many in named for one in many})


def download(requirements: Path, wheels: Path) -> None:
    """Fetches the wheels for a device; pip checks their hashes."""
    platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
    _pip(
        *("download", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"),
        *("--implementation", "cp", "--python-version", "3.12", *platforms),
        *("--dest", str(wheels), "--requirement", str(requirements)),
    )


def build(wheels: Path) -> None:
    """Builds our own wheel from a copy, so that the tree stays as it is."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "dedgeai"
        copy.mkdir()
        for part in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / part, copy)
        for part in ("edge_node", "scheduler", "proto"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        _pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(copy))


def lacking(wheels: Path) -> list[str]:
    """What a wheel of the folder needs on a device and the folder does not have."""
    versions = {}
    for path in wheels.glob("*.whl"):
        name, version, _, _ = parse_wheel_filename(path.name)
        versions[name] = version
    problems = []
    for path in sorted(wheels.glob("*.whl")):
        own = canonicalize_name(path.name.partition("-")[0])
        for requirement in _needs(path, EXTRAS if own == "dedgeai" else ("",)):
            name = canonicalize_name(requirement.name)
            if name in BROUGHT_BY_THE_DEVICE or name == "dedgeai":
                continue
            there = versions.get(name)
            if there is None or not requirement.specifier.contains(there, prereleases=True):
                problems.append(f"{path.name} needs {requirement}, and there is {there}")
    return problems


def _needs(wheel: Path, extras: Iterable[str]) -> Iterator[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    for text in metadata.get_all("Requires-Dist") or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({**TARGET, "extra": one}) for one in extras):
            yield requirement


def checksums(folder: Path) -> str:
    """SHA256SUMS of every file below `folder`, as `sha256sum -c` reads it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n"
        for path in files
    )


def pack(folder: Path, out: Path) -> None:
    """The folder as a tar: the same bytes for the same files."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime = entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        return entry

    with tarfile.open(out, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.add(path, f"{folder.name}/{path.relative_to(folder)}", False, filter=plain)


def write_texts(folder: Path, requirements: Mapping[str, str]) -> None:
    """What is made here beside the wheels: requirements, list of images, deploy/, a first page."""
    lines = [requirements[name] for name in sorted(requirements)]
    (folder / "requirements.txt").write_text("\n".join(lines) + "\n")
    (folder / "images.txt").write_text("".join(f"{image}\n" for image in images(ROOT / "deploy")))
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "bundle.py", "validate")
    shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=ignored)
    shutil.copy(ROOT / "LICENSE", folder)
    (folder / "README.txt").write_text(_FIRST_PAGE)


_FIRST_PAGE = """\
DEdgeAI for a device without internet. Not run on a device.

    sha256sum --check --quiet SHA256SUMS

With containers (deploy/README.md): on a machine that has Docker, internet and the dedgeai image,
    sh deploy/save-images.sh images.txt images-arm64.tar
then name images-arm64.tar under image_archives in deploy/inventory.toml, and `dedgeai deploy`.

Without containers, with Python 3.12 and NVIDIA's own torch in its site-packages:
    python3.12 -m venv --system-site-packages venv
    venv/bin/pip install --no-index --find-links wheels --no-deps -r requirements.txt
    venv/bin/pip install --no-index --no-deps wheels/dedgeai-*.whl
    venv/bin/dedgeai doctor
"""


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)


def main() -> int:
    """Makes the bundle; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "out")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    requirements = target_requirements((ROOT / "docker" / "requirements.txt").read_text())
    with tempfile.TemporaryDirectory() as name:
        wheels = Path(name) / "wheels"
        wheels.mkdir()
        build(wheels)
        _, version, _, _ = parse_wheel_filename(next(wheels.glob("dedgeai-*.whl")).name)
        folder = Path(name) / f"dedgeai-{version}-aarch64"
        folder.mkdir()
        write_texts(folder, requirements)
        download(folder / "requirements.txt", wheels)
        problems = lacking(wheels)
        if problems:
            print("The bundle would not be complete:", *problems, sep="\n  ", file=sys.stderr)
            return 1
        shutil.move(wheels, folder / "wheels")
        (folder / "SHA256SUMS").write_text(checksums(folder))
        path = out / f"{folder.name}.tar"
        pack(folder, path)
        count = len(list((folder / "wheels").iterdir()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    print(f"{path}: {count} wheels, {path.stat().st_size / 1e6:.0f} MB, sha256 {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

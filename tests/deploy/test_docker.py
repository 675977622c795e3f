"""Dockerfiles and their locked requirements, as far as that goes without building an image."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .files import ROOT, passes, tool

pytestmark = pytest.mark.deploy

DOCKER = ROOT / "docker"
DOCKERFILES = ("Dockerfile.cpu", "Dockerfile.jetson")
IMAGE, BUILD = "docker/requirements.txt", "docker/requirements-build.txt"
DEVELOPMENT = "constraints-dev.txt"
SITE = "docs/site/requirements.txt"
LOCKS = (IMAGE, BUILD, DEVELOPMENT, SITE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# What an image installs beside what every node needs; its torch is its own.
EXTRAS = ("worker", "learner", "embedded-store", "mdns", "mcp", "otel")
NOT_LOCKED = {"torch"}
# Debian's Python in the CPU image, Ubuntu 24.04's in those for Jetsons.
TARGETS = [
    (machine, python) for machine in ("x86_64", "aarch64") for python in ("3.11.2", "3.12.3")
]
CONTEXT_BYTES_MAX = 64 * 2**20


def instructions(name: str) -> list[tuple[str, str]]:
    """Each instruction and what follows it, comments and line breaks taken out."""
    lines = [line for line in (DOCKER / name).read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found = (line.partition(" ") for line in joined.splitlines() if line.strip())
    return [(instruction, " ".join(rest.split())) for instruction, _, rest in found]


def last_stage(name: str) -> dict[str, str]:
    """The instructions that an image is left with; of those that repeat, the last."""
    found = instructions(name)
    start = max(index for index, (instruction, _) in enumerate(found) if instruction == "FROM")
    return dict(found[start:])


def copied(name: str) -> list[str]:
    """Sources in the build context."""
    rests = [rest for instruction, rest in instructions(name) if instruction == "COPY"]
    return [source for rest in rests if "--from" not in rest for source in rest.split()[:-1]]


def ignored(path: str) -> bool:
    """By .dockerignore: the last pattern decides that names the path or a folder that it is in."""
    parents = ["/".join(path.split("/")[: n + 1]) for n in range(path.count("/") + 1)]
    answer = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line.startswith("#") or not pattern:
            continue
        matched = re.compile(
            re.escape(pattern)
            .replace(r"\*\*/", "(?:.*/)?")
            .replace(r"\*", "[^/]*")
            .replace(r"\?", "[^/]")
        )
        if any(matched.fullmatch(parent) for parent in parents):
            answer = not line.startswith("!")
    return answer


def context() -> list[Path]:
    """Files that reach the builder, of those that a Dockerfile asks for."""
    sources = {ROOT / source for name in DOCKERFILES for source in copied(name)}
    files = {
        file
        for source in sources
        for file in ([source] if source.is_file() else source.rglob("*"))
        if file.is_file()
    }
    return sorted(file for file in files if not ignored(str(file.relative_to(ROOT))))


def locked(name: str) -> Iterator[tuple[Requirement, list[str]]]:
    """Each requirement of a lock, with its hashes."""
    for block in re.split(r"\n(?=\S)", (ROOT / name).read_text().strip()):
        first, *rest = [line.strip().removesuffix("\\").strip() for line in block.splitlines()]
        yield Requirement(first), rest


def chosen(lock: str, *, machine: str, python: str) -> dict[str, str]:
    """Name to version of what a machine would install."""
    environment = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": "linux",
    }
    versions: dict[str, str] = {}
    for requirement, _ in locked(lock):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (specifier,) = requirement.specifier
            name = canonicalize_name(requirement.name)
            assert specifier.operator == "=="
            assert name not in versions, f"{name} would be installed twice"
            versions[name] = specifier.version
    return versions


def lacking(wanted: list[str], versions: dict[str, str], *, machine: str = "x86_64") -> list[str]:
    """Requirements that a lock does not satisfy, of those that `machine` has."""
    problems = []
    for requirement in map(Requirement, wanted):
        if requirement.marker and not requirement.marker.evaluate({"platform_machine": machine}):
            continue
        name = canonicalize_name(requirement.name)
        version = versions.get(name)
        if name not in NOT_LOCKED and not (version and requirement.specifier.contains(version)):
            problems.append(f"{requirement}, and locked is {version}")
    return problems


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(name: str) -> None:
    assert passes(tool("hadolint"), DOCKER / name) == ""


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_copied_is_there_and_reaches_the_builder(name: str) -> None:
    sources = copied(name)
    assert {"pyproject.toml", "edge_node", "scheduler", "proto"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
    assert ignored("out/tools/prometheus")
    assert ignored(".git/config")
    assert ignored("edge_node/api/__pycache__/app.cpython-311.pyc")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_runs_as_a_user_under_tini_and_is_looked_at(name: str) -> None:
    image = last_stage(name)
    assert image["USER"] == "1000:1000"
    assert json.loads(image["ENTRYPOINT"]) == ["tini", "--", "dedgeai"]
    assert json.loads(image["CMD"]) == ["node"]
    assert image["HEALTHCHECK"].endswith('CMD ["dedgeai", "health"]')
    users = [index for index, one in enumerate(instructions(name)) if one[0] == "USER"]
    entry = [index for index, one in enumerate(instructions(name)) if one[0] == "ENTRYPOINT"]
    assert users[-1] < entry[-1]


def test_no_weights_of_others_are_inside() -> None:
    files = context()
    weights = {
        str(file.relative_to(ROOT))
        for file in files
        if file.suffix in {".safetensors", ".ckpt", ".pt", ".pth", ".gguf", ".onnx"}
    }
    ours = ("edge_node/worker/tiny_sd3/model/", "scheduler/pretrained/")
    assert weights
    assert not [one for one in weights if not one.startswith(ours)]
    assert sum(file.stat().st_size for file in files) < CONTEXT_BYTES_MAX
    for name in DOCKERFILES:
        runs = " ".join(rest for instruction, rest in instructions(name) if instruction == "RUN")
        assert not re.search(r"huggingface|\bhf\b|safetensors|stabilityai", runs)


@pytest.mark.parametrize(("machine", "python"), TARGETS)
def test_the_lock_has_what_the_extras_ask_for(machine: str, python: str) -> None:
    optional = PROJECT["project"]["optional-dependencies"]
    needed = PROJECT["project"]["dependencies"]
    wanted = needed + [r for extra in EXTRAS for r in optional[extra]]
    assert lacking(wanted, chosen(IMAGE, machine=machine, python=python)) == []
    inputs = (DOCKER / "requirements-build.in").read_text().splitlines()
    building = [line for line in inputs if not line.startswith("#")]
    building += PROJECT["build-system"]["requires"]
    assert lacking(building, chosen(BUILD, machine=machine, python=python)) == []


@pytest.mark.parametrize("python", ["3.11.2", "3.12.3", "3.13.0", "3.14.0"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_lock_has_what_development_asks_for(machine: str, python: str) -> None:
    optional = PROJECT["project"]["optional-dependencies"]
    # `dev` names other extras, which are looked up, but for our own name in brackets.
    extras = {"dev", "worker", "embedded-store", "mdns", "train", "learner", "bench"}
    wanted = PROJECT["project"]["dependencies"] + [r for extra in extras for r in optional[extra]]
    named = [extra for r in wanted if r.startswith("dedgeai") for extra in Requirement(r).extras]
    assert extras - set(named) == {"dev"}
    versions = chosen(DEVELOPMENT, machine=machine, python=python)
    theirs = [r for r in wanted + PROJECT["build-system"]["requires"] if r[:7] != "dedgeai"]
    assert lacking(theirs, versions, machine=machine) == []


def test_a_requirement_that_the_lock_misses_is_noticed() -> None:
    versions = {"redis": "5.0"}
    assert lacking(["redis>=5.2", "torch>=2.6", "rich>=13"], versions) == [
        "redis>=5.2, and locked is 5.0",
        "rich>=13, and locked is None",
    ]


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_hashes_and_no_address(name: str) -> None:
    for requirement, hashes in locked(name):
        assert hashes, requirement.name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes)
        assert canonicalize_name(requirement.name) not in NOT_LOCKED
    assert "://" not in (ROOT / name).read_text()


def test_make_locks_what_images_and_development_install() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\nlock: install\n")[2].partition("\n\n")[0]
    assert re.findall(r"--extra ([\w-]+)", recipe) == [*EXTRAS, "dev"]
    assert set(re.findall(r"--no-emit-package ([\w-]+)", recipe)) == NOT_LOCKED
    assert set(re.findall(r"-o (\S+)", recipe)) == set(LOCKS)


@pytest.mark.parametrize("lock", [IMAGE, DEVELOPMENT])
@pytest.mark.parametrize(
    ("platform", "python"),
    [
        ("aarch64-manylinux_2_28", "3.12"),
        ("aarch64-manylinux_2_28", "3.11"),
        ("x86_64-manylinux_2_28", "3.11"),
    ],
)
def test_every_locked_package_is_there_as_a_wheel(
    platform: str, python: str, lock: str, tmp_path: Path
) -> None:
    if os.environ.get("DEPLOY_TOOLS") != "required":
        pytest.skip("asks the package index: make validate-deploy does")
    said = passes(
        *(tool("uv"), "pip", "install", "--dry-run", "--no-deps", "--no-build"),
        *("--python-platform", platform, "--python-version", python, "--target", tmp_path / "none"),
        *("--require-hashes", "--requirement", ROOT / lock),
    )
    versions = chosen(lock, machine=platform.partition("-")[0], python=f"{python}.0")
    planned = dict(re.findall(r"^ \+ (\S+)==(\S+)$", said, re.MULTILINE))
    assert planned == versions

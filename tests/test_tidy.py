"""House rules that a machine can hold: import directions, function lengths, honest asserts."""

from __future__ import annotations

import ast
import functools
import gc
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FUNCTION_LINES_MAX = 75
FILE_LINES_MAX = 600
# docs/architecture.md, "Files that are long".
LONG_WITH_A_REASON = Path("edge_node/worker/tiny_sd3/train.py")

# Each part of the tree and what of this project it may import: docs/architecture.md, "Rooms".
PURE = {
    "device_summary",
    "attempt_codes",
    "changing",
    "checkpoint",
    "client_variables",
    "requests",
    "rest_tls",
    "snapshot",
    "domain",
    "erasure",
    "errors",
    "happenings",
    "learned_weights",
    "listing",
    "model_names",
    "moves",
    "places",
    "handshake",
    "image_header",
    "image_words",
    "in_the_way",
    "json_text",
    "clock",
    "log_lines",
    "config",
    "config_sources",
    "lasting",
    "ports",
    "prompt_tokens",
    "removal",
    "experience_page",
    "shared_rows",
    "sign_of_life",
    "socket_path",
    "start_note",
    "trace_context",
    "worker_options",
}
ALLOWED = {
    "scheduler": {"scheduler"},
    # What a node holds of the guard; the rest of it is for the learner.
    "scheduler.guard.alternation": {"scheduler.observation"},
    "scheduler.guard.guard": {
        *("scheduler.guard.alternation", "scheduler.guard.status", "scheduler.guard.verdict"),
        *("scheduler.experience", "scheduler.observation", "scheduler.policy"),
    },
    "scheduler.guard.status": {"scheduler.guard.verdict"},
    "scheduler.guard.verdict": set(),
    "edge_node.domain": {
        *("checkpoint", "device_summary", "learned_weights", "moves", "prompt_tokens", "removal"),
    },
    "edge_node.device_summary": set(),
    "edge_node.learned_weights": set(),
    "edge_node.moves": set(),
    "edge_node.removal": set(),
    "edge_node.model_names": set(),
    "edge_node.places": set(),
    "edge_node.attempt_codes": set(),
    "edge_node.checkpoint": set(),
    "edge_node.prompt_tokens": set(),
    "edge_node.experience_page": set(),
    "edge_node.errors": set(),
    "edge_node.changing": set(),
    "edge_node.handshake": set(),
    "edge_node.erasure": {"domain", "errors", "prompt_tokens"},
    "edge_node.image_header": set(),
    "edge_node.image_words": set(),
    "edge_node.happenings": {"domain"},
    "edge_node.listing": {"domain"},
    "edge_node.clock": set(),
    "edge_node.config": {"request_config", "setting"},
    "edge_node.request_config": {"setting"},
    "edge_node.setting": set(),
    "edge_node.rest_tls": {"config", "errors", "handshake"},
    "edge_node.json_text": set(),
    "edge_node.in_the_way": set(),
    "edge_node.shared_rows": {"checkpoint", "domain"},
    "edge_node.sign_of_life": {"clock"},
    "edge_node.start_note": {"clock", "json_text"},
    "edge_node.client_variables": set(),
    "edge_node.config_sources": {"client_variables", "config", "errors"},
    "edge_node.children": {"store.embedded_valkey", "supervision.child_process"},
    "edge_node.sole_owner": {"errors"},
    "edge_node.data_folder": {"config", "store.append_only"},
    "edge_node.child_options": {"config", "errors", "guard.deciding", "worker_options"},
    "edge_node.worker_options": {"config", "config_sources", "json_text"},
    "edge_node.reloading": {"config", "errors"},
    "edge_node.ports": {
        *("checkpoint", "domain", "erasure", "experience_page", "happenings", "listing"),
        *("learned_weights", "moves", "removal", "requests", "shared_rows"),
        "tasks.slots",
        "scheduler",
    },
    "edge_node.requests": {"domain"},
    "edge_node.snapshot": {"domain", "removal", "scheduler.guard.status"},
    "edge_node.socket_path": {"in_the_way"},
    "edge_node.trace_context": set(),
    "edge_node.log_lines": {"trace_context"},
    "edge_node.tasks": PURE | {"tasks", "scheduler"},
    "edge_node.telemetry": PURE | {"telemetry"},
    "edge_node.store": PURE | {"store", "tasks.slots", "scheduler"},
    "edge_node.supervision": PURE | {"supervision", "peering.codec", "peering.rows_codec"},
    "edge_node.dispatch": PURE | {"dispatch", "tasks", "telemetry", "scheduler"},
    "edge_node.guard": PURE | {"guard", "store", "scheduler"},
    "edge_node.learner": PURE | {"guard.judge", "learning.cluster_learner", "store"},
    # Shared by node and learner; what only one of them has is told apart below.
    "edge_node.learning": PURE
    | {"learning", "store", "peering.client", "peering.tls", "scheduler"},
    "edge_node.learning.cluster_learner": PURE | {"guard.judge", "learning", "store", "scheduler"},
    "edge_node.learning.sharing": PURE
    | {"child_options", "dispatch.own_node", "learning", "store", "tasks", "telemetry"},
    "edge_node.grpc_health": set(),
    "edge_node.lasting": set(),
    "edge_node.peering": PURE
    | {
        "peering",
        "dispatch",
        "grpc_health",
        "tasks.conduct",
        "tasks.membership",
        "tasks.membership_protocol",
    },
    "edge_node.access": PURE | {"access"},
    "edge_node.moderation": PURE | {"moderation"},
    "edge_node.api": PURE | {"access", "api", "telemetry", "scheduler.guard.status"},
    # For agents: a client of the REST surface, as everybody is.
    "edge_node.mcp": {"client", "errors", "mcp"},
    "edge_node.mcp.opening": {"config", "errors", "mcp"},
    "edge_node.mcp.endpoint": {"api.error_responses", "api.key_check", "client", "config", "errors"}
    | {"mcp"},
    "edge_node.worker": PURE
    | {"worker", "grpc_health", "peering.codec", "peering.rows_codec", "scheduler.longest_wait"},
    # Clients of a running node: they reach it over HTTP, like everyone else.
    "edge_node.client": {"client", "client_variables", "errors"},
    "edge_node.console": PURE
    | {"client", "console", "supervision.launcher", "worker.tiny_sd3.scenes"},
    # Looks at what the node and its worker would find, with their own eyes, and starts neither.
    "edge_node.console.doctor": PURE | {"console", "telemetry.jetson"},
    "edge_node.console.doctor_checks": PURE
    | {"client", "console", "peering.link_probe", "peering.tls", "telemetry.jetson", "worker"},
    "edge_node.console.certs": PURE | {"access", "console", "peering.tls"},
    "edge_node.console.deploy": PURE | {"access", "console", "peering.tls"},
    "edge_node.console.configuration": PURE | {"console", "node_keys", "peering.tls", "scheduler"},
    "edge_node.node_keys": {"access", "clock", "config", "domain", "errors", "peering.tls"},
    "edge_node.console.keys": PURE | {"access", "console"},
    "edge_node.console.cluster_keys": PURE | {"access", "client", "console"},
    "edge_node.console.health": PURE | {"console", "child_options", "supervision.worker_client"},
    "edge_node.console.simulate": PURE | {"console", "scheduler"},
    "edge_node.console.train": PURE | {"console", "scheduler"},
    "edge_node.console.policy_search": PURE | {"console", "scheduler"},
    "edge_node.console.weights": PURE | {"console", "worker"},
    "edge_node.console.train_from_pool": PURE
    | {"console", "store", "learner", "learning.cluster_learner", "scheduler"},
    "edge_node.console.learn": PURE
    | {"child_options", "console", "learner", "sole_owner", "store.embedded_valkey"},
}
# The heavy world stays inside the worker and the learning side.
HEAVY = {"torch", "diffusers", "transformers", "numba", "gymnasium", "PIL", "matplotlib"}
# So does what only some nodes need.
EXTRAS = {"mcp", "mcp_types", "opentelemetry.sdk.trace", "zeroconf"}


# What the repository holds at its top; nothing that a tool has left beside it.
TOP = {
    *("edge_node", "scheduler", "proto", "deploy", "docker", "tests", "benchmarks", "docs"),
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "pyproject.toml"),
    *("constraints-cpu.txt", "constraints-dev.txt", ".ci", ".devcontainer", ".dockerignore"),
    *(".editorconfig", ".github", ".gitignore", ".mkdocs.yml", ".pre-commit-config.yaml"),
}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an archive, which holds what it holds")
def test_the_repository_holds_nothing_that_a_tool_left() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {path.partition("/")[0] for path in listed.stdout.splitlines()} == TOP


def test_results_name_no_place_of_the_machine_that_made_them() -> None:
    results = sorted((ROOT / "benchmarks" / "results").rglob("*.json"))
    assert results
    places = re.compile(r'"/(?:tmp|home|root|work|mnt|var)/')
    assert [path.name for path in results if places.search(path.read_text())] == []


def python_files() -> list[Path]:
    folders = ("edge_node", "scheduler", "benchmarks", "tests")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@functools.cache
def parsed(path: Path) -> ast.Module:
    # CPython 3.11.7 miscounts its recursion where garbage is collected meanwhile (gh-106905).
    gc.disable()
    try:
        return ast.parse(path.read_text())
    finally:
        gc.enable()


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_imports_point_one_way() -> None:
    wrong = []
    for path in python_files():
        name = module_name(path)
        part = max((p for p in ALLOWED if f"{name}.".startswith(f"{p}.")), key=len, default=None)
        if part is None:
            continue
        for imported in imports(path):
            if not imported.startswith(("edge_node.", "scheduler.", "benchmarks", "tests")):
                continue
            short = imported.removeprefix("edge_node.")
            if not any(f"{short}.".startswith(f"{allowed}.") for allowed in ALLOWED[part]):
                wrong.append(f"{name} imports {imported}")
    assert not wrong, "\n".join(wrong)


def test_every_package_is_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {path.parent for path in python_files() if path.name == "__init__.py"}
    ours = {folder.relative_to(ROOT) for folder in folders}
    packages = {".".join(f.parts) for f in ours if f.parts[0] in ("edge_node", "scheduler")}
    listed = set(project["tool"]["setuptools"]["packages"])
    assert {one for one in listed if not one.startswith("dedgeai")} == packages


def test_functions_can_be_read_at_a_glance() -> None:
    long = []
    for path in python_files():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    long.append(f"{path}:{node.lineno} {node.name}: {lines} lines")
    assert not long, "\n".join(long)


def test_files_can_be_read_in_one_sitting() -> None:
    long = []
    for path in python_files():
        shipped = path.relative_to(ROOT).parts[0] in ("edge_node", "scheduler")
        lines = len(path.read_text().splitlines())
        if shipped and lines > FILE_LINES_MAX and path.relative_to(ROOT) != LONG_WITH_A_REASON:
            long.append(f"{path}: {lines} lines")
    assert not long, "\n".join(long)


def test_every_test_can_fail() -> None:
    """It asserts something, or calls what does: of its own file, or by what it is called."""
    idle = []
    for path in (ROOT / "tests").rglob("test_*.py"):
        functions = {
            node.name: node
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        idle += [
            f"{path}:{node.lineno} {name}"
            for name, node in functions.items()
            if name.startswith("test_") and not can_fail(name, functions, set())
        ]
    assert not idle, "\n".join(idle)


def can_fail(
    name: str, functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef], seen: set[str]
) -> bool:
    """Whether something in the function, or in those of its file that it names, may fail."""
    words = ("check", "run_all", "until", "wait_for", "validate")
    seen.add(name)
    for node in ast.walk(functions[name]):
        if isinstance(node, ast.Assert | ast.Raise):
            return True
        if isinstance(node, ast.Attribute) and node.attr in ("raises", "fail", "timeout"):
            return True
        if isinstance(node, ast.Name | ast.Attribute):
            called = node.id if isinstance(node, ast.Name) else node.attr
            if any(word in called for word in words) or called.startswith("assert"):
                return True
            if called in functions and called not in seen and can_fail(called, functions, seen):
                return True
    return False


def test_the_node_process_stays_light() -> None:
    code = f"import edge_node.node, sys; print(sorted({HEAVY | EXTRAS!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

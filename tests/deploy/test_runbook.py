"""What the documents tell an operator to type, read and set is what there is."""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import re
import shlex
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_node import cli
from edge_node.api import (
    cluster_events,
    image_tasks,
    openai_edits,
    openai_images,
    operations,
    task_lists,
)
from edge_node.commands.arguments import Parser
from edge_node.config import SETTINGS
from edge_node.console.inventory import Device, read_inventory, render

from .files import DEPLOY, ROOT, compose
from .test_monitoring import DASHBOARDS, exported, panels, rules

pytestmark = pytest.mark.deploy

RUNBOOK = ROOT / "docs" / "runbook.md"
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", DEPLOY / "README.md"]
OTHERS = sorted(
    path
    for folder in (DEPLOY, ROOT / "docker")
    for path in folder.rglob("*")
    if path.is_file() and path not in PAGES and path.suffix not in {".json", ".pyc"}
)
VERBS = {"ps", "run", "exec", "logs", "stop", "restart", "up", "down", "kill", "version"}
# Of `docker compose`: options that take a value, and so are followed by no service.
WITH_VALUE = {"--tail", "--signal", "--since", "--profile", "-f", "--file"}
SERVICES = compose("compose.yaml", "compose.monitoring.yaml")["services"]
OURS = {name for name, one in SERVICES.items() if "dedgeai" in one["image"]}
# On a device and in an image, beside what is copied there.
MADE_THERE = {"config", "last-good", "monitoring.env", ".env", "sbom.cdx.json"}


class Refused(Exception):
    """The real parser would end the process with this sentence."""


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Any:
    def refuse(self: argparse.ArgumentParser, message: str) -> None:
        raise Refused(message)

    monkeypatch.setattr(Parser, "error", refuse)
    return cli.parser().parse_args


def blocks(path: Path, language: str) -> list[str]:
    """Fenced blocks of a page, without the indentation of the list that they stand in."""
    found = re.findall(
        rf"^( *)```{language}\n(.*?)^ *```$", path.read_text(), re.MULTILINE | re.DOTALL
    )
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def spans(path: Path) -> list[str]:
    """What stands between backticks outside blocks, on one line each."""
    outside = re.sub(r"^ *```.*?^ *```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", outside)]


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a shell text, as words, and those that are quoted for ssh."""
    joined = text.replace("\\\n", " ")
    for line in joined.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()<>")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # a quoted text of several lines, which is no command of ours
            continue
        command: list[str] = []
        for word in [*words, ";"]:
            if word and set(word) <= set("|&;()<>"):
                yield command
                command = []
            else:
                command.append(word)
        for word in words:
            if "docker compose" in word or "dedgeai " in word:
                yield from commands(word)


def of_dedgeai(words: list[str]) -> list[str] | None:
    """Arguments that the command gives to `dedgeai`, itself or in a container."""
    for index, word in enumerate(words):
        if word == "dedgeai" or word.endswith("/dedgeai"):
            return words[index + 1 :]
        if word != "sudo" and "=" not in word:
            break
    if words[:3] == ["docker", "compose", "run"]:
        service, rest = after_options(words[3:])
        return rest if service in OURS else None
    return None


def after_options(words: list[str]) -> tuple[str, list[str]]:
    """The first word of `docker compose ...` that is no option, and the rest."""
    index = 0
    while index < len(words) and words[index].startswith("-"):
        index += 2 if words[index] in WITH_VALUE else 1
    return words[index] if index < len(words) else "", words[index + 1 :]


def alternatives(span: str) -> Iterator[list[str]]:
    """`health node|worker` means two commands."""
    words = [word.split("|") if word != "|" else ["|"] for word in span.split()]
    for choice in itertools.product(*words):
        yield list(choice)


def listed_in_yaml(text: str) -> Iterator[list[str]]:
    """Arguments of `dedgeai` in the lists of compose files, manifests and Dockerfiles."""
    for found in re.findall(r'\[(?:CMD, |command: \[)?"?dedgeai"?, ?([^\]]*)\]', text):
        yield [word.strip(" \"'") for word in found.split(",")]
    for found in re.findall(r"(?:command|args): \[((?:node|worker|learner|doctor),[^\]]*)\]", text):
        yield [word.strip(" \"'") for word in found.split(",")]


def all_commands() -> Iterator[tuple[str, list[str], bool]]:
    """Where, arguments of `dedgeai`, and whether the command is whole."""
    for path in [*PAGES, *OTHERS]:
        where = str(path.relative_to(ROOT))
        for block in blocks(path, "sh") if path in PAGES else ():
            for words in commands(block):
                arguments = of_dedgeai(words)
                if arguments:
                    yield where, arguments, True
        for span in spans(path):
            for words in alternatives(span) if re.search(r"(^|/)dedgeai ", span) else ():
                arguments = of_dedgeai(words)
                if arguments:
                    yield where, arguments, False
        if path in OTHERS:
            text = path.read_text()
            for line in re.findall(r"^\s*(?:\S*/)?dedgeai [a-z].*$", text, re.MULTILINE):
                yield where, shlex.split(line)[1:], True
            yield from ((where, arguments, True) for arguments in listed_in_yaml(text))


def test_every_command_is_one_that_dedgeai_takes(parse: Any) -> None:
    seen: Counter[str] = Counter()
    problems = []
    for where, arguments, whole in all_commands():
        seen[where] += 1
        try:
            parse(arguments)
        except SystemExit as end:  # of what only says something
            problems += [f"{where}: dedgeai {shlex.join(arguments)}"] if end.code else []
        except Refused as refusal:
            # A command that is only mentioned may lack what it needs.
            if whole or not str(refusal).startswith("the following arguments are required"):
                problems.append(f"{where}: dedgeai {shlex.join(arguments)}: {refusal}")
    assert problems == []
    # Enough was found to mean something, in each kind of file.
    least = {"docs/runbook.md": 15, "README.md": 10, "deploy/README.md": 4}
    least |= {"deploy/compose.yaml": 7, "deploy/k3s/daemonset.yaml": 5}
    assert [where for where, count in least.items() if seen[where] < count] == []


@pytest.mark.parametrize("wrong", ["doctors", "deploy --inventroy x", "config print"])
def test_a_command_that_is_none_is_noticed(wrong: str, parse: Any) -> None:
    (words,) = [one for one in commands(f"ssh orin-1 dedgeai {wrong}") if one]
    with pytest.raises(Refused):
        parse(words[3:])


def compose_commands() -> Iterator[list[str]]:
    for path in (RUNBOOK, DEPLOY / "README.md"):
        texts = [*blocks(path, "sh"), *(s for s in spans(path) if s.startswith("docker compose"))]
        for text in texts:
            for words in commands(text):
                if words[:2] == ["docker", "compose"]:
                    yield words[2:]


def test_every_service_that_a_command_names_is_one_of_compose() -> None:
    named = 0
    for words in compose_commands():
        verb, rest = after_options(words)
        assert verb in VERBS, words
        service, more = after_options(rest)
        services = [service, *more] if verb in {"logs", "stop", "restart", "kill"} else [service]
        for one in filter(None, services):
            if not one.startswith("-"):
                assert one in SERVICES, words
                named += 1
    assert named > 10


@pytest.mark.parametrize("block", blocks(RUNBOOK, "sh"), ids=range(len(blocks(RUNBOOK, "sh"))))
def test_a_shell_can_read_it(block: str) -> None:
    done = subprocess.run(["sh", "-n"], input=block, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_python_can_be_read() -> None:
    found = blocks(RUNBOOK, "python")
    assert found
    for block in found:
        assert ast.parse(block).body


def test_every_path_is_there() -> None:
    folders = "deploy|docker|docs|edge_node|scheduler|benchmarks|tests|proto"
    for path in PAGES:
        for name in re.findall(rf"(?<![\w./-])((?:{folders})/[\w./-]*[\w-])", path.read_text()):
            found = ROOT / name
            # Scripts and modules are also named without their ending.
            assert found.exists() or found.with_suffix(".py").exists(), f"{path.name}: {name}"
        for link, anchor in re.findall(
            r"\]\((?!https?:)([^)#\s]*)(?:#([^)]+))?\)", path.read_text()
        ):
            target = path.parent / link if link else path
            assert target.exists(), f"{path.name}: {link}"
            if anchor:
                assert anchor in anchors(target), f"{path.name}: #{anchor}"


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


def test_every_file_on_a_device_is_put_there() -> None:
    there = {path.name for path in DEPLOY.iterdir()} | MADE_THERE
    named = re.findall(r"/opt/dedgeai/([\w.-]+)", RUNBOOK.read_text())
    assert named
    assert set(named) <= there
    for unit in re.findall(r"\bdedgeai-[\w-]+\.(?:service|timer)", RUNBOOK.read_text()):
        assert (DEPLOY / "systemd" / unit).exists(), unit
    for unit in re.findall(r"--unit (\S+)", RUNBOOK.read_text()):
        assert (DEPLOY / "systemd" / f"{unit.strip('`')}.service").exists(), unit


def test_every_make_target_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in PAGES:
        lines = [line for block in blocks(path, "sh") for line in block.splitlines()]
        named = [found for text in [*lines, *spans(path)] for found in re.findall(MAKE, text)]
        assert set(named) <= targets, path.name


MAKE = re.compile(r"^make ([a-z-]+)")


def test_every_setting_is_one() -> None:
    for path in PAGES:
        if path.name == "scheduling.md":  # its files are scenarios of the simulator
            continue
        for block in blocks(path, "toml"):
            document = tomllib.loads(block)
            tables = [document.get("defaults", {}), *document.get("nodes", [])]
            known = set(Device.model_fields)
            assert {key for table in tables for key in table} <= known, path.name
            assert set(document.get("monitoring", {})) <= {"node_id"}
            plain = document.keys() - {"defaults", "nodes", "monitoring"}
            nested = {key for table in tables for key in table.get("settings", {})}
            assert plain | nested <= SETTINGS.keys(), path.name
        for span in spans(path):
            setting = re.match(r"^(\w+) = ", span)
            if setting:
                assert setting[1] in SETTINGS.keys() | Device.model_fields.keys(), span


def test_its_inventory_can_be_deployed(tmp_path: Path) -> None:
    (block,) = [one for one in blocks(RUNBOOK, "toml") if "[[nodes]]" in one]
    path = tmp_path / "inventory.toml"
    path.write_text(block)
    files = render(read_inventory(path), DEPLOY)
    assert [one.device.image for one in files] == ["dedgeai:jetpack6", "dedgeai:jetpack7"]
    assert all(one.config.stability_license_accepted for one in files)


def test_every_name_in_the_runbook_is_known_to_the_code() -> None:
    """Settings, fields of answers, error codes, findings, arguments of a build."""
    files = [*(ROOT / "edge_node").rglob("*.py"), *(ROOT / "docker").glob("Dockerfile.*")]
    words = set(re.findall(r"\w+", "\n".join(path.read_text() for path in [*files, *OTHERS])))
    named = [span for span in spans(RUNBOOK) if re.fullmatch(r"[A-Za-z]+(?:_[A-Za-z0-9]+)+", span)]
    assert len(named) > 30
    assert [name for name in named if name not in words] == []


def test_every_metric_is_exported() -> None:
    known = exported()
    named = re.findall(r"\bdedgeai_\w+", RUNBOOK.read_text())
    assert named
    assert [name for name in named if name not in known] == []


def test_every_path_of_the_api_is_served() -> None:
    modules = (image_tasks, openai_edits, openai_images, operations, task_lists, cluster_events)
    served = [route.path_regex for one in modules for route in one.router.routes]
    named = re.findall(r"(?<!:9090)(/(?:v1/[\w/-]+|livez|readyz|metrics))\b", RUNBOOK.read_text())
    assert {"/v1/cluster", "/readyz", "/metrics", "/v1/nodes/orin-6/drain"} <= set(named)
    assert [path for path in named if not any(one.match(path) for one in served)] == []


def table(heading: str) -> list[list[str]]:
    """Rows of the tables of a section, cell by cell, without head."""
    section = RUNBOOK.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in rows[1:] if not set("".join(row)) <= set("-")]


def test_every_alert_is_explained_once() -> None:
    rows = table("Alerts")
    assert [row[0] for row in rows] == [rule["alert"] for rule in rules()]
    assert all(means and do for _, means, do in rows)


def test_every_panel_is_on_a_dashboard() -> None:
    titles = {panel["title"] for path in DASHBOARDS for panel in panels(path)}
    titles |= {json.loads(path.read_text())["title"] for path in DASHBOARDS}
    rows = table("Dashboards")
    assert {row[0] for row in rows} <= titles
    section = RUNBOOK.read_text().partition("\n## Dashboards\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"(?<!\*)\*([A-Z][^*\n]+)\*", section)) <= titles


def templates() -> list[str]:
    """Texts of the code, with a NUL where something is put in."""
    found = []
    for path in (ROOT / "edge_node").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "\0" for p in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                # As logging fills it in, or a shell.
                found.append(re.sub(r"%[\w.]*[sdrfg]|\$\([^)]*\)", "\0", node.value))
    return [template.replace('"', "") for template in found]


def is_said(message: str, known: Iterable[str]) -> bool:
    """Whether one text of the code reads like `message`, whose <...> stand for what is put in."""
    fragments = re.split(r"<[^>]*>", message)
    pattern = re.compile("\0[^\n]*?".join(re.escape(fragment) for fragment in fragments))
    return any(pattern.search(template) for template in known)


def test_every_message_is_one_that_the_code_says() -> None:
    known = templates()
    rows = table("Common failures")
    assert len(rows) > 25
    for message, remedy in rows:
        assert remedy
        assert is_said(message.strip("`"), known), message
    assert not is_said("the worker has <failed>", known)


def test_it_says_what_it_is() -> None:
    first = RUNBOOK.read_text()[:400]
    assert "Nothing here was run on a device" in first
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert set(re.findall(r"dedgeai-(\d[\d.]*)-aarch64", RUNBOOK.read_text())) == {version}
    tags = set(re.findall(r"dedgeai:(jetpack\d)", RUNBOOK.read_text()))
    assert tags == set(
        re.findall(r"AS (jetpack\d)", (ROOT / "docker/Dockerfile.jetson").read_text())
    )

"""Pages and comments point at what is there: links, files, headings, rows of the paper's table."""

from __future__ import annotations

import importlib
import io
import pkgutil
import re
import tokenize
from pathlib import Path

import pytest

import edge_node
from edge_node.api.openapi_errors import ENDINGS
from edge_node.errors import DEdgeAIError

ROOT = Path(__file__).parent.parent
FOLDERS = ("edge_node", "scheduler", "proto", "deploy", "docker", "tests", "benchmarks", "docs")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(page for folder in ("docs", "deploy", ".github") for page in (ROOT / folder).rglob("*.md")),
]
# A path of the tree in running text; what a bracket or a star makes of it is a pattern.
NAMED = re.compile(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./*<>{{}}-]*[\w*>}}/]")
CITED = re.compile(r'(docs/[\w-]+\.md),?\s+"([^"]+)"')


def named_in(text: str) -> set[str]:
    return {found.rstrip("/") for found in NAMED.findall(text)}


def missing(paths: set[str]) -> list[str]:
    """Those that are not there; a pattern is there when anything is that it fits."""
    found = []
    for path in sorted(paths):
        pattern = re.sub(r"<[^>]*>|\{[^}]*\}", "*", path)
        if not (any(ROOT.glob(pattern)) or (ROOT / f"{path}.py").exists()):
            found.append(path)
    return found


def comments_of(path: Path) -> str:
    """Comments and docstrings of a Python file; others whole."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        return text
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    told = [one.string for one in tokens if one.string.startswith(("#", '"""', 'r"""'))]
    # A comment that goes on in the next line is one.
    parts = [one.lstrip("# ") for one in told]
    return re.sub(r"\s+", " ", "\n".join(parts))


def sources() -> list[Path]:
    files = [ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / ".ci" / "run"]
    for folder in FOLDERS:
        for suffix in ("py", "proto", "sh", "toml", "yaml", "yml"):
            files += (ROOT / folder).rglob(f"*.{suffix}")
    return sorted(path for path in files if not path.name.endswith(("_pb2.py", "_pb2_grpc.py")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_of_a_page_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target:
            path, _, heading = target.partition("#")
            there = (page.parent / path) if path else page
            assert there.exists(), target
            assert not heading or heading in anchors(there), target
    assert missing(named_in(text)) == []


def headings(page: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings(page)}


def rows(page: Path) -> list[str]:
    """First column of every table."""
    return re.findall(r"^\| ([^|]+?) \|", page.read_text("utf-8"), re.MULTILINE)


def test_every_page_that_a_comment_cites_is_there_with_what_it_cites() -> None:
    wrong, cited = [], 0
    for path in sources():
        text = comments_of(path)
        where = path.relative_to(ROOT)
        wrong += [
            f"{where}: {page}"
            for page in re.findall(r"docs/[\w/-]+\.md", text)
            if not (ROOT / page).exists()
        ]
        for page, name in CITED.findall(text):
            cited += 1
            there = ROOT / page
            if there.exists() and name not in [*headings(there), *rows(there)]:
                wrong.append(f"{where}: {page} has no heading or row {name!r}")
        # Pages of other places: every page that is named is one of ours.
        for name in re.findall(r"(?<![\w/-])([a-z_]+\.md)\b", text):
            if not any(page.name == name for page in PAGES) and name not in ("page.md",):
                wrong.append(f"{where}: {name}")
    assert not wrong, "\n".join(wrong)
    assert cited >= 8


def test_every_script_and_result_that_a_comment_names_is_there() -> None:
    wrong = []
    for path in sources():
        if path.suffix == ".py" and path.name != "test_docs.py":
            kept = {one for one in named_in(comments_of(path)) if "." in one.rpartition("/")[2]}
            wrong += [f"{path.relative_to(ROOT)}: {one}" for one in missing(kept)]
    assert not wrong, "\n".join(wrong)


def test_what_leads_nowhere_is_noticed() -> None:
    assert missing({"edge_node/tasks/nowhere.py", "edge_node/tasks/*.py", "tests/golden"}) == [
        "edge_node/tasks/nowhere.py"
    ]
    assert named_in("see `docs/paper.md`, edge_node/tasks/ and x/tests/y.") == {
        "docs/paper.md",
        "edge_node/tasks",
    }


def test_every_code_of_an_error_is_explained_with_its_status() -> None:
    page = (ROOT / "docs" / "errors.md").read_text("utf-8")
    told = {
        code: int(status)
        for codes, status in re.findall(r"^\| (`[^|]+) \| (\d+) \|", page, re.MULTILINE)
        for code in re.findall(r"`(\w+)`", codes)
    }
    aside = page.rpartition("## For operators")[2]
    known = {one.code: one.http_status for one in errors_there_are()}
    known |= {code: status for status, codes in ENDINGS.items() for code in codes}
    assert {code for code in known if code not in told} <= set(re.findall(r"`(\w+)`", aside))
    assert {code: known.get(code) for code in told} == told


def errors_there_are() -> list[type[DEdgeAIError]]:
    for found in pkgutil.walk_packages(edge_node.__path__, "edge_node."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    kinds: list[type[DEdgeAIError]] = [DEdgeAIError]
    for one in kinds:
        kinds += one.__subclasses__()
    return [one for one in kinds if one.__module__.startswith("edge_node.")]

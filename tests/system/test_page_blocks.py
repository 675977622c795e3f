"""What README and pages tell a person to type is typed here, line by line, at real nodes.

A line that is not typed says why, or which test does it; one that nobody knows fails.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

from edge_node.console.local_cluster import LocalCluster
from tests.system.local import EMULATED, on_cluster, submit

pytestmark = pytest.mark.system
ROOT = Path(__file__).parent.parent.parent
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("command_line", "research")),
]
LINE_S_MAX = 120
# These are pages of which another test types every block.
ELSEWHERE = {
    "docs/own_policy.md": "tests/system/test_examples.py",
    "docs/runbook.md": "tests/deploy/test_runbook.py",
}
EXCUSED = {
    "make demo": "tests/console/test_contact_sheet.py and tests/system run its parts",
    "make test": "this is it",
    "source .venv/bin/activate": "the shell of the test has it in PATH",
    "dedgeai cluster --nodes 3 --port 8080": "tests/system/test_commands.py",
    "dedgeai node --config node.toml": "tests/system/test_commands.py",
    "make figures": "minutes; its parts are in tests/benchmarks",
}
# Said to a node that listens where no option says so.
ASKS = re.compile(r"dedgeai (generate|status|tasks) ?")


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [block.replace("\\\n", " ") for block in found]


def lines_of(page: Path) -> list[str]:
    """Commands without what a person is told beside them."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [found for line in lines if (found := re.sub(r"\s+# .*$", "", line).strip())]


async def typed(line: str, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", line),
        cwd=folder,
        env={**os.environ, "PATH": path, "HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(LINE_S_MAX):
        said, _ = await process.communicate()
    # A stream that never ends is left by who reads it: 28 is curl's word for that.
    ends = {0, 28} if "--max-time" in line else {0}
    assert process.returncode in ends, f"{line}\n{said.decode()}"


def at(url: str, line: str, task_id: str) -> str:
    """The same command, said to the nodes of the test."""
    line = re.sub(r"(?:http://)?(?:localhost|127\.0\.0\.1|orin-1):8080", url, line)
    line = line.replace("<id>", task_id).replace(" ID ", f" {task_id} ")
    if line.startswith("curl -N") and line.endswith("/v1/events"):
        return line.replace("curl", "curl --max-time 2")
    return f"{line} --node {url}" if ASKS.match(line) else line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_line_for_a_shell_can_be_typed(page: Path, tmp_path: Path) -> None:
    lines = lines_of(page)
    assert lines
    (tmp_path / "home").mkdir()
    # Where the pages' commands stand: in the tree, whose files are not to be written.
    for name in ("tests", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        url = cluster.urls[0]
        task = await submit(http, url, num_inference_steps=2)
        for line in lines:
            if line not in EXCUSED:
                await typed(at(url, line, task["id"]), tmp_path)

    on_cluster(tmp_path / "nodes", EMULATED, test=test)


# It opens a file and leaves closing it to Python, as the examples of that SDK do.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_every_python_snippet_of_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    snippets = blocks(ROOT / "README.md", "python")
    assert len(snippets) == 3
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), "red").save("photo.jpg")

    async def test(cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        told = "\n".join(snippets).replace("http://127.0.0.1:8080", cluster.urls[0])
        await asyncio.to_thread(exec, told, {})

    on_cluster(tmp_path / "nodes", EMULATED, test=test)


def test_every_python_snippet_of_research_runs() -> None:
    pytest.importorskip("gymnasium")
    pytest.importorskip("pettingzoo")
    snippets = blocks(ROOT / "docs" / "research.md", "python")
    assert len(snippets) == 3
    if importlib.util.find_spec("stable_baselines3") is None:
        # It is no part of this project, and the page says how it is had.
        snippets = [one for one in snippets if "stable_baselines3" not in one]
    exec("\n".join(snippets), {})


def test_every_excuse_is_of_a_line_and_every_other_test_is_there() -> None:
    lines = {line for page in PAGES for line in lines_of(page)}
    assert EXCUSED.keys() <= lines
    for page, test in ELSEWHERE.items():
        assert (ROOT / page).exists()
        assert Path(page).name in (ROOT / test).read_text()
    for why in EXCUSED.values():
        for path in re.findall(r"tests/[\w/.]+", why):
            assert (ROOT / path).exists(), path

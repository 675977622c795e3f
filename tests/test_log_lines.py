"""Lines of a log: objects that say which tasks they are about, of node, worker and learner."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_node import trace_context
from edge_node.child_options import learner_command
from edge_node.config import NodeConfig
from edge_node.log_lines import TEXT, JsonLines, set_format, set_level
from edge_node.trace_context import TraceContext

TASK = "orin-1.lab-01ARZ3NDEKTSV4RRFFQ69G5FAV"
OTHER = "node-0-01BX5ZZKBKACTAV9WEVGEMMVRZ"


def line(message: str, *arguments: object, **more: Any) -> dict[str, Any]:
    record = logging.LogRecord("edge_node.x", logging.WARNING, "x.py", 1, message, arguments, None)
    record.created = 1_700_000_000.0625
    record.__dict__.update(more)
    text = JsonLines(node_id="orin-1").format(record)
    assert "\n" not in text
    document: dict[str, Any] = json.loads(text)
    return document


def test_a_line_is_an_object_that_names_its_tasks() -> None:
    assert line("image of %s not stored: %s", TASK, "disk\nfull") == {
        "time": "2023-11-14T22:13:20.062Z",
        "level": "warning",
        "logger": "edge_node.x",
        "node": "orin-1",
        "message": f"image of {TASK} not stored: disk\nfull",
        "task_id": TASK,
    }
    several = line("lost: %s, %s and %s", TASK, OTHER, TASK)
    assert several["task_ids"] == [TASK, OTHER]
    assert "task_id" not in several
    assert "task_id" not in line("node orin-1 is at 10.0.0.1:9080, x-01ARZ3NDEKTSV4RRFFQ69G5FA")


def test_a_line_has_its_trace_and_its_traceback() -> None:
    token = trace_context.current.set(
        TraceContext(parent=f"00-{'a' * 32}-{'b' * 16}-01"),
    )
    try:
        assert line("x")["trace_id"] == "a" * 32
    finally:
        trace_context.current.reset(token)
    assert "trace_id" not in line("x")
    try:
        raise ZeroDivisionError("of nothing")
    except ZeroDivisionError:
        told = line("failed", exc_info=sys.exc_info())
    assert told["error"].endswith("ZeroDivisionError: of nothing")


def test_a_process_that_knows_no_node_names_none() -> None:
    record = logging.LogRecord("edge_node.x", logging.INFO, "x.py", 1, "ü", (), None)
    record.created = 0.9996
    text = JsonLines().format(record)
    assert "ü" in text
    assert json.loads(text).keys() == {"time", "level", "logger", "message"}
    assert json.loads(text)["time"] == "1970-01-01T00:00:00.999Z"


def test_the_level_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "level", logging.INFO)
    set_level("warning")
    assert logging.getLogger().level == logging.WARNING


@pytest.fixture
def handler() -> Iterator[logging.Handler]:
    """Of this process's log, as a command makes it."""
    made = logging.StreamHandler()
    logging.getLogger().addHandler(made)
    yield made
    logging.getLogger().removeHandler(made)


def test_the_format_can_be_chosen(handler: logging.Handler) -> None:
    formers = [(one, one.formatter) for one in logging.getLogger().handlers]
    try:
        set_format("json", node_id="orin-1")
        assert isinstance(handler.formatter, JsonLines)
        set_format("text", node_id="orin-1")
        assert handler.formatter is not None
        assert handler.formatter._fmt == TEXT
    finally:
        for one, former in formers:
            one.setFormatter(former)


def test_a_worker_writes_objects_too(tmp_path: Path) -> None:
    options = json.dumps({"engine": "emulated", "log_format": "json"})
    code = f"""
import logging, sys
from edge_node.worker import __main__ as worker
async def run(arguments):
    logging.getLogger("edge_node.worker").warning("%s was not exported", {TASK!r})
    return True
worker.run = run
sys.argv = ["worker", "--socket", {str(tmp_path / "w.sock")!r}, "--options", {options!r}]
worker.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (told,) = [json.loads(one) for one in done.stderr.splitlines()]
    assert told["task_id"] == TASK
    assert "node" not in told


def test_a_learner_is_told(tmp_path: Path) -> None:
    config = NodeConfig(log_format="json", data_folder=tmp_path, node_id="orin-1")
    command = learner_command(config, "unix:///x")
    code = f"""
import logging, sys
from edge_node import learner
def run(coroutine):
    coroutine.close()
    logging.getLogger("edge_node.learner").info("learns for the cluster")
learner.asyncio.run = run
learner.main({command[3:]!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (told,) = [json.loads(one) for one in done.stderr.splitlines()]
    assert (told["node"], told["message"]) == ("orin-1", "learns for the cluster")

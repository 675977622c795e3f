"""A node without agents loads nothing for them, and says what is missing where it is asked to."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import pytest

from edge_node import cli
from edge_node.config import NodeConfig
from edge_node.errors import InvalidRequest
from edge_node.mcp.opening import open_endpoint


def test_it_is_loaded_only_where_it_is_wanted() -> None:
    code = (
        "import sys; from edge_node.config import NodeConfig; import edge_node.node;"
        "from edge_node.mcp.opening import open_endpoint;"
        "assert open_endpoint(NodeConfig()) is None; print('mcp' in sys.modules);"
        "open_endpoint(NodeConfig(mcp=True)); print('mcp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_without_the_extra_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidRequest, match=r"install dedgeai\[mcp\]"):
        open_endpoint(NodeConfig(mcp=True))
    assert cli.main(["mcp"]) == 2
    assert "install dedgeai[mcp]" in capsys.readouterr().err

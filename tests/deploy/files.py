"""What the tests of deploy/ share: reading its files, and the tools that check them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"


def tool(name: str) -> str:
    """Path of a command; skips the test where it is not, unless all are required."""
    here = Path(sys.executable).parent
    path = shutil.which(name, path=f"{here}{os.pathsep}{os.environ['PATH']}")
    if path is None:
        reason = f"{name} is not on PATH: make validate-deploy installs it where it can"
        if os.environ.get("DEPLOY_TOOLS") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def passes(*command: str | Path, cwd: Path = ROOT) -> str:
    """Runs a checking tool, which must find nothing; returns what it says."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=60
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


class _Replaced:
    """A value that replaces the one below it, as Compose's !reset and !override do."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _ComposeLoader(yaml.SafeLoader):
    pass


def _replaced(loader: _ComposeLoader, node: yaml.Node) -> _Replaced:
    if isinstance(node, yaml.SequenceNode):
        return _Replaced(loader.construct_sequence(node, deep=True))
    return _Replaced(loader.construct_object(yaml.ScalarNode(_NULL, "null")))


_NULL = "tag:yaml.org,2002:null"
_ComposeLoader.add_constructor("!reset", lambda loader, node: _Replaced(None))
_ComposeLoader.add_constructor("!override", _replaced)


def compose(*names: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Compose files of deploy/, interpolated and merged as the specification says."""
    merged: dict[str, Any] = {}
    for name in names:
        # A subclass of SafeLoader.
        one = yaml.load((DEPLOY / name).read_text(), _ComposeLoader)
        known = {key: value for key, value in one.items() if not key.startswith("x-")}
        merged = _merge(merged, _interpolate(known, environment or {}))
    return merged


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, _Replaced):
            merged[key] = value.value
            if value.value is None:
                del merged[key]
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            # Lists would be appended to; no file here does so.
            assert not (isinstance(value, list) and key in merged), key
            merged[key] = value
    return merged


def _interpolate(value: Any, environment: dict[str, str]) -> Any:
    if isinstance(value, _Replaced):
        return _Replaced(_interpolate(value.value, environment))
    if isinstance(value, dict):
        return {key: _interpolate(one, environment) for key, one in value.items()}
    if isinstance(value, list):
        return [_interpolate(one, environment) for one in value]
    if not isinstance(value, str):
        return value

    def put(found: re.Match[str]) -> str:
        if found["escaped"]:
            return "$"
        return environment.get(found["name"]) or found["default"]

    return re.sub(r"(?P<escaped>\$\$)|\$\{(?P<name>\w+):-(?P<default>[^}]*)\}", put, value)

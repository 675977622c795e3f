"""What others made is as they released it, and nothing of it is without a licence."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("edge_node/web/vendor", "tests/page/vendor")


@pytest.mark.parametrize("name", FOLDERS)
def test_every_file_is_the_released_one(name: str) -> None:
    folder = ROOT / name
    listed = {}
    for entry in json.loads((folder / "vendored.json").read_text()):
        assert entry["licence"]
        assert entry["integrity"].startswith("sha512-")
        assert "LICENSE" in entry["files"], entry["package"]
        for file, digest in entry["files"].items():
            listed[f"{entry['folder']}/{file}"] = digest
    found = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "vendored.json"
    }
    assert found == listed

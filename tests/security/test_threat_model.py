"""Each row of docs/security.md names a test that there is."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text()


def test_every_threat_names_its_tests() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "---" not in line]
    threats = [row for row in rows if not row.endswith("| test |")]
    assert len(threats) >= 10
    unnamed = [row for row in threats if not re.search(r"`tests/\S+::test_\w+`", row)]
    assert not unnamed, "\n".join(unnamed)


def test_every_test_that_is_named_is_there() -> None:
    named = re.findall(r"`(tests/\S+?)::(test_\w+)`", PAGE)
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file() or f"def {name}(" not in (ROOT / path).read_text()
    ]
    assert named
    assert not missing, "\n".join(missing)

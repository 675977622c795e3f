"""What `make demo` says before it takes somebody's minutes and disk is true."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GB = 1e9


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_setting_up_says_what_it_takes_before_it_takes_it(tmp_path: Path) -> None:
    plan = subprocess.run(
        ["make", "--dry-run", "demo", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    told = plan.index("about 2 GB")
    assert told < plan.index("-m venv") < plan.index("pip install")
    steps = [int(one) for one in re.findall(r"tep (\d) of 3", plan)]
    assert steps == [1, 2, 3]
    # The two that take minutes show how they go.
    long = [line for line in plan.splitlines() if "torch" in line or "--require-hashes" in line]
    assert long
    assert not [line for line in long if "--quiet --require" in line or "--quiet --const" in line]


def test_an_environment_is_as_large_as_is_said() -> None:
    environment = Path(sys.prefix)
    if not (environment / ".installed").exists():
        pytest.skip("this environment is not one that make set up")
    files = (path for path in environment.rglob("*") if path.is_file() and not path.is_symlink())
    size = sum(path.stat().st_blocks * 512 for path in files)
    assert 1.0 * GB < size < 3.0 * GB

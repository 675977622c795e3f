"""A real shell completes commands and options."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edge_node.cli import main


@pytest.mark.parametrize(
    ("words", "word", "expected"),
    [
        (("dedgeai", "sta"), 1, {"status"}),
        (("dedgeai", "tasks", "fe"), 2, {"fetch"}),
        (("dedgeai", "cluster", "--prof"), 2, {"--profiles"}),
        (("dedgeai", "cluster", "--engine", "em"), 3, {"emulated"}),
    ],
)
def test_bash_completes(
    words: tuple[str, ...],
    word: int,
    expected: set[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "dedgeai"
    script.write_text(capsys.readouterr().out)
    bash = shutil.which("bash")
    assert bash is not None
    ask = (
        f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={word}; "
        '$(complete -p dedgeai | sed "s/.*-F \\([^ ]*\\).*/\\1/") dedgeai '
        f"{words[-1]} {words[-2]}; echo ${{COMPREPLY[@]}}"
    )
    done = subprocess.run([bash, "-c", ask], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_theirs(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "store-repair" in capsys.readouterr().out

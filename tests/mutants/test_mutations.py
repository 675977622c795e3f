"""The defects that are planted, and what is made of those that survive."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.mutants import __main__ as command
from tests.mutants import trial
from tests.mutants.areas import ROOT, area_of, files_of_sample, groups_of
from tests.mutants.mutations import mutants_of
from tests.mutants.trial import AreaFails, Copy, Proven


def changes(source: str) -> set[tuple[str, str]]:
    return {(one.before, one.after) for one in mutants_of(source)}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("return a < b", {("a < b", "(a <= b)"), ("a < b", "None")}),
        ("return 0 <= a < b", {("0 <= a < b", "(0 < a < b)"), ("0 <= a < b", "(0 <= a <= b)")}),
        ("a.b = a", {("a.b = a", "pass")}),
        ("raise a", {("raise a", "pass")}),
        ("a += b", {("a += b", "pass"), ("a += b", "a -= b")}),
        ("a = not b", {("not b", "(b)")}),
        ("a = b and not a", {("b and not a", "((b) or (not a))"), ("not a", "(a)")}),
        ("a = max(b, 2)", {("max", "min"), ("2", "3")}),
        ("return replace(a, b=a, c=b)", {("replace(a, b=a, c=b)", "replace(a, c=b)")}),
        ("return a if b else a.c", {("b", "not (b)")}),
        ("return True", {("True", "False"), ("True", "None")}),
    ],
)
def test_what_becomes_of_a_line(line: str, expected: set[tuple[str, str]]) -> None:
    assert expected <= changes(f"def f(a, b):\n    {line}\n")


@pytest.mark.parametrize(
    "source",
    [
        '"""Text 1."""\nimport a\n',
        "def f(a: int | None) -> None:\n    log.info('%d', 1 + a)\n",
        "def f(a):\n    assert a > 1\n",
        "@d(1)\nclass A(Protocol):\n    b: int = 3\n",
        "def f(a):\n    return None\n",
        "def f(a):\n    try:\n        a = 'b' + a\n    except (A, B):\n        pass\n",
        "A = B | C\n",
        "A = zip(B, C, strict=True)\n",
    ],
)
def test_what_is_left_alone(source: str) -> None:
    assert changes(source) == set()


def test_a_mutant_says_where_it_is_and_is_the_whole_module() -> None:
    source = "class A:\n    def f(self, a):\n        ü = '狐', a > 1\n        return ü\n"
    first, *_ = [one for one in mutants_of(source) if one.kind == "comparison"]
    assert (first.line, first.place, first.before) == (3, "A.f", "a > 1")
    assert first.source == source.replace("a > 1", "(a >= 1)")


def test_every_room_has_tests_and_every_test_is_there() -> None:
    files = files_of_sample()
    assert "edge_node/tasks/lifecycle.py" in files
    for file in files:
        assert groups_of(file), file
        assert all((ROOT / tests).exists() for tests in area_of(file) or ()), file
    assert groups_of("edge_node/tasks/moving.py")[0] == "tests/tasks/test_moving.py"
    assert area_of("edge_node/cli.py") is None


def test_wilsons_interval() -> None:
    assert command.wilson(0, 0) == (0.0, 1.0)
    low, high = command.wilson(270, 300)
    # By hand from (p + z2/2n +- z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n).
    assert (low, high) == (pytest.approx(0.8609, abs=1e-4), pytest.approx(0.9291, abs=1e-4))
    assert command.wilson(5, 5)[1] == 1.0


def test_a_sample_is_the_same_from_the_same_seed() -> None:
    planned: list[Any] = [(str(number), None) for number in range(100)]
    assert command.sampled(planned, 20, 1) == command.sampled(planned, 20, 1)
    assert command.sampled(planned, 20, 1) != command.sampled(planned, 20, 2)
    assert len(set(command.sampled(planned, 20, 1))) == 20
    assert len(command.sampled(planned, 200, 1)) == 100


def test_known_equivalents_are_told_from_holes() -> None:
    row = {"file": "f", "place": "p", "before": "a", "after": "b", "line": 1, "outcome": "survived"}
    killed = {**row, "outcome": "killed"}
    found = command.summary([{**row}, {**killed}, {**killed}, {**killed}])
    assert (found["tried"], found["killed_share"], found["equivalent"]) == (4, 0.75, 0)
    assert "reason: it is so" in command.shown([row], {("f", "p", "a", "b"): "it is so"})
    for (file, place, before, after), reason in command.reasons().items():
        assert reason, place
        there = {(m.place, m.before, m.after) for m in mutants_of((ROOT / file).read_text())}
        assert (place, before, after) in there, f"{file}: {before} -> {after} is no mutant any more"


@pytest.mark.system
def test_mutants_are_tried_in_a_copy_and_found_by_the_tests_of_their_area(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = "edge_node/tasks/traffic.py"
    source = (ROOT / file).read_text("utf-8")
    monkeypatch.setattr(trial, "TIMEOUT_S_MIN", 5.0)
    with Copy(tmp_path, Proven()) as copy:
        tests = alone_in(tmp_path)
        tests.write_text(
            "from pathlib import Path\nfrom edge_node.tasks import traffic\n\ndef test():\n"
            f"    assert traffic.__file__ == {str(tmp_path / file)!r}\n"
            f"    assert len(Path(traffic.__file__).read_text()) == {len(source)}\n"
        )
        copy.prove(file)
        mutants = mutants_of(source)
        longer = next(one for one in mutants if len(one.source) != len(source))
        same = next(one for one in mutants if len(one.source) == len(source))
        assert copy.try_out(file, longer).outcome == "killed"
        assert copy.try_out(file, same).outcome == "survived"
        tests.write_text(
            "from pathlib import Path\nfrom edge_node.tasks import traffic\n\ndef test():\n"
            f"    while len(Path(traffic.__file__).read_text()) != {len(source)}:\n        pass\n"
        )
        # A mutant that goes on for ever is ended, and the next one is tried.
        assert copy.try_out(file, same).outcome == "survived"
        monkeypatch.setattr(trial, "PATIENCE", 0.0)
        monkeypatch.setattr(trial, "TIMEOUT_S_MIN", 8.0)  # a test takes that beside others
        assert copy.try_out(file, longer).outcome == "timeout"
        assert copy.try_out(file, same).outcome == "survived"
    assert (tmp_path / file).read_text("utf-8") == (ROOT / file).read_text("utf-8") == source
    tests.write_text("def test():\n    assert False\n")
    with fresh(copy), pytest.raises(AreaFails, match=r"tests/tasks/test_traffic.py fails as it is"):
        copy.prove(file)


def fresh(copy: Copy) -> Copy:
    """`copy` as if nothing had been run in it."""
    copy._proven.alone_s.clear()
    return copy


def alone_in(folder: Path) -> Path:
    """The one file of tests that is left of those of traffic.py."""
    for name in ("tests/dispatch", "tests/cluster"):
        (folder / name).rename(folder / f"{name}_away")
    for path in (folder / "tests" / "tasks").glob("test_*.py"):
        if path.name != "test_traffic.py":
            path.unlink()
    return folder / "tests" / "tasks" / "test_traffic.py"


def test_the_command_says_what_it_takes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutants", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--sample" in done.stdout

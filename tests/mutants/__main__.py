"""Plants defects and says which of them no test finds: `python -m tests.mutants --help`.

    python -m tests.mutants                          # all mutants of files changed against main
    python -m tests.mutants edge_node/tasks/moving.py
    python -m tests.mutants --sample 300 --seed 1    # what share is found, over all rooms

A run that is cut off goes on where it was: what was tried lies in out/mutants, by commit. Our own
and not mutmut or cosmic-ray: mutmut 3.8 plants nothing in properties, defaults and class bodies,
and cosmic-ray 8.7 leaves no statement out; neither has tests by area or a sample from a seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from benchmarks import machine
from tests.mutants.areas import ROOT, area_of, files_of_sample, groups_of
from tests.mutants.mutations import Mutant, mutants_of
from tests.mutants.trial import AreaFails, Copy, Proven, Verdict

KEPT = ROOT / "out" / "mutants"
REASONS = Path(__file__).parent / "equivalent.toml"
NICENESS = 10
# Two-sided 95 %.
Z = 1.959964

Planned = tuple[str, Mutant]


def changed_files() -> list[str]:
    """Python files with tests of their own here that differ from main, committed or not."""
    base = _git("merge-base", "main", "HEAD") or _git("merge-base", "origin/main", "HEAD")
    if not base:
        raise SystemExit("There is no branch main to compare with: name the files to mutate.")
    named = _git("diff", "--name-only", "--diff-filter=d", base.strip()).splitlines()
    return [name for name in named if name.endswith(".py") and area_of(name) is not None]


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout if done.returncode == 0 else ""


def planned_of(files: Sequence[str]) -> list[Planned]:
    """Every mutant of the files."""
    return [(file, one) for file in files for one in mutants_of((ROOT / file).read_text("utf-8"))]


def sampled(planned: Sequence[Planned], size: int, seed: int) -> list[Planned]:
    """`size` of them, each as likely as any other."""
    return random.Random(seed).sample(planned, min(size, len(planned)))


def wilson(killed: int, tried: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927), which holds near 0 and 1, too."""
    if not tried:
        return 0.0, 1.0
    share, z2 = killed / tried, Z * Z
    middle = (share + z2 / (2 * tried)) / (1 + z2 / tried)
    half = Z * math.sqrt(share * (1 - share) / tried + z2 / (4 * tried * tried)) / (1 + z2 / tried)
    return max(0.0, middle - half), min(1.0, middle + half)


def reasons() -> dict[tuple[str, str, str, str], str]:
    """Why some survivors are no matter: by file, place, before and after."""
    listed = tomllib.loads(REASONS.read_text("utf-8")).get("mutant", [])
    return {(m["file"], m["place"], m["before"], m["after"]): m["reason"] for m in listed}


def row_of(file: str, mutant: Mutant, verdict: Verdict) -> dict[str, Any]:
    """What is kept of a trial."""
    said = dataclasses.asdict(mutant)
    del said["source"]
    return {"file": file, **said, **dataclasses.asdict(verdict)}


def digest(file: str, mutant: Mutant) -> str:
    """Names a mutant of this very text."""
    return hashlib.sha256(f"{file}\0{mutant.source}".encode()).hexdigest()[:20]


def tried_out(planned: Sequence[Planned], *, jobs: int) -> Iterator[dict[str, Any]]:
    """Tries all that was not tried before at this commit, `jobs` at a time."""
    KEPT.mkdir(parents=True, exist_ok=True)
    commit = _git("rev-parse", "HEAD").strip() or "none"
    kept = KEPT / f"{commit}.jsonl"
    # A tree with changes is no commit: nothing of it is believed later.
    before = {}
    if not _git("status", "--porcelain"):
        lines = kept.read_text("utf-8").splitlines() if kept.exists() else []
        before = {row["digest"]: row for row in map(json.loads, lines)}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ExitStack() as closing:
        copies: SimpleQueue[Copy] = SimpleQueue()
        proven = Proven()
        for index in range(jobs):
            copies.put(closing.enter_context(Copy(Path(folder) / str(index), proven)))

        def one(planned: Planned) -> dict[str, Any]:
            name = digest(*planned)
            if name in before:
                kept_row: dict[str, Any] = before[name]
                return kept_row
            copy = copies.get()
            try:
                copy.prove(planned[0])
                row = {"digest": name, **row_of(*planned, copy.try_out(*planned))}
            finally:
                copies.put(copy)
            with kept.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(row)}\n")
            return row

        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(one, planned)


def shown(rows: Sequence[dict[str, Any]], known: dict[tuple[str, str, str, str], str]) -> str:
    """Survivors, each with the reason why it may, or nothing."""
    lines = []
    for row in rows:
        reason = known.get((row["file"], row["place"], row["before"], row["after"]), "")
        before, after = (" ".join(row[side].split())[:70] for side in ("before", "after"))
        lines.append(f"{row['file']}:{row['line']} {row['place']}\n    {before}  ->  {after}")
        lines.append(f"    reason: {reason or '-'}")
    return "\n".join(lines)


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts, and the share killed with its interval, with and without known equivalents."""
    known = reasons()
    survivors = [row for row in rows if row["outcome"] == "survived"]
    for row in survivors:
        row["reason"] = known.get((row["file"], row["place"], row["before"], row["after"]), "")
    excused = sum(bool(row["reason"]) for row in survivors)
    killed = len(rows) - len(survivors)
    return {
        "tried": len(rows),
        "outcomes": dict(Counter(row["outcome"] for row in rows)),
        "killed_share": killed / max(1, len(rows)),
        "interval_95": wilson(killed, len(rows)),
        "equivalent": excused,
        "killed_share_without_equivalent": killed / max(1, len(rows) - excused),
        "interval_95_without_equivalent": wilson(killed, len(rows) - excused),
        "survivors": survivors,
    }


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("files", nargs="*", help="files to mutate; else those changed against main")
    parser.add_argument("--sample", type=int, help="so many mutants, over every room")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default 1)")
    parser.add_argument("--jobs", type=int, default=1, help="at a time (default 1)")
    parser.add_argument("--out", type=Path, help="result file, such as benchmarks/results/...")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 when a mutant survived that has no reason to."""
    options = parsed(arguments)
    os.nice(NICENESS)
    files = options.files or (files_of_sample() if options.sample else changed_files())
    planned = planned_of(files)
    unguarded = sorted({file for file, _ in planned if not groups_of(file)})
    if unguarded:
        raise SystemExit(f"No tests are named for {', '.join(unguarded)}: tests/mutants/areas.py")
    total = len(planned)
    if options.sample:
        planned = sampled(planned, options.sample, options.seed)
        print(f"seed {options.seed}: {len(planned)} of {total} mutants in {len(files)} files")
    rows = []
    try:
        for number, row in enumerate(tried_out(planned, jobs=options.jobs), 1):
            rows.append(row)
            where = f"{row['file']}:{row['line']} {row['kind']}"
            print(f"{number}/{len(planned)} {row['outcome']:9} {row['seconds']:6.1f} s  {where}")
            sys.stdout.flush()
    except AreaFails as problem:
        raise SystemExit(str(problem)) from None
    found = summary(rows)
    print(shown(found["survivors"], reasons()))
    low, high = found["interval_95"]
    print(
        f"{found['tried'] - len(found['survivors'])} of {found['tried']} killed: "
        f"{found['killed_share']:.1%} (95 % interval {low:.1%} to {high:.1%}); "
        f"{found['equivalent']} survivors have a reason"
    )
    if options.out:
        question = "which share of small defects in the pure rooms and the shell do tests find?"
        sample = {"seed": options.seed, "of": total, "files": files}
        document = {"question": question, "sample": sample, "results": found}
        document["machine"] = machine.describe()
        options.out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return int(len(found["survivors"]) > found["equivalent"])


if __name__ == "__main__":
    sys.exit(main())

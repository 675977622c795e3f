"""How well do the published algorithms learn, and what does an episode cost?

Reads what `dedgeai train` has left, one folder for each policy with a folder for each seed, and
prints the gap to Opt-TS on the same arrivals: at episodes 41-60, over the last 20, and the first
episode up to which a mean over three is within 5 %.

    dedgeai train --policy lad_ts --episodes 300 --out runs/lad_ts
    python -m benchmarks.learning_curves runs --json benchmarks/results/learning_curves.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import machine


def main() -> None:
    """Prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, help="folder of folders that `dedgeai train` wrote")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    found = [read(path.parent) for path in sorted(options.runs.glob("*/summary.json"))]
    if not found:
        parser.error(f"{options.runs} holds no folder with a summary.json; train something first")
    print(table(found))
    if options.json:
        result = {
            "question": "mean delay per episode while learning; gaps to Opt-TS on its arrivals",
            "runs": found,
            "machine": machine.describe(),
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def read(folder: Path) -> dict[str, Any]:
    """The summary of one training, with the delays of every seed's episodes in seconds."""
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    seeds = []
    for path in sorted(folder.glob("seed-*/episodes.json")):
        episodes = json.loads(path.read_text())
        gaps = [episode["gap"] for episode in episodes]
        within = (n + 3 for n in range(len(gaps) - 2) if statistics.fmean(gaps[n : n + 3]) <= 0.05)
        seeds.append(
            {
                "seed": episodes[0]["seed"],
                "gap_41_60": statistics.fmean(gaps[40:60]) if len(gaps) >= 60 else None,
                "gap_last_20": statistics.fmean(gaps[-20:]),
                "within_5_percent_at": next(within, None),
                "cpu_s_per_episode": statistics.median(episode["cpu_s"] for episode in episodes),
                "mean_delay_s": [round(episode["mean_delay_s"], 4) for episode in episodes],
                "opt_ts_s": [round(episode["opt_ts_s"], 4) for episode in episodes],
            }
        )
    kept = {key: summary[key] for key in ("policy", "scenario", "options")}
    return kept | {"name": folder.name, "seeds": seeds}


def table(found: list[dict[str, Any]]) -> str:
    """A Markdown row for each training: means over its seeds, and their range."""
    lines = [
        "| training | seeds | episodes | gap at 41-60 | over the last 20 | within 5 % at | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in found:
        seeds = run["seeds"]
        within = [seed["within_5_percent_at"] for seed in seeds]
        at = "-" if None in within else f"{min(within)}..{max(within)}"
        cpu_s = statistics.fmean(seed["cpu_s_per_episode"] for seed in seeds)
        lines.append(
            f"| {run['name']} | {len(seeds)} | {len(seeds[0]['mean_delay_s'])} "
            f"| {spread([seed['gap_41_60'] for seed in seeds])} "
            f"| {spread([seed['gap_last_20'] for seed in seeds])} | {at} | {cpu_s:.2f} |"
        )
    return "\n".join(lines)


def spread(gaps: list[float | None]) -> str:
    """Mean and range in percent."""
    known = [100.0 * gap for gap in gaps if gap is not None]
    if not known:
        return "-"
    return f"{statistics.fmean(known):+.1f} % ({min(known):+.1f}..{max(known):+.1f})"


if __name__ == "__main__":
    main()

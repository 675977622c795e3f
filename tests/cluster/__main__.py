"""Runs many seeds of the simulated cluster: `python -m tests.cluster --seeds 5000`.

A seed that breaks an invariant is printed with its story, and the search goes on; `--seed 17` runs
one again. Processes share the seeds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys

from tests.cluster.simulated_cluster import run_draining, run_faulty, run_mixed, run_quiet
from tests.cluster.users import InvariantBroken


def verdict(seed: int) -> str:
    """What is wrong with a seed; empty if nothing is."""
    for run in (run_faulty, run_mixed, run_quiet, run_draining):
        try:
            run(seed)
        except (InvariantBroken, AssertionError) as broken:
            return f"{run.__name__}: {broken}"
    return ""


def main() -> None:
    """Ends with 1 if a seed breaks an invariant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="this one alone")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    if options.seed is not None:
        seeds = range(options.seed, options.seed + 1)
    broken = 0
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for number, wrong in enumerate(pool.imap(verdict, seeds, chunksize=4), 1):
            if wrong:
                broken += 1
                print(wrong, flush=True)
            if number % 100 == 0:
                print(f"{number} of {len(seeds)} seeds, {broken} broken", flush=True)
    print(f"{len(seeds)} seeds, {broken} broken")
    sys.exit(broken > 0)


if __name__ == "__main__":
    main()

"""Sends many messages at one node: `python -m tests.security --messages 100000`.

Says how many were refused and how far the process grew; ends with an error where one did harm.
"""

from __future__ import annotations

import argparse
import gc

import psutil

from tests.security.messages import Judge, messages

GROWTH_BYTES_MAX = 10 * 2**20
WARM_UP = 5000


def main() -> None:
    """Raises AssertionError where a message did harm, or all together did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000, help="how many")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    judge, process, before = Judge(), psutil.Process(), 0
    for number, (kind, message) in enumerate(messages(options.messages, seed=options.seed)):
        judge.judge(kind, message)
        if number == min(WARM_UP, options.messages // 2):
            gc.collect()
            before = process.memory_info().rss
    gc.collect()
    grown = process.memory_info().rss - before
    print(f"{judge.refused} refused, {judge.taken} taken, {grown / 2**20:.1f} MiB more in memory")
    assert grown < GROWTH_BYTES_MAX, "what strangers say is kept"


if __name__ == "__main__":
    main()

"""The longest wait lately: what promotion by load measures ages by, live and in the simulator.

Owns how it grows and fades. A server learns of it from its own queue alone: at each arrival, the
seconds of work that it holds are what first come first served would make the newcomer wait. Nobody
has to know when a run ends: the bound on ages is what has been lived through up to now, and while a
task waits in a growing queue it grows with it. Plain arithmetic, which the simulator compiles.
"""

from __future__ import annotations

# Seconds of it that are forgotten per second. 0 is the longest wait ever, which one bad hour would
# set for good; 1 is the present backlog, which promotes all while a queue drains.
FADE = 0.05


def after_arrival(longest_s: float, wait_s: float, elapsed_s: float) -> float:
    """The longest wait once a task has come.

    Args:
        longest_s: it was after the arrival before.
        wait_s: of the newcomer if it were served after all that is there; seconds.
        elapsed_s: since the arrival before.
    """
    return max(longest_s - FADE * elapsed_s, wait_s)

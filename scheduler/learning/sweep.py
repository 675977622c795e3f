"""Several training runs at once: on this machine's cores, or on a Ray cluster.

Owns where runs run; what a run does is `trainer.train`'s. Reports come to the caller's process
while the runs go on.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from typing import Any

from scheduler.learning.trainer import EpisodeReport, TrainingRun, train

Report = Callable[[EpisodeReport], None]
POLL_S = 0.2


class RayUnavailable(RuntimeError):
    """Ray was asked for and is not installed or does not answer; the message says which."""


def run_here(
    runs: Sequence[TrainingRun], report: Report, *, jobs: int = 1
) -> list[list[EpisodeReport]]:
    """Runs in this process (one job), or in that many spawned ones.

    Returns:
        every run's episodes, in the order of `runs`.

    Raises:
        whatever `train` raises in a run, when all others have ended.
    """
    if jobs <= 1:
        return [train(run, report) for run in runs]
    context = multiprocessing.get_context("spawn")  # forked torch threads deadlock
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(max_workers=jobs, mp_context=context) as pool,
    ):
        reports = manager.Queue()
        futures = [pool.submit(_train_and_tell, run, reports) for run in runs]
        try:
            _pass_on(reports, report, lambda: not wait(futures, timeout=POLL_S).not_done)
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        return [future.result() for future in futures]


def run_on_ray(
    runs: Sequence[TrainingRun], report: Report, *, address: str | None = None
) -> list[list[EpisodeReport]]:
    """Runs on a Ray cluster, a core for each; every run's folder must be on shared storage.

    Args:
        runs: to be trained.
        report: told of every episode.
        address: of the cluster; None asks RAY_ADDRESS, and starts a local Ray without it.

    Raises:
        RayUnavailable: Ray is not installed, or no cluster answers at the address.
    """
    try:
        import ray
        from ray.util.queue import Empty, Queue
    except ImportError as error:
        raise RayUnavailable(f"Ray is not installed ({error}); install dedgeai[ray]") from None
    started_here = not ray.is_initialized()
    if started_here:
        try:
            ray.init(address=address, include_dashboard=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RayUnavailable(f"no Ray cluster answers at {address}: {error}") from error
    try:
        reports = Queue(actor_options={"num_cpus": 0})
        remote = ray.remote(num_cpus=1)(_train_and_tell)
        futures = [remote.remote(run, reports) for run in runs]

        def done() -> bool:
            return not ray.wait(futures, num_returns=len(futures), timeout=POLL_S)[1]

        _pass_on(reports, report, done, empty=Empty)
        trained: list[list[EpisodeReport]] = ray.get(futures)
        return trained
    finally:
        if started_here:
            ray.shutdown()


def _train_and_tell(run: TrainingRun, reports: Any) -> list[EpisodeReport]:
    return train(run, reports.put)


def _pass_on(
    reports: Any,
    report: Report,
    done: Callable[[], bool],
    *,
    empty: type[Exception] = queue.Empty,
) -> None:
    """Hands on reports until all runs are done, and then what is left of them."""
    finished = False
    while not finished:
        finished = done()
        with contextlib.suppress(empty):
            while True:
                report(reports.get_nowait())

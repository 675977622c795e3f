"""The learner process: experience pool -> transitions -> training -> checked weights.

    python -m edge_node.learner --store unix:///... --node-id node-0 --out DIR

Owns the process and what is published; how weights are learned and checked is the scheduler's.
It runs at the lowest priority that the system grants, ends itself when it outgrows its memory, and
nothing depends on it: killed, it costs learning and nothing else. What it learned lies in the
published weights and the pool, from which it starts again.

Weights are published when they are finite and of the right shapes, are of a later generation than
those announced, decided on all held-out transitions, and are not significantly worse there than
the published ones (before: than whoever decided); `scheduler.guard.held_out` says what that is.

Only LAD-TS is learned here: the weights of LAD-TS+ come from a policy search in the simulator that
takes minutes of a whole core, which a device that draws images does not have; `dedgeai train
--policy lad_ts_plus` runs it elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge_node.clock import Clock, SystemClock
from edge_node.errors import DEdgeAIError, InvalidRequest, StoreUnavailable
from edge_node.guard.judge import Judge, JudgeSettings
from edge_node.store.connection import StoreConnection, StoreSettings
from edge_node.store.experience_pool import FIRST_ID, PoolReader, PoolSettings
from edge_node.store.published_weights import (
    Published,
    PublishedWeights,
    UnusableWeights,
    load_published,
)
from edge_node.store.verdicts import VerdictStore
from scheduler import checkpoint
from scheduler.checkpoint import Checkpoint
from scheduler.experience import PooledDecision

log = logging.getLogger("learner")

NICENESS = 10
READ_COUNT = 500
# Updates between two looks at signals, memory and pool: some tens of milliseconds.
UPDATES_AT_ONCE = 10
FILES_KEPT = 3
# How often the file that health checks look at is touched.
ALIVE_EVERY_S = 1.0
EXIT_OUTGROWN = 3


class Outgrown(DEdgeAIError):
    """The process holds more memory than it may."""


@dataclass(frozen=True, kw_only=True)
class LearnerSettings:
    """What the learner is told.

    Attributes:
        store_url: of the node's store.
        node_id: whose pool is learned from.
        out: folder that gets the weights.
        alive: file that is touched while the learner works, for whoever checks its health.
        publish_every_s: between two attempts to publish.
        poll_s: pause when there is nothing to do.
        memory_bytes_max: resident memory; torch reserves address space far beyond what it uses, so
            a limit of that would say nothing.
        outcome_wait_s: how long an outcome is waited for.
        waiting_max: entries that wait for their other half.
        options: hyperparameters of `LadTsConfig` other than the live ones.
        seed: of networks, noise and batches.
        judge: what the node's guard wants compared; None for nothing.
        judge_published: the weights that are published here are judged, once there are some;
            otherwise those that the judge's settings name.
    """

    store_url: str
    node_id: str
    out: Path
    alive: Path | None = None
    publish_every_s: float = 30.0
    poll_s: float = 0.5
    memory_bytes_max: int = 2 * 2**30
    outcome_wait_s: float = 7200.0
    waiting_max: int = 20_000
    options: Mapping[str, str | float | bool] = field(default_factory=dict)
    seed: int = 0
    judge: JudgeSettings | None = None
    judge_published: bool = False


class LearnerProcess:
    """Reads, learns and publishes until `stopping` is set."""

    def __init__(self, settings: LearnerSettings, *, clock: Clock) -> None:
        # Torch and numba, which the modules of a node never import.
        from scheduler.learning.live_learner import PoolTrainer
        from scheduler.learning.transition_assembler import TransitionAssembler

        self._settings, self._clock = settings, clock
        store = StoreSettings(url=settings.store_url, connections_max=2)
        self._connection = StoreConnection(store)
        pool = PoolSettings(store=store, node_id=settings.node_id)
        self._reader = PoolReader(pool, self._connection)
        self._weights = PublishedWeights(self._connection, node_id=settings.node_id)
        self._trainer = PoolTrainer(
            settings.options,
            seed=settings.seed,
            assembler=TransitionAssembler(
                outcome_wait_s=settings.outcome_wait_s, waiting_max=settings.waiting_max
            ),
        )
        self._judge = None
        if settings.judge is not None:
            verdicts = VerdictStore(self._connection, node_id=settings.node_id)
            self._judge = Judge(settings.judge, verdicts)
        self._last_id, self._damaged = FIRST_ID, 0
        self._published_at_updates = 0
        self._publish_at_s = clock.now_s() + settings.publish_every_s
        self._alive_at_s = clock.now_s()

    async def run(self, stopping: asyncio.Event) -> None:
        """Works until `stopping`.

        Raises:
            Outgrown: more memory is resident than allowed.
        """
        await self._connection.start()
        try:
            await self._resume()
            while not stopping.is_set():
                self._say_alive()
                try:
                    busy = await self._turn()
                except StoreUnavailable:
                    busy = False  # the connection logs it, and looks for the store
                if not busy:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stopping.wait(), self._settings.poll_s)
        finally:
            await self._connection.close()

    def _say_alive(self) -> None:
        path, now_s = self._settings.alive, self._clock.now_s()
        if path is not None and now_s >= self._alive_at_s:
            self._alive_at_s = now_s + ALIVE_EVERY_S
            with contextlib.suppress(OSError):  # a full disk: whoever looks will see
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()

    async def _turn(self) -> bool:
        """One look at everything; returns whether there is more to do."""
        refuse_to_outgrow(self._settings.memory_bytes_max)
        count = await self._read()
        updated = self._update()
        if self._clock.now_s() >= self._publish_at_s:
            self._publish_at_s = self._clock.now_s() + self._settings.publish_every_s
            await self._publish()
        if count == 0:  # what the pool holds already is read first
            await self._look_at_verdict()
        return updated or count > 0

    async def _look_at_verdict(self) -> None:
        if self._judge is None:
            return
        takes = self._settings.judge_published
        announced = await self._announced() if takes else None
        try:
            await self._judge.look(
                announced, now_s=self._clock.now_s(), unix_s=self._clock.unix_s()
            )
        except UnusableWeights as problem:
            log.warning("not judged: %s", problem)

    async def _read(self) -> int:
        part = await self._reader.read_since(self._last_id, READ_COUNT)
        self._last_id = part.last_id
        self._damaged += part.damaged
        for entry in part.entries:
            self._trainer.add(entry)
            if self._judge is not None and isinstance(entry, PooledDecision):
                self._judge.add(entry)
        return part.count

    def _update(self) -> bool:
        from scheduler.learning.choice import Diverged

        updated = False
        try:
            for _ in range(UPDATES_AT_ONCE):
                updated = self._trainer.update() or updated
        except Diverged as problem:
            log.error("the agent diverged and begins anew: %s", problem)
            self._published_at_updates = 0
        return updated

    async def _publish(self) -> None:
        """Publishes the current learner's weights if they pass; says why where they do not."""
        from scheduler.learning.publication import Refused, consider

        learner = self._trainer.current
        counts = self._trainer.assembler.counts.by_name() | {"damaged": self._damaged}
        log.info("pool: %s", ", ".join(f"{name} {count}" for name, count in counts.items()))
        if learner is None or learner.updates in (0, self._published_at_updates):
            return
        announced = await self._announced()
        try:
            checked = consider(
                learner,
                published=announced.path if announced else None,
                generation=announced.generation + 1 if announced else 1,
            )
        except Refused as refusal:
            log.warning("not published: %s", refusal)
            return
        published = self._save(checked)
        await self._weights.announce(published)
        self._published_at_updates = learner.updates
        log.info("published %s: %s", published.version, published.checks)

    async def _announced(self) -> Published | None:
        try:
            return await self._weights.current()
        except UnusableWeights as problem:
            log.warning("%s", problem)
            return None

    def _save(self, checked: Checkpoint) -> Published:
        published = save_weights(checked, self._settings.out, created_unix_s=self._clock.unix_s())
        # The node may be about to read the last ones.
        for path in sorted(self._settings.out.glob(f"{published.policy}-*.safetensors")):
            if generation_of(path) <= published.generation - FILES_KEPT:
                path.unlink(missing_ok=True)
        return published

    async def _resume(self) -> None:
        """Goes on from the published actor, if there is one that fits."""
        announced = await self._announced()
        if announced is None:
            return
        try:
            kept = checkpoint.load(announced.path, kind="policy")
            self._trainer.learner(announced.node_ids).resume(kept)
        except (ValueError, KeyError, OSError) as problem:
            log.warning("begins anew, for the published weights do not fit: %s", problem)


def save_weights(checked: Checkpoint, folder: Path, *, created_unix_s: float) -> Published:
    """Writes checked weights whole or not at all, and loads them as a node will.

    Raises:
        UnusableWeights: what was written cannot be used.
        OSError: the disk refuses.
    """
    from scheduler.learning.publication import version_of

    info = checked.info
    path = folder.absolute() / f"{info.policy}-{info.episodes:08d}.safetensors"
    checkpoint.save(path, checked)
    published = Published(
        policy=info.policy,
        path=path,
        version=version_of(checked),
        generation=info.episodes,
        created_unix_s=created_unix_s,
        node_ids=tuple(info.scenario["node_ids"]),
        checks=info.metrics,
    )
    load_published(published, rng=np.random.default_rng(info.seed))
    return published


def generation_of(path: Path) -> int:
    """Number of the publication that a weights file is of; 0 for a file that is none."""
    number = path.stem.rpartition("-")[2]
    return int(number) if number.isdigit() else 0


def refuse_to_outgrow(memory_bytes_max: int) -> None:
    """Raises Outgrown when more memory than this is resident."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    resident = pages * resource.getpagesize()
    if resident > memory_bytes_max:
        raise Outgrown(
            f"The learner holds {resident >> 20} MiB and may hold {memory_bytes_max >> 20}: it "
            "ends. Raise learner_memory_bytes_max, or lower experience_max."
        )


def take_low_priority() -> None:
    """Leaves the processor to whoever wants it."""
    os.nice(NICENESS)
    with contextlib.suppress(OSError):  # a container may forbid it
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


async def run_learner(settings: LearnerSettings) -> None:
    """Learns until SIGTERM or SIGINT; raises what `LearnerProcess.run` raises."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await LearnerProcess(settings, clock=SystemClock()).run(stopping)


def main(arguments: Sequence[str] | None = None) -> int:
    """The process; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m edge_node.learner")
    parser.add_argument("--store", required=True, help="URL of the node's store")
    parser.add_argument("--node-id", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the weights")
    parser.add_argument("--alive", type=Path, help="file that is touched while it works")
    parser.add_argument("--publish-every", type=float, default=30.0, help="seconds")
    parser.add_argument("--outcome-wait", type=float, default=7200.0, help="seconds")
    parser.add_argument("--memory-max", type=int, default=2 * 2**30, help="bytes resident")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", metavar="POLICY", help="learned policy to replay for the guard")
    parser.add_argument(
        "--judge-rule",
        action="append",
        default=[],
        metavar="RULE",
        help="what it is compared to: the best of these; the first until a replay says which",
    )
    parser.add_argument("--judge-window", type=int, default=2000, help="decisions replayed")
    parser.add_argument(
        "--judge-option", action="append", default=[], metavar="KEY=VALUE", help="of the policy"
    )
    parser.add_argument(
        "--judge-published", action="store_true", help="judge the weights published here"
    )
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    settings = LearnerSettings(
        store_url=given.store,
        node_id=given.node_id,
        out=given.out,
        alive=given.alive,
        publish_every_s=given.publish_every,
        outcome_wait_s=given.outcome_wait,
        memory_bytes_max=given.memory_max,
        seed=given.seed,
        options=parse_options(given.option),
        judge=judge_settings(given),
        judge_published=given.judge_published,
    )
    take_low_priority()
    try:
        import torch

        torch.set_num_threads(1)  # matrices of 20 x 20, on a device that has other work
        asyncio.run(run_learner(settings))
    except ImportError as error:
        print(f"learner: {error}; install dedgeai[learner] to learn.", file=sys.stderr)
        return 2
    except (DEdgeAIError, ValueError) as error:
        print(f"learner: {error}", file=sys.stderr)
        return EXIT_OUTGROWN if isinstance(error, Outgrown) else 2
    return 0


def judge_settings(given: argparse.Namespace) -> JudgeSettings | None:
    """What the command line wants judged."""
    if given.judge is None:
        return None
    options = parse_options(given.judge_option)
    return JudgeSettings(
        policy=given.judge,
        policy_options={key: _number_or_text(str(value)) for key, value in options.items()},
        rules=tuple(given.judge_rule),
        window_tasks=given.judge_window,
    )


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def parse_options(texts: Sequence[str]) -> dict[str, str | float | bool]:
    """Hyperparameters as command lines give them.

    Raises:
        InvalidRequest: one is not KEY=VALUE.
    """
    options: dict[str, str | float | bool] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InvalidRequest(f"--option {text} is not KEY=VALUE.")
        options[key] = value
    return options


if __name__ == "__main__":
    sys.exit(main())

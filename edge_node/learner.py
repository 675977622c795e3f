"""The learner process: experience pools -> hindsight -> training -> checked weights.

    python -m edge_node.learner --store unix:///... --node-id node-0 --out DIR

Owns the process: when it learns, its memory, its end. What it does while it learns is
`learning.cluster_learner`'s. It runs at the lowest priority that the system grants, ends itself
when it outgrows its memory, and nothing depends on it: killed, it costs learning and nothing else.
What it learned lies in the published weights and the pools, from which it starts again.

One process at a time learns for the cluster. The node beside this one says whether it is this one
(`tasks.learnership`); until then nothing heavy is loaded. With `--nodes` no node says anything: it
learns from those nodes' pools, beside them.

Only LAD-TS is learned here: the weights of LAD-TS+ come from a policy search in the simulator that
takes minutes of a whole core, which a device that draws images does not have; `dedgeai train
--policy lad_ts_plus` runs it elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import logging
import math
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edge_node.clock import FollowingClock
from edge_node.domain import NodeId
from edge_node.errors import DEdgeAIError, InvalidRequest, StoreUnavailable
from edge_node.guard.judge import JudgeSettings
from edge_node.log_lines import set_format
from edge_node.sign_of_life import show_life
from edge_node.store.connection import StoreConnection, StoreSettings
from edge_node.store.learner_board import TOLD_KEEP_S, LearnerBoard, Told

if TYPE_CHECKING:
    from edge_node.learning.cluster_learner import ClusterLearner

log = logging.getLogger("learner")

NICENESS = 10
# How often it says that it lives, for health checks, and tells the node how far it is.
ALIVE_EVERY_S = 1.0
EXIT_OUTGROWN = 3


class Outgrown(DEdgeAIError):
    """The process holds more memory than it may."""


@dataclass(frozen=True, kw_only=True)
class LearnerSettings:
    """What the learner is told at its start.

    Attributes:
        store_url: of the node's store, or of its own.
        node_id: whose store it is.
        out: folder that gets the weights.
        nodes: host:port of the nodes that it learns beside; none where a node says what to do.
        alive: file in which it says that it works, for whoever checks its health.
        publish_every_s: between two attempts to publish.
        poll_s: pause when there is nothing to do.
        memory_bytes_max: resident memory; torch reserves address space far beyond what it uses, so
            a limit of that would say nothing.
        weights_bytes_max: of a file of weights that comes from elsewhere.
        outcome_wait_s: how long an outcome is waited for.
        options: hyperparameters other than the live ones.
        seed: of networks, noise and batches.
        tls_folder: with what proves to other nodes who this is; None where nothing has to.
        cluster_name: of the nodes that it learns from.
        judge: what the guards want compared; None for nothing.
        judge_published: the weights that are published here are judged, once there are some;
            otherwise those that the judge's settings name.
    """

    store_url: str
    node_id: str
    out: Path
    nodes: tuple[str, ...] = ()
    alive: Path | None = None
    publish_every_s: float = 180.0
    poll_s: float = 0.5
    memory_bytes_max: int = 2 * 2**30
    weights_bytes_max: int = 16 * 2**20
    outcome_wait_s: float = 7200.0
    options: Mapping[str, str | float | bool] = field(default_factory=dict)
    seed: int = 0
    judge: JudgeSettings | None = None
    judge_published: bool = False
    tls_folder: Path | None = None
    cluster_name: str = ""


class LearnerProcess:
    """Waits to be told, and then learns, until `stopping` is set; `clock` becomes the node's."""

    def __init__(self, settings: LearnerSettings, *, clock: FollowingClock) -> None:
        self._settings, self._clock = settings, clock
        self._store = StoreSettings(url=settings.store_url, connections_max=2)
        self._connection = StoreConnection(self._store)
        self._board = LearnerBoard(self._connection, node_id=settings.node_id)
        self._learner: ClusterLearner | None = None
        self._alive_at_s = clock.now_s()
        self._heard = Told(learns=False)
        self._heard_s = -math.inf

    async def run(self, stopping: asyncio.Event) -> None:
        """Works until `stopping`.

        Raises:
            Outgrown: more memory is resident than allowed.
        """
        await self._connection.start()
        try:
            while not stopping.is_set():
                refuse_to_outgrow(self._settings.memory_bytes_max)
                try:
                    busy = await self._turn()
                except StoreUnavailable:
                    busy = False  # the connection logs it, and looks for the store
                if not busy:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stopping.wait(), self._settings.poll_s)
        finally:
            await self._pause()
            await self._connection.close()

    async def _turn(self) -> bool:
        """Does as told; returns whether there is more to do."""
        told = await self._told()
        if not told.learns:
            await self._pause()
        elif self._learner is None:
            learner = self._begin()
            await learner.start(told)
            self._learner = learner
        busy = self._learner is not None and await self._learner.turn(told)
        if self._clock.now_s() >= self._alive_at_s:
            self._alive_at_s = self._clock.now_s() + ALIVE_EVERY_S
            self._show_life()
            if self._learner is not None:
                await self._board.report(self._learner.progress())
        return busy

    async def _told(self) -> Told:
        nodes = self._settings.nodes
        if nodes:
            return Told(learns=True, pools=tuple((NodeId(address), address) for address in nodes))
        told, now_s = await self._board.told(), self._clock.now_s()
        if told is not None and (told.at_s is None or told.at_s != self._heard.at_s):
            self._heard, self._heard_s = told, now_s
            if told.clock_began_unix_s is not None:
                self._clock.follow(told.clock_began_unix_s)
        return self._heard if now_s - self._heard_s < TOLD_KEEP_S else Told(learns=False)

    def _begin(self) -> ClusterLearner:
        # Torch and numba, which a learner that waits does not load.
        import torch

        from edge_node.learning.cluster_learner import ClusterLearner, ClusterLearnerSettings

        torch.set_num_threads(1)  # small matrices, on a device that has other work
        log.info("learns for the cluster")
        settings = self._settings
        return ClusterLearner(
            ClusterLearnerSettings(
                node_id=settings.node_id,
                out=settings.out,
                publish_every_s=settings.publish_every_s,
                weights_bytes_max=settings.weights_bytes_max,
                outcome_wait_s=settings.outcome_wait_s,
                options=settings.options,
                seed=settings.seed,
                judge=settings.judge,
                judge_published=settings.judge_published,
                offers=bool(settings.nodes),
                tls_folder=settings.tls_folder,
                cluster_name=settings.cluster_name,
            ),
            self._connection,
            self._store,
            clock=self._clock,
        )

    async def _pause(self) -> None:
        """Another one learns: what this one knows is published, and the rest is forgotten."""
        if self._learner is not None:
            log.info("learns no more")
            learner, self._learner = self._learner, None
            await learner.close()

    def _show_life(self) -> None:
        if self._settings.alive is not None:
            with contextlib.suppress(OSError):  # a full disk: whoever looks will see
                show_life(self._settings.alive)


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
    await LearnerProcess(settings, clock=FollowingClock()).run(stopping)


def main(arguments: Sequence[str] | None = None) -> int:
    """The process; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m edge_node.learner")
    parser.add_argument("--store", required=True, help="URL of the node's store")
    parser.add_argument("--node-id", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the weights")
    parser.add_argument(
        "--nodes", default="", help="host:port of nodes to learn beside, comma-separated"
    )
    parser.add_argument("--alive", type=Path, help="file in which it says that it works")
    parser.add_argument("--publish-every", type=float, default=180.0, help="seconds")
    parser.add_argument("--outcome-wait", type=float, default=7200.0, help="seconds")
    parser.add_argument("--memory-max", type=int, default=2 * 2**30, help="bytes resident")
    parser.add_argument("--weights-max", type=int, default=16 * 2**20, help="bytes of a file")
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
    parser.add_argument("--tls", type=Path, help="folder of this node's certificate")
    parser.add_argument("--cluster-name", default="dedgeai", help="that the certificate names")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO)
    set_format(given.log_format, node_id=given.node_id)
    settings = LearnerSettings(
        store_url=given.store,
        node_id=given.node_id,
        out=given.out,
        nodes=tuple(one.strip() for one in given.nodes.split(",") if one.strip()),
        alive=given.alive,
        publish_every_s=given.publish_every,
        outcome_wait_s=given.outcome_wait,
        memory_bytes_max=given.memory_max,
        weights_bytes_max=given.weights_max,
        seed=given.seed,
        options=parse_options(given.option),
        judge=judge_settings(given),
        judge_published=given.judge_published,
        tls_folder=given.tls,
        cluster_name=given.cluster_name,
    )
    missing = [name for name in ("torch", "numba") if importlib.util.find_spec(name) is None]
    if missing:
        # So its node is not willing to learn for the cluster.
        print(
            f"learner: no {' and no '.join(missing)} here; install dedgeai[learner] to learn.",
            file=sys.stderr,
        )
        return 2
    take_low_priority()
    try:
        asyncio.run(run_learner(settings))
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

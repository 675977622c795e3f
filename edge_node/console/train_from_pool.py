"""`dedgeai train --from-pool`: LAD-TS from the experience that a node has kept.

Owns where the pool is found and what is shown. A store that runs is only read. Of a stopped node's
data folder a copy is served by a Valkey of our own, so the folder stays as the node left it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from edge_node.clock import SystemClock
from edge_node.errors import InvalidRequest, StoreUnavailable
from edge_node.learner import parse_options
from edge_node.learning.cluster_learner import save_weights
from edge_node.store.connection import StoreConnection, StoreSettings
from edge_node.store.embedded_valkey import valkey_command, wait_until_ready
from edge_node.store.experience_pool import FIRST_ID, PoolReader, PoolSettings
from scheduler.checkpoint import load
from scheduler.learning.choice import Diverged
from scheduler.learning.live_learner import LiveLearner, shipped
from scheduler.learning.publication import Refused, consider

READ_COUNT = 1000
START_S_MAX = 30.0
SHOWN_UPDATES = 500


@dataclass(frozen=True, kw_only=True)
class PoolRequest:
    """What the command line asks for.

    Attributes:
        policy: to be trained.
        redis_url: of a store that runs, or None.
        data_folder: of a stopped node with an embedded store, or None.
        node_id: whose pool; None where the store holds just one.
        updates: to make; those that its decisions ask for when not given.
        start: weights to go on from; those that ship when not given.
        out: folder that gets the weights.
        options: "key=value" each, see `EquivariantLadTsConfig`.
        seed: of networks, noise and batches.
    """

    policy: str
    redis_url: str | None
    data_folder: Path | None
    node_id: str | None
    updates: int | None
    start: Path | None
    out: Path
    options: Sequence[str]
    seed: int


def train_from_pool(request: PoolRequest, *, console: Console) -> int:
    """Trains, checks and writes weights; 1 where the check refuses them.

    Raises:
        InvalidRequest: an argument is wrong, or there is no pool to learn from.
        StoreUnavailable: the store cannot be read.
    """
    if request.policy != "lad_ts":
        raise InvalidRequest(f"--from-pool trains lad_ts, not {request.policy}.")
    if (request.redis_url is None) == (request.data_folder is None):
        raise InvalidRequest("--from-pool needs either --redis-url or --data-folder.")
    torch.set_num_threads(1)  # matrices of 20 x 20: a second thread costs more than it brings
    try:
        learner = LiveLearner(
            parse_options(request.options),
            start=shipped() if request.start is None else load(request.start, kind="policy"),
            outcome_wait_s=float("inf"),
            seed=request.seed,
        )
        damaged = asyncio.run(_read(request, learner))
        _show_counts(learner, damaged, console)
        if not learner.can_update:
            raise InvalidRequest(
                "The pool holds too few decisions to learn from; lower --option pool_min=N, or "
                "let the node work on."
            )
        _train(learner, request.updates, console)
        checked = consider(learner, published=None, generation=1)
    except ValueError as error:
        raise InvalidRequest(f"{str(error).rstrip('.')}.") from error
    except (Diverged, Refused) as error:
        console.print(f"No weights are written: {error}.")
        return 1
    published = save_weights(checked, request.out, created_unix_s=SystemClock().unix_s())
    checks = published.checks
    console.print(
        f"Played again: {checks['checked_decisions']:.0f} decisions; a task gains "
        f"{checks['gain_s']:+.3g} s (95 %: {checks['gain_low_s']:+.3g} or more) on the "
        f"weights it began with, of {checks['mean_delay_s']:.3g} s mean delay."
    )
    console.print(f"weights: {published.path}", soft_wrap=True)
    return 0


async def _read(request: PoolRequest, learner: LiveLearner) -> int:
    """Gives the whole pool to the learner; returns how many entries are damaged."""
    async with _store(request) as url:
        settings = StoreSettings(url=url, connections_max=1)
        connection = StoreConnection(settings)
        await connection.start()
        try:
            node_id = request.node_id or await _only_node(connection)
            pool = PoolReader(PoolSettings(store=settings, node_id=node_id), connection)
            last_id, damaged = FIRST_ID, 0
            while (part := await pool.read_since(last_id, READ_COUNT)).count:
                last_id, damaged = part.last_id, damaged + part.damaged
                for entry in part.entries:
                    learner.add(entry)
            return damaged
        finally:
            await connection.close()


@contextlib.asynccontextmanager
async def _store(request: PoolRequest) -> AsyncIterator[str]:
    if request.redis_url is not None:
        yield request.redis_url
        return
    assert request.data_folder is not None
    kept = request.data_folder / "store"
    if not kept.is_dir():
        raise InvalidRequest(f"{request.data_folder} is no data folder of a node: no store in it.")
    with tempfile.TemporaryDirectory(prefix="dedgeai-") as name:
        folder = Path(name) / "store"
        shutil.copytree(kept, folder)
        path = Path(name) / "s"
        process = subprocess.Popen(valkey_command(folder, path), stdout=subprocess.DEVNULL)  # noqa: ASYNC220
        try:
            await wait_until_ready(path, START_S_MAX)
            yield f"unix://{path}"
        finally:
            process.kill()
            process.wait()


async def _only_node(connection: StoreConnection) -> str:
    """The node whose pool the store holds."""
    pattern = PoolSettings(store=StoreSettings(url=""), node_id="*").key
    try:
        keys = (await connection.execute([("KEYS", pattern)], durable=False))[0]
    except StoreUnavailable as away:
        raise InvalidRequest(away.message) from away
    found: list[str] = sorted(key.decode().split(":")[1] for key in keys)
    if len(found) != 1:
        raise InvalidRequest(
            f"The store holds pools of {', '.join(found)}: choose one with --node-id."
            if found
            else "The store holds no experience pool."
        )
    return found[0]


def _train(learner: LiveLearner, updates: int | None, console: Console) -> None:
    wanted = int(learner.due) if updates is None else updates
    for done in range(1, wanted + 1):
        learner.due = 1.0
        learner.update()
        if done % SHOWN_UPDATES == 0 or done == wanted:
            console.print(f"{done} of {wanted} updates")
    if learner.updates == 0:
        raise ValueError("no update was made; give --updates")


def _show_counts(learner: LiveLearner, damaged: int, console: Console) -> None:
    table = Table(title="The pool", show_header=False)
    counts = learner.hindsight.counts.by_name() | {"damaged": damaged}
    for name, count in counts.items():
        table.add_row(name.replace("_", " "), str(count))
    console.print(table)

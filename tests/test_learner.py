"""A real learner process on a real Valkey: it publishes what decides, and ends as told."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_node.clock import SystemClock
from edge_node.learner import EXIT_OUTGROWN
from edge_node.snapshot import LearnerProgress
from edge_node.store.connection import StoreConnection, StoreSettings
from edge_node.store.embedded_valkey import valkey_command, wait_until_ready
from edge_node.store.experience_pool import ExperiencePool, PoolSettings
from edge_node.store.learner_board import LearnerBoard, Told
from edge_node.store.published_weights import (
    Published,
    PublishedWeights,
    UnusableWeights,
    load_published,
)
from scheduler import checkpoint
from scheduler.experience import PooledDecision
from scheduler.policy import Outcome
from tests.learning.made_weights import made
from tests.scheduler.learning.lived import lived
from tests.scheduler.learning.test_live_learner import TRUE_B

NODE_ID = "a"
# The node's clock went on from its former life, and the machine's was set ahead.
NODE_BEHIND_S = 864_000.0
# It loads and learns at idle priority, on a machine that may be busy.
UNTIL_S_MAX = 180.0
QUICK = ("actor_lr=0.003", "critic_lr=0.01")


@pytest.fixture
def store_url() -> Iterator[str]:
    # Not tmp_path: its name would exceed what a Unix socket allows.
    with tempfile.TemporaryDirectory(prefix="vk") as name:
        path = Path(name) / "s"
        process = subprocess.Popen(valkey_command(Path(name), path))
        try:
            asyncio.run(wait_until_ready(path, 5.0))
            yield f"unix://{path}"
        finally:
            process.kill()
            process.wait()


def fill(store_url: str, entries: list[PooledDecision | Outcome]) -> None:
    async def write() -> None:
        settings = PoolSettings(store=StoreSettings(url=store_url), node_id=NODE_ID)
        pool = ExperiencePool(settings, clock=SystemClock())
        await pool.start()
        for entry in entries:
            if isinstance(entry, Outcome):
                pool.note_outcome(entry)
            else:
                pool.note_decision(entry.recorded)
        await pool.flush()
        await pool.close()

    asyncio.run(write())


def announced(store_url: str) -> Published | None:
    async def read() -> Published | None:
        connection = StoreConnection(StoreSettings(url=store_url))
        await connection.start()
        try:
            return await PublishedWeights(connection, node_id=NODE_ID).current()
        finally:
            await connection.close()

    return asyncio.run(read())


def announce(store_url: str, published: Published) -> None:
    async def write() -> None:
        connection = StoreConnection(StoreSettings(url=store_url))
        await connection.start()
        try:
            await PublishedWeights(connection, node_id=NODE_ID).announce(published)
        finally:
            await connection.close()

    asyncio.run(write())


def tell(store_url: str, *, learns: bool = True) -> None:
    """What the node beside a learner says, and goes on saying."""

    async def say() -> None:
        connection = StoreConnection(StoreSettings(url=store_url))
        await connection.start()
        try:
            clock_began = SystemClock().began_unix_s - NODE_BEHIND_S
            told = Told(learns=learns, clock_began_unix_s=clock_began, at_s=time.monotonic())
            await LearnerBoard(connection, node_id=NODE_ID).tell(told)
        finally:
            await connection.close()

    asyncio.run(say())


def progress(store_url: str) -> LearnerProgress:
    """What the learner says of itself."""

    async def read() -> LearnerProgress | None:
        connection = StoreConnection(StoreSettings(url=store_url))
        await connection.start()
        try:
            return await LearnerBoard(connection, node_id=NODE_ID).progress()
        finally:
            await connection.close()

    return asyncio.run(read()) or LearnerProgress(entries={}, decisions=0, updates=0, refusal="")


def gains(published: Published | None) -> bool:
    """Whether they are held to be better than those before."""
    return published is not None and published.checks.get("gain_s", 0.0) > 0.0


def told(store_url: str) -> str:
    """The same store, where the learner was just told to learn."""
    tell(store_url)
    return store_url


def start(store_url: str, out: Path, *more: str) -> subprocess.Popen[str]:
    options = [part for option in QUICK for part in ("--option", option)]
    command = [sys.executable, "-m", "edge_node.learner", "--store", store_url]
    command += ["--node-id", NODE_ID, "--out", str(out), "--publish-every", "0.5"]
    return subprocess.Popen([*command, *options, *more], stderr=subprocess.PIPE, text=True)


def until(found: Callable[[], object], process: subprocess.Popen[str]) -> None:
    give_up_s = time.monotonic() + UNTIL_S_MAX
    while not found():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up_s, "waited in vain"
        time.sleep(0.2)


@pytest.mark.system
def test_it_publishes_weights_that_decide_goes_on_and_ends_when_told(
    store_url: str, tmp_path: Path
) -> None:
    fill(store_url, lived(700, true_B=TRUE_B))
    first = made(tmp_path, generation=4)
    announce(store_url, first)
    process = start(store_url, tmp_path)
    try:
        until(lambda: gains(announced(told(store_url))), process)
        published = announced(store_url)
        assert published is not None
        assert published.generation >= 5
        assert time.time() - published.created_unix_s == pytest.approx(NODE_BEHIND_S, abs=600.0)
        assert os.sched_getscheduler(process.pid) in (os.SCHED_IDLE, os.SCHED_OTHER)
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(own + 10, 19)
        policy = load_published(published, rng=np.random.default_rng(0))
        decided = lived(1)[0]
        assert isinstance(decided, PooledDecision)
        decision = policy.decide(decided.recorded.observation)
        assert decision.weights_version == published.version
        assert published.checks["checked_decisions"] >= 100
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20.0)
        assert process.returncode == 0
        assert f"goes on from {first.version}" in said
        assert f"published {published.version}" in said
    finally:
        process.kill()
        process.wait()


@pytest.mark.system
def test_a_disk_that_refuses_costs_a_publication_and_no_learner(
    store_url: str, tmp_path: Path
) -> None:
    fill(store_url, lived(700, true_B=TRUE_B))
    first = made(tmp_path, generation=4)
    announce(store_url, first)
    in_the_way = tmp_path / "out"
    in_the_way.write_text("no folder")
    process = start(store_url, in_the_way)

    def refusal() -> str:
        return progress(told(store_url)).refusal

    try:
        until(lambda: "cannot be kept" in refusal(), process)
        assert str(in_the_way) in refusal()
        assert "Make room there" in refusal()
        in_the_way.unlink()
        until(lambda: announced(told(store_url)) != first, process)
        published = announced(store_url)
        assert published is not None
        assert published.path.parent == in_the_way
    finally:
        process.kill()
        process.communicate()


@pytest.mark.system
def test_it_waits_with_nothing_loaded_until_its_node_says_that_it_is_the_one(
    store_url: str, tmp_path: Path
) -> None:
    fill(store_url, lived(700))
    first = made(tmp_path, generation=1)
    announce(store_url, first)
    alive = tmp_path / "alive"
    process = start(store_url, tmp_path, "--alive", str(alive))

    def loaded() -> bool:
        return "torch" in Path(f"/proc/{process.pid}/maps").read_text()

    try:
        until(alive.exists, process)
        tell(store_url, learns=False)
        time.sleep(2.0)
        assert not loaded()
        assert announced(store_url) == first
        until(lambda: told(store_url) and loaded(), process)
        # A node that says no more is gone, and another one learns.
        tell(store_url, learns=False)
        assert process.stderr is not None
        while "learns no more" not in process.stderr.readline():
            assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


@pytest.mark.system
def test_it_ends_itself_when_it_outgrows_its_memory(store_url: str, tmp_path: Path) -> None:
    announce(store_url, made(tmp_path, generation=1))
    tell(store_url)
    process = start(store_url, tmp_path, "--memory-max", str(64 << 20))
    try:
        _, said = process.communicate(timeout=UNTIL_S_MAX)
    finally:
        process.kill()
    assert process.returncode == EXIT_OUTGROWN
    assert "MiB and may hold 64: it ends. Raise learner_memory_bytes_max" in said


def test_what_is_not_as_announced_is_not_loaded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    published = made(tmp_path, generation=1)
    assert load_published(published, rng=rng).version == published.version
    for changed in (
        {"version": "lad_ts-1-other"},
        {"policy": "dqn"},
        {"path": tmp_path / "none"},
    ):
        with pytest.raises(UnusableWeights):
            load_published(replace(published, **changed), rng=rng)
    weights = checkpoint.load(published.path, kind="policy")
    damaged = {**weights.arrays, "second_HH": weights.arrays["second_HH"][:, :3]}
    checkpoint.save(published.path, checkpoint.Checkpoint(info=weights.info, arrays=damaged))
    odd = replace(published, version=checkpoint.version_of(replace(weights, arrays=damaged)))
    with pytest.raises(UnusableWeights, match="second_HH"):
        load_published(odd, rng=rng)
    published.path.write_bytes(b"cut off")
    with pytest.raises(UnusableWeights):
        load_published(published, rng=rng)

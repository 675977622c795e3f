"""Experience and weights between nodes: real stores, real sockets, no process of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import grpc.aio
import numpy as np
import pytest

from edge_node.clock import SystemClock
from edge_node.domain import Learning, NodeId
from edge_node.errors import InvalidRequest, OriginUnavailable, WeightsGone
from edge_node.learned_weights import LearnedWeights
from edge_node.peering.client import PeerClient
from edge_node.store.connection import StoreSettings
from edge_node.store.experience_pool import ExperiencePool, PoolSettings, decoded
from edge_node.store.published_weights import load_published
from edge_node.store.verdicts import FORMAT, VerdictStore, encode
from scheduler.experience import PooledDecision
from scheduler.guard.verdict import ReplayVerdict
from scheduler.policy import Outcome
from tests.learning.made_weights import made
from tests.learning.site import WEIGHTS_BYTES_MAX, Site
from tests.scheduler.learning.lived import lived
from tests.store.valkey_process import ValkeyProcess


@pytest.fixture
def sites(valkey: ValkeyProcess, tmp_path: Path) -> Callable[..., Any]:
    """Runs a story with nodes of these names, which share one store as nodes may."""

    @asynccontextmanager
    async def started(names: str) -> AsyncIterator[list[Site]]:
        nodes = [Site(name, tmp_path, valkey.url) for name in names]
        try:
            for node in nodes:
                await node.start()
            yield nodes
        finally:
            for node in nodes:
                await node.stop()

    def run(names: str, story: Callable[..., Awaitable[None]]) -> None:
        async def whole() -> None:
            async with asyncio.timeout(60), started(names) as nodes:
                await story(*nodes)

        asyncio.run(whole())

    return run


def test_a_node_that_joins_has_the_newest_weights_after_one_look(sites: Any) -> None:
    async def story(a: Site, b: Site) -> None:
        published = made(a.folder, generation=3)
        await a.announcement.announce(published)
        await a.look()
        assert a.learning is not None
        assert a.learning.weights is not None
        assert a.learning.weights.version == published.version
        b.hears(a)
        await b.look()
        assert b.learning is not None
        assert b.learning.weights == a.learning.weights
        came = await b.announced()
        assert came is not None
        assert (came.version, came.generation) == (published.version, 3)
        assert came.path.parent == b.folder
        assert came.path.read_bytes() == published.path.read_bytes()
        assert load_published(came, rng=np.random.default_rng(0)).version == published.version
        assert b.metric("weights_generation") == 3.0

    sites("ab", story)


def test_of_two_publications_of_one_generation_the_same_stands_everywhere(sites: Any) -> None:
    async def story(a: Site, b: Site, c: Site) -> None:
        for seed, node in enumerate((a, b)):
            await node.announcement.announce(made(node.folder, generation=2, seed=seed))
        nodes = (a, b, c)
        for _ in range(2):
            for node in nodes:
                await node.look()
                for other in nodes:
                    if other is not node:
                        other.hears(node)
        held = {node.learning.weights for node in nodes if node.learning}
        assert len(held) == 1
        (stands,) = held
        ours = {n.learning.weights.sha256 for n in nodes if n.learning and n.learning.weights}
        assert ours == {stands.sha256 if stands else ""}
        assert {(await node.announced() or made).version for node in nodes} == {  # type: ignore[union-attr]
            stands.version if stands else ""
        }

    sites("abc", story)


def test_a_learner_that_comes_late_does_not_put_older_weights_in_place(sites: Any) -> None:
    async def story(a: Site) -> None:
        newer = made(a.folder, generation=7)
        await a.announcement.announce(newer)
        await a.look()
        await a.announcement.announce(made(a.folder, generation=6, seed=1))
        await a.look()
        assert await a.announced() == newer

    sites("a", story)


@pytest.mark.parametrize("how", ["garbled", "cut off", "of another name", "too large"])
def test_weights_that_are_not_what_was_told_are_refused_with_a_sentence_and_once(
    sites: Any, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    sentences = {
        "garbled": "the digest of what came is",
        "cut off": "bytes came of weights of",
        "of another name": "told of it was lad_ts-9-else of lad_ts, generation 9",
        "too large": f"Learned weights of more than {WEIGHTS_BYTES_MAX} bytes are not taken",
    }

    async def story(a: Site, b: Site) -> None:
        await a.announcement.announce(made(a.folder, generation=1))
        await a.look()
        assert a.learning is not None
        told, content = a.share.weights("")
        if how == "garbled":
            content = content[:-4] + bytes(4)
        elif how == "cut off":
            content = content[:-100]
        elif how == "of another name":
            told = replace(told, generation=9, version="lad_ts-9-else")
        else:
            told = replace(told, size_bytes=WEIGHTS_BYTES_MAX + 1)
        held = cast(Any, a.share)._held
        held.newest, held.content = told, content
        b.hears(a, Learning(policy="lad_ts", weights=told))
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                await b.look()
        assert b.learning is not None
        assert b.learning.weights is None
        assert await b.announced() is None
        assert list(b.folder.glob("*.safetensors")) == []
        said = [one.getMessage() for one in caplog.records if "are not used" in one.getMessage()]
        assert len(said) == 1
        assert said[0].startswith("learned weights of node a are not used: ")
        assert sentences[how] in said[0]
        assert b.metric("weights_refused_total") == 1.0

    sites("ab", story)


def test_a_disk_that_refuses_fetched_weights_is_complained_of_once_and_tried_again(
    sites: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(a: Site, b: Site) -> None:
        await a.announcement.announce(made(a.folder, generation=1))
        await a.look()
        b.hears(a)
        b.folder.rmdir()
        b.folder.write_text("no folder")
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                await b.look()
        assert await b.announced() is None
        said = [one.getMessage() for one in caplog.records if "cannot be kept" in one.getMessage()]
        assert len(said) == 1
        assert f"cannot be kept in {b.folder}: " in said[0]
        assert "Make room there" in said[0]
        b.folder.unlink()
        await b.look()
        assert await b.announced() is not None
        assert b.metric("weights_refused_total") == 0.0

    sites("ab", story)


def test_the_least_willing_name_is_told_to_learn_from_all_and_another_when_it_goes(
    sites: Any,
) -> None:
    async def story(a: Site, b: Site, c: Site) -> None:
        nodes = (a, b, c)
        for node in (a, b):
            node.willing()
        for _ in range(2):
            for node in nodes:
                await node.look()
                for other in nodes:
                    if other is not node:
                        other.hears(node)
        told = {node.id: await node.told() for node in nodes}
        assert {node_id: one.learns for node_id, one in told.items() if one} == {
            "a": True,
            "b": False,
            "c": False,
        }
        its = told[a.id]
        assert its is not None
        assert {node_id for node_id, _ in its.pools} == {"b", "c"}
        assert {node.learning.learner for node in nodes if node.learning} == {a.id}
        assert [node.metric("learning") for node in nodes] == [1.0, 0.0, 0.0]
        a.draining = True
        await a.look()
        b.hears(a)
        await a.look()
        await b.look()
        handed = await a.told(), await b.told()
        assert [one.learns for one in handed if one] == [False, True]

    sites("abc", story)


def fill(store_url: str, node_id: str, entries: list[PooledDecision | Outcome]) -> None:
    async def write() -> None:
        settings = PoolSettings(store=StoreSettings(url=store_url), node_id=node_id)
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


def test_a_pool_is_read_over_the_wire_as_it_is_stored_from_a_cursor_on(
    sites: Any, valkey: ValkeyProcess
) -> None:
    entries = lived(400)
    fill(valkey.url, "a", entries)

    async def story(a: Site, b: Site) -> None:
        b.hears(a)
        client = b.client(a.id)
        assert client is not None
        pages = [page async for page in client.read_experience("", entries_max=500)]
        assert [len(page.entries) for page in pages] == [200, 200, 100]
        # By which clock they were dated, whatever the reader's says.
        assert pages[0].read_unix_s == pytest.approx(a.clock.unix_s(), abs=30.0)
        pages += [p async for p in client.read_experience(pages[-1].last, entries_max=500)]
        read = [entry for page in pages for entry in decoded(page).entries]
        assert len(read) == len(entries)
        ids = [one.recorded.decision_id for one in read if isinstance(one, PooledDecision)]
        assert ids == [one.recorded.decision_id for one in entries if hasattr(one, "recorded")]
        assert [p async for p in client.read_experience(pages[-1].last, entries_max=9)] == []
        assert a.metric("experience_read_total") == len(entries)
        with pytest.raises(InvalidRequest, match="is no cursor of a pool"):
            async for _ in client.read_experience("0-0 x", entries_max=1):
                pass

    sites("ab", story)


def test_weights_that_a_learner_beside_the_nodes_brings_are_taken_or_refused(sites: Any) -> None:
    async def story(a: Site, b: Site) -> None:
        b.hears(a)
        client = b.client(a.id)
        assert client is not None
        with pytest.raises(WeightsGone):
            await client.fetch_weights("", bytes_max=WEIGHTS_BYTES_MAX)
        await b.announcement.announce(made(b.folder, generation=2))
        await b.look()
        told, content = b.share.weights("")
        await client.offer_weights(told, content)
        assert await client.fetch_weights("", bytes_max=WEIGHTS_BYTES_MAX) == (told, content)
        with pytest.raises(WeightsGone):
            await client.fetch_weights("0" * 64, bytes_max=WEIGHTS_BYTES_MAX)
        with pytest.raises(InvalidRequest, match="Generation 2 is not newer than lad_ts-2-"):
            await client.offer_weights(told, content)
        with pytest.raises(InvalidRequest, match="The weights cannot be used: the digest"):
            await client.offer_weights(replace(told, generation=3), content[:-4] + bytes(4))
        with pytest.raises(InvalidRequest, match="more than 1048576 bytes"):
            await client.offer_weights(replace(told, generation=3), bytes(WEIGHTS_BYTES_MAX + 1))
        assert a.share.weights("") == (told, content)

    sites("ab", story)


def test_a_verdict_reaches_the_store_that_the_guard_reads(
    sites: Any, valkey: ValkeyProcess
) -> None:
    verdict = ReplayVerdict(
        version="lad_ts-1-x",
        rule="slow_server_aware",
        judged_unix_s=1.7e9,
        tasks=200,
        failed=0,
        learned_mean_s=9.0,
        rule_mean_s=10.0,
        worse_low=-0.2,
        worse_high=-0.05,
    )

    async def story(a: Site, b: Site) -> None:
        b.hears(a)
        client = b.client(a.id)
        assert client is not None
        await client.offer_verdict(str(FORMAT), encode(verdict).encode())
        assert await VerdictStore(a.connection, node_id="a").read() == verdict
        for form, text in ((str(FORMAT + 1), encode(verdict)), (str(FORMAT), "{}")):
            with pytest.raises(InvalidRequest, match="The verdict cannot be read"):
                await client.offer_verdict(form, text.encode())
        assert await VerdictStore(a.connection, node_id="a").read() == verdict

    sites("ab", story)


def test_a_node_of_the_former_version_is_not_asked_and_would_say_so(sites: Any) -> None:
    async def story(a: Site, b: Site) -> None:
        b.willing()
        b.hears(a)  # says nothing of learning
        await b.look()
        told = await b.told()
        assert told is not None
        assert (told.learns, told.pools) == (True, ())
        former = grpc.aio.server()  # none of its calls is ours
        client = PeerClient(f"127.0.0.1:{former.add_insecure_port('127.0.0.1:0')}")
        await former.start()
        with pytest.raises(OriginUnavailable, match="UNIMPLEMENTED"):
            await client.offer_verdict("1", b"")
        with pytest.raises(OriginUnavailable, match="UNIMPLEMENTED"):
            await client.fetch_weights("", bytes_max=1)
        await client.close()
        await former.stop(None)

    sites("ab", story)


def test_what_is_told_of_weights_survives_the_wire() -> None:
    from edge_node.peering import learning_codec

    weights = LearnedWeights(
        policy="lad_ts", version="lad_ts-4-x", generation=4, sha256="ab" * 32, size_bytes=9
    )
    for learning in (
        Learning(policy="lad_ts"),
        Learning(policy="lad_ts", willing=True, learner=NodeId("b"), weights=weights),
    ):
        message = learning_codec.learning_to_proto(learning)
        assert learning_codec.learning_from_proto(message) == learning

"""A cluster whose nodes are brought from 0.1.0 to this version one at a time, and back."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_node.console.rest_client import RestClient
from edge_node.errors import OriginUnavailable
from tests.api.uploaded import encoded, in_base64, noise
from tests.learning.made_weights import made
from tests.system.local import EMULATED, QUICK_LEASE, image_of, submit, wait_for
from tests.system.test_cluster_learning import bring, generation_above, until
from tests.upgrade.former_version import MixedCluster, former_tree, run_in

pytestmark = pytest.mark.system
HERE = Path(__file__).parent
# Nobody moves a task that waits, so that whoever is asked twice for one was refused.
SETTINGS = {**EMULATED, **QUICK_LEASE, "policy": "round_robin", "move_waiting": False}
CHANGING, PRESENT, FORMER = 0, 1, 2


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return former_tree(tmp_path_factory.mktemp("v0.1.0"))


def test_the_recordings_are_0_1_0s_own(tree: Path, tmp_path: Path) -> None:
    ask = "import edge_node, dedgeai; print(edge_node.__file__, dedgeai.__file__)"
    where = run_in(tree, "-c", ask)
    assert where.split() == [
        str(tree / "edge_node" / "__init__.py"),
        str(tree / "proto" / "dedgeai" / "__init__.py"),
    ]
    run_in(tree, str(HERE / "record_0_1_0.py"), str(tmp_path))
    for name in ("messages.json", "store.json"):
        golden = HERE.parent / "golden" / "v0.1.0" / name
        assert (tmp_path / name).read_text("utf-8") == golden.read_text("utf-8")


def test_nodes_of_both_versions_are_one_cluster_through_an_upgrade_and_a_rollback(
    tree: Path, tmp_path: Path
) -> None:
    async def story() -> None:
        # Every node but the changing one keeps its version to the end.
        cluster = MixedCluster([SETTINGS] * 3, trees=[tree, None, tree], folder=tmp_path)
        async with cluster, httpx.AsyncClient(timeout=60.0, trust_env=False) as http:
            finished = []
            for origin in (CHANGING, PRESENT):
                finished += await check_offloads(cluster, http, origin=origin)
            # Upgraded, restarted as it is, rolled back.
            for version in (None, None, tree):
                owed = await tasks_under_way(cluster, http)
                await begin_as(cluster, CHANGING, version, after=signal.SIGKILL)
                await check_owed(cluster, http, owed)
                finished += list(owed)
                for task_id in finished:
                    await check_image(cluster, http, task_id)
            await check_offloads(cluster, http, origin=CHANGING)

    asyncio.run(story())


def test_nodes_that_learn_together_leave_a_node_of_0_1_0_in_peace_until_it_is_upgraded(
    tree: Path, tmp_path: Path
) -> None:
    async def story() -> None:
        trees = [None, None, tree]
        settings = [{**SETTINGS, "learner": True}, SETTINGS, SETTINGS]
        cluster = MixedCluster(settings, trees=trees, folder=tmp_path)
        async with cluster, httpx.AsyncClient(timeout=60.0, trust_env=False) as http:
            await bring(cluster, 1, made(tmp_path / "made", generation=1))
            present, former = cluster.urls[:2], cluster.urls[FORMER]
            await until(http, present, generation_above(0), timeout_s=20.0)
            with pytest.raises(OriginUnavailable, match="UNIMPLEMENTED"):
                await bring(cluster, FORMER, made(tmp_path / "made", generation=2))
            # The learner reads the pools of those that have the call, and says nothing to others.
            for origin in (FORMER, PRESENT, CHANGING):
                await check_offloads(cluster, http, origin=origin)
            await until(http, present[:1], lambda shown: bool(shown["learner"]), timeout_s=180.0)
            (shown,) = await until(http, present[:1], pools_are_read, timeout_s=180.0)
            assert set(shown["learner"]["entries"]) == {"node-0", "node-1"}
            said = (tmp_path / "node-2" / "node.log").read_text("utf-8")
            for call in ("ReadExperience", "FetchWeights", "OfferWeights", "OfferVerdict"):
                assert call not in said
            await begin_as(cluster, FORMER, None, after=signal.SIGTERM)
            await until(http, [former], generation_above(0), timeout_s=20.0)

    asyncio.run(story())


def pools_are_read(shown: dict[str, Any]) -> bool:
    """Whether the learner has had entries of two nodes."""
    entries = (shown["learner"] or {"entries": {}})["entries"]
    return len(entries) >= 2 and min(entries.values()) > 0


async def begin_as(
    cluster: MixedCluster, index: int, version: Path | None, *, after: signal.Signals
) -> None:
    """The node is ended, and starts as that version."""
    cluster.signal_node(index, after)
    cluster.wait_node(index)
    cluster.trees[index] = version
    cluster.start_node(index)
    async with RestClient(timeout_s=5) as client:
        await cluster.wait_ready(client, index)


async def check_offloads(
    cluster: MixedCluster, http: httpx.AsyncClient, *, origin: int
) -> list[str]:
    """All nodes draw for `origin`, with and without an init image, and answer for its tasks."""
    url, other = cluster.urls[origin], cluster.urls[FORMER if origin == PRESENT else PRESENT]
    start = {"init_image": in_base64(encoded(noise(64, 64))), "strength": 0.5, "size": "512x512"}
    bodies: list[dict[str, Any]] = [{}, {}, {}, start, start, start]
    tasks = [await submit(http, url, num_inference_steps=4, **body) for body in bodies]
    drawn = [await wait_for(http, other, task["id"]) for task in tasks]
    assert {task["status"] for task in drawn} == {"completed"}, drawn
    for kind in (drawn[:3], drawn[3:]):
        assert {task["executor"] for task in kind} == set(cluster.node_ids)
    events = (await http.get(f"{other}/v1/tasks/{tasks[0]['id']}/events")).text
    kinds = [line.split()[1] for line in events.splitlines() if line.startswith("event:")]
    steps = kinds.count("step")  # those that end within a moment of each other are told as one
    assert kinds == ["queued", "placed", "started", *["step"] * steps, "finished"]
    assert 1 <= steps <= 4
    long = await submit(http, url, num_inference_steps=50)
    cancelled = await http.delete(f"{other}/v1/tasks/{long['id']}")
    assert cancelled.json()["status"] == "cancelled", cancelled.text
    return [task["id"] for task in tasks]


async def tasks_under_way(cluster: MixedCluster, http: httpx.AsyncClient) -> dict[str, str]:
    """Accepted tasks of the changing node, of which every node draws one; who has each."""
    url = cluster.urls[CHANGING]
    ids = [(await submit(http, url, num_inference_steps=15))["id"] for _ in range(9)]
    async with asyncio.timeout(20):
        while True:
            seen = [(await http.get(f"{url}/v1/tasks/{task_id}")).json() for task_id in ids]
            drawing = {task["executor"] for task in seen if task["status"] == "in_progress"}
            if drawing == set(cluster.node_ids):
                return {task["id"]: task["executor"] for task in seen}
            await asyncio.sleep(0.02)


async def check_owed(cluster: MixedCluster, http: httpx.AsyncClient, owed: dict[str, str]) -> None:
    """Every task ends as an image, at whoever was asked first: no fence was in the way."""
    again = 0
    for task_id, executor in owed.items():
        task = await wait_for(http, cluster.urls[PRESENT], task_id)
        assert task["status"] == "completed", task
        again += task["executor"] == executor != "node-0"
        events = (await http.get(f"{cluster.urls[FORMER]}/v1/tasks/{task_id}/events")).text
        assert events.count("event: placed") <= 1, events
    assert again, "no executor was asked for what it had been asked for before"


async def check_image(cluster: MixedCluster, http: httpx.AsyncClient, task_id: str) -> None:
    """The image is there, whoever is asked for it."""
    contents = {(await image_of(http, url, task_id)).tobytes() for url in cluster.urls}
    assert len(contents) == 1

"""What the dispatcher does with init images, on real state machines and a real store of files."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from edge_node.dispatch.entrance import EntranceSettings
from edge_node.dispatch.own_tasks import OwnTasksSettings
from edge_node.domain import AttemptFailed, AttemptReport, Fence, Offload, Task, TaskId
from edge_node.errors import AdmissionRefused, InitImagesFull
from edge_node.tasks.admission import AdmissionLimits
from tests.dispatch.one_node import DONE, DRAWING, OFFLOAD, OWN, PEER, PNG, SHA256, Node, run


@pytest.mark.parametrize("policy", ["local", "least_expected_delay"])
def test_whoever_draws_gets_the_init_image(tmp_path: Path, policy: str) -> None:
    node = Node(tmp_path, policy=policy)
    device, idle = (
        (node.own_device, node.peer) if policy == "local" else (node.peer, node.own_device)
    )

    async def story() -> None:
        await node.start()
        record = await node.ended(await node.submit())
        assert record.status.value == "completed"
        assert record.task.input_bits == 8 * (len("boat") + len(PNG))
        (asked,) = device.asked
        assert (asked["init_image"], asked["drawing"]) == (PNG, DRAWING)
        if policy == "local":
            assert 99.0 < asked["deadline_s"] <= 100.0
        assert idle.asked == []
        assert await node.init_images.read(SHA256) == PNG

    run(node, story)


def test_text_to_image_needs_no_store(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story() -> None:
        await node.start()
        task_id = await node.submit(replace(DRAWING, init_image_sha256="", steps=2), b"")
        assert (await node.ended(task_id)).status.value == "completed"
        assert node.own_device.asked[0]["init_image"] == b""
        assert list(tmp_path.iterdir()) == []

    run(node, story)


@pytest.mark.parametrize("policy", ["local", "least_expected_delay"])
def test_a_recovered_task_whose_image_is_gone_fails_and_says_so(
    tmp_path: Path, policy: str
) -> None:
    node = Node(tmp_path, policy=policy)
    owed = Task(
        id=TaskId("own-1"),
        job_id=None,
        drawing=DRAWING,
        work=3.0,
        input_bits=8,
        created_unix_s=0.0,
    )

    async def story() -> None:
        await node.start([owed])
        record = await node.ended(owed.id)
        assert record.error is not None
        assert record.error.code == "init_image_gone"
        assert "Submit the task again" in record.error.message
        assert record.attempt == 1
        assert node.own_device.asked == node.peer.asked == []

    run(node, story)


def test_what_a_peer_that_leaves_was_to_draw_is_placed_again(tmp_path: Path) -> None:
    node = Node(tmp_path, policy="least_expected_delay")
    node.peer.held = True

    async def story() -> None:
        await node.start()
        task_id = await node.submit()
        while not node.peer.asked:
            await asyncio.sleep(0.01)
        node.dispatcher.peer_forgotten(PEER)
        record = await node.ended(task_id)
        assert (record.status.value, record.executor, record.attempt) == ("completed", OWN, 2)

    run(node, story)


def test_other_bounds_count_from_the_next_request_on(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story() -> None:
        await node.start()
        bounds = OwnTasksSettings(
            entrance=EntranceSettings(admission=AdmissionLimits(tasks_in_flight_max=1)),
            deadline_s_default=10.0,
        )
        node.dispatcher.reconfigure(replace(node.settings, own_tasks=bounds))
        node.own_device.held = True
        task_id = await node.submit()
        record = await node.dispatcher.own_tasks.read_task(task_id)
        assert record.task.deadline_unix_s is not None
        assert record.task.deadline_unix_s - record.task.created_unix_s == pytest.approx(10.0)
        with pytest.raises(AdmissionRefused):
            await node.submit()

    run(node, story)


def test_a_full_store_refuses_before_anything_is_accepted(tmp_path: Path) -> None:
    node = Node(tmp_path, bytes_max=len(PNG))

    async def story() -> None:
        await node.start()
        await node.ended(await node.submit())
        await node.ended(await node.submit())  # the same image needs no room
        other = b"other" + PNG[5:]
        sha256 = hashlib.sha256(other).hexdigest()
        with pytest.raises(InitImagesFull) as refused:
            await node.submit(replace(DRAWING, init_image_sha256=sha256), other)
        assert refused.value.retry_after_s is not None
        assert 90.0 < refused.value.retry_after_s <= 100.0
        assert node.dispatcher.own_tasks.in_flight == 0

    run(node, story)


def test_requests_that_come_in_while_an_image_is_written_count(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story() -> None:
        await node.start()
        node.own_device.held = True
        outcomes = await asyncio.gather(*(node.submit() for _ in range(6)), return_exceptions=True)
        refused = [one for one in outcomes if isinstance(one, AdmissionRefused)]
        accepted = [one for one in outcomes if isinstance(one, str)]
        assert (len(accepted), len(refused)) == (2, 4)

    run(node, story)


async def hosted(node: Node, offload: Offload, init_image: bytes) -> AttemptReport:
    reports = await node.dispatcher.executor.host(offload, init_image=init_image)
    return await reports.get()


def test_an_executor_keeps_what_it_is_sent_and_draws_from_it(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story() -> None:
        await node.start()
        assert await hosted(node, OFFLOAD, PNG) == DONE
        assert node.own_device.asked[0]["init_image"] == PNG
        assert node.own_device.asked[0]["deadline_s"] == 60.0
        # Kept by its content: a second attempt may come without it.
        again = replace(OFFLOAD, fence=Fence(1, 2))
        assert await hosted(node, again, b"") == DONE
        assert node.own_device.asked[1]["init_image"] == PNG

    run(node, story)


def test_what_an_executor_cannot_keep_or_find_may_be_drawn_elsewhere(tmp_path: Path) -> None:
    node = Node(tmp_path, bytes_max=10)

    async def story() -> None:
        await node.start()
        for init_image, code in (
            (PNG[:-1] + b"x", "invalid_request"),
            (PNG, "init_images_full"),
            (b"", "init_image_gone"),
        ):
            report = await hosted(node, OFFLOAD, init_image)
            assert isinstance(report, AttemptFailed)
            assert (report.code, report.retryable) == (code, True)
        assert node.own_device.asked == []

    run(node, story)

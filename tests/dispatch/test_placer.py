"""What is remembered of a decision, and a policy that fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from tests.dispatch.one_node import Node, run


def test_decisions_and_outcomes_are_for_the_pool_and_latents_for_the_store(tmp_path: Path) -> None:
    node = Node(tmp_path, policy="lad_ts_plus")

    async def story() -> None:
        await node.start()
        first = await node.submit()
        await node.ended(first)
        # The slot ends by itself: nobody has to decide again for the latents to be written.
        while not node.snapshots:
            await asyncio.sleep(0.01)
        second = await node.submit()
        await node.ended(second)
        while len(node.pool.outcomes) < 2:
            await asyncio.sleep(0.01)
        cold, warm = node.pool.decisions
        assert (cold.decision_id, cold.steps, cold.index_in_slot) == (f"{first}/1.1", 2, 0)
        assert cold.observation.latent_B is None
        assert warm.slot > cold.slot
        kept = np.frombuffer(node.snapshots[0].latents[0], np.float32)
        assert warm.observation.latent_B is not None
        assert warm.observation.latent_B.tolist() == kept.tolist()
        assert kept.tolist() == pytest.approx(cold.decision.latent_B)
        assert [o.decision_id for o in node.pool.outcomes] == [f"{first}/1.1", f"{second}/1.1"]
        assert all(outcome.completed for outcome in node.pool.outcomes)
        assert warm.observation.traffic is not None
        assert warm.observation.traffic.mean_work == pytest.approx(warm.observation.work)
        shown = node.metrics.render().decode()
        assert 'dedgeai_latent_reads_total{found="no"} 1.0' in shown
        assert 'dedgeai_latent_reads_total{found="yes"} 1.0' in shown

    run(node, story)


def test_a_failing_policy_is_logged_once_and_costs_no_task(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path, policy="lad_ts_plus")

    def fail(observation: object) -> None:
        raise RuntimeError("out of weights")

    monkeypatch.setattr(node.policy, "decide", fail)

    async def story() -> None:
        await node.start()
        for _ in range(2):
            record = await node.ended(await node.submit())
            assert (record.status.value, record.policy) == ("completed", "slow_server_aware")

    run(node, story)
    assert [d.decision.reason for d in node.pool.decisions] == ["error", "error"]
    assert len([r for r in caplog.records if "the policy failed" in r.message]) == 1

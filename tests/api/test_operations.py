from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from edge_node import cli
from edge_node.domain import Learning, NodeId
from edge_node.learned_weights import LearnedWeights
from edge_node.snapshot import ClusterSnapshot, LearnerProgress
from scheduler.guard.status import GuardStatus
from scheduler.guard.verdict import ReplayVerdict
from tests.api.memory_front_desk import MemoryFrontDesk
from tests.api.served import served

STATUS = GuardStatus(
    wanted="lad_ts_plus",
    rule="ring",
    rules=("slow_server_aware", "ring"),
    deciding="ring",
    reason="replay: worse than ring by 4.0%",
    version="lad_ts_plus",
    pinned=False,
    decisions=400,
    learned_share=0.75,
    learned_share_total=0.9,
    verdict=ReplayVerdict(
        version="lad_ts_plus",
        rule="ring",
        rule_means_s={"slow_server_aware": 12.0, "ring": 10.0},
        judged_unix_s=1.7e9,
        tasks=400,
        failed=1,
        learned_mean_s=10.4,
        rule_mean_s=10.0,
        worse_low=0.02,
        worse_high=0.06,
    ),
    live_cycles=0,
    live_worse=None,
)


class GuardedFrontDesk(MemoryFrontDesk):
    def __init__(self, guard: GuardStatus | None) -> None:
        super().__init__()
        self._guard = guard

    def cluster(self) -> ClusterSnapshot:
        return replace(super().cluster(), guard=self._guard)


def cluster(guard: GuardStatus | None) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        async with served(GuardedFrontDesk(guard)) as node:
            answer: dict[str, Any] = (await node.http.get("/v1/cluster")).json()
            return answer

    return asyncio.run(ask())


def test_the_cluster_shows_who_decides_and_why() -> None:
    guard = cluster(STATUS)["guard"]
    assert (guard["wanted"], guard["deciding"]) == ("lad_ts_plus", "ring")
    assert (guard["rule"], guard["rules"]) == ("ring", ["slow_server_aware", "ring"])
    assert guard["reason"] == "replay: worse than ring by 4.0%"
    assert guard["replay"]["rule"] == "ring"
    assert guard["replay"]["rule_means_s"] == {"slow_server_aware": 12.0, "ring": 10.0}
    assert (guard["learned_share"], guard["learned_share_total"]) == (0.75, 0.9)
    assert guard["counts_as_learned"] is True
    assert abs(guard["replay"]["worse"] - 0.04) < 1e-9
    assert guard["live"] == {"cycles": 0, "worse": None}


def test_before_anything_is_known_the_cluster_says_so() -> None:
    young = replace(STATUS, verdict=None, learned_share=None, learned_share_total=None, decisions=0)
    guard = cluster(young)["guard"]
    assert (guard["replay"], guard["learned_share"]) == (None, None)
    assert guard["counts_as_learned"] is False


def test_a_rule_has_no_guard() -> None:
    assert cluster(None)["guard"] is None


class LearningFrontDesk(MemoryFrontDesk):
    def cluster(self) -> ClusterSnapshot:
        snapshot = super().cluster()
        weights = LearnedWeights(
            policy="lad_ts", version="lad_ts-3-ab", generation=3, sha256="ab" * 32, size_bytes=9
        )
        learning = Learning(
            policy="lad_ts", willing=True, learner=NodeId("node-0"), weights=weights
        )
        progress = LearnerProgress(entries={"a": 7, "b": 9}, decisions=5, updates=4)
        own = replace(snapshot.own, learning=learning)
        return replace(snapshot, own=own, learner=progress)


def test_the_cluster_shows_who_learns_and_from_whom() -> None:
    async def ask() -> dict[str, Any]:
        async with served(LearningFrontDesk()) as node:
            answer: dict[str, Any] = (await node.http.get("/v1/cluster")).json()
            return answer

    shown = asyncio.run(ask())
    assert shown["own"]["learning"] == {
        "policy": "lad_ts",
        "willing": True,
        "learner": "node-0",
        "weights": {"version": "lad_ts-3-ab", "generation": 3, "sha256": "ab" * 32},
    }
    assert shown["learner"] == {
        "entries": {"a": 7, "b": 9},
        "decisions": 5,
        "updates": 4,
        "refusal": None,
    }
    own = cluster(None)  # of a node that has said nothing of learning so far
    assert (own["learner"], own["own"]["learning"]) == (None, None)


def test_the_cluster_and_the_command_line_tell_of_one_version(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"dedgeai {cluster(None)['version']}\n"

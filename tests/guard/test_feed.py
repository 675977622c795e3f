"""Who decides in a node as configured, and what its learner process tells it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from edge_node.clock import SystemClock
from edge_node.config import NodeConfig
from edge_node.errors import InvalidRequest, StoreUnavailable
from edge_node.guard.deciding import policy_of
from edge_node.guard.feed import GuardFeed
from edge_node.guard.judge import Judge, JudgeSettings
from edge_node.store.connection import StoreConnection
from edge_node.store.verdicts import VerdictStore
from scheduler.experience import PooledDecision, RecordedDecision
from scheduler.guard.guard import Guard
from scheduler.observation import Observation, Traffic
from scheduler.policy import Decision, Outcome

SIZE = 3


class MemoryStore:
    """The two commands that the feed and the judge use."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[str, bytes]] = {}
        self.away = False

    async def execute(self, commands: list[tuple[Any, ...]], *, durable: bool) -> list[Any]:
        if self.away:
            raise StoreUnavailable("away")
        replies: list[Any] = []
        for name, key, *rest in commands:
            found = self.hashes.setdefault(key, {})
            if name == "HSET":
                pairs = zip(rest[::2], rest[1::2], strict=True)
                found |= {field: str(value).encode() for field, value in pairs}
                replies.append(1)
            elif name == "HMGET":
                replies.append([found.get(field) for field in rest])
            elif name == "HGETALL":
                replies.append({field.encode(): value for field, value in found.items()})
        return replies


def connection(store: MemoryStore) -> StoreConnection:
    return cast(StoreConnection, store)


def observation(work: float = 10.0) -> Observation:
    return Observation(
        node_ids=tuple(f"node-{index}" for index in range(SIZE)),
        local=0,
        work=work,
        input_bits=8000,
        backlog_B=np.zeros(SIZE),
        own_B=np.zeros(SIZE),
        capacity_B=np.array([4.0, 2.0, 1.0]),
        link_s_B=np.array([0.0, 0.01, 0.01]),
        staleness_s_B=np.zeros(SIZE),
        alive_B=np.ones(SIZE, np.bool_),
        traffic=Traffic(mean_work=10.0, load=0.5),
    )


def decisions(count: int, *, every_s: float = 8.0) -> list[PooledDecision]:
    recorded = RecordedDecision(
        decision_id="x/1",
        node_id="node-0",
        decided_unix_s=1e9,
        slot=0,
        index_in_slot=0,
        steps=10,
        observation=observation(),
        decision=Decision(choice=0, policy="slow_server_aware"),
    )
    return [
        PooledDecision(
            life="1",
            sequence=number,
            recorded=replace(recorded, decided_unix_s=1e9 + every_s * number, slot=number),
        )
        for number in range(count)
    ]


def guard_of(**settings: Any) -> Guard:
    policy = policy_of(NodeConfig(**settings), clock=SystemClock(), shared_s=time.monotonic)
    assert isinstance(policy, Guard)
    return policy


def test_a_rule_needs_no_guard() -> None:
    policy = policy_of(
        NodeConfig(policy="power_of_two"), clock=SystemClock(), shared_s=time.monotonic
    )
    assert not isinstance(policy, Guard)


def test_shipped_weights_are_trusted_and_others_are_not() -> None:
    assert guard_of(policy="lad_ts_plus", guard_window_s=1e12).status().reason == ""
    priced = guard_of(policy="lad_ts_plus", policy_options={"price": 0.35})
    assert priced.status().reason == "no verdict yet"
    assert priced.decide(observation()).policy == "ring"


def test_one_setting_pins_the_learned_policy() -> None:
    guard = guard_of(policy="lad_ts_plus", policy_options={"price": 0.35}, pin_policy=True)
    decision = guard.decide(observation())
    assert (decision.policy, decision.reason) == ("lad_ts_plus", "pinned")


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        (("ring", "lad_ts_plus"), "lad_ts_plus is learned; name rules"),
        (("nothing_known",), "unknown policy 'nothing_known'"),
        (("ring", "local", "ring"), "ring, local, ring name a rule twice"),
    ],
)
def test_a_guard_needs_rules(rules: tuple[str, ...], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as refused:
        guard_of(policy="lad_ts_plus", guard_rules=rules)
    assert refused.value.param == "guard_rules"


def test_the_former_setting_is_a_single_rule(caplog: pytest.LogCaptureFixture) -> None:
    guard = guard_of(policy="lad_ts_plus", guard_rule="least_queue")
    assert (guard.rule, guard.status().rules) == ("least_queue", ("least_queue",))
    assert "write guard_rules = ['least_queue']" in caplog.text
    assert guard_of(policy="lad_ts_plus").status().rules == NodeConfig().guard_rules


def test_two_of_the_rules_are_meant_for_clusters_where_several_decide() -> None:
    # node-0 holds 3 of others, node-1 two of this node's own: for two dispatchers those are four.
    seen = replace(
        observation(1.0),
        backlog_B=np.array([3.0, 0.0, 900.0]),
        own_B=np.array([0.0, 2.0, 0.0]),
        capacity_B=np.array([1.0, 1.0, 1e-9]),
        link_s_B=np.zeros(SIZE),
        dispatchers=2,
    )
    for name in ("power_of_two", "least_expected_delay"):
        guard = guard_of(policy="lad_ts", guard_rules=(name,))
        # By capacity the third is never drawn.
        assert {guard.decide(seen).choice for _ in range(50)} == {0}


def feed_of(guard: Guard, store: MemoryStore) -> GuardFeed:
    return GuardFeed(
        guard,
        connection(store),
        node_id="node-0",
        takes_weights=True,
        rng=np.random.default_rng(0),
    )


def test_a_verdict_reaches_the_guard() -> None:
    store = MemoryStore()
    guard = guard_of(policy="lad_ts_plus", policy_options={"start": "ring"}, guard_window_s=1e12)
    settings = JudgeSettings(
        policy="lad_ts_plus", rules=("slow_server_aware",), policy_options={"start": "ring"}
    )
    judge = Judge(settings, VerdictStore(connection(store), node_id="node-0"))

    async def learn() -> None:
        await judge.look(None, now_s=0.0, unix_s=1e9)
        assert not store.hashes  # there is nothing to judge
        for entry in decisions(150):
            judge.add(entry)
        await judge.look(None, now_s=100.0, unix_s=1e9 + 100.0)
        await feed_of(guard, store).look()

    asyncio.run(learn())
    status = guard.status()
    assert status.verdict is not None
    assert (status.verdict.version, status.verdict.tasks) == ("lad_ts_plus:start=ring", 150)


def test_judgements_keep_their_distance() -> None:
    store = MemoryStore()
    judge = Judge(
        JudgeSettings(policy="lad_ts_plus", rules=("slow_server_aware", "ring"), every_s=30.0),
        VerdictStore(connection(store), node_id="node-0"),
    )
    times: list[bytes] = []

    async def learn() -> None:
        for entry in decisions(120):
            judge.add(entry)
        for now_s in (0.0, 10.0, 31.0, 62.0):
            store.hashes.clear()
            await judge.look(None, now_s=now_s, unix_s=now_s)
            times.append(store.hashes.get("dedgeai:node-0:verdict", {}).get("verdict", b""))
            if now_s == 10.0:
                judge.add(decisions(121)[-1])

    asyncio.run(learn())
    # Not before its time, and not without a new decision.
    assert [bool(one) for one in times] == [True, False, True, False]


def test_the_best_rule_reaches_the_guard_and_outlives_the_learner(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    store = MemoryStore()
    # `local` is in force first, and waits at one of three nodes.
    rules = ("local", "slow_server_aware", "random")
    # What was configured otherwise than it ships is trusted by nobody.
    guard = guard_of(policy="lad_ts", policy_options={"start": "zero"}, guard_rules=rules)
    assert (guard.rule, guard.decide(observation()).policy) == ("local", "local")

    def judge_of(policy: str) -> Judge:
        settings = JudgeSettings(policy=policy, rules=rules, window_tasks=400)
        return Judge(settings, VerdictStore(connection(store), node_id="node-0"))

    async def learn() -> None:
        first = judge_of("lad_ts")
        for entry in decisions(400, every_s=2.0):
            first.add(entry)
        await first.look(None, now_s=0.0, unix_s=1e9)
        await feed_of(guard, store).look()
        assert (guard.rule, guard.decide(observation()).policy) == ("slow_server_aware",) * 2
        # Another life begins with the rule of the former, though it could not choose one yet.
        second = judge_of("lad_ts_plus")
        for entry in decisions(150, every_s=2.0):
            second.add(entry)
        await second.look(None, now_s=0.0, unix_s=1e9 + 1.0)
        await feed_of(guard, store).look()

    asyncio.run(learn())
    assert guard.rule == "slow_server_aware"
    assert "the best rule is slow_server_aware now, and was local" in caplog.text
    assert caplog.text.count("the rule that stands in is slow_server_aware now, and was local") == 1
    assert "rules on those before: local" in caplog.text
    assert "rules on those before: too few" in caplog.text


def test_a_rule_that_is_no_candidate_any_more_is_not_gone_on_with() -> None:
    store = MemoryStore()
    found: list[str] = []

    async def learn() -> None:
        for rules in (("random",), ("local", "ring")):
            verdicts = VerdictStore(connection(store), node_id="node-0")
            judge = Judge(JudgeSettings(policy="lad_ts_plus", rules=rules), verdicts)
            for entry in decisions(120):
                judge.add(entry)
            await judge.look(None, now_s=0.0, unix_s=1e9)
            verdict = await verdicts.read()
            assert verdict is not None
            found.append(verdict.rule)

    asyncio.run(learn())
    assert found == ["random", "local"]


def test_nothing_is_compared_where_devices_take_half_drawn_tasks_from_each_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    verdicts = VerdictStore(connection(MemoryStore()), node_id="node-0")
    settings = JudgeSettings(policy="lad_ts_plus", rules=("ring",), window_tasks=400)
    judge = Judge(settings, verdicts)

    def ended(number: int, attempt: int) -> Outcome:
        name = f"t{number}/2.{attempt}"
        return Outcome(decision_id=name, service_delay_s=5.0, completed=True)

    for number, entry in enumerate(decisions(120)):
        named = replace(entry.recorded, decision_id=f"t{number}/2.1")
        judge.add(replace(entry, recorded=named))
        judge.add(ended(number, 1))
    assert judge.judge(None, in_force="ring", unix_s=1e9) is not None
    for number in range(12):
        judge.add(ended(number, 2))
    for _ in range(2):
        assert judge.judge(None, in_force="ring", unix_s=1e9) is None
    assert caplog.text.count("no replays: 10 % of tasks went on elsewhere half drawn") == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"format": "1", "verdict": "damaged"},
        {"format": "9", "verdict": "{}"},
    ],
)
def test_what_cannot_be_used_changes_nothing(fields: dict[str, str]) -> None:
    store = MemoryStore()
    guard = guard_of(policy="lad_ts_plus", guard_window_s=1e12)
    feed = feed_of(guard, store)

    async def look() -> None:
        store.hashes["dedgeai:node-0:verdict"] = {k: v.encode() for k, v in fields.items()}
        await feed.look()
        store.hashes["dedgeai:node-0:verdict"].clear()
        store.hashes["dedgeai:node-0:published"] = {"policy": b"lad_ts"}
        await feed.look()
        store.away = True
        await feed.look()

    asyncio.run(look())
    assert guard.status().reason == ""

"""What is learning as one cluster worth in the first hour on devices that are not as believed?

Five Orins in mixed modes, in emulated time and without processes: the live policies decide on
observations as live nodes make them, and the live learner, its check of new weights, the guards and
the judge run as the learner process runs them. The cluster's traits are none that the shipped
weights saw: one device takes half the believed time for large tasks, and steps are heavy-tailed.
The same requests go to

- *shipped*: LAD-TS with the weights that it starts from;
- *learning*: the same, and every publication decides at once on all nodes;
- *guarded*: the same, and guards let weights decide as live, after a verdict on all nodes'
  decisions;
- each of the guard's rules.

Delay in seconds by windows of ten minutes, when the first weights were published and when they
first decided.

    python -m benchmarks.cluster_learning --seeds 5
"""

from __future__ import annotations

import argparse
import heapq
import json
import logging
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import machine
from benchmarks.cluster_delay import MIXED, RESULTS
from benchmarks.cluster_twin import SECONDS, Request, poisson
from edge_node.tasks.slots import SlotMemory, SlotSettings
from edge_node.tasks.traffic import AcceptedWork
from scheduler import checkpoint
from scheduler.checkpoint import BETTER_THAN, Checkpoint, version_of
from scheduler.experience import PooledDecision, RecordedDecision
from scheduler.guard import live_replay
from scheduler.guard.candidates import PolicyFactory, rule_factories
from scheduler.guard.guard import Guard, GuardSettings
from scheduler.guard.service_times import ServiceTimes
from scheduler.learning.live_learner import LiveLearner, shipped
from scheduler.learning.publication import Refused, consider
from scheduler.observation import FloatArray, Observation, Traffic
from scheduler.policies.lad_ts_policy import Chain, LadTs, weights_of
from scheduler.policy import Outcome, Policy
from scheduler.simulator.statistics import student_quantile

RULES = ("slow_server_aware", "power_of_two", "least_expected_delay", "ring")
LOAD = 0.8
WINDOW_S = 600.0
# The device that takes half the believed time for tasks of more steps.
FAST_DEVICE, LARGE_STEPS = 3, 8
STATE_AGE_S = 0.05
LINK_S = 0.01
# Between two attempts to publish, as live, and between two judgements.
PUBLISH_EVERY_S = 180.0
GUARD_WINDOW_TASKS = 2000
TRAFFIC_S = 60.0
PRIOR_SERVICES = 10.0
NODE_IDS = tuple(f"node-{index}" for index in range(len(MIXED.profiles)))


@dataclass(kw_only=True)
class Queue:
    """A device: tasks in the order of arrival, and when each is done."""

    free_s: float = 0.0
    # (placed, end, seconds of service, work, origin)
    tasks: deque[tuple[float, float, float, float, int]] = field(default_factory=deque)

    def add(self, now_s: float, service_s: float, work: float, origin: int, link_s: float) -> float:
        """Takes a task; returns when it is done."""
        self.free_s = max(self.free_s, now_s + link_s) + service_s
        self.tasks.append((now_s, self.free_s, service_s, work, origin))
        return self.free_s

    def seen(self, now_s: float, age_s: float, by: int) -> tuple[float, float, float]:
        """Backlog as a report so old has it, own work that it lacks, and its tasks."""
        while self.tasks and self.tasks[0][1] <= now_s:
            self.tasks.popleft()
        backlog = own = queued = 0.0
        for placed_s, end_s, service_s, work, origin in self.tasks:
            if placed_s <= now_s - age_s:
                backlog += work * min(1.0, (end_s - now_s) / service_s)
                queued += 1.0
            elif origin == by:
                own += work
        return backlog, own, queued


class Nodes:
    """Five nodes that decide, each with its policy, its latents and the same devices.

    Args:
        policies: one of each node.
        told: hears of every decision, and of outcomes at their time.
        tick: called every PUBLISH_EVERY_S of emulated time.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        *,
        told: Callable[[PooledDecision | Outcome], None] = lambda entry: None,
        tick: Callable[[float], None] = lambda now_s: None,
    ) -> None:
        self.policies = list(policies)
        self._told, self._tick = told, tick
        self._queues = [Queue() for _ in NODE_IDS]
        self._memories = [SlotMemory(SlotSettings(), now_s=0.0) for _ in NODE_IDS]
        self._accepted = AcceptedWork(constant_s=TRAFFIC_S, began_s=0.0)
        self._sequences = [0] * len(NODE_IDS)
        self._ends: list[tuple[float, int, Outcome, int]] = []
        self._capacity_B = np.array(MIXED.capacities)
        self.now_s = 0.0

    def serve(self, requests: Sequence[Request]) -> FloatArray:
        """Service delay of each request, seconds."""
        delay_s_N = np.empty(len(requests))
        next_tick_s = PUBLISH_EVERY_S
        for number, request in enumerate(requests):
            while next_tick_s <= request.at_s:
                self._pass(next_tick_s)
                self._tick(next_tick_s)
                next_tick_s += PUBLISH_EVERY_S
            self._pass(request.at_s)
            delay_s_N[number] = self._place(number, request)
        return delay_s_N

    def _pass(self, now_s: float) -> None:
        self.now_s = now_s
        while self._ends and self._ends[0][0] <= now_s:
            _, _, outcome, origin = heapq.heappop(self._ends)
            self.policies[origin].record(outcome)
            self._told(outcome)

    def _place(self, number: int, request: Request) -> float:
        now_s, origin = request.at_s, request.origin
        work = request.steps + MIXED.fixed_steps
        self._accepted.accepted(work, now_s=now_s)
        memory = self._memories[origin]
        mean_work = self._accepted.mean_work() or work
        service_s = mean_work * len(NODE_IDS) / float(self._capacity_B.sum())
        memory.advance(now_s=now_s, service_s=lambda: service_s)
        nth = memory.place()
        seen = self._observation(request, work, mean_work, memory.recall(nth, NODE_IDS))
        decision = self.policies[origin].decide(seen)
        memory.decided(nth, NODE_IDS, decision)
        server = decision.choice
        link_s = float(seen.link_s_B[server])
        true_s = work / MIXED.capacities[server]
        if server == FAST_DEVICE and request.steps > LARGE_STEPS:
            true_s /= 2.0
        end_s = self._queues[server].add(now_s, true_s, work, origin, link_s)
        recorded = RecordedDecision(
            decision_id=f"t{number}/1",
            node_id=NODE_IDS[origin],
            decided_unix_s=now_s,
            slot=nth.slot,
            index_in_slot=nth.index,
            steps=request.steps,
            observation=seen,
            decision=decision,
        )
        if isinstance(guard := self.policies[origin], Guard):
            guard.note_decision(recorded)
        sequence = self._sequences[origin]
        self._sequences[origin] += 1
        life = f"{origin:014d}-0"
        self._told(PooledDecision(life=life, sequence=sequence, recorded=recorded))
        delay_s = end_s - now_s
        outcome = Outcome(decision_id=recorded.decision_id, service_delay_s=delay_s, completed=True)
        heapq.heappush(self._ends, (end_s, number, outcome, origin))
        return delay_s

    def _observation(
        self, request: Request, work: float, mean_work: float, latent_B: FloatArray | None
    ) -> Observation:
        now_s, own = request.at_s, request.origin
        away_B = np.arange(len(NODE_IDS)) != own
        staleness_s_B = STATE_AGE_S * away_B
        rows = [
            queue.seen(now_s, float(age_s), own)
            for queue, age_s in zip(self._queues, staleness_s_B, strict=True)
        ]
        backlog_B, own_B, queued_B = np.array(rows).T
        capacity = float(self._capacity_B.sum())
        prior_s = PRIOR_SERVICES * mean_work * len(NODE_IDS) / capacity
        measured = self._accepted.work_s(now_s=now_s) / capacity
        return Observation(
            node_ids=NODE_IDS,
            local=own,
            work=work,
            input_bits=8000,
            backlog_B=backlog_B,
            own_B=own_B,
            capacity_B=self._capacity_B,
            link_s_B=LINK_S * away_B,
            staleness_s_B=staleness_s_B,
            alive_B=np.ones(len(NODE_IDS), np.bool_),
            dispatchers=len(NODE_IDS),
            latent_B=latent_B,
            queued_B=queued_B,
            traffic=Traffic(
                mean_work=mean_work,
                load=(measured * now_s + prior_s) / (now_s + prior_s),
                report_period_s=2.0 * STATE_AGE_S,
            ),
        )


class Learning:
    """The learner process of one arm, in emulated time.

    Args:
        start: weights to start from.
        folder: gets what is published.
        guarded: weights decide after a verdict.
        seed: of everything drawn.

    Attributes:
        published_s: when each publication was made.
        decided_s: when published weights first decided; None if never.
        refusals: of that check.
    """

    def __init__(self, start: Checkpoint, folder: Path, *, guarded: bool, seed: int) -> None:
        self._seed, self._folder = seed, folder
        self._path: Path | None = None
        self._learner = LiveLearner({}, start=start, outcome_wait_s=7200.0, seed=seed)
        self._present = start
        self._rules = rule_factories(RULES)
        self._newest: deque[PooledDecision] = deque(maxlen=GUARD_WINDOW_TASKS)
        self._times = ServiceTimes(tasks_max=GUARD_WINDOW_TASKS)
        self._in_force = RULES[0]
        self._judgements = 0
        self._started = version_of(start)
        self.published_s: list[float] = []
        self.decided_s: float | None = None
        self.learned = self.decisions = 0
        self.refusals: list[str] = []
        policies: list[Policy] = [
            self._guard(node) if guarded else policy_of(start, seed=seed, node=node)
            for node in range(len(NODE_IDS))
        ]
        self.nodes = Nodes(policies, told=self._hear, tick=self._tick)

    def _guard(self, node: int) -> Guard:
        rng = np.random.default_rng([self._seed, 7, node])
        version = version_of(self._present)
        settings = GuardSettings(
            wanted="lad_ts",
            rules=RULES,
            window_tasks=GUARD_WINDOW_TASKS,
            # A machine that is busy with other things says nothing of the policy.
            decision_budget_s=1.0,
            trusted_versions=frozenset({version}),
        )
        return Guard(
            settings,
            learned=policy_of(self._present, seed=self._seed, node=node),
            version=version,
            rules={name: make(rng) for name, make in self._rules.items()},
            now_s=lambda: self.nodes.now_s,
            shared_s=lambda: self.nodes.now_s,
        )

    def _hear(self, entry: PooledDecision | Outcome) -> None:
        self._learner.add(entry)
        self._times.add(entry)
        if isinstance(entry, PooledDecision):
            self._newest.append(entry)
            decision = entry.recorded.decision
            self.decisions += 1
            self.learned += decision.policy == "lad_ts"
            by_published = decision.weights_version not in (None, self._started)
            if by_published and self.decided_s is None:
                self.decided_s = self.nodes.now_s

    def _tick(self, now_s: float) -> None:
        while self._learner.update():
            pass
        self._publish(now_s)
        if isinstance(self.nodes.policies[0], Guard):
            self._judge(now_s)

    def _publish(self, now_s: float) -> None:
        if self._learner.actor_updates == 0:
            return
        generation = len(self.published_s) + 1
        try:
            new = consider(self._learner, published=self._path, generation=generation)
        except Refused as refusal:
            self.refusals.append(str(refusal))
            return
        self._present = new
        self._path = self._folder / f"{generation}.safetensors"
        checkpoint.save(self._path, new)
        self.published_s.append(now_s)
        for node, policy in enumerate(self.nodes.policies):
            fresh = policy_of(new, seed=self._seed, node=node)
            if isinstance(policy, Guard):
                policy.swap_learned(
                    fresh, version_of(new), better_than=str(new.info.scenario[BETTER_THAN])
                )
            else:
                self.nodes.policies[node] = fresh

    def _judge(self, now_s: float) -> None:
        self._judgements += 1
        verdict = live_replay.judge(
            self._newest,
            window_tasks=GUARD_WINDOW_TASKS,
            version=version_of(self._present),
            learned=lambda rng: policy_of(self._present, rng=rng),
            rules=self._rules,
            in_force=self._in_force,
            judged_unix_s=now_s,
            factors=self._times.factors(),
            seed=10 * (self._seed + self._judgements),
        )
        if verdict is not None:
            self._in_force = verdict.rule
            for policy in self.nodes.policies:
                assert isinstance(policy, Guard)
                policy.judged(verdict)


def policy_of(
    weights: Checkpoint, *, seed: int = 0, node: int = 0, rng: np.random.Generator | None = None
) -> LadTs:
    """What a node makes of weights."""
    named = replace(weights_of(weights, Path("weights")), version=version_of(weights))
    rng = np.random.default_rng([seed, 5, node]) if rng is None else rng
    return LadTs(rng=rng, weights=named, chain=Chain())


def by_rule(make: PolicyFactory, requests: Sequence[Request], seed: int) -> FloatArray:
    """Delays where all nodes follow a rule."""
    policies = [make(np.random.default_rng([seed, 9, node])) for node in range(len(NODE_IDS))]
    return Nodes(policies).serve(requests)


def measured(start: Checkpoint, seed: int) -> dict[str, Any]:
    """All arms on one hour of requests."""
    requests = poisson(MIXED, load=LOAD, seed=seed, heavy=True)
    at_s_N = np.array([one.at_s for one in requests])
    window_N = (at_s_N // WINDOW_S).astype(int)
    delays = {name: by_rule(make, requests, seed) for name, make in rule_factories(RULES).items()}
    fixed = [policy_of(start, seed=seed, node=node) for node in range(len(NODE_IDS))]
    delays["shipped"] = Nodes(fixed).serve(requests)
    about: dict[str, Any] = {}
    for name, guarded in (("learning", False), ("guarded", True)):
        with tempfile.TemporaryDirectory() as folder:
            arm = Learning(start, Path(folder), guarded=guarded, seed=seed)
            delays[name] = arm.nodes.serve(requests)
        about[name] = {
            "published_s": arm.published_s,
            "first_decided_s": arm.decided_s,
            "learned_share": arm.learned / max(arm.decisions, 1),
            "refusals": arm.refusals[-3:],
            "updates": arm._learner.updates,
        }
    return {
        "seed": seed,
        "tasks": len(requests),
        "mean_s": {name: float(one.mean()) for name, one in delays.items()},
        "window_mean_s": {
            name: [
                float(one[window_N == window].mean()) for window in range(int(SECONDS // WINDOW_S))
            ]
            for name, one in delays.items()
        },
        **about,
    }


def show(row: dict[str, Any]) -> None:
    """One seed, by windows."""
    print(f"seed {row['seed']}, {row['tasks']} tasks; published first at", end=" ")
    print(row["learning"]["published_s"][:1], "decided first, guarded, at", end=" ")
    print(row["guarded"]["first_decided_s"], f"share {row['guarded']['learned_share']:.2f}")
    for name, means in row["window_mean_s"].items():
        cells = " ".join(f"{mean:7.2f}" for mean in means)
        print(f"  {name:22s} {cells}   hour {row['mean_s'][name]:.3f}", flush=True)


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="weights to start from; those that ship if not")
    parser.add_argument("--json", type=Path, default=RESULTS / "cluster_learning.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    start = shipped() if options.start is None else checkpoint.load(options.start, kind="policy")
    rows: list[dict[str, Any]] = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        rows.append(measured(start, seed))
        show(rows[-1])
        options.json.write_text(json.dumps(told(rows, start), indent=1) + "\n")
    print(json.dumps(told(rows, start)["against_shipped"], indent=1))


def told(rows: list[dict[str, Any]], start: Checkpoint) -> dict[str, Any]:
    """What the result file says."""
    return {
        "question": "delay in the first hour of learning as one cluster, simulated",
        "settings": {
            "load": LOAD,
            "devices": MIXED.profiles,
            "fast_device": FAST_DEVICE,
            "large_steps": LARGE_STEPS,
            "start": version_of(start),
        },
        "against_shipped": {
            name: against_shipped(rows, name) for name in ("guarded", "learning", *RULES)
        },
        "first_published_s": [row["guarded"]["published_s"][:1] for row in rows],
        "first_decided_s": [row["guarded"]["first_decided_s"] for row in rows],
        "seeds": rows,
        "machine": machine.describe(),
    }


def against_shipped(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Delay over the shipped weights' - 1, with the 95 % interval over seeds, paired."""

    def of(gap_R: list[float]) -> dict[str, float]:
        gaps, runs = np.array(gap_R), len(gap_R)
        half = float("nan")
        if runs > 1:
            half = student_quantile(0.975, runs - 1) * float(gaps.std(ddof=1)) / runs**0.5
        return {"mean": float(gaps.mean()), "low": gaps.mean() - half, "high": gaps.mean() + half}

    def gap(row: dict[str, Any], window: int) -> float:
        means = row["window_mean_s"]
        return float(means[name][window] / means["shipped"][window] - 1.0)

    windows = range(int(SECONDS // WINDOW_S))
    return {
        "hour": of([row["mean_s"][name] / row["mean_s"]["shipped"] - 1.0 for row in rows]),
        "windows": [of([gap(row, window) for row in rows]) for window in windows],
    }


if __name__ == "__main__":
    main()

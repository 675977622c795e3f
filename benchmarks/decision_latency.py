"""How long does one placement decision take?

LAD-TS with 20 servers, 5 denoising steps and 20 hidden features, as torch (one decision at a time,
as the published code decides), as the node's numpy policy, and compiled for one or for many
decisions; beside it every rule of the registry on the same observation. One thread; the weights
are those that training starts with, for their values change no time.

The rows "in the node" are whole decisions as edge_node makes them, with 5, 20 and 40 nodes: this
node's own state with tasks in its queue, the latent read, cluster view to observation, the policy,
and the booking. Before each, every peer has sent its state and the last dispatch has ended, which
is not counted. The target is 150 us among 5 and 500 us among 40, with lad_ts too.

    python -m benchmarks.decision_latency
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import machine
from benchmarks.unbatched_agents import SoftAgent
from edge_node.domain import Drawing, Fence, NodeId, NodeState, Offload, Task, TaskId
from edge_node.tasks.cluster_view import ClusterView
from edge_node.tasks.hosting import Hosting, HostingLimits, OffloadReceived
from edge_node.tasks.placement import place
from edge_node.tasks.slots import SlotMemory, SlotSettings
from scheduler import registry
from scheduler.algorithms.published_lad_ts import PublishedLadTs, PublishedLadTsConfig
from scheduler.checkpoint import CheckpointInfo, InvalidCheckpoint
from scheduler.learning.compiled_actor import CompiledActor
from scheduler.learning.diffusion import variance_preserving
from scheduler.learning.noise import NoiseSource
from scheduler.observation import Observation
from scheduler.policies.published_lad_ts import PublishedLadTsPolicy
from scheduler.simulator import scenarios
from scheduler.simulator.workload import capacities

RESULTS = Path(__file__).parent / "results"
SERVERS, STATE = 20, 22
BATCHES = (20, 500)  # samples of each agent at once
CLUSTERS = (5, 20, 40)
HOSTED = 20  # tasks in the node's own queue
DRAWING = Drawing(
    prompt="a boat", width_px=512, height_px=512, steps=15, guidance_scale=5.0, seed=1, model="m"
)


def per_call_us(call: Callable[[], object], *, seconds: float) -> dict[str, float]:
    """Median and best of several short bursts, microseconds of wall time."""
    call()
    start_s = time.perf_counter()
    call()
    burst = max(1, int(0.005 / (time.perf_counter() - start_s)))
    times = []
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        start_s = time.perf_counter()
        for _ in range(burst):
            call()
        times.append((time.perf_counter() - start_s) / burst * 1e6)
    return {"median_us": float(np.median(times)), "best_us": min(times)}


def observation(servers: int = SERVERS) -> Observation:
    """A cluster in mid-run."""
    rng = np.random.default_rng(0)
    return Observation(
        node_ids=tuple(f"node-{index:02d}" for index in range(servers)),
        local=3,
        work=1.6,
        input_bits=3_500_000,
        backlog_B=rng.uniform(0.0, 300.0, servers),
        own_B=rng.uniform(0.0, 10.0, servers),
        capacity_B=capacities(scenarios.get("default").replace(servers=servers)),
        link_s_B=rng.uniform(0.005, 0.015, servers),
        staleness_s_B=rng.uniform(0.0, 1.0, servers),
        alive_B=np.ones(servers, np.bool_),
        latent_B=np.full(servers, 1.0 / servers),
    )


def lad_ts_calls() -> dict[str, tuple[Callable[[], object], int]]:
    """By name: a call, and how many decisions it makes."""
    learner = PublishedLadTs(scenarios.get("default"), PublishedLadTsConfig(), seed=0)
    info = CheckpointInfo(
        kind="policy",
        policy="lad_ts_published",
        scenario={},
        config={},
        seed=0,
        episodes=0,
        code_version="",
    )
    policy = PublishedLadTsPolicy(
        info, learner.export(), station=None, evaluation="sample", rng=np.random.default_rng(0)
    )
    peer = SoftAgent(STATE, SERVERS, diffusion=True)
    actor, noise = CompiledActor(learner.actor, variance_preserving(5)), NoiseSource(0)
    rng, seen = np.random.default_rng(0), observation()
    state, latent = rng.standard_normal(STATE), rng.standard_normal(SERVERS)
    single_state, single_latent = state.astype(np.float32), latent.astype(np.float32)
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "torch, one by one": (lambda: peer.decide(state, latent), 1),
        "numpy policy": (lambda: policy.decide(seen), 1),
        "compiled, one by one": (lambda: actor.one(3, single_latent, single_state, noise), 1),
    }
    for batch in BATCHES:
        start = torch.randn(1, SERVERS, SERVERS, batch)
        states = torch.randn(1, SERVERS, STATE, batch)
        calls[f"compiled, {SERVERS} x {batch} at once"] = (
            partial(actor.run, start, states, noise),
            SERVERS * batch,
        )
    return calls


class DecidingNode:
    """The pure parts of a node that take part in a decision, among `nodes` nodes."""

    def __init__(self, policy: str, nodes: int) -> None:
        self._node_ids = [NodeId(f"node-{index:02d}") for index in range(nodes)]
        self._view = ClusterView(own_id=self._node_ids[0], incarnation=1)
        self._memory = SlotMemory(SlotSettings(slot_s=1.0), now_s=0.0)
        self._policy = registry.create(policy, rng=np.random.default_rng(0))
        self._hosting = Hosting(HostingLimits())
        self._rng = np.random.default_rng(0)
        self._now_s, self._sequence = 0.0, 0
        for number in range(1, HOSTED + 1):
            self._hosting.handle(OffloadReceived(offload=self._offload(number)))
        self._task = Task(
            id=TaskId("node-00-1"),
            job_id=None,
            drawing=DRAWING,
            work=15.7,
            input_bits=800,
            created_unix_s=0.0,
        )
        self._states_arrive()

    def decide_us(self) -> float:
        """Microseconds of one decision."""
        self._now_s += 0.01
        self._states_arrive()
        start_s = time.perf_counter()
        now_s, view, memory = self._now_s, self._view, self._memory
        view.state_received(self._state(self._node_ids[0], self._hosting.backlog), now_s=now_s)
        memory.advance(now_s=now_s, service_s=lambda: view.service_s(now_s=now_s))
        nth = memory.place()
        placement = place(
            self._task,
            avoided=frozenset(),
            view=view,
            policy=self._policy,
            now_s=now_s,
            recall=lambda node_ids: memory.recall(nth, node_ids),
        )
        assert placement is not None
        memory.decided(nth, placement.observation.node_ids, placement.decision)
        seconds = time.perf_counter() - start_s
        view.task_accepted(self._task.work, model=self._task.drawing.model, now_s=now_s)
        view.dispatch_ended(placement.executor, placement.dispatch)
        return seconds * 1e6

    def _offload(self, number: int) -> Offload:
        return Offload(
            task_id=TaskId(f"node-01-{number}"),
            fence=Fence(1, 1),
            origin=self._node_ids[1],
            incarnation=1,
            dispatch=number,
            drawing=DRAWING,
            work=15.7,
        )

    def _states_arrive(self) -> None:
        self._sequence += 1
        for node_id in self._node_ids:
            backlog = float(self._rng.uniform(0.0, 300.0))
            self._view.state_received(self._state(node_id, backlog), now_s=self._now_s)

    def _state(self, node_id: NodeId, backlog: float) -> NodeState:
        return NodeState(
            node_id=node_id,
            incarnation=1,
            sequence=self._sequence,
            backlog=backlog,
            capacity=3.0,
            model="m",
            accepting=True,
            queued=self._hosting.queued,
            running=self._hosting.running,
            dispatches_seen=self._hosting.dispatches_seen,
            accepted_work_s=2.0,
        )


def in_the_node(policy: str, nodes: int, *, seconds: float) -> dict[str, float]:
    """Whole decisions; microseconds of wall time."""
    node = DecidingNode(policy, nodes)
    end_s = time.perf_counter() + seconds
    times: list[float] = []
    while time.perf_counter() < end_s:
        times.append(node.decide_us())
    return {"median_us": float(np.median(times)), "best_us": min(times)}


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict[str, Any]] = {}
    seen = observation()
    calls = {f"lad_ts_published: {name}": call for name, call in lad_ts_calls().items()}
    for name in registry.names():
        try:
            policy = registry.create(name, rng=np.random.default_rng(0))
        except InvalidCheckpoint as error:
            print(f"{name} is left out: {error}")
            continue
        calls[name] = (partial(policy.decide, seen), 1)
    for servers in CLUSTERS:
        policy = registry.create("lad_ts", rng=np.random.default_rng(0))
        calls[f"lad_ts among {servers}"] = (partial(policy.decide, observation(servers)), 1)
    print(f"{'':<34}{'median':>12}{'best':>12}   us per decision")
    for name, (call, decisions) in calls.items():
        measured = per_call_us(call, seconds=options.seconds)
        results[name] = {key: value / decisions for key, value in measured.items()}
        row = results[name]
        print(f"{name:<34}{row['median_us']:>12.2f}{row['best_us']:>12.2f}", flush=True)
    for rule, nodes in itertools.product(("slow_server_aware", "lad_ts_plus", "lad_ts"), CLUSTERS):
        name = f"in the node, {nodes}: {rule}"
        row = results[name] = in_the_node(rule, nodes, seconds=options.seconds)
        print(f"{name:<34}{row['median_us']:>12.2f}{row['best_us']:>12.2f}", flush=True)
    written = {
        "question": "wall time of one placement decision among 20 servers, one thread; where "
        "it is said among as many as are named, and in the node",
        "results": results,
        "machine": machine.describe(),
    }
    (RESULTS / "decision_latency.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()

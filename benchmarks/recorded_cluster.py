"""A simulated cluster of live policies that writes down what real nodes would."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scheduler.experience import RecordedDecision
from scheduler.observation import Observation, Traffic
from scheduler.policy import Policy
from scheduler.simulator.queueing import FloatArray, drain, work_off_s
from scheduler.simulator.workload import Episode


def run_cluster(
    episode: Episode,
    policy_of: Callable[[int], Policy],
    *,
    age_s: float,
    slot_s: float = 3.5,
) -> tuple[list[RecordedDecision], FloatArray]:
    """Decisions of all stations in order, and the true service delay of each, seconds, (N,)."""
    servers = episode.servers
    policies = [policy_of(station) for station in range(servers)]
    queue_B = np.zeros(servers)
    sent: list[tuple[float, int, int, float]] = []
    latents: dict[tuple[int, int], FloatArray] = {}
    counts: dict[tuple[int, int], int] = {}
    records, delay_s_N, now_s = [], np.empty(episode.tasks), 0.0
    mean_work = float(episode.work_N.mean())
    for task in range(episode.tasks):
        at_s, station = float(episode.arrival_s_N[task]), int(episode.origin_N[task])
        drain(queue_B, now_s, at_s, episode.since_s_K, episode.capacity_KB)
        now_s = at_s
        sent = [one for one in sent if one[0] > at_s - age_s]
        others_B, own_B = np.zeros(servers), np.zeros(servers)
        for _, node, server, sent_work in sent:
            if server != station:
                (own_B if node == station else others_B)[server] += sent_work
        stretch = int(np.searchsorted(episode.since_s_K, at_s, side="right")) - 1
        capacity_B = episode.capacity_KB[stretch]
        rate_B = episode.link_mbit_s_B
        link_s_B = episode.result_mbit_N[task] / rate_B + np.where(
            np.arange(servers) == station, 0.0, episode.input_mbit_N[task] / rate_B
        )
        slot = int(at_s / slot_s)
        index = counts.get((station, slot), 0)
        counts[station, slot] = index + 1
        work = float(episode.work_N[task])
        observation = Observation(
            node_ids=tuple(f"node-{server}" for server in range(servers)),
            local=station,
            work=work,
            input_bits=int(episode.input_mbit_N[task] * 1e6),
            backlog_B=np.maximum(queue_B - own_B - others_B, 0.0),
            own_B=own_B,
            capacity_B=capacity_B.copy(),
            link_s_B=link_s_B,
            staleness_s_B=np.where(np.arange(servers) == station, 0.0, age_s),
            alive_B=capacity_B > 0.0,
            dispatchers=servers,
            latent_B=latents.get((station, index)),
            traffic=Traffic(
                mean_work=mean_work, load=episode.scenario.load or 1.0, report_period_s=age_s
            ),
        )
        decision = policies[station].decide(observation)
        if decision.latent_B is not None:
            latents[station, index] = decision.latent_B
        records.append(
            RecordedDecision(
                decision_id=f"task-{task}/1",
                node_id=f"node-{station}",
                decided_unix_s=1e9 + at_s,
                slot=slot,
                index_in_slot=index,
                steps=int(episode.steps_N[task]),
                observation=observation,
                decision=decision,
            )
        )
        choice = decision.choice
        sent.append((at_s, station, choice, work))
        queue_B[choice] += work
        served_s = work_off_s(queue_B[choice], choice, at_s, episode.since_s_K, episode.capacity_KB)
        delay_s_N[task] = link_s_B[choice] + served_s
    return records, delay_s_N

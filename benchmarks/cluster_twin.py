"""The simulator's twin of five emulated Orins: the same requests, works, capacities and state ages.

Owns turning a plan of requests into an episode of the simulator and the cells that are simulated
only. It starts no process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_node.worker import emulated
from scheduler.simulator import scenarios
from scheduler.simulator.dispatchers import PolicySpec, dispatcher
from scheduler.simulator.scenario import CapacityChange, Scenario
from scheduler.simulator.service import Discipline, service_delay_s
from scheduler.simulator.workload import Episode, draw, one_model

LOADS = (0.5, 0.8, 0.95, 1.2)
SEEDS = 5
SECONDS = 3600.0
# Mean age 50 ms and 1 s: states are published at twice that.
AGES_S = (0.05, 1.0)
POLICIES = (
    "local",
    "round_robin",
    "power_of_two",
    "least_queue:own=1,ties=random",
    "least_expected_delay:own=B",
    "least_expected_delay:fresh=true",
    "slow_server_aware",
    "lad_ts_plus",
    "lad_ts",
)
# Most tasks are small; 1..50 steps.
HEAVY_TAIL = 1.1
FCFS = Discipline()
SRPT_PROMOTED = Discipline(order="srpt", promotion_load=0.9)


@dataclass(frozen=True, kw_only=True)
class Request:
    """A drawing of `steps` that node `origin` is asked for at `at_s`, in emulated seconds."""

    at_s: float
    origin: int
    steps: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Devices:
    """Five devices by profile; a work unit is one guided 512x512 step."""

    name: str
    profiles: tuple[str, ...]

    @property
    def capacities(self) -> tuple[float, ...]:
        """Work units per second of each."""
        return tuple(1.0 / emulated.profile(name).guided_step_s for name in self.profiles)

    @property
    def capacity(self) -> float:
        """Of all together."""
        return sum(self.capacities)

    @property
    def fixed_steps(self) -> float:
        """What decoding costs, in work units."""
        return emulated.DECODE_TFLOP / emulated.GUIDED_STEP_TFLOP

    @property
    def work_mean(self) -> float:
        """Of the paper's tasks, 10..19 steps."""
        return emulated.PAPER_STEPS_MEAN + self.fixed_steps

    def work_of(self, requests: Sequence[Request]) -> np.ndarray:
        """Work units of each request."""
        return np.array([one.steps for one in requests]) + self.fixed_steps


def simulated_delay_s(
    devices: Devices,
    requests: Sequence[Request],
    *,
    policy: str,
    state_age_s: float,
    changes: tuple[tuple[float, int, float], ...] = (),
    discipline: Discipline = FCFS,
    coin: int = 0,
) -> np.ndarray:
    """Service delay of every request, seconds.

    Args:
        devices: that draw.
        requests: sorted by time.
        policy: as the simulator's command line spells it.
        state_age_s: mean age of what a station knows of the others.
        changes: (seconds, device, factor on its capacity).
        discipline: order of service.
        coin: seed of a policy that tosses one.
    """
    scenario = scenario_of(devices, state_age_s=state_age_s, changes=changes)
    episode = episode_of(devices, requests, scenario)
    placing = dispatcher(PolicySpec.parse(policy), scenario, coin)
    server_N = placing.place(episode, np.random.default_rng([1, coin]))
    return service_delay_s(episode, server_N, discipline)


def scenario_of(
    devices: Devices,
    *,
    state_age_s: float,
    changes: tuple[tuple[float, int, float], ...] = (),
) -> Scenario:
    """The laboratory's scenario of Orins with these devices."""
    return scenarios.get("orins_0.8").replace(
        name=f"twin of {devices.name} devices",
        capacities=devices.capacities,
        servers=len(devices.profiles),
        refresh_s=2.0 * state_age_s,
        changes=tuple(
            CapacityChange(at_s=at_s, server=server, factor=factor)
            for at_s, server, factor in changes
        ),
    )


def episode_of(devices: Devices, requests: Sequence[Request], scenario: Scenario) -> Episode:
    """The requests as an episode; sizes on the link as the scenario has them."""
    rng = np.random.default_rng(3)
    frame = draw(scenario.replace(slots=1, load=1e-3), rng)
    tasks = len(requests)
    last_s = max((one.at_s for one in requests), default=0.0)
    placed = scenario.replace(slots=int(last_s) + 1)
    capacities_of = draw(placed.replace(load=1e-3), rng)
    return Episode(
        scenario=placed,
        arrival_s_N=np.array([one.at_s for one in requests]),
        slot_N=np.array([int(one.at_s) for one in requests], dtype=np.int64),
        origin_N=np.array([one.origin for one in requests], dtype=np.int64),
        index_N=np.zeros(tasks, dtype=np.int64),
        input_mbit_N=rng.uniform(*scenario.input_mbit, tasks),
        result_mbit_N=rng.uniform(*scenario.result_mbit, tasks),
        steps_N=np.array([one.steps for one in requests], dtype=np.int64),
        work_N=devices.work_of(requests),
        link_mbit_s_B=frame.link_mbit_s_B,
        since_s_K=capacities_of.since_s_K,
        capacity_KB=capacities_of.capacity_KB,
        believed_KB=capacities_of.believed_KB,
        **one_model(tasks=tasks, servers=scenario.servers),
    )


def poisson(
    devices: Devices, *, load: float, seed: int, heavy: bool = False
) -> tuple[Request, ...]:
    """An hour of independent requests at every device."""
    rng = np.random.default_rng([11, seed])
    steps_all = np.arange(1, 51)
    share = steps_all**-HEAVY_TAIL if heavy else ((steps_all >= 10) & (steps_all <= 19)) * 1.0
    share = share / share.sum()
    mean_work = float(share @ steps_all) + devices.fixed_steps
    rate_hz = load * devices.capacity / mean_work
    tasks = rng.poisson(rate_hz * SECONDS)
    at_s_N = np.sort(rng.uniform(0.0, SECONDS, tasks))
    steps_N = rng.choice(steps_all, tasks, p=share)
    origin_N = rng.integers(len(devices.profiles), size=tasks)
    return tuple(
        Request(at_s=float(at_s), origin=int(origin), steps=int(steps), seed=number)
        for number, (at_s, origin, steps) in enumerate(zip(at_s_N, origin_N, steps_N, strict=True))
    )


def simulated_matrix(device_sets: Sequence[Devices]) -> list[dict[str, Any]]:
    """Every policy at every load and state age, and heavy-tailed steps with and without order."""
    rows = []
    for devices in device_sets:
        for load in LOADS:
            arrivals = [poisson(devices, load=load, seed=seed) for seed in range(SEEDS)]
            for age_s in AGES_S:
                for policy in POLICIES:
                    delays = [
                        simulated_delay_s(devices, one, policy=policy, state_age_s=age_s)
                        for one in arrivals
                    ]
                    rows.append(_row(delays, devices.name, load, policy, age_s, "fcfs"))
        heavy = [poisson(devices, load=1.2, seed=seed, heavy=True) for seed in range(SEEDS)]
        for policy in ("least_expected_delay:own=B", "slow_server_aware", "lad_ts_plus"):
            for name, discipline in (("fcfs", FCFS), ("srpt promoted", SRPT_PROMOTED)):
                delays = [
                    simulated_delay_s(
                        devices, one, policy=policy, state_age_s=0.05, discipline=discipline
                    )
                    for one in heavy
                ]
                rows.append(_row(delays, devices.name, 1.2, policy, 0.05, f"heavy {name}"))
    return rows


def simulated_batch(
    device_sets: Sequence[Devices], requests: Sequence[Request]
) -> list[dict[str, Any]]:
    """Makespan of requests that come all at once, over total work / total capacity."""
    rows = []
    for devices in device_sets:
        ideal_s = float(devices.work_of(requests).sum() / devices.capacity)
        for policy in POLICIES:
            delay_s_N = simulated_delay_s(devices, requests, policy=policy, state_age_s=0.05)
            rows.append(
                {
                    "devices": devices.name,
                    "policy": policy,
                    "requests": len(requests),
                    "over_ideal": float(delay_s_N.max() / ideal_s),
                }
            )
    return rows


def _row(
    delays: Sequence[np.ndarray], devices: str, load: float, policy: str, age_s: float, order: str
) -> dict[str, Any]:
    means = [float(one.mean()) for one in delays]
    half_s = 2.776 * float(np.std(means, ddof=1)) / len(means) ** 0.5
    return {
        "devices": devices,
        "load": load,
        "policy": policy,
        "state_age_s": age_s,
        "order": order,
        "mean_s": float(np.mean(means)),
        "mean_95_half_s": half_s,
        "mean_s_by_seed": means,
        "p99_s": float(np.mean([np.quantile(one, 0.99) for one in delays])),
    }

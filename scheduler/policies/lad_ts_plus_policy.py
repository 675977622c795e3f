"""LAD-TS+: a written cost with learned weights and a moving average of past choices.

It is not latent diffusion: what is left of the paper's LAD-TS is that a station keeps a latent for
each place in its slots, reads it before the choice and leaves x_0 behind after it.

- Cost: expected delay, own work that no report shows yet, a price on the delay caused to others.
  Each server has its own features, so the weights fit any number of servers. What is learned is how
  much each term counts in a context of load, cluster size and age of the reports;
  `scheduler.algorithms.lad_ts_plus_search` learns it by policy search.
- The ring: stations that see the same reports decide the same and herd. Every station prefers the
  servers in the order in which they follow its own index.
- The latent: after each choice it is halved, and the choice's half added. It discounts the cost of
  servers chosen in that place before, so that stations keep to what has kept them apart. Where
  states are fresh it changes next to nothing (`benchmarks/latent_choices.py`).

Numpy only. Arrays end in their dimension: B servers, C context features, G gains, S server
features, M modulations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from scheduler import checkpoint
from scheduler.observation import FloatArray, Observation, Traffic
from scheduler.policies.heuristics import DEEP_TASKS
from scheduler.policy import Decision, Outcome

CONTEXT = (
    "log_unseen",
    "log_unseen_per_server",
    "overload",
    "log_servers",
    "log_backlog",
    "price",
    "one",
)
GAINS = ("own", "ring", "size", "memory", "harm", "behind")
SERVER = ("one", "rank", "relative_backlog", "log_capacity", "log_queued_size")
MODULATION = (
    "one",
    "backlog_per_horizon",
    "log_backlog",
    "overload",
    "log_servers",
    "price",
    "log_horizon",
)
SHAPES = {
    "gains_CG": (len(CONTEXT), len(GAINS)),
    "reorder_gains_CG": (len(CONTEXT), len(GAINS)),
    "price_SM": (len(SERVER), len(MODULATION)),
}
UNLEARNED = "unlearned"
PRETRAINED = Path(__file__).parents[1] / "pretrained" / "lad_ts_plus.safetensors"
Start = Literal["memory", "ring", "gaussian"]

# Share of x_0 in the latent that is kept; the rest is x_I, so a latent forgets within a few slots.
LATENT_STEP = 0.5
# exp(-.35) and .3 are the ring's and the memory's weight where nothing has been learned.
RING_UNLEARNED = math.exp(-0.35)
MEMORY_UNLEARNED = 0.3
# Where short tasks go first, work of longer ones counts a little all the same.
BEHIND_UNLEARNED = 0.1
# Delays to others are counted this many mean services ahead (10 s on the paper's default, twenty
# minutes on five Orins): nobody knows when an experiment ends, and a node's service does not. Of 60
# to 1000, and of horizons that follow the time or the backlog, the best at its p99
# (docs/scheduling.md).
HORIZON_SERVICES = 200.0
# The price of a server is at most e^3 times what equal servers would have.
LOG_PRICE_MAX = 3.0
LOAD_MAX = 2.0


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What was learned; all zero is the unlearned policy, which is a good rule already.

    Attributes:
        gains_CG: logarithms (doubled) of the factors on own work, ring, size and memory, each
            linear in the context; the last two count only where servers reorder their tasks.
        reorder_gains_CG: the same for servers that take short tasks first.
        price_SM: logarithm of the price's factor, bilinear in server features and modulations.
        version: names the weights in decisions and checkpoints.
    """

    gains_CG: FloatArray
    reorder_gains_CG: FloatArray
    price_SM: FloatArray
    version: str

    def __post_init__(self) -> None:
        """Refuses arrays of other shapes or with values that are not finite."""
        for name, shape in SHAPES.items():
            array = getattr(self, name)
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}; it must be {shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds a value that is not finite")


def unlearned() -> Weights:
    """The weights that learning starts from; with price 0 a good rule already."""
    return Weights(**{name: np.zeros(shape) for name, shape in SHAPES.items()}, version=UNLEARNED)


def load_weights(path: Path | None = None) -> Weights:
    """Weights from a checkpoint; without a path those that ship with the package.

    The path "unlearned" stands for `unlearned()`, to measure what learning is worth.

    Raises:
        scheduler.checkpoint.InvalidCheckpoint: the file is no checkpoint of LAD-TS+.
    """
    if path == Path(UNLEARNED):
        return unlearned()
    path = path or PRETRAINED
    kept = checkpoint.load(path, kind="policy")
    if kept.info.policy != LadTsPlus.name:
        raise checkpoint.InvalidCheckpoint(
            f"{path} holds weights of {kept.info.policy}; {LadTsPlus.name} cannot use them"
        )
    checkpoint.require_shapes(path, kept.arrays, SHAPES)
    version = f"{kept.info.policy}/{kept.info.code_version}"
    return Weights(version=version, **{name: kept.arrays[name] for name in SHAPES})


def lad_ts_plus(
    *,
    rng: np.random.Generator,
    weights: str | None = None,
    price: float = 0.0,
    start: Start = "memory",
    temperature: float = 0.0,
) -> LadTsPlus:
    """The policy for a registry; `weights` is a checkpoint's path, without it the shipped one."""
    return LadTsPlus(
        rng=rng,
        weights=load_weights(None if weights is None else Path(weights)),
        price=price,
        start=start,
        temperature=temperature,
    )


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a context makes of the cost's terms.

    Attributes:
        own: how many times own unseen work counts.
        ring_work: work that a whole turn of the ring counts as.
        size: how many times the task's own work counts.
        memory: turns of the ring that a latent of 1 is worth.
        price_B: seconds that each unit of work placed there costs others.
    """

    own: float
    ring_work: float
    size: float
    memory: float
    price_B: FloatArray


class LadTsPlus:
    """The live policy: one decision for one observation.

    Args:
        rng: for a Gaussian start, and to sample.
        weights: what was learned.
        price: kappa; 0 minimises the task's own delay, 1 the mean delay of all.
        start: "memory": the ring and the latent; "ring": the ring only; "gaussian": noise in the
            ring's place.
        temperature: 0 decides for the least cost; otherwise an action is sampled with
            probability falling e-fold per `temperature` mean service times of cost.

    Raises:
        ValueError: an option is out of range.
    """

    name = "lad_ts_plus"

    def __init__(
        self,
        *,
        rng: np.random.Generator,
        weights: Weights,
        price: float = 0.0,
        start: Start = "memory",
        temperature: float = 0.0,
    ) -> None:
        if not 0.0 <= price <= 1.0:
            raise ValueError(f"price is {price}; it must be in 0..1")
        if start not in get_args(Start):
            raise ValueError(f"start is {start!r}; it must be one of {', '.join(get_args(Start))}")
        if not temperature >= 0.0:
            raise ValueError(f"temperature is {temperature}; it must be 0 or more")
        self._rng = rng
        self._weights = weights
        self._price = price
        self._start = start
        self._temperature = temperature

    def decide(self, observation: Observation) -> Decision:
        """The server of least cost, or a sample; the decision carries x_0.

        Raises:
            ValueError: the observation has a value that is not finite.
        """
        alive = np.flatnonzero(observation.alive_B & (observation.capacity_B > 0.0))
        if len(alive) == 0:
            choice = int(observation.alive_B.argmax())
            return self._decision(observation, choice, 1.0, choice)
        cost_B, unit_s = self._cost(observation, alive)
        if not math.isfinite(_sum(cost_B)):
            raise ValueError("an observed backlog, capacity or link is not finite")
        if self._temperature == 0.0:
            choice = int(alive[cost_B.argmin()])
            return self._decision(observation, choice, 1.0, choice)
        logits_B = (cost_B.min() - cost_B) / (self._temperature * unit_s)
        probability_B = np.exp(logits_B)
        probability_B /= probability_B.sum()
        chosen = int(self._rng.choice(len(alive), p=probability_B))
        return self._decision(observation, int(alive[chosen]), probability_B, alive)

    def record(self, outcome: Outcome) -> None:
        """Learns nothing: weights change only as a whole."""

    def _cost(self, observation: Observation, alive: np.ndarray) -> tuple[FloatArray, float]:
        """Cost of each usable server in seconds, and the mean service time that is their unit."""
        traffic = observation.traffic or Traffic(mean_work=observation.work)
        capacity_B = observation.capacity_B[alive]
        backlog_B = observation.backlog_B[alive]
        servers = len(alive)
        terms = cost_terms(
            self._weights,
            backlog_B=backlog_B,
            queued_B=None if observation.queued_B is None else observation.queued_B[alive],
            capacity_B=capacity_B,
            dispatchers=observation.dispatchers,
            traffic=traffic,
            price=self._price,
        )
        turn_B = self._turn(observation, alive)
        if self._start == "memory" and observation.latent_B is not None:
            turn_B = turn_B - terms.memory * observation.latent_B[alive]
        ahead_B = backlog_B + terms.own * observation.own_B[alive]
        # Where no server will idle soon, using slow ones early gains nothing (`slow_server_aware`).
        deep = ahead_B.min() > DEEP_TASKS * observation.work
        size = max(terms.size, 1.0) if deep else terms.size
        level_B = ahead_B + terms.ring_work * turn_B
        cost_B = (level_B + size * observation.work) / capacity_B
        cost_B += observation.link_s_B[alive] + terms.price_B * observation.work
        return cost_B, traffic.mean_work * servers / _sum(capacity_B)

    def _turn(self, observation: Observation, alive: np.ndarray) -> FloatArray:
        """How far round the ring from this node each server is, 0..1."""
        if self._start == "gaussian":
            return self._rng.standard_normal(len(alive))
        size = len(observation.node_ids)
        turn_B: FloatArray = ((alive - observation.own_place) % size) / size
        return turn_B

    def _decision(
        self,
        observation: Observation,
        choice: int,
        probability_B: FloatArray | float,
        servers: np.ndarray | int,
    ) -> Decision:
        """`probability_B` is that of the action on `servers`; on the others it is 0."""
        if observation.latent_B is None:
            latent_B = np.zeros(len(observation.node_ids))
        else:
            latent_B = (1.0 - LATENT_STEP) * observation.latent_B
        latent_B[servers] += LATENT_STEP * probability_B
        return Decision(
            choice=choice,
            policy=self.name,
            latent_B=latent_B,
            weights_version=self._weights.version,
        )


def cost_terms(
    weights: Weights,
    *,
    backlog_B: FloatArray,
    queued_B: FloatArray | None,
    capacity_B: FloatArray,
    dispatchers: int,
    traffic: Traffic,
    price: float,
) -> Terms:
    """The cost's terms for one state of the cluster; every server is usable, (B,).

    `queued_B` counts the tasks of each backlog; None takes them to be of mean size.

    `scheduler.simulator.lad_ts_plus_kernel` computes the same, compiled; a test holds them
    together.
    """
    servers = len(capacity_B)
    capacity = _sum(capacity_B)
    unit_s = traffic.mean_work * servers / capacity
    backlog_s = _sum(backlog_B) / capacity
    load = min(traffic.load, LOAD_MAX)
    unseen = traffic.load * capacity / traffic.mean_work * traffic.report_period_s
    log_backlog = 0.2 * math.log1p(backlog_s / unit_s)
    context_C = np.array(
        [
            0.3 * math.log1p(unseen),
            0.5 * math.log1p(unseen / servers),
            load - 1.0,
            0.3 * math.log(servers),
            log_backlog,
            price,
            1.0,
        ]
    )
    own, ring, size, memory = np.exp(0.5 * (context_C @ weights.gains_CG)[:4]).tolist()
    crowd = unseen / (1.0 + unseen)
    own = 1.0 + (dispatchers * own - 1.0) * crowd
    ring_work = RING_UNLEARNED * ring * crowd * own * traffic.mean_work * (dispatchers > 1)
    price_B = np.zeros(servers)
    if price > 0.0:
        price_B = _prices(weights, backlog_B, queued_B, capacity_B, context_C, traffic, price)
    return Terms(
        own=own,
        ring_work=ring_work,
        size=size,
        memory=MEMORY_UNLEARNED * memory,
        price_B=price_B,
    )


def _sum(value_B: FloatArray) -> float:
    """At half the price of the method: on arrays this small the calls are the cost."""
    return float(np.add.reduce(value_B))


def _prices(
    weights: Weights,
    backlog_B: FloatArray,
    queued_B: FloatArray | None,
    capacity_B: FloatArray,
    context_C: FloatArray,
    traffic: Traffic,
    price: float,
) -> FloatArray:
    """Seconds of delay that each unit of work placed on a server costs others, (B,)."""
    servers, capacity = len(capacity_B), float(capacity_B.sum())
    unit_s, backlog_s = traffic.mean_work * servers / capacity, float(backlog_B.sum()) / capacity
    load = min(traffic.load, LOAD_MAX)
    horizon_s = price_horizon_s(unit_s, traffic.report_period_s)
    waiting_s_B = backlog_B / capacity_B
    server_BS = np.stack(
        [
            np.ones(servers),
            _rank(capacity_B),
            np.tanh((waiting_s_B - backlog_s) / (backlog_s + unit_s)),
            np.log(capacity_B / capacity * servers),
            _log_queued_size(backlog_B, queued_B, traffic.mean_work),
        ],
        axis=1,
    )
    log_backlog, log_servers = context_C[CONTEXT.index("log_backlog")], 0.3 * math.log(servers)
    log_horizon = 0.2 * math.log1p(horizon_s / unit_s) - 1.0
    per_horizon = math.log1p(backlog_s / horizon_s)
    modulation_M = np.array(
        [1.0, per_horizon, log_backlog, load - 1.0, log_servers, price, log_horizon]
    )
    log_factor_B = np.minimum(server_BS @ weights.price_SM @ modulation_M, LOG_PRICE_MAX)
    # What is placed in a busy period delays all that follow in it; the factor knows how many.
    busy_s_B = np.full(servers, horizon_s)
    if load < 1.0:
        busy_s_B = np.minimum(
            busy_s_B, (np.maximum(waiting_s_B, backlog_s) + unit_s) / (1.0 - load)
        )
    price_B: FloatArray = price * load * busy_s_B * np.exp(log_factor_B) / traffic.mean_work
    return price_B


def price_horizon_s(unit_s: float, report_period_s: float) -> float:
    """How far ahead delays caused to others are counted: in mean services, but to the next report.

    Measured quantities only. `scheduler.simulator.lad_ts_plus_kernel` compiles this very function.
    """
    return max(HORIZON_SERVICES * unit_s, report_period_s)


def _log_queued_size(
    backlog_B: FloatArray, queued_B: FloatArray | None, mean_work: float
) -> FloatArray:
    """Mean size of the queued tasks, one of mean size added; logarithm relative to the mean.

    It tells which servers take the long tasks: few are delayed by what is placed there.
    """
    if queued_B is None:
        return np.zeros(len(backlog_B))
    size_B: FloatArray = np.log((backlog_B / mean_work + 1.0) / (queued_B + 1.0))
    return size_B


def _rank(capacity_B: FloatArray) -> FloatArray:
    """-1 for the slowest server .. 1 for the fastest, equally spaced."""
    rank_B = np.empty(len(capacity_B))
    rank_B[np.argsort(capacity_B, kind="stable")] = np.arange(len(capacity_B))
    return (2.0 * rank_B + 1.0) / len(capacity_B) - 1.0

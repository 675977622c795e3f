"""Trains the LAD-TS weights that ship: one network for clusters of any size, load and age of state.

    python -m scheduler.learning.pretraining --seed 0 --out out/lad_ts

Owns what is learned from and by what it is chosen. Every round is another cluster of the training
family (`random_clusters`), decided by the network as it is then.

1. *Imitation*. Of `teachers` the one of least mean delay on other arrivals of the same cluster
   gives every state a cost for each server; the actor learns to choose where it is least, in the
   states that the teacher and, more and more, itself run into. The critics learn meanwhile what
   the choices really cost.
2. *Soft actor-critic*, as `equivariant_lad_ts` has it.

What decides is the running mean of the actor's weights: the last ones still follow the last
clusters. Every `VALIDATE_EVERY` rounds it is measured on the validation family, against the best
rule of each cluster, and kept in the run's folder with a line in its log; `packed` ships the best
of all runs.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib.metadata
import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scheduler import checkpoint
from scheduler.algorithms.equivariant_lad_ts import EquivariantLadTs, EquivariantLadTsConfig
from scheduler.checkpoint import Checkpoint, CheckpointInfo
from scheduler.learning import learners
from scheduler.learning.set_replay import CLASSES
from scheduler.policies.lad_ts_features import DEEP, LINK, OWN, SERVER, SIZE
from scheduler.policies.lad_ts_policy import NAME, PRETRAINED, Actor, Chain
from scheduler.simulator import rules
from scheduler.simulator.lad_ts_kernel import Played, play
from scheduler.simulator.queueing import FloatArray
from scheduler.simulator.random_clusters import clusters
from scheduler.simulator.scenario import Scenario
from scheduler.simulator.service import Discipline, service_delay_s
from scheduler.simulator.workload import Episode, draw

CONFIG = EquivariantLadTsConfig(harm=1.0, batch=128)
# What a cluster's best rule is the best of.
RULES: dict[str, dict[str, Any]] = {
    "ring": {},
    "slow_server_aware": {},
    "least_expected_delay": {"own": "B"},
    "power_of_two": {"sample": "capacity", "own": "B"},
}
FCFS = Discipline(order="fcfs")
VALIDATE_EVERY = 50
VALIDATION_CLUSTERS = 40
VALIDATION_SEED = 0
LOG_FILE = "rounds.json"
# A learning episode is a third of the family's, so that more clusters are seen.
LEARNING_SHARE = 1.0 / 3.0
SLOTS_MIN = 12
# In a teacher's states no latent is kept; any concentrated distribution may be met.
LATENT_CONCENTRATION = 0.3
COST_MAX = 6.0
# First words of the seeds of arrivals.
_LEARNED_FROM, _TAUGHT_ON, _VALIDATED_ON = 930_001, 930_002, 930_003


@dataclass(frozen=True, kw_only=True)
class Course:
    """How long and how fast.

    Attributes:
        rounds: clusters, imitation included.
        imitation: rounds of imitation.
        updates: of the networks in each round.
        mean_over: updates that the running mean of the actor's weights remembers.
        lr_least: what is left of the learning rates in the last round; they fall linearly.
        sample: decisions of a round that imitation keeps.
    """

    rounds: int = 1500
    imitation: int = 150
    updates: int = 20
    mean_over: float = 100.0
    lr_least: float = 0.03
    sample: int = 600


def teachers(servers: int) -> list[FloatArray]:
    """Costs that are linear in a server's features, (V,) each: the rules that are imitated.

    Every guess of what others have placed (`lad_ts_features`), with the task's own size counted
    .2 to 1 times: idle slow servers are used the earlier, the less it counts.
    """
    waits: dict[str, dict[int, float]] = {
        "by time": {1: 1.0},
        "by place": {2: 1.0},
        "by likeness": {3: 1.0},
        "a third by likeness": {0: 0.65, 3: 0.35},
        "own for all": {0: 1.0, OWN: float(servers - 1)},
    }
    found = []
    for size in (0.2, 0.4, 0.65, 1.0):
        for shares in waits.values():
            cost_V = np.zeros(len(SERVER))
            cost_V[SIZE], cost_V[LINK] = size, 1.0
            for field, share in shares.items():
                cost_V[field] = share
            found.append(cost_V)
    return found


def shortened(cluster: Scenario, share: float) -> Scenario:
    """The same cluster for less time."""
    least = 1 if cluster.task_arrivals == "poisson" else SLOTS_MIN
    return cluster.replace(slots=max(least, round(cluster.slots * share)))


class Imitation:
    """Costs of servers in states met lately, by class of cluster sizes."""

    def __init__(self, rng: np.random.Generator, *, rounds_kept: int = 150) -> None:
        self._rng = rng
        self._met: dict[int, deque[tuple[np.ndarray, ...]]] = {
            most: deque(maxlen=rounds_kept) for most in CLASSES
        }

    def add(self, played: Played, cost_V: FloatArray, *, taught: bool, sample: int) -> None:
        """Takes over a round's states with a teacher's costs; `taught`: he decided them."""
        servers = played.server_NBV.shape[1]
        row_M = self._rng.permutation(len(played.server_NBV))[:sample]
        server_MBV, context_MC = played.server_NBV[row_M], played.context_NC[row_M]
        cost_MV = np.tile(cost_V, (len(row_M), 1))
        cost_MV[context_MC[:, DEEP] > 0.0, SIZE] = 1.0
        cost_MB = np.einsum("mbv,mv->mb", server_MBV, cost_MV)
        cost_MB = np.minimum(cost_MB - cost_MB.min(axis=1, keepdims=True), COST_MAX)
        latent_MB: np.ndarray = played.latent_NB[row_M]
        if taught:
            latent_MB = self._rng.dirichlet(np.full(servers, LATENT_CONCENTRATION), len(row_M))
        room = next(most for most in CLASSES if servers <= most)
        more = ((0, 0), (0, room - servers))
        self._met[room].append(
            (
                np.pad(server_MBV, (*more, (0, 0))).astype(np.float32),
                context_MC,
                np.pad(np.ones((len(row_M), servers), np.float32), more),
                np.pad(latent_MB, more).astype(np.float32),
                np.pad(cost_MB, more).astype(np.float32),
            )
        )

    def batch(self, size: int, *, rounds: int = 8) -> list[Tensor]:
        """Features, context, presence, latents and costs of states of some rounds."""
        met = [rounds_met for rounds_met in self._met.values() if rounds_met]
        chosen = met[int(self._rng.integers(len(met)))]
        parts = []
        for _ in range(rounds):
            one = chosen[int(self._rng.integers(len(chosen)))]
            row_M = self._rng.integers(len(one[0]), size=size // rounds)
            parts.append([field[row_M] for field in one])
        return [torch.from_numpy(np.concatenate(fields)) for fields in zip(*parts, strict=True)]


class Pretraining:
    """One run.

    Args:
        config: of the learner.
        course: how long and how fast.
        seed: of everything.

    Attributes:
        learner: the agent.
        round: rounds made so far.
    """

    def __init__(self, config: EquivariantLadTsConfig, course: Course, *, seed: int) -> None:
        self.learner = EquivariantLadTs(None, config, seed=seed)
        self.course, self.round = course, 0
        self._seed = seed
        self._mean = copy.deepcopy(self.learner.actor)
        self._rng = np.random.default_rng([seed, 2])
        self._imitation = Imitation(self._rng)

    def actor(self) -> Actor:
        """The mean actor."""
        return Actor.of_arrays(self._mean.export(), Path(NAME))

    def run_round(self) -> None:
        """Meets one cluster and learns from it."""
        cluster = shortened(
            clusters(self._seed, self.round + 1, family="training", first=self.round)[0],
            LEARNING_SHARE,
        )
        learner, imitates = self.learner, self.round < self.course.imitation
        episode = draw(cluster, self._arrivals(_LEARNED_FROM))
        cost_V = self._best_teacher(cluster) if imitates else None
        taught = imitates and (self.round < 10 or self.round % 3 == 0)
        played = play(
            episode,
            learner.deciding(),
            learner.chain(learning=True),
            self._rng,
            record=True,
            cost_V=cost_V if taught else None,
        )
        learner.add_episode(episode, played)
        if cost_V is not None:
            self._imitation.add(played, cost_V, taught=taught, sample=self.course.sample)
        self._set_rates()
        for update in range(self.course.updates):
            if imitates:
                learner.imitate(*self._imitation.batch(learner.config.batch))
                if learner.can_update and update % 2 == 0:
                    learner.update(actor=False)
            elif learner.can_update:
                learner.update()
            self._average()
        self.round += 1

    def _arrivals(self, word: int) -> np.random.Generator:
        return np.random.default_rng([word, self._seed, self.round])

    def _best_teacher(self, cluster: Scenario) -> FloatArray:
        episode = draw(cluster, self._arrivals(_TAUGHT_ON))
        actor = self.learner.deciding()
        found = teachers(cluster.servers)
        means = [
            play(episode, actor, Chain(), np.random.default_rng(1), cost_V=one).delay_s_N.mean()
            for one in found
        ]
        return found[int(np.argmin(means))]

    def _set_rates(self) -> None:
        left = max(self.course.lr_least, 1.0 - self.round / self.course.rounds)
        for optimiser, rate in (
            (self.learner.actor_optimiser, self.learner.config.actor_lr),
            (self.learner.critic_optimiser, self.learner.config.critic_lr),
        ):
            for group in optimiser.param_groups:
                group["lr"] = rate * left

    @torch.no_grad()
    def _average(self) -> None:
        pairs = zip(self._mean.parameters(), self.learner.actor.parameters(), strict=True)
        for mean, last in pairs:
            mean.lerp_(last, 1.0 / self.course.mean_over)


def validation() -> list[tuple[Scenario, Episode, float]]:
    """Clusters to choose by, an episode of each, and its best rule's mean delay in seconds."""
    found = []
    for place, cluster in enumerate(
        clusters(VALIDATION_SEED, VALIDATION_CLUSTERS, family="validation")
    ):
        episode = draw(cluster, np.random.default_rng([_VALIDATED_ON, place]))
        found.append((cluster, episode, min(rule_means(episode, seed=place).values())))
    return found


def rule_means(episode: Episode, *, seed: int) -> dict[str, float]:
    """Mean delay of each of RULES, seconds."""
    means = {}
    for name, options in RULES.items():
        server_N = rules.create(name, **options).place(episode, np.random.default_rng(seed))
        means[name] = float(service_delay_s(episode, server_N, FCFS).mean())
    return means


def gaps(
    actor: Actor, chain: Chain, measured: Sequence[tuple[Scenario, Episode, float]]
) -> FloatArray:
    """Mean delay over the best rule's, less 1, of each cluster."""
    return np.array(
        [
            play(episode, actor, chain, np.random.default_rng(3)).delay_s_N.mean() / best_s - 1.0
            for _, episode, best_s in measured
        ]
    )


def train(config: EquivariantLadTsConfig, course: Course, *, seed: int, folder: Path) -> None:
    """A whole run; its folder gets a checkpoint at each validation, and the log of all."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    run, measured, log = Pretraining(config, course, seed=seed), validation(), []
    began_s = time.process_time()
    while run.round < course.rounds:
        run.run_round()
        if run.round % VALIDATE_EVERY and run.round < course.rounds:
            continue
        gap = gaps(run.actor(), run.learner.chain(learning=False), measured)
        entry = {
            "round": run.round,
            "cpu_s": round(time.process_time() - began_s, 1),
            "gap_mean": float(gap.mean()),
            "gap_median": float(np.median(gap)),
            "gap_worst": float(gap.max()),
            "loss_mean": float(np.maximum(gap, 0.0).mean()),
            "clusters_over_1_percent": int((gap > 0.01).sum()),
        }
        log.append(entry)
        print(json.dumps({"seed": seed, **entry}), flush=True)
        checkpoint.save(folder / f"{run.round:05}.safetensors", _kept(run, entry))
        (folder / LOG_FILE).write_text(
            json.dumps(
                {
                    "seed": seed,
                    "config": dataclasses.asdict(config),
                    "course": dataclasses.asdict(course),
                    "rounds": log,
                },
                indent=1,
            )
            + "\n"
        )


def _kept(run: Pretraining, entry: dict[str, float]) -> Checkpoint:
    info = CheckpointInfo(
        kind="policy",
        policy=NAME,
        scenario={"name": "random clusters", "family": "training"},
        config=dataclasses.asdict(run.learner.config) | dataclasses.asdict(run.course),
        seed=run.learner.seed,
        episodes=run.round,
        code_version=importlib.metadata.version("dedgeai"),
        metrics={name: float(value) for name, value in entry.items()},
    )
    return Checkpoint(info=info, arrays=run._mean.export())


def packed(folders: Sequence[Path]) -> tuple[Path, list[dict[str, Any]]]:
    """The checkpoint of all runs with the least mean gap on the validation family, and all logs."""
    logs = [json.loads((folder / LOG_FILE).read_text()) for folder in folders]
    _, folder, number = min(
        (entry["gap_mean"], folder, entry["round"])
        for folder, log in zip(folders, logs, strict=True)
        for entry in log["rounds"]
    )
    return folder / f"{number:05}.safetensors", logs


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains one seed, or packs what several have left."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=Course.rounds)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="a hyperparameter, to learn what it is worth: steps=1 start=zero noise=none has no "
        "diffusion",
    )
    parser.add_argument("--pack", action="store_true", help="ship the best of the runs in --out")
    parser.add_argument("--log", type=Path, help="where --pack writes the log of all runs")
    options = parser.parse_args(arguments)
    if not options.pack:
        course = Course(rounds=options.rounds)
        changed = dict(one.split("=", 1) for one in options.set)
        config = dataclasses.replace(CONFIG, **learners.values(NAME, changed))
        train(config, course, seed=options.seed, folder=options.out / f"seed-{options.seed}")
        return
    best, logs = packed(sorted(path for path in options.out.iterdir() if path.is_dir()))
    PRETRAINED.write_bytes(best.read_bytes())
    if options.log is not None:
        options.log.write_text(json.dumps({"shipped": best.parent.name, "runs": logs}, indent=1))


if __name__ == "__main__":
    main()

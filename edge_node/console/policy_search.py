"""`dedgeai train --policy lad_ts_plus`: searches weights that serve every cluster and load.

Owns what is shown and where the weights go; the search itself is the scheduler's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

from rich.console import Console

from edge_node.errors import InvalidRequest
from scheduler import checkpoint
from scheduler.algorithms import lad_ts_plus_search
from scheduler.policies.lad_ts_plus_policy import Weights, load_weights, unlearned

WEIGHTS_FILE = "lad_ts_plus.safetensors"
SHOWN_GENERATIONS = 10


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """What the command line asks for.

    Attributes:
        stages: of the search, in this order.
        seconds: wall time of each stage.
        seed: of episodes and search.
        out: folder that gets the weights.
        resume: go on from the weights in `out`.
    """

    stages: Sequence[str]
    seconds: float
    seed: int
    out: Path
    resume: bool


def run_search(request: SearchRequest, *, console: Console) -> int:
    """Searches all stages; the file in `out` always holds the last whole weights.

    Raises:
        InvalidRequest: a stage is unknown, or there is nothing to resume from.
    """
    known = get_args(lad_ts_plus_search.Stage)
    for stage in request.stages:
        if stage not in known:
            raise InvalidRequest(f"no stage is called {stage!r}; they are {', '.join(known)}.")
    if not request.seconds > 0.0:
        raise InvalidRequest(f"--seconds is {request.seconds}; it must be positive.")
    path = request.out / WEIGHTS_FILE
    try:
        weights = load_weights(path) if request.resume else unlearned()
    except (OSError, checkpoint.InvalidCheckpoint) as error:
        raise InvalidRequest(f"cannot go on: {error}.") from error
    config = replace(lad_ts_plus_search.Config(), seconds=request.seconds)

    def save(generation: int, objective: float, found: Weights) -> None:
        if generation % SHOWN_GENERATIONS == 0:
            console.print(f"{stage}: generation {generation}, objective {objective:+.4f}")
            metrics = {"objective": objective, "generations": float(generation)}
            lad_ts_plus_search.save_weights(path, found, config, seed=request.seed, metrics=metrics)

    for stage in request.stages:
        weights = lad_ts_plus_search.train(
            cast(lad_ts_plus_search.Stage, stage), weights, config, seed=request.seed, progress=save
        )
        lad_ts_plus_search.save_weights(path, weights, config, seed=request.seed, metrics={})
    console.print(f"weights: {path}")
    return 0

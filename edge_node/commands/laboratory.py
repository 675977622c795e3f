"""Commands of those who compare and train schedulers: `dedgeai train`, `dedgeai simulate`.

Nothing that serves images is needed for them; imports of each are its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edge_node.commands.arguments import count, seconds, seed


def add(commands: Any) -> None:
    """Adds them to the parser of all commands."""
    _add_train(commands)
    _add_simulate(commands)


def _add_train(commands: Any) -> None:
    parser = commands.add_parser("train", help="train a scheduling algorithm in the simulator")
    parser.add_argument("--policy", default="lad_ts", help="lad_ts, sac, dqn, d2sac, ...")
    parser.add_argument("--scenario", default="default", help="name or TOML file")
    parser.add_argument("--seeds", type=count, default=5, help="how many runs")
    parser.add_argument("--first-seed", type=seed, default=0)
    parser.add_argument("--episodes", type=count, default=60)
    parser.add_argument("--out", type=Path, required=True, help="a folder for each seed goes there")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one hyperparameter, see the algorithm's config in scheduler/algorithms",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoints")
    parser.add_argument("--jobs", type=count, default=1, help="processes at once")
    parser.add_argument("--ray", action="store_true", help="run on a Ray cluster (RAY_ADDRESS)")
    parser.add_argument("--no-tensorboard", action="store_true")
    parser.add_argument("--stages", default="gains,price,reorder", help="of lad_ts_plus's search")
    parser.add_argument("--seconds", type=seconds, default=900.0, help="of each such stage")
    parser.add_argument(
        "--from-pool", action="store_true", help="train lad_ts from what a node has experienced"
    )
    parser.add_argument("--redis-url", help="store of that node, if it runs")
    parser.add_argument("--data-folder", type=Path, help="or the node's data, if it is stopped")
    parser.add_argument("--node-id", help="of that node, where a store holds several pools")
    parser.add_argument("--updates", type=count, help="of all networks; by decisions if not given")
    parser.add_argument("--start", type=Path, help="weights to go on from; those that ship if not")
    parser.set_defaults(run=_train)


def _add_simulate(commands: Any) -> None:
    parser = commands.add_parser("simulate", help="compare scheduling policies in the simulator")
    parser.add_argument("--trace", type=Path, help="replay this run of the authors' code instead")
    parser.add_argument("--list", action="store_true", help="list the named scenarios instead")
    parser.add_argument("--scenario", default="default", help="name or TOML file")
    parser.add_argument(
        "--policy",
        "--policies",
        default="opt_ts,capacity_random,power_of_two,pred_own",
        help="NAME:KEY=VALUE,NAME,...; rules, or learned policies with --checkpoints",
    )
    parser.add_argument("--episodes", type=count, default=10, help="for each seed")
    parser.add_argument("--seeds", type=count, default=1)
    parser.add_argument("--order", default="fcfs", help="of the servers: fcfs, sjf or srpt")
    parser.add_argument("--ageing", metavar="A", help="least remaining seconds - A x age first")
    parser.add_argument(
        "--promotion", metavar="C0,C1", help="due C0 s + C1 x service after arrival"
    )
    parser.add_argument("--promotion-load", metavar="BETA", help="due later by BETA x the wait")
    parser.add_argument("--checkpoints", type=Path, help="folder of learned policies")
    parser.set_defaults(run=_simulate)


def _train(options: argparse.Namespace) -> int:
    from rich.console import Console

    if options.from_pool:
        return _train_from_pool(options)
    if options.policy == "lad_ts_plus":
        from edge_node.console.policy_search import SearchRequest, run_search

        search = SearchRequest(
            stages=options.stages.split(","),
            seconds=options.seconds,
            seed=options.first_seed,
            out=options.out,
            resume=options.resume,
        )
        return run_search(search, console=Console())

    from edge_node.console.train import TrainRequest, run_training

    request = TrainRequest(
        policy=options.policy,
        scenario=options.scenario,
        seeds=options.seeds,
        first_seed=options.first_seed,
        episodes=options.episodes,
        out=options.out,
        options=options.option,
        resume=options.resume,
        jobs=options.jobs,
        ray=options.ray,
        tensorboard=not options.no_tensorboard,
    )
    return run_training(request, console=Console())


def _train_from_pool(options: argparse.Namespace) -> int:
    from rich.console import Console

    from edge_node.console.train_from_pool import PoolRequest, train_from_pool

    request = PoolRequest(
        policy=options.policy,
        redis_url=options.redis_url,
        data_folder=options.data_folder,
        node_id=options.node_id,
        updates=options.updates,
        start=options.start,
        out=options.out,
        options=options.option,
        seed=options.first_seed,
    )
    return train_from_pool(request, console=Console())


def _simulate(options: argparse.Namespace) -> int:
    from edge_node.errors import InvalidRequest

    try:
        from edge_node.console import simulate
    except ModuleNotFoundError as error:
        raise InvalidRequest(f"{error}; install dedgeai[train] to simulate.") from error
    if options.list:
        return simulate.list_scenarios()
    if options.trace is not None:
        return simulate.replay_trace(options.trace)
    request = simulate.SimulateRequest(
        scenario=options.scenario,
        policies=options.policy,
        episodes=options.episodes,
        seeds=options.seeds,
        order=options.order,
        ageing=options.ageing,
        promotion=options.promotion,
        promotion_load=options.promotion_load,
        checkpoints=options.checkpoints,
    )
    return simulate.simulate(request)

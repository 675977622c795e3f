"""Commands that start a cluster on this machine.

Imports of each command are its own, so that `dedgeai node` loads nothing of the others.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_node.commands.arguments import above, count, port, whole
from edge_node.commands.exit_codes import DONE, NOT_ALL_WELL
from edge_node.errors import InvalidRequest

if TYPE_CHECKING:
    from edge_node.console.local_cluster import LocalCluster

# More processes than any one machine should be asked for: three for each node.
NODES_MAX = 64


def add(commands: Any) -> None:
    """Adds them to the parser of all commands."""
    _add_cluster(commands)
    _add_demo(commands)


def _add_cluster(commands: Any) -> None:
    parser = commands.add_parser("cluster", help="run several nodes on this machine")
    parser.add_argument("--nodes", type=whole(1, NODES_MAX), default=3, metavar="N")
    parser.add_argument("--port", type=port, default=8080, help="REST port of the first node")
    parser.add_argument("--engine", choices=("tiny", "emulated"), default="tiny")
    parser.add_argument(
        "--profiles",
        help="emulated devices, comma-separated, repeated over the nodes; orin-64gb-maxn",
    )
    parser.add_argument("--time-scale", type=above(0.0), help="emulated devices this fast")
    parser.add_argument(
        "--models",
        type=count,
        help="tiny models, repeated over the nodes: the shipped one and copies with other weights",
    )
    parser.add_argument("--policy", help="of every node; if not given, a node's default")
    parser.add_argument("--data", type=Path, help="folder to keep; temporary when not given")
    parser.set_defaults(run=_cluster)


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser("demo", help="three nodes, real images, a table of delays")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument(
        "--port", type=port, help="REST port of the first node; a free one from 8080"
    )
    parser.set_defaults(run=_demo)


def _cluster(options: argparse.Namespace) -> int:
    from edge_node.console.local_cluster import LocalCluster, check_ports, require_folder

    _stop_as_by_ctrl_c()
    _refuse_what_its_engine_ignores(options)
    check_ports(first=options.port, nodes=options.nodes)
    settings = _settings_of_nodes(options)
    if options.data is not None:
        require_folder(options.data, "--data")
    cluster = LocalCluster(settings, rest_port=options.port, folder=options.data)
    if options.engine == "tiny":
        from edge_node.worker.tiny_sd3.perturbed import model_settings

        for index, one in enumerate(settings):
            one |= model_settings(index % (options.models or 1), folder=cluster.folder / "models")

    code = DONE
    with contextlib.suppress(KeyboardInterrupt):
        code = asyncio.run(_serve(cluster))
    print("All nodes are stopped.")
    return code


async def _serve(cluster: LocalCluster) -> int:
    """Runs it until Ctrl-C, or until no node is left; the exit code."""
    began_s = time.monotonic()

    def waiting(what: str) -> None:
        print(f"{time.monotonic() - began_s:4.0f} s  {what}", flush=True)

    nodes = len(cluster.urls)
    print(f"Starting {nodes} nodes; their logs are in {cluster.folder}.", flush=True)
    try:
        await cluster.start(waiting=waiting)
        print("All nodes are ready:", *cluster.urls, sep="\n  ", flush=True)
        print("Ctrl-C stops them.", flush=True)
        while cluster.running:
            index, code = await cluster.next_end()
            print(
                f"{cluster.node_ids[index]} ended with code {code}, and {cluster.running} of "
                f"{nodes} nodes go on; its log ends with: {cluster.last_word(index)}",
                file=sys.stderr,
                flush=True,
            )
        return NOT_ALL_WELL
    finally:
        cluster.stop()


def _stop_as_by_ctrl_c() -> None:
    """SIGTERM, and SIGHUP of a terminal that is closed, clean up as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)


def _refuse_what_its_engine_ignores(options: argparse.Namespace) -> None:
    of_engines = {
        "emulated": {"--profiles": options.profiles, "--time-scale": options.time_scale},
        "tiny": {"--models": options.models},
    }
    for engine, given in of_engines.items():
        for option, value in given.items():
            if engine != options.engine and value is not None:
                raise InvalidRequest(
                    f"{option} is of --engine {engine}: give that too, or neither."
                )


def _settings_of_nodes(options: argparse.Namespace) -> list[dict[str, Any]]:
    one: dict[str, Any] = {"torch_threads": 1}
    if options.policy is not None:
        from scheduler.registry import spec_of

        try:
            spec_of(options.policy)
        except ValueError as error:
            raise InvalidRequest(f"--policy is an {error}.") from None
        one["policy"] = options.policy
    if options.engine != "emulated":
        return [dict(one) for _ in range(options.nodes)]
    from edge_node.worker.emulated import FP16_TFLOPS

    given = "orin-64gb-maxn" if options.profiles is None else options.profiles
    profiles = [name.strip() for name in given.split(",")]
    for name in profiles:
        if name not in FP16_TFLOPS:
            known = ", ".join(FP16_TFLOPS)
            raise InvalidRequest(f"There is no emulated device {name!r}: --profiles has {known}.")
    one |= {"engine": "emulated", "time_scale": options.time_scale or 1.0}
    return [
        {**one, "emulated_profile": profiles[index % len(profiles)]}
        for index in range(options.nodes)
    ]


def _demo(options: argparse.Namespace) -> int:
    from rich.console import Console

    from edge_node.console.demo import PACES_S, run_demo
    from edge_node.console.local_cluster import check_ports, free_rest_port, require_folder

    _stop_as_by_ctrl_c()
    require_folder(options.out, "--out")
    logging.disable(logging.INFO)
    rest_port = options.port or free_rest_port(first=8080, nodes=len(PACES_S))
    check_ports(first=rest_port, nodes=len(PACES_S))
    good = asyncio.run(run_demo(out=options.out, rest_port=rest_port, console=Console()))
    return 0 if good else 1

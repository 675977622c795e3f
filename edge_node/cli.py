"""The `dedgeai` command: reads arguments, calls what does the work, prints.

Imports of each command are its own, so that `dedgeai node` loads nothing of the others.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_node.cli_laboratory import add_simulate, add_train
from edge_node.cli_looking import DEFAULT_URL, add_operations, add_status, add_tasks
from edge_node.errors import DEdgeAIError
from edge_node.log_lines import TEXT

if TYPE_CHECKING:
    from edge_node.config import NodeConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code. A known error is one sentence, not a trace."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format=TEXT)
    # One line per request of one's own is no news.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        code: int = options.run(options)
    except DEdgeAIError as error:
        print(f"dedgeai: {error.message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dedgeai", description="Text-to-image on a handful of edge devices."
    )
    parser.add_argument("--version", action="version", version=f"dedgeai {version('dedgeai')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_node(commands)
    _add_worker(commands)
    _add_learner(commands)
    _add_learn(commands)
    _add_health(commands)
    _add_config(commands)
    _add_doctor(commands)
    _add_cluster(commands)
    _add_demo(commands)
    _add_generate(commands)
    add_status(commands)
    add_tasks(commands)
    add_operations(commands)
    _add_dead_letters(commands)
    _add_mcp(commands)
    _add_keys(commands)
    _add_store_repair(commands)
    _add_weights(commands)
    _add_replay(commands)
    add_train(commands)
    add_simulate(commands)
    _add_certs(commands)
    _add_deploy(commands)
    return parser


Commands = Any  # argparse keeps the type of its sub-parsers action to itself


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, help="TOML file of settings; `dedgeai config show` lists them all"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting; overrides file and environment (DEDGEAI_<KEY>)",
    )


def _add_node(commands: Commands) -> None:
    parser = commands.add_parser("node", help="run one node of a cluster")
    _add_settings(parser)
    parser.set_defaults(run=_node)


def _add_worker(commands: Commands) -> None:
    parser = commands.add_parser("worker", help="run a node's worker beside it, on worker_socket")
    _add_settings(parser)
    parser.set_defaults(run=_worker)


def _add_learner(commands: Commands) -> None:
    parser = commands.add_parser("learner", help="run a node's learner beside it, on redis_url")
    _add_settings(parser)
    parser.set_defaults(run=_learner)


def _add_learn(commands: Commands) -> None:
    parser = commands.add_parser("learn", help="learn for a cluster, beside its nodes")
    _add_settings(parser)
    parser.add_argument(
        "--nodes", required=True, help="gRPC listeners of all nodes, host:port, comma-separated"
    )
    parser.set_defaults(run=_learn)


def _add_health(commands: Commands) -> None:
    parser = commands.add_parser("health", help="0 if a process of this device is alive, else 1")
    _add_settings(parser)
    parser.add_argument("process", nargs="?", choices=("node", "worker", "learner"), default="node")
    parser.add_argument("--ready", action="store_true", help="0 only if it takes work now")
    parser.set_defaults(run=_health)


def _add_config(commands: Commands) -> None:
    parser = commands.add_parser("config", help="show or check the settings of a node")
    kinds = parser.add_subparsers(required=True, metavar="show|check")
    show = kinds.add_parser("show", help="every setting, its unit, its default, its source; TOML")
    _add_settings(show)
    show.add_argument("--json", action="store_true")
    show.set_defaults(run=_show_config)
    check = kinds.add_parser("check", help="a sentence for each problem, and 2 if there are any")
    _add_settings(check)
    check.set_defaults(run=_check_config)


def _add_doctor(commands: Commands) -> None:
    parser = commands.add_parser("doctor", help="examine this device, and say what mends it")
    _add_settings(parser)
    parser.add_argument("--json", action="store_true", help="a list of check, level, seen, remedy")
    parser.set_defaults(run=_doctor)


def _add_cluster(commands: Commands) -> None:
    parser = commands.add_parser("cluster", help="run several nodes on this machine")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--port", type=int, default=8080, help="REST port of the first node")
    parser.add_argument("--engine", choices=("tiny", "emulated"), default="tiny")
    parser.add_argument(
        "--profiles",
        default="orin-64gb-maxn",
        help="emulated devices, comma-separated, repeated over the nodes",
    )
    parser.add_argument("--time-scale", type=float, default=1.0, help="emulated devices this fast")
    parser.add_argument(
        "--models",
        type=int,
        default=1,
        help="tiny models, repeated over the nodes: the shipped one and copies with other weights",
    )
    parser.add_argument("--policy", help="of every node; if not given, a node's default")
    parser.add_argument("--data", type=Path, help="folder to keep; temporary when not given")
    parser.set_defaults(run=_cluster)


def _add_demo(commands: Commands) -> None:
    parser = commands.add_parser("demo", help="three nodes, real images, a table of delays")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument(
        "--port", type=int, help="REST port of the first node; a free one from 8080"
    )
    parser.set_defaults(run=_demo)


def _add_generate(commands: Commands) -> None:
    parser = commands.add_parser("generate", help="draw one prompt on a running cluster")
    parser.add_argument("prompt")
    parser.add_argument("--node", default=DEFAULT_URL, help="REST surface of any node")
    parser.add_argument("--out", type=Path, default=Path("image.png"))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--size", help="WIDTHxHEIGHT in pixels")
    parser.add_argument(
        "--init-image", type=Path, help="PNG, JPEG, WebP or GIF to start from instead of noise"
    )
    parser.add_argument("--strength", type=float, help="how far from it to go, up to 1")
    parser.set_defaults(run=_generate)


def _add_store_repair(commands: Commands) -> None:
    parser = commands.add_parser(
        "store-repair", help="cut out what cannot be read of a stopped node's embedded store"
    )
    _add_settings(parser)
    parser.set_defaults(run=_store_repair)


def _add_weights(commands: Commands) -> None:
    parser = commands.add_parser("weights", help="whether a model's files are still as recorded")
    parser.add_argument("action", choices=("verify",))
    _add_settings(parser)
    parser.add_argument("--sums", type=Path, help="list of sha256sum; default beside the weights")
    parser.add_argument("--record", action="store_true", help="write the list anew")
    parser.set_defaults(run=_weights)


def _add_dead_letters(commands: Commands) -> None:
    parser = commands.add_parser("dead-letters", help="tasks that were given up: list or retry")
    parser.add_argument("--node", default=DEFAULT_URL, help="REST surface of the node")
    parser.add_argument("--retry", metavar="ID", help="accept this one anew, or all")
    parser.set_defaults(run=_dead_letters)


def _add_mcp(commands: Commands) -> None:
    parser = commands.add_parser(
        "mcp", help="tools for an agent on this machine, over standard input and output"
    )
    parser.add_argument("--node", default=DEFAULT_URL, help="REST surface of any node")
    parser.set_defaults(run=_mcp)


def _add_replay(commands: Commands) -> None:
    parser = commands.add_parser("replay", help="replay captions against running nodes")
    parser.add_argument("--captions", type=Path, help="plain text or a Flickr8k caption file")
    parser.add_argument("--nodes", default=DEFAULT_URL, help="REST surfaces, comma-separated")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--arrival", choices=("batch", "slots", "poisson"), default="batch")
    parser.add_argument("--tasks-per-slot-max", type=int, default=5)
    parser.add_argument("--slot", type=float, default=1.0, help="seconds")
    parser.add_argument("--rate", type=float, default=1.0, help="tasks per second, for poisson")
    parser.add_argument("--to", choices=("one", "all"), default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for one request")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.set_defaults(run=_replay)


def _add_certs(commands: Commands) -> None:
    parser = commands.add_parser("certs", help="certificates by which nodes know each other")
    parser.add_argument("action", choices=("init", "issue", "rotate"))
    parser.add_argument("node_ids", nargs="*", metavar="NODE_ID", help="rotate: all, if none")
    parser.add_argument("--folder", type=Path, default=Path("certs"), help="keep it secret")
    parser.add_argument("--cluster", default="dedgeai", metavar="NAME", help="init: cluster_name")
    parser.add_argument("--days", type=int, default=90, help="that a certificate is good for")
    parser.add_argument(
        "--host",
        action="append",
        metavar="NAME",
        help="issue: by which clients reach the node's REST, too; kept when it is renewed",
    )
    parser.add_argument("--authority", choices=("new", "only-new"), help="rotate: it instead")
    parser.set_defaults(run=_certs)


def _add_keys(commands: Commands) -> None:
    parser = commands.add_parser("keys", help="API keys: from the first on, requests need one")
    parser.add_argument("action", choices=("add", "list", "limit", "revoke", "push"))
    parser.add_argument("key", nargs="?", help="add: whose it is; else: its name or its id")
    parser.add_argument(
        "--folder", type=Path, help="of the cluster's authority, which signs the list; certs"
    )
    parser.add_argument(
        "--to",
        action="append",
        default=[],
        metavar="URL",
        help="REST surface of a node that gets the list, and passes it on; may be repeated",
    )
    for name, what in (
        ("requests-per-minute", "at each node"),
        ("images-per-day", "at all nodes together, by UTC"),
        ("open-tasks", "that are not finished, at all nodes together"),
    ):
        parser.add_argument(
            f"--{name}", type=int, metavar="N", help=f"add, limit: {what}; no limit if not given"
        )
    parser.add_argument(
        "--scopes",
        default="generate,read",
        help="of generate, read and operate, which is everything of everybody",
    )
    _add_settings(parser)
    parser.set_defaults(run=_keys)


def _add_deploy(commands: Commands) -> None:
    parser = commands.add_parser("deploy", help="bring the devices of an inventory up to date")
    parser.add_argument("--inventory", type=Path, default=Path("deploy/inventory.toml"))
    parser.add_argument(
        "--only", action="append", default=[], metavar="NODE_ID", help="this node; may be repeated"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print every command and file, and do nothing"
    )
    parser.add_argument(
        "--certificates", action="store_true", help="these and API keys only; restarts nothing"
    )
    parser.add_argument(
        "--ready-timeout", type=float, default=900.0, help="seconds until a node would draw"
    )
    parser.set_defaults(run=_deploy)


def _node(options: argparse.Namespace) -> int:
    from edge_node.garbage import collect_later

    collect_later()
    import uvloop

    from edge_node.config_sources import load_config, parse_overrides
    from edge_node.log_stream import log_holds_nobody_up
    from edge_node.node import run_node
    from edge_node.sole_owner import keep_to_oneself

    keep_to_oneself()
    overrides = parse_overrides(options.set)
    with log_holds_nobody_up():
        return uvloop.run(run_node(lambda: load_config(options.config, overrides)))


def _worker(options: argparse.Namespace) -> int:
    from edge_node import start_note
    from edge_node.child_options import attached_worker
    from edge_node.errors import InvalidRequest
    from edge_node.worker_options import worker_lock

    config = _load_config(options)
    command = attached_worker(config)
    lock = worker_lock(config)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"The folder of worker_lock, {lock.parent}, cannot be made: {error.strerror}."
        if config.worker_socket is not None:
            start_note.tell_before_begin(config.worker_socket, reason)
        raise InvalidRequest(reason, param="worker_lock") from None
    os.execv(command[0], command)


def _learner(options: argparse.Namespace) -> int:
    from edge_node.child_options import attached_learner
    from edge_node.sole_owner import keep_to_oneself

    keep_to_oneself()
    command = attached_learner(_load_config(options))
    os.execv(command[0], command)


def _learn(options: argparse.Namespace) -> int:
    from edge_node.console.learn import learn
    from edge_node.sole_owner import keep_to_oneself

    keep_to_oneself()
    nodes = [one.strip() for one in options.nodes.split(",") if one.strip()]
    return learn(_load_config(options), nodes)


def _health(options: argparse.Namespace) -> int:
    from edge_node.console.health import look

    try:
        health = look(_load_config(options), options.process)
    except DEdgeAIError as error:
        print(error.message)
        return 1
    print(health.line)
    return 0 if (health.ready if options.ready else health.alive) else 1


def _show_config(options: argparse.Namespace) -> int:
    from edge_node.config_sources import load, parse_overrides
    from edge_node.console.configuration import as_json, as_toml

    loaded = load(options.config, parse_overrides(options.set))
    print(as_json(loaded) if options.json else as_toml(loaded))
    return 0


def _check_config(options: argparse.Namespace) -> int:
    from edge_node.config_sources import InvalidConfig
    from edge_node.console.configuration import problems

    try:
        found = problems(_load_config(options))
    except InvalidConfig as error:
        found = list(error.problems)
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        print("No problem was found.")
    return 2 if found else 0


def _doctor(options: argparse.Namespace) -> int:
    from rich.console import Console

    from edge_node.console.doctor import run_doctor

    return run_doctor(lambda: _load_config(options), as_json=options.json, console=Console())


def _load_config(options: argparse.Namespace) -> NodeConfig:
    from edge_node.config_sources import load_config, parse_overrides

    return load_config(options.config, parse_overrides(options.set))


def _cluster(options: argparse.Namespace) -> int:
    from edge_node.console.local_cluster import LocalCluster

    profiles = options.profiles.split(",")
    settings: list[dict[str, Any]] = []
    for index in range(options.nodes):
        one: dict[str, Any] = {"torch_threads": 1}
        if options.policy is not None:
            one["policy"] = options.policy
        if options.engine == "emulated":
            one |= {
                "engine": "emulated",
                "emulated_profile": profiles[index % len(profiles)],
                "time_scale": options.time_scale,
            }
        settings.append(one)
    cluster = LocalCluster(settings, rest_port=options.port, folder=options.data)
    if options.engine == "tiny":
        from edge_node.worker.tiny_sd3.perturbed import model_settings

        for index, one in enumerate(settings):
            one |= model_settings(index % max(1, options.models), folder=cluster.folder / "models")

    async def serve() -> None:
        print(f"Starting {options.nodes} nodes; their logs are in {cluster.folder}.", flush=True)
        async with cluster:
            print("All nodes are ready:", *cluster.urls, sep="\n  ", flush=True)
            print("Ctrl-C stops them.", flush=True)
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
    print("All nodes are stopped.")
    return 0


def _demo(options: argparse.Namespace) -> int:
    from rich.console import Console

    from edge_node.console.demo import PACES_S, run_demo
    from edge_node.console.local_cluster import free_rest_port

    logging.disable(logging.INFO)
    rest_port = options.port or free_rest_port(first=8080, nodes=len(PACES_S))
    good = asyncio.run(run_demo(out=options.out, rest_port=rest_port, console=Console()))
    return 0 if good else 1


def _weights(options: argparse.Namespace) -> int:
    from edge_node.console.weights import verify_weights

    return verify_weights(_load_config(options), sums=options.sums, record=options.record)


def _store_repair(options: argparse.Namespace) -> int:
    from edge_node.sole_owner import sole_owner
    from edge_node.store.repair import mend_store

    folder = _load_config(options).data_folder.resolve()
    with sole_owner(folder):
        mended = mend_store(folder, everything=True)
    for sentence in mended.sentences or ("Nothing is damaged.",):
        print(sentence)
    for task_id in mended.lost_task_ids:
        print(f"lost: {task_id}, or its latest state")
    return 0


def _dead_letters(options: argparse.Namespace) -> int:
    from edge_node.console.dead_letters import dead_letters

    return dead_letters(options.node, retry=options.retry)


def _mcp(options: argparse.Namespace) -> int:
    from edge_node.mcp.opening import require_mcp

    require_mcp("dedgeai mcp")
    from edge_node.mcp.stdio import serve_stdio

    asyncio.run(serve_stdio(options.node))
    return 0


def _generate(options: argparse.Namespace) -> int:
    from edge_node.client import DrawingOptions
    from edge_node.console.generate import generate

    given = DrawingOptions(seed=random.randrange(2**32) if options.seed is None else options.seed)
    if options.steps is not None:
        given["num_inference_steps"] = options.steps
    if options.guidance_scale is not None:
        given["guidance_scale"] = options.guidance_scale
    if options.size is not None:
        given["size"] = options.size
    return generate(
        options.node,
        options.prompt,
        out=options.out,
        init_image=options.init_image,
        strength=options.strength,
        options=given,
    )


def _replay(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from edge_node.console.captions import read_captions
    from edge_node.console.replay import Arrivals, plan, replay_with_progress

    urls = options.nodes.split(",")
    arrivals = Arrivals(
        kind=options.arrival,
        tasks_per_slot_max=options.tasks_per_slot_max,
        slot_s=options.slot,
        rate_hz=options.rate,
        to=options.to,
    )
    planned = plan(
        arrivals,
        captions=read_captions(options.captions),
        tasks=options.tasks,
        nodes=len(urls),
        seed=options.seed,
    )
    summary = asyncio.run(
        replay_with_progress(planned, node_urls=urls, timeout_s=options.timeout, title="replay")
    )
    text = json.dumps(asdict(summary), indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")
    return 0 if summary.failed == 0 else 1


def _certs(options: argparse.Namespace) -> int:
    from edge_node.console.certs import run_certs

    return run_certs(options)


def _keys(options: argparse.Namespace) -> int:
    from edge_node.console.keys import run_keys

    return run_keys(options, _load_config(options))


def _deploy(options: argparse.Namespace) -> int:
    from rich.console import Console

    from edge_node.console.deploy import DeployRequest, deploy

    request = DeployRequest(
        inventory=options.inventory,
        only=tuple(options.only),
        dry_run=options.dry_run,
        certificates_only=options.certificates,
        ready_s_max=options.ready_timeout,
    )
    return deploy(request, console=Console())


if __name__ == "__main__":
    sys.exit(main())

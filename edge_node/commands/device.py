"""Commands of one device: its node, worker and learner, their settings and their health.

Imports of each command are its own, so that `dedgeai node` loads nothing of the others.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from edge_node.commands.arguments import add_settings, load_settings
from edge_node.errors import DEdgeAIError


def add(commands: Any) -> None:
    """Adds them to the parser of all commands."""
    _add_node(commands)
    _add_worker(commands)
    _add_learner(commands)
    _add_health(commands)
    _add_config(commands)
    _add_doctor(commands)
    _add_store_repair(commands)
    _add_weights(commands)


def _add_node(commands: Any) -> None:
    parser = commands.add_parser("node", help="run one node of a cluster")
    add_settings(parser)
    parser.set_defaults(run=_node)


def _add_worker(commands: Any) -> None:
    parser = commands.add_parser("worker", help="run a node's worker beside it, on worker_socket")
    add_settings(parser)
    parser.set_defaults(run=_worker)


def _add_learner(commands: Any) -> None:
    parser = commands.add_parser("learner", help="run a node's learner beside it, on redis_url")
    add_settings(parser)
    parser.set_defaults(run=_learner)


def _add_health(commands: Any) -> None:
    parser = commands.add_parser("health", help="0 if a process of this device is alive, else 1")
    add_settings(parser)
    parser.add_argument("process", nargs="?", choices=("node", "worker", "learner"), default="node")
    parser.add_argument("--ready", action="store_true", help="0 only if it takes work now")
    parser.set_defaults(run=_health)


def _add_config(commands: Any) -> None:
    parser = commands.add_parser("config", help="show or check the settings of a node")
    kinds = parser.add_subparsers(required=True, metavar="show|check")
    show = kinds.add_parser("show", help="every setting, its unit, its default, its source; TOML")
    add_settings(show)
    show.add_argument("--json", action="store_true")
    show.set_defaults(run=_show_config)
    check = kinds.add_parser("check", help="a sentence for each problem, and 2 if there are any")
    add_settings(check)
    check.set_defaults(run=_check_config)


def _add_doctor(commands: Any) -> None:
    parser = commands.add_parser("doctor", help="examine this device, and say what mends it")
    add_settings(parser)
    parser.add_argument("--json", action="store_true", help="a list of check, level, seen, remedy")
    parser.set_defaults(run=_doctor)


def _add_store_repair(commands: Any) -> None:
    parser = commands.add_parser(
        "store-repair", help="cut out what cannot be read of a stopped node's embedded store"
    )
    add_settings(parser)
    parser.set_defaults(run=_store_repair)


def _add_weights(commands: Any) -> None:
    parser = commands.add_parser("weights", help="whether a model's files are still as recorded")
    parser.add_argument("action", choices=("verify",))
    add_settings(parser)
    parser.add_argument("--sums", type=Path, help="list of sha256sum; default beside the weights")
    parser.add_argument("--record", action="store_true", help="write the list anew")
    parser.set_defaults(run=_weights)


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

    config = load_settings(options)
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
    command = attached_learner(load_settings(options))
    os.execv(command[0], command)


def _health(options: argparse.Namespace) -> int:
    from edge_node.console.health import look

    try:
        health = look(load_settings(options), options.process)
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
        found = problems(load_settings(options))
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

    return run_doctor(lambda: load_settings(options), as_json=options.json, console=Console())


def _store_repair(options: argparse.Namespace) -> int:
    from edge_node.sole_owner import sole_owner
    from edge_node.store.repair import mend_store

    folder = load_settings(options).data_folder.resolve()
    with sole_owner(folder):
        mended = mend_store(folder, everything=True)
    for sentence in mended.sentences or ("Nothing is damaged.",):
        print(sentence)
    for task_id in mended.lost_task_ids:
        print(f"lost: {task_id}, or its latest state")
    return 0


def _weights(options: argparse.Namespace) -> int:
    from edge_node.console.weights import verify_weights

    return verify_weights(load_settings(options), sums=options.sums, record=options.record)


# Who keeps these running reads their log, and cannot ask again.
SERVICES = (_node, _worker, _learner)

"""Commands of those who keep a cluster: who may speak and draw, and what devices run.

Imports of each command are its own, so that `dedgeai node` loads nothing of the others.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edge_node.commands.arguments import (
    add_node,
    add_settings,
    count,
    listeners,
    load_settings,
    node_url,
    renamed,
    seconds,
)


def add(commands: Any) -> None:
    """Adds them to the parser of all commands."""
    _add_certs(commands)
    _add_keys(commands)
    _add_deploy(commands)
    _add_learn(commands)
    _add_dead_letters(commands)


def _add_certs(commands: Any) -> None:
    parser = commands.add_parser("certs", help="certificates by which nodes know each other")
    parser.add_argument("action", choices=("init", "issue", "rotate"))
    parser.add_argument("node_ids", nargs="*", metavar="NODE_ID", help="rotate: all, if none")
    parser.add_argument("--folder", type=Path, default=Path("certs"), help="keep it secret")
    parser.add_argument("--cluster", default="dedgeai", metavar="NAME", help="init: cluster_name")
    parser.add_argument("--days", type=count, default=90, help="that a certificate is good for")
    parser.add_argument(
        "--host",
        action="append",
        metavar="NAME",
        help="issue: by which clients reach the node's REST, too; kept when it is renewed",
    )
    parser.add_argument("--authority", choices=("new", "only-new"), help="rotate: it instead")
    parser.set_defaults(run=_certs)


def _add_keys(commands: Any) -> None:
    parser = commands.add_parser("keys", help="API keys: from the first on, requests need one")
    parser.add_argument("action", choices=("add", "list", "limit", "revoke", "push"))
    parser.add_argument("key", nargs="?", help="add: whose it is; else: its name or its id")
    parser.add_argument(
        "--folder", type=Path, help="of the cluster's authority, which signs the list; certs"
    )
    parser.add_argument(
        "--to",
        action="append",
        type=node_url,
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
            f"--{name}", type=count, metavar="N", help=f"add, limit: {what}; no limit if not given"
        )
    parser.add_argument(
        "--scopes",
        default="generate,read",
        help="of generate, read and operate, which is everything of everybody",
    )
    add_settings(parser)
    parser.set_defaults(run=_keys)


def _add_deploy(commands: Any) -> None:
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
        "--ready-timeout", type=seconds, default=900.0, help="seconds until a node would draw"
    )
    parser.set_defaults(run=_deploy)


def _add_learn(commands: Any) -> None:
    parser = commands.add_parser("learn", help="learn for a cluster, beside its nodes")
    add_settings(parser)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--peers",
        type=listeners,
        metavar="HOST:PORT,...",
        help="gRPC listeners of all nodes, as the setting peers has them",
    )
    where.add_argument("--nodes", type=renamed("--peers HOST:PORT,..."), help=argparse.SUPPRESS)
    parser.set_defaults(run=_learn)


def _add_dead_letters(commands: Any) -> None:
    parser = commands.add_parser("dead-letters", help="tasks that were given up: list or retry")
    add_node(parser)
    parser.add_argument("--retry", metavar="ID", help="accept this one anew, or all")
    parser.set_defaults(run=_dead_letters)


def _certs(options: argparse.Namespace) -> int:
    from edge_node.console.certs import run_certs

    return run_certs(options)


def _keys(options: argparse.Namespace) -> int:
    from edge_node.console.keys import run_keys

    return run_keys(options, load_settings(options))


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


def _learn(options: argparse.Namespace) -> int:
    from edge_node.console.learn import learn
    from edge_node.sole_owner import keep_to_oneself

    keep_to_oneself()
    return learn(load_settings(options), options.peers)


def _dead_letters(options: argparse.Namespace) -> int:
    from edge_node.console.dead_letters import dead_letters

    return dead_letters(options.node, retry=options.retry)

"""Arguments of the commands that look at a cluster and operate it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edge_node.commands.arguments import add_node, add_out, count, name, whole

STATUSES = ("queued", "in_progress", "completed", "failed", "cancelled")
OPERATIONS = {
    "pause": "have a node take no new work; it ends what it has",
    "drain": "the same, and give back to other nodes what it has of theirs",
    "resume": "have it take work again",
}

PLACES = {
    "remove": "take a dead node out of the cluster, with its tasks; it stays out",
    "readmit": "let a node back in that was removed",
}


def add(commands: Any) -> None:
    """Adds them to the parser of all commands."""
    _add_status(commands)
    _add_tasks(commands)
    _add_operations(commands)
    _add_nodes(commands)
    _add_logs(commands)


def _add_status(commands: Any) -> None:
    parser = commands.add_parser(
        "status", help="the devices of a cluster; 1 if one is away or takes nothing"
    )
    add_node(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="as GET /v1/cluster has it")
    how.add_argument("--watch", action="store_true", help="again every second, until Ctrl-C")
    parser.set_defaults(run=_status)


def _add_tasks(commands: Any) -> None:
    parser = commands.add_parser("tasks", help="tasks of all nodes: list, show, fetch, cancel")
    kinds = parser.add_subparsers(required=True, metavar="list|show|fetch|cancel")
    listing = kinds.add_parser("list", help="newest first; 1 if a node did not answer")
    add_node(listing)
    listing.add_argument("--status", choices=STATUSES)
    listing.add_argument("--model")
    listing.add_argument("--owner", help="id of an API key")
    listing.add_argument(
        "--count", type=whole(1, what=" of tasks"), default=20, help="at most so many (20)"
    )
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=_list)
    show = kinds.add_parser("show", help="all that is known of one, as JSON")
    add_node(show)
    show.add_argument("task", type=name, metavar="ID")
    show.set_defaults(run=_show)
    fetch = kinds.add_parser("fetch", help="wait for the image of one, and save it")
    add_node(fetch)
    fetch.add_argument("task", type=name, metavar="ID")
    add_out(fetch)
    fetch.set_defaults(run=_fetch)
    cancel = kinds.add_parser("cancel", help="cancel some, or all that are open")
    add_node(cancel)
    which = cancel.add_mutually_exclusive_group(required=True)
    which.add_argument("tasks", nargs="*", type=name, default=[], metavar="ID")
    which.add_argument("--all", action="store_true", help="of all nodes")
    cancel.set_defaults(run=_cancel)


def _add_operations(commands: Any) -> None:
    for action, says in OPERATIONS.items():
        parser = commands.add_parser(action, help=says)
        add_node(parser)
        parser.add_argument(
            "name", type=name, metavar="NODE", help="its name, as `dedgeai status` shows it"
        )
        parser.set_defaults(run=_operate, action=action)


def _add_nodes(commands: Any) -> None:
    parser = commands.add_parser("nodes", help="who belongs to the cluster: remove, readmit")
    actions = parser.add_subparsers(required=True, metavar="remove|readmit")
    for action, says in PLACES.items():
        one = actions.add_parser(action, help=says)
        add_node(one)
        one.add_argument(
            "name", type=name, metavar="NODE", help="its name, as `dedgeai status` showed it"
        )
        one.set_defaults(run=_operate, action=action)


def _add_logs(commands: Any) -> None:
    parser = commands.add_parser("logs", help="what the nodes of a cluster on this machine write")
    parser.add_argument("names", nargs="*", metavar="NAME", help="node-0, or node-0/worker; all")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="of a cluster, or data_folder of a node; if not given, of the latest cluster",
    )
    parser.add_argument("--lines", type=count, default=20, help="the last ones of each")
    parser.add_argument("--follow", action="store_true", help="go on until Ctrl-C")
    parser.set_defaults(run=_logs)


def _status(options: argparse.Namespace) -> int:
    from edge_node.console.looking import show_status

    return show_status(options.node, as_json=options.json, watch=options.watch)


def _list(options: argparse.Namespace) -> int:
    from edge_node.console.looking import list_tasks

    return list_tasks(
        options.node,
        status=options.status,
        model=options.model,
        owner=options.owner,
        count=options.count,
        as_json=options.json,
    )


def _show(options: argparse.Namespace) -> int:
    from edge_node.console.looking import show_task

    return show_task(options.node, options.task)


def _fetch(options: argparse.Namespace) -> int:
    from edge_node.console.generate import fetch

    return fetch(
        options.node, options.task, out=options.out, force=options.force, show=options.preview
    )


def _cancel(options: argparse.Namespace) -> int:
    from edge_node.console.looking import cancel_tasks

    return cancel_tasks(options.node, options.tasks, every=options.all)


def _logs(options: argparse.Namespace) -> int:
    from edge_node.console.logs import show_logs

    return show_logs(options.data, options.names, lines=options.lines, follow=options.follow)


def _operate(options: argparse.Namespace) -> int:
    from edge_node.console.looking import operate

    return operate(options.node, options.action, options.name)

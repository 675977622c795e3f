"""What a cluster does, in a terminal: its devices, and the tasks of all nodes.

Owns tables and lines; what is asked is the client's.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.live import Live
from rich.text import Text

from edge_node.client import (
    Client,
    Cluster,
    Erased,
    Missing,
    Node,
    NodeUnreachable,
    RequestRefused,
    Task,
)
from edge_node.client.calls import Operation
from edge_node.errors import OriginUnavailable

ANSWER_S_MAX = 30.0
LOOK_AGAIN_S = 1.0
PIPED_COLUMNS = 240
GAP = 2
SHRUNK_MIN = 8
REFUSED = 2
DONE: dict[Operation, str] = {
    "pause": "paused",
    "drain": "draining",
    "resume": "resumed",
    "remove": "removed",
    "readmit": "readmitted",
}


@contextmanager
def client_of(node_url: str) -> Iterator[Client]:
    """A client of the node.

    Raises:
        OriginUnavailable: nobody answers there; the sentence says what to try.
    """
    try:
        with Client(node_url, timeout_s=ANSWER_S_MAX) as client:
            yield client
    except NodeUnreachable as error:
        raise OriginUnavailable(f"{error.message} Name another with --node.") from None


def show_status(node_url: str, *, as_json: bool, watch: bool) -> int:
    """Prints the devices of the cluster once, or again and again until Ctrl-C; the exit code.

    1 where a node that was met is away or takes nothing.
    """
    console = _console()
    with client_of(node_url) as client:
        cluster = client.cluster()
        if as_json:
            print(json.dumps(cluster.document, indent=1))
        elif not watch:
            console.print(devices(cluster, console.width))
        else:
            with Live(devices(cluster, console.width), console=console, auto_refresh=False) as live:
                while True:
                    time.sleep(LOOK_AGAIN_S)
                    cluster = client.cluster()
                    live.update(devices(cluster, console.width), refresh=True)
    return 0 if all(_standing(node) == "ready" for node in cluster.nodes) else 1


def _console() -> Console:
    """The terminal; what is read by a program is not cut to one's width."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPED_COLUMNS)


def devices(cluster: Cluster, columns: int) -> Text:
    """A line for each device, the one that was asked first."""
    guard = cluster.document.get("guard") or {}
    decides = guard.get("deciding") or cluster.policy
    why = f" places: {guard['reason']}" if guard.get("reason") else " places"
    nodes = f"{len(cluster.nodes)} node{'s' if len(cluster.nodes) > 1 else ''}"
    rows = []
    for node in cluster.nodes:
        work_s = node.backlog / node.capacity if node.capacity else 0.0
        rows.append(
            (
                node.node or node.address or "",
                _standing(node),
                node.device or node.emulated_device or "",
                ", ".join(node.models),
                str(node.running),
                str(node.queued),
                f"{work_s:.1f} s",
                f"{node.capacity:.1f}" if node.capacity else "",
            )
        )
    names = ("node", "state", "device", "model", "draws", "waiting", "work", "steps/s")
    return _table(
        names,
        rows,
        may_shrink=("device", "model"),
        columns=columns,
        caption=f"{nodes}; {decides}{why}",
    )


def _standing(node: Node) -> str:
    if not node.alive:
        return "away" if node.staleness_s is None else f"away {node.staleness_s:.0f} s"
    if node.accepting:
        return "ready"
    return "paused" if node.document.get("paused") else "takes nothing"


def list_tasks(
    node_url: str,
    *,
    status: str | None,
    model: str | None,
    owner: str | None,
    count: int,
    as_json: bool,
) -> int:
    """Prints tasks of all nodes, newest first; 1 where a node did not answer."""
    console = _console()
    with client_of(node_url) as client:
        tasks: list[Task | Erased] = []
        missing: tuple[Missing, ...] = ()
        cursor = None
        while len(tasks) < count:
            limit = min(count - len(tasks), 200)
            page = client.page(status=status, model=model, owner=owner, limit=limit, cursor=cursor)
            tasks += page.tasks
            missing, cursor = page.missing or missing, page.next_cursor
            if cursor is None:
                break
    if as_json:
        print(json.dumps([task.document for task in tasks], indent=1))
    else:
        console.print(_tasks_table(tasks, console.width))
    for one in missing:
        console.print(f"{one.node or one.address} did not answer: {one.reason}", style="yellow")
    return 1 if missing else 0


def _tasks_table(tasks: Sequence[Task | Erased], columns: int) -> Text:
    rows = [
        (task.id, "erased", "", "", "")
        if isinstance(task, Erased)
        else (
            task.id,
            task.status,
            task.executor or "",
            _progress(task),
            (task.prompt or "").replace("\n", " "),
        )
        for task in tasks
    ]
    names = ("task", "status", "node", "progress", "prompt")
    return _table(names, rows, may_shrink=("prompt",), columns=columns)


def _table(
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    may_shrink: Sequence[str],
    columns: int,
    caption: str = "",
) -> Text:
    """Each column as wide as what is in it, so that names can be copied; some share the rest."""
    widest = [max(map(cell_len, texts)) for texts in zip(names, *rows, strict=True)]
    fixed = sum(w + GAP for name, w in zip(names, widest, strict=True) if name not in may_shrink)
    share = max((columns - fixed) // max(1, len(may_shrink)) - GAP, SHRUNK_MIN)
    widths = [
        min(width, share) if name in may_shrink else width
        for name, width in zip(names, widest, strict=True)
    ]
    head, *lines = (
        (" " * GAP)
        .join(_cut(text, width) for text, width in zip(row, widths, strict=True))
        .rstrip()
        for row in (names, *rows)
    )
    table = Text(head, style="bold", no_wrap=True, overflow="ignore", end="")
    for line in lines:
        table.append(f"\n{line}", style="not bold")
    if caption:
        table.append(f"\n{caption}", style="not bold dim")
    return table


def _cut(text: str, columns: int) -> str:
    if cell_len(text) <= columns:
        return set_cell_size(text, columns)
    return set_cell_size(text, columns - 1) + "…"


def _progress(task: Task) -> str:
    if task.is_over:
        return (task.error or {}).get("code", "")
    if task.queue_position:
        return f"{task.queue_position} in line, {task.eta_s:.0f} s"
    return f"step {task.steps_done}, {task.eta_s:.0f} s"


def show_task(node_url: str, task_id: str) -> int:
    """Prints all that is known of a task, as JSON."""
    with client_of(node_url) as client:
        print(json.dumps(client.task(task_id).document, indent=1, ensure_ascii=False))
    return 0


def cancel_tasks(node_url: str, task_ids: list[str], *, every: bool) -> int:
    """Cancels tasks, or all that are open at all nodes.

    1 where a node did not answer, 2 where one of the tasks could not be cancelled: the others are.
    """
    code = 0
    with client_of(node_url) as client:
        if every:
            cancelled = client.cancel_all()
            print(f"{cancelled.cancelled} cancelled")
            for one in cancelled.missing:
                print(f"{one.node or one.address} did not answer: {one.reason}")
            return 1 if cancelled.missing else 0
        for task_id in task_ids:
            try:
                print(f"{task_id} {client.cancel(task_id).status}")
            except RequestRefused as error:
                print(f"dedgeai: {error.message}", file=sys.stderr)
                code = REFUSED
    return code


def operate(node_url: str, action: Operation, node_id: str) -> int:
    """Pauses, drains or resumes a node, or removes or readmits a dead one, from any other."""
    with client_of(node_url) as client:
        client.operate(node_id, action)
    print(f"{node_id} {DONE[action]}")
    return 0

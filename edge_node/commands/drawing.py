"""Commands that have running nodes draw.

Imports of each command are its own, so that `dedgeai node` loads nothing of the others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from pathlib import Path
from typing import Any

from edge_node.commands.arguments import (
    DEFAULT_URL,
    above,
    add_node,
    count,
    node_urls,
    renamed,
    require_parent,
    seconds,
    seed,
)


def add(commands: Any) -> None:
    """Adds them to the parser of all commands."""
    _add_generate(commands)
    _add_replay(commands)
    _add_mcp(commands)


def _add_generate(commands: Any) -> None:
    parser = commands.add_parser("generate", help="draw one prompt on a running cluster")
    parser.add_argument("prompt")
    add_node(parser)
    parser.add_argument("--out", type=Path, default=Path("image.png"))
    parser.add_argument("--steps", type=count)
    parser.add_argument("--guidance-scale", type=above(0.0, reached=True))
    parser.add_argument("--seed", type=seed)
    parser.add_argument("--size", help="WIDTHxHEIGHT in pixels")
    parser.add_argument(
        "--init-image", type=Path, help="PNG, JPEG, WebP or GIF to start from instead of noise"
    )
    parser.add_argument("--strength", type=above(0.0), help="how far from it to go, up to 1")
    parser.set_defaults(run=_generate)


def _add_replay(commands: Any) -> None:
    parser = commands.add_parser("replay", help="replay captions against running nodes")
    parser.add_argument("--captions", type=Path, help="plain text or a Flickr8k caption file")
    parser.add_argument(
        "--node",
        type=node_urls,
        default=[DEFAULT_URL],
        metavar="URL,...",
        help="REST surfaces of the nodes that are asked",
    )
    parser.add_argument("--nodes", type=renamed("--node URL,..."), help=argparse.SUPPRESS)
    parser.add_argument("--tasks", type=count, default=100)
    parser.add_argument("--arrival", choices=("batch", "slots", "poisson"), default="batch")
    parser.add_argument("--tasks-per-slot-max", type=count, default=5)
    parser.add_argument("--slot", type=seconds, default=1.0, help="seconds")
    parser.add_argument(
        "--rate", type=above(0.0), default=1.0, help="tasks per second, for poisson"
    )
    parser.add_argument("--to", choices=("one", "all"), default="all")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--timeout", type=seconds, default=3600.0, help="seconds for one request")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.set_defaults(run=_replay)


def _add_mcp(commands: Any) -> None:
    parser = commands.add_parser(
        "mcp", help="tools for an agent on this machine, over standard input and output"
    )
    add_node(parser)
    parser.set_defaults(run=_mcp)


def _generate(options: argparse.Namespace) -> int:
    from edge_node.client import DrawingOptions
    from edge_node.console.generate import generate

    require_parent(options.out, "--out")
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

    urls = options.node
    if options.json is not None:
        require_parent(options.json, "--json")
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


def _mcp(options: argparse.Namespace) -> int:
    from edge_node.mcp.opening import require_mcp

    require_mcp("dedgeai mcp")
    from edge_node.mcp.stdio import serve_stdio

    asyncio.run(serve_stdio(options.node))
    return 0

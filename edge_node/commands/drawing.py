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
    SEED_MAX,
    above,
    add_node,
    add_out,
    count,
    node_urls,
    renamed,
    require_parent,
    seconds,
    seed,
    whole,
)
from edge_node.errors import InvalidRequest

# A node says how many it takes at most; no name of a file is asked for more than that.
IMAGES_MAX = 100


def add(commands: Any) -> None:
    """Adds them to the parser of all commands."""
    _add_generate(commands)
    _add_replay(commands)
    _add_mcp(commands)


def _add_generate(commands: Any) -> None:
    parser = commands.add_parser("generate", help="draw one prompt on a running cluster")
    parser.add_argument("prompt")
    add_node(parser)
    parser.add_argument("-n", type=whole(1, IMAGES_MAX), default=1, help="images, of seeds in turn")
    add_out(parser)
    parser.add_argument("--steps", type=count)
    parser.add_argument("--guidance-scale", type=above(0.0, reached=True))
    parser.add_argument("--seed", type=seed, help="of the first image; drawn by lot, and said")
    parser.add_argument("--size", help="WIDTHxHEIGHT in pixels")
    parser.add_argument(
        "--init-image", type=Path, help="PNG, JPEG, WebP or GIF to start from instead of noise"
    )
    parser.add_argument("--strength", type=above(0.0), help="how far from it to go, up to 1")
    parser.add_argument(
        "--detach", action="store_true", help="do not wait; `dedgeai tasks fetch ID` does"
    )
    parser.add_argument("--json", action="store_true", help="what was drawn, for a program")
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
    from edge_node.console.generate import Wanted, generate
    from edge_node.console.image_paths import ImagePaths

    first = random.randrange(SEED_MAX - IMAGES_MAX) if options.seed is None else options.seed
    seeds = range(first, first + options.n)
    if seeds[-1] > SEED_MAX:
        raise InvalidRequest(f"-n {options.n} goes beyond the last seed: give --seed a lower one.")
    given = DrawingOptions()
    if options.steps is not None:
        given["num_inference_steps"] = options.steps
    if options.guidance_scale is not None:
        given["guidance_scale"] = options.guidance_scale
    if options.size is not None:
        given["size"] = options.size
    wanted = Wanted(
        prompt=options.prompt,
        seeds=seeds,
        paths=ImagePaths(options.out, seeds, force=options.force),
        options=given,
        init_image=options.init_image,
        strength=options.strength,
        detach=options.detach,
        as_json=options.json,
        preview=options.preview,
    )
    return generate(options.node, wanted)


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

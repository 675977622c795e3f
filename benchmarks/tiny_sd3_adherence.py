"""Does the tiny SD3 draw what a caption says?

Draws captions that training never saw with the stock pipeline's modules (guidance 5, shift 3,
10 to 19 steps, every image with its own step count and seed), reads the images back with
``scene_classifier`` from pixels alone and counts what is right. Run
``python -m benchmarks.tiny_sd3_adherence``; the table goes to stdout, all of it to
``results/tiny_sd3_adherence.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import pathlib
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image

from benchmarks import machine
from edge_node.console import scene_classifier
from edge_node.console.scene_classifier import OBJECT_ATTRIBUTES, judge
from edge_node.worker.tiny_sd3 import model_folder, scenes
from scheduler.simulator.statistics import wilson_interval

GUIDANCE_SCALE = 5.0
STEPS_MIN, STEPS_MAX = 10, 19
TOKENS_CLIP = 77
BATCH_MAX = 32
CAPTION_ATTRIBUTES = ("background", "count", "all", "all_and_size")
TARGET_SHARE = {1: 0.95, 2: 0.85}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One image to draw.

    Attributes:
        scene: What the caption says.
        caption: The prompt.
        steps: Denoising steps.
        seed: Seed of the image's own noise.
    """

    scene: scenes.Scene
    caption: str
    steps: int
    seed: int


def make_requests(*, count: int, objects: int, seed: int) -> list[Request]:
    """Draws held-out scenes and words, steps and a seed for each."""
    rng = np.random.default_rng([seed, objects])
    codes_BA = scenes.sample_codes(rng, count, objects=objects, want_held_out=True)
    requests = []
    for code_A in codes_BA:
        scene = scenes.scene_of(code_A)
        requests.append(
            Request(
                scene=scene,
                caption=scenes.caption(scene, rng),
                steps=int(rng.integers(STEPS_MIN, STEPS_MAX + 1)),
                seed=int(rng.integers(2**31)),
            )
        )
    return requests


@torch.no_grad()
def draw(
    pipeline: StableDiffusion3Pipeline, requests: list[Request], *, context: str
) -> list[npt.NDArray[np.uint8]]:
    """Draws every request; those with equal step counts share batches.

    Args:
        pipeline: The stock pipeline; its modules are called, not the pipeline.
        requests: What to draw.
        context: ``sd3`` for 77 tokens and 256 zero rows, ``paper`` for the 77 tokens alone.

    Returns:
        One ``image_HW3`` per request, in their order.
    """
    images: dict[int, npt.NDArray[np.uint8]] = {}
    order = sorted(range(len(requests)), key=lambda i: requests[i].steps)
    for steps, rows in itertools.groupby(order, key=lambda i: requests[i].steps):
        same = list(rows)
        for start in range(0, len(same), BATCH_MAX):
            batch = same[start : start + BATCH_MAX]
            drawn = draw_batch(pipeline, [requests[i] for i in batch], steps, context=context)
            images.update(zip(batch, drawn, strict=True))
    return [images[i] for i in range(len(requests))]


def draw_batch(
    pipeline: StableDiffusion3Pipeline, requests: list[Request], steps: int, *, context: str
) -> list[npt.NDArray[np.uint8]]:
    """Draws requests of one step count at 64x64: Euler steps over the scheduler's sigmas."""
    captions = [request.caption for request in requests]
    prompt_BTC, empty_BTC, pooled_BP, empty_BP = pipeline.encode_prompt(
        captions, None, None, negative_prompt="", do_classifier_free_guidance=True
    )
    context_BTC, pooled_BP = torch.cat([empty_BTC, prompt_BTC]), torch.cat([empty_BP, pooled_BP])
    if context == "paper":
        context_BTC = context_BTC[:, :TOKENS_CLIP]
    config = pipeline.transformer.config
    shape = (config.in_channels, config.sample_size, config.sample_size)
    latent_BCHW = torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(r.seed)) for r in requests]
    )
    pipeline.scheduler.set_timesteps(steps)
    sigmas = pipeline.scheduler.sigmas.tolist()
    for sigma, sigma_next in itertools.pairwise(sigmas):
        velocity_BCHW = pipeline.transformer(
            hidden_states=torch.cat([latent_BCHW, latent_BCHW]),
            encoder_hidden_states=context_BTC,
            pooled_projections=pooled_BP,
            timestep=torch.full((2 * len(requests),), sigma * 1000),
            return_dict=False,
        )[0]
        empty_BCHW, prompt_BCHW = velocity_BCHW.chunk(2)
        guided_BCHW = empty_BCHW + GUIDANCE_SCALE * (prompt_BCHW - empty_BCHW)
        latent_BCHW = latent_BCHW + (sigma_next - sigma) * guided_BCHW
    vae = pipeline.vae
    latent_BCHW = latent_BCHW / vae.config.scaling_factor + vae.config.shift_factor
    pixels_BHW3 = vae.decode(latent_BCHW).sample.permute(0, 2, 3, 1)
    return list(((pixels_BHW3.clamp(-1, 1) + 1) * 127.5).round().byte().numpy())


def tally(verdicts: list[dict[str, list[bool]]]) -> dict[str, dict[str, float]]:
    """Returns per attribute how many are right, of how many, the share and its interval."""
    table = {}
    for name in (*CAPTION_ATTRIBUTES[:2], *OBJECT_ATTRIBUTES, *CAPTION_ATTRIBUTES[2:]):
        flags = [flag for verdict in verdicts for flag in verdict[name]]
        low, high = wilson_interval(sum(flags), len(flags))
        table[name] = {
            "right": sum(flags),
            "of": len(flags),
            "share": round(sum(flags) / len(flags), 4),
            "low": round(low, 4),
            "high": round(high, 4),
        }
    return table


def measure(
    pipeline: StableDiffusion3Pipeline, requests: list[Request], *, context: str
) -> tuple[dict[str, Any], list[npt.NDArray[np.uint8]]]:
    """Draws and judges the requests; returns the figures and the images."""
    start_s = time.perf_counter()
    images = draw(pipeline, requests, context=context)
    drawing_s = time.perf_counter() - start_s
    seen = [scene_classifier.classify(image_HW3) for image_HW3 in images]
    verdicts = [judge(r.scene, s) for r, s in zip(requests, seen, strict=True)]
    wrong = [
        {"caption": r.caption, "steps": r.steps, "seed": r.seed, "seen": dataclasses.asdict(s)}
        for r, s, verdict in zip(requests, seen, verdicts, strict=True)
        if not verdict["all"][0]
    ]
    figures = {
        "captions": len(requests),
        "drawing_s": round(drawing_s, 1),
        "attributes": tally(verdicts),
        "wrong": wrong,
    }
    return figures, images


def print_table(title: str, table: dict[str, dict[str, float]]) -> None:
    """Prints one table of shares with their intervals."""
    print(f"\n{title}\n{'attribute':<14}{'right':>7}{'of':>6}{'share':>9}   95 % interval")
    for name, row in table.items():
        print(
            f"{name:<14}{row['right']:>7}{row['of']:>6}{row['share']:>9.1%}"
            f"   {row['low']:.1%} .. {row['high']:.1%}"
        )


def contact_sheet(images: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Returns the images side by side, sixteen in a row; a row that is not full is left out."""
    full = len(images) // 16 * 16
    rows = [np.concatenate(images[i : i + 16], axis=1) for i in range(0, full, 16)]
    return np.concatenate(rows)


def main() -> None:
    """Parses the command line, measures, prints and writes the result file."""
    results = pathlib.Path(__file__).resolve().parent / "results"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=pathlib.Path, default=model_folder())
    parser.add_argument("--captions", type=int, default=300, help="per number of objects")
    parser.add_argument("--context", choices=("sd3", "paper"), action="append")
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--out", type=pathlib.Path, default=results / "tiny_sd3_adherence.json")
    parser.add_argument("--sheet", type=pathlib.Path, help="PNG with the first images of each kind")
    arguments = parser.parse_args()
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        arguments.model, text_encoder_3=None, tokenizer_3=None, local_files_only=True
    ).to(torch.float32)
    result: dict[str, Any] = {
        "question": "share of held-out captions that the tiny SD3 draws as they say",
        "guidance_scale": GUIDANCE_SCALE,
        "shift": pipeline.scheduler.config.shift,
        "steps": [STEPS_MIN, STEPS_MAX],
        "seed": arguments.seed,
        "targets_all": {"one_object": TARGET_SHARE[1], "two_objects": TARGET_SHARE[2]},
        "machine": machine.describe(),
        "contexts": {},
    }
    shown: list[npt.NDArray[np.uint8]] = []
    for context in arguments.context or ["sd3", "paper"]:
        kinds = result["contexts"].setdefault(context, {})
        for objects, name in ((1, "one_object"), (2, "two_objects")):
            requests = make_requests(count=arguments.captions, objects=objects, seed=arguments.seed)
            kinds[name], images = measure(pipeline, requests, context=context)
            shown += images[:48] if context == (arguments.context or ["sd3"])[0] else []
            print_table(
                f"context {context}, {name}, {len(requests)} captions", kinds[name]["attributes"]
            )
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if arguments.sheet is not None:
        Image.fromarray(contact_sheet(shown)).save(arguments.sheet)


if __name__ == "__main__":
    main()

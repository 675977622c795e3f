"""How do the worker's drawings compare with diffusers' own pipeline: result, speed, delay, memory?

Ours is the worker's engine and its denoiser; the peer is `StableDiffusion3Pipeline`, called once
for each request, first come first served. Both run the same modules with the same weights, in
this process, one after the other. Durations on a CPU are CPU seconds divided by the threads at
work, so that a neighbour on the same cores does not count. No picture is judged here: speed and
memory depend on shapes only, so but for the tiny model weights are random.

    python -m benchmarks.step_engine                  # tiny and mid-size, on a CPU: about an hour
    python -m benchmarks.step_engine --quick          # the same with few requests: minutes
    python -m benchmarks.step_engine --full-size      # SD3-medium's 2.03 B transformer: on a GPU
                                                      # all of it, on a CPU one step in bfloat16
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from PIL import Image as PillowImage

from benchmarks import machine
from benchmarks.random_sd3 import FULL, MID, pipeline_of, random_parts
from benchmarks.virtual_time import Request, Served, VirtualRun, cpu_seconds
from edge_node.clock import SystemClock
from edge_node.domain import Drawing
from edge_node.worker import (
    calibration,
    memory_guard,
    model_files,
    peak_memory,
    sd3_parts,
    tiny_sd3,
)
from edge_node.worker.denoiser import Denoiser, ModelFacts
from edge_node.worker.queue_order import Order
from edge_node.worker.sd3 import Sd3Denoiser, Sd3Options
from edge_node.worker.sd3_parts import Sd3Parts
from edge_node.worker.sd3_row import Sd3Row

RESULTS = pathlib.Path(__file__).parent / "results"
PROMPT = "a brown dog runs over wet sand, number {number}"
GUIDANCE = 5.0
STEPS = (4, 28)
LOAD = 0.8
H100_TFLOPS = 989.0


class Pair:
    """The worker's denoiser and diffusers' pipeline over the same modules."""

    def __init__(self, parts: Sd3Parts, *, side_px: int, dtype: str, threads: int) -> None:
        self.side_px, self.threads = side_px, threads
        self.on_gpu = torch.cuda.is_available()
        self.denoiser = Sd3Denoiser(
            lambda device, dtype: parts,
            options=Sd3Options(model_name="benchmark", dtype_name=dtype),
            clock=SystemClock(),
        )
        self.facts: ModelFacts = dataclasses.replace(self.denoiser.load(), decodes_beside=False)
        self.pipe = pipeline_of(parts)
        self.parts = parts

    def drawing(self, number: int, *, steps: int, guidance: float = GUIDANCE) -> Drawing:
        """A drawing that differs from others in prompt and seed."""
        return Drawing(
            prompt=PROMPT.format(number=number),
            width_px=self.side_px,
            height_px=self.side_px,
            steps=steps,
            guidance_scale=guidance,
            seed=number,
            model="",
        )

    def by_pipeline(self, one: Drawing) -> Any:
        """The peer's image."""
        return self.pipe(
            prompt=one.prompt,
            num_inference_steps=one.steps,
            guidance_scale=one.guidance_scale,
            width=one.width_px,
            height=one.height_px,
            generator=torch.Generator("cpu").manual_seed(one.seed),
        ).images[0]

    def by_engine(self, one: Drawing) -> Any:
        """Our image, alone."""
        row = self.denoiser.begin(one, b"")
        for _ in range(one.steps):
            self.denoiser.step([row])
        return self.denoiser.picture(row)

    def timed(self, call: Callable[[], Any]) -> float:
        """Seconds: of the device where there is one, else CPU seconds by thread."""
        if not self.on_gpu:
            return cpu_seconds(call, threads=self.threads)[1]
        torch.cuda.synchronize()
        before_s = time.perf_counter()
        call()
        torch.cuda.synchronize()
        return time.perf_counter() - before_s


def step_tflop(config: Any, *, image_tokens: int, context_rows: int, kept_rows: int) -> float:
    """TFLOP of one guided step: products of weights and of attention, two for a multiply-add.

    Args:
        config: the transformer's.
        image_tokens: of one row.
        context_rows: rows that attend and are transformed.
        kept_rows: rows whose keys are attended to; the same when nothing is folded.
    """
    width = config.num_attention_heads * config.attention_head_dim
    tokens = image_tokens + context_rows
    blocks = config.num_layers
    linear = 24 * width * width * (blocks * image_tokens + (blocks - 1) * context_rows)
    linear += 4 * width * width * context_rows  # the last block's context keys and values
    linear += 2 * context_rows * config.joint_attention_dim * width
    attention = 4 * width * tokens * (image_tokens + kept_rows) * blocks
    return float(2 * (linear + attention) / 1e12)


def equality(pair: Pair, *, drawings: int) -> dict[str, Any]:
    """Images of a mixed batch against the pipeline's, one at a time, both in float32."""
    rng = np.random.default_rng(1)
    wanted = [
        pair.drawing(number, steps=int(rng.integers(*STEPS)), guidance=float(guidance))
        for number, guidance in enumerate(rng.choice([1.0, 5.0, 7.5, 12.0], drawings))
    ]
    rows = [pair.denoiser.begin(one, b"") for one in wanted]
    for _ in range(STEPS[1]):
        going = [row for row in rows if row.step < row.schedule.steps]
        for first in range(0, len(going), 6):
            pair.denoiser.step(going[first : first + 6])
    within, worst, pixels = 0, 0, 0
    for one, row in zip(wanted, rows, strict=True):
        ours = np.asarray(pair.denoiser.picture(row), dtype=int)
        difference = np.abs(ours - np.asarray(pair.by_pipeline(one), dtype=int)).max(axis=2)
        within += int((difference <= 1).sum())
        worst, pixels = max(worst, int(difference.max())), pixels + difference.size
    again = [np.asarray(pair.by_engine(wanted[0])) for _ in range(2)]
    return {
        "drawings": drawings,
        "pixels_within_1": within / pixels,
        "worst_difference": worst,
        "byte_equal_run_after_run": bool((again[0] == again[1]).all()),
    }


def speed(pair: Pair, *, steps: int, rounds: int) -> dict[str, Any]:
    """One image at a time from both, in turn; the median of the rounds."""
    pair.by_engine(pair.drawing(0, steps=1))
    pair.by_pipeline(pair.drawing(0, steps=1))
    ours_s, theirs_s, step_s, their_step_s = [], [], [], []
    for number in range(1, rounds + 1):
        one = pair.drawing(number, steps=steps)
        theirs_s.append(pair.timed(partial(pair.by_pipeline, one)))
        ours_s.append(pair.timed(partial(pair.by_engine, one)))
        row = pair.denoiser.begin(one, b"")
        step_s.append(pair.timed(partial(pair.denoiser.step, [row])))
        inputs = _unfolded_inputs(pair, row)
        their_step_s.append(pair.timed(partial(pair.parts.transformer, **inputs)))
    return {
        "steps": steps,
        "rounds": rounds,
        "image_s": statistics.median(ours_s),
        "pipeline_image_s": statistics.median(theirs_s),
        "images_ratio": statistics.median(theirs_s) / statistics.median(ours_s),
        "step_s": statistics.median(step_s),
        "pipeline_step_s": statistics.median(their_step_s),
    }


@torch.inference_mode()
def _unfolded_inputs(pair: Pair, row: Sd3Row) -> dict[str, Any]:
    tokens = [pair.denoiser.conditions.clip_tokens(prompt) for prompt in row.prompts]
    context_BTJ = torch.stack([context_TJ for context_TJ, _ in tokens])
    latent_CHW = row.latent_CHW
    return {
        "hidden_states": latent_CHW.expand(len(tokens), *latent_CHW.shape).clone(),
        "timestep": row.schedule.timestep_S[1].expand(len(tokens)).to(latent_CHW.device),
        "encoder_hidden_states": torch.nn.functional.pad(context_BTJ, (0, 0, 0, 256)),
        "pooled_projections": torch.stack([pooled_P for _, pooled_P in tokens]),
        "return_dict": False,
    }


def poisson(pair: Pair, *, requests: int, seed: int = 1) -> dict[str, Any]:
    """Mixed steps at a load of .8 of the pipeline's own throughput: who waits how long?"""
    rng = np.random.default_rng(seed)
    steps_N = rng.integers(STEPS[0], STEPS[1] + 1, requests)
    wanted = [pair.drawing(number, steps=int(steps)) for number, steps in enumerate(steps_N)]
    pair.by_engine(pair.drawing(0, steps=1))
    pair.by_pipeline(pair.drawing(0, steps=1))
    service_s_N = np.array([pair.timed(partial(pair.by_pipeline, one)) for one in wanted])
    gap_s = service_s_N.mean() / LOAD
    arrival_s_N = np.cumsum(rng.exponential(gap_s, requests))
    arriving = [
        Request(drawing=one, arrival_s=float(at))
        for one, at in zip(wanted, arrival_s_N, strict=True)
    ]
    calibrated = pair.denoiser.calibrate()
    delays = {"pipeline_fcfs": first_come_first_served(arrival_s_N, service_s_N)}
    for order in ("fcfs", "srpt"):
        run = VirtualRun(
            pair.denoiser,
            arriving,
            facts=pair.facts,
            calibrated=calibrated,
            order=Order(discipline=order),
            threads=pair.threads,
        )
        delays[f"engine_{order}"] = delay_s(run.run(), arriving)
        assert not run.failures, run.failures
    return {
        "requests": requests,
        "load_of_the_pipeline": LOAD,
        "rows_max": calibrated.rows_max,
        "pipeline_images_per_s": float(1 / service_s_N.mean()),
        **shares(delays),
    }


def replayed(
    pair: Pair, *, step_s: float, pipeline_step_s: float, fixed_s: float, pipeline_fixed_s: float
) -> dict[str, Any]:
    """The same with thousands of requests at the costs measured: the engine's own loop and order.

    Nothing is drawn, so costs are all alike; what this adds are confidence intervals.
    """
    by_seed: list[dict[str, Any]] = []
    costs = {"begin": 0.0, "step": step_s, "picture": fixed_s}
    for seed in range(5):
        rng = np.random.default_rng(100 + seed)
        steps_N = rng.integers(STEPS[0], STEPS[1] + 1, 1500)
        service_s_N = steps_N * pipeline_step_s + pipeline_fixed_s
        arrival_s_N = np.cumsum(rng.exponential(service_s_N.mean() / LOAD, len(steps_N)))
        arriving = [
            Request(drawing=pair.drawing(number, steps=int(steps)), arrival_s=float(at))
            for number, (steps, at) in enumerate(zip(steps_N, arrival_s_N, strict=True))
        ]
        delays = {"pipeline_fcfs": first_come_first_served(arrival_s_N, service_s_N)}
        for order in ("fcfs", "srpt"):
            run = VirtualRun(
                # It is neither loaded nor calibrated here.
                cast(Denoiser[Any], _Counting()),
                arriving,
                facts=pair.facts,
                calibrated=calibration.calibrated(
                    calibration.Measurements(
                        reference_px=pair.side_px,
                        guided_s=((1, step_s),),
                        unguided_s=step_s / 2,
                        fixed_s=fixed_s,
                    )
                ),
                order=Order(discipline=order),
                threads=pair.threads,
                fixed_cost=lambda name, rows: costs[name],
            )
            delays[f"engine_{order}"] = delay_s(run.run(), arriving)
        by_seed.append(shares(delays))
    reductions = [one["reduction"] for one in by_seed]
    half = 2.776 * statistics.stdev(reductions) / len(reductions) ** 0.5
    return {
        "requests": 1500,
        "seeds": len(by_seed),
        "reduction": statistics.mean(reductions),
        "reduction_95": [statistics.mean(reductions) - half, statistics.mean(reductions) + half],
        "by_seed": by_seed,
    }


class _Counting:
    """A denoiser that draws nothing."""

    def begin(self, drawing: Drawing, init_image: bytes) -> list[int]:
        """A row of its own."""
        return [drawing.seed]

    def step(self, rows: Sequence[list[int]]) -> None:
        """Nothing."""

    def picture(self, row: list[int]) -> PillowImage.Image:
        """One pixel."""
        return PillowImage.new("RGB", (1, 1))


def first_come_first_served(arrival_s_N: np.ndarray, service_s_N: np.ndarray) -> np.ndarray:
    """Delays of a server that takes one at a time in order of arrival (Lindley 1952)."""
    delays, free_s = [], 0.0
    for arrival_s, service_s in zip(arrival_s_N, service_s_N, strict=True):
        free_s = max(free_s, arrival_s) + service_s
        delays.append(free_s - arrival_s)
    return np.array(delays)


def delay_s(served: Sequence[Served], arriving: Sequence[Request]) -> np.ndarray:
    """From arrival to picture."""
    pairs = zip(served, arriving, strict=True)
    return np.array([one.finished_s - request.arrival_s for one, request in pairs])


def shares(delays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Mean and p99 of each, the reduction, and how much of it is speed and how much is order."""
    mean = {name: float(values.mean()) for name, values in delays.items()}
    base = mean["pipeline_fcfs"]
    return {
        "mean_s": mean,
        "p99_s": {name: float(np.quantile(values, 0.99)) for name, values in delays.items()},
        "reduction": 1 - mean["engine_srpt"] / base,
        "reduction_by_speed": (base - mean["engine_fcfs"]) / base,
        "reduction_by_order": (mean["engine_fcfs"] - mean["engine_srpt"]) / base,
    }


def joining(pair: Pair, *, joins: int) -> dict[str, Any]:
    """Steps between the arrival of a request that finds a free row and its own first step."""
    arriving = [
        Request(drawing=pair.drawing(number, steps=10), arrival_s=number * 0.013)
        for number in range(joins)
    ]
    run = VirtualRun(
        pair.denoiser,
        arriving,
        facts=pair.facts,
        calibrated=calibration.calibrated(
            calibration.Measurements(
                reference_px=pair.side_px,
                guided_s=((1, 0.05), (joins, 0.05)),
                unguided_s=0.03,
                fixed_s=0.02,
            )
        ),
        order=Order(),
        threads=pair.threads,
    )
    waited = [one.first_step - one.arrived_step - 1 for one in run.run()]
    return {"joins": joins, "whole_steps_waited": max(waited)}


def memory(pair: Pair) -> dict[str, Any]:
    """The most that a drawing takes beside the weights, ours and the pipeline's."""
    cuda = torch.cuda if pair.on_gpu else None
    found: dict[str, Any] = {"weights_bytes": pair.parts.weight_bytes}
    if not pair.on_gpu:
        found["resident_before_bytes"] = memory_guard.resident_bytes()
    for name, draw in (("engine", pair.by_engine), ("pipeline", pair.by_pipeline)):
        with peak_memory.PeakBytes(cuda) as peak:
            draw(pair.drawing(1, steps=2))
        found[f"{name}_peak_bytes"] = peak.bytes
    return found


def previews(pair: Pair, *, rounds: int) -> dict[str, Any]:
    """What the picture of an unfinished row takes, beside the step that it shows."""
    row = pair.denoiser.begin(pair.drawing(1, steps=rounds + 1), b"")
    step_s, preview_s = [], []
    for _ in range(rounds):
        step_s.append(pair.timed(lambda: pair.denoiser.step([row])))
        preview_s.append(pair.timed(lambda: pair.denoiser.picture(row)))
    step_median_s, preview_median_s = statistics.median(step_s), statistics.median(preview_s)
    return {
        "step_s": step_median_s,
        "preview_s": preview_median_s,
        "share_of_a_step": preview_median_s / step_median_s,
    }


def replayed_at(pair: Pair, found: dict[str, Any]) -> dict[str, Any]:
    """`replayed` at the costs that `speed` found."""
    steps = found["steps"]
    return replayed(
        pair,
        step_s=found["step_s"],
        pipeline_step_s=found["pipeline_step_s"],
        fixed_s=max(0.0, found["image_s"] - steps * found["step_s"]),
        pipeline_fixed_s=max(0.0, found["pipeline_image_s"] - steps * found["pipeline_step_s"]),
    )


def on_cpu(
    wanted: Sequence[str] | None, known: dict[str, Any], *, quick: bool, threads: int
) -> dict[str, Any]:
    """The tiny model and the mid-size one; `known` sections are kept where none is wanted."""
    cpu, float32 = torch.device("cpu"), torch.float32
    files = model_files.find(tiny_sd3.model_folder())
    parts = sd3_parts.load_parts(files, device=cpu, dtype=float32)
    tiny = Pair(parts, side_px=64, dtype="float32", threads=threads)
    parts = random_parts(MID, device=cpu, dtype=float32)
    mid = Pair(parts, side_px=512, dtype="float32", threads=threads)
    parameters = sum(one.numel() for one in parts.transformer.parameters())
    sections: dict[str, Any] = {**known, "mid_parameters": parameters, "threads": threads}
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "equality_tiny": lambda: equality(tiny, drawings=10 if quick else 100),
        "joining_tiny": lambda: joining(tiny, joins=12),
        "speed_tiny": lambda: speed(tiny, steps=16, rounds=5),
        "previews_tiny": lambda: previews(tiny, rounds=20),
        "poisson_tiny": lambda: poisson(tiny, requests=20 if quick else 150),
        "memory_mid": lambda: memory(mid),
        "previews_mid": lambda: previews(mid, rounds=4),
        "speed_mid": lambda: speed(mid, steps=4 if quick else 16, rounds=2 if quick else 5),
        "replayed_mid": lambda: replayed_at(mid, sections["speed_mid"]),
        "poisson_mid": lambda: poisson(mid, requests=3 if quick else 12),
    }
    for name, measure in measures.items():
        if wanted is None or name in wanted:
            sections[name] = told(measure())
    return sections


def full_size_on_cpu(*, dtype: str, threads: int) -> dict[str, Any]:
    """One guided step of SD3-medium, ours and the transformer's own."""
    pair = full_pair(torch.device("cpu"), dtype, threads=threads)
    row = pair.denoiser.begin(pair.drawing(1, steps=4), b"")
    inputs = _unfolded_inputs(pair, row)
    theirs_s = pair.timed(lambda: pair.parts.transformer(**inputs))
    with peak_memory.PeakBytes(None) as peak:
        ours_s = pair.timed(lambda: pair.denoiser.step([row]))
    return {
        "device": pair.facts.device,
        "dtype": dtype,
        "step_s": ours_s,
        "pipeline_step_s": theirs_s,
        "steps_ratio": theirs_s / ours_s,
        "weights_bytes": pair.parts.weight_bytes,
        "peak_resident_bytes": peak.bytes,
        "finite": bool(torch.isfinite(row.latent_CHW).all()),
        **work_of(pair),
    }


def full_size_on_gpu() -> dict[str, Any]:
    """SD3-medium in float16: alone, saturated, mixed, and its memory."""
    pair = full_pair(torch.device("cuda"), "float16", threads=1)
    calibrated = pair.denoiser.calibrate()
    alone = [
        pair.timed(partial(pair.by_engine, pair.drawing(number, steps=28))) for number in range(5)
    ]
    tflop = work_of(pair)["step_tflop_folded"]
    throughput = max(rows / seconds for rows, seconds in calibrated.guided_s) * tflop
    return {
        "device": pair.facts.device,
        "alone_28_steps_s": min(alone),
        "guided_step_s_by_rows": calibrated.guided_s,
        "saturated_tflops": throughput,
        "share_of_h100_peak": throughput / H100_TFLOPS,
        "speed": told(speed(pair, steps=28, rounds=5)),
        "mixed": told(poisson(pair, requests=60)),
        "memory": told(memory(pair)),
        **work_of(pair),
    }


def full_pair(device: torch.device, dtype: str, *, threads: int) -> Pair:
    """SD3-medium with random weights at 512x512."""
    parts = random_parts(FULL, device=device, dtype=getattr(torch, dtype))
    return Pair(parts, side_px=512, dtype=dtype, threads=threads)


def work_of(pair: Pair) -> dict[str, float]:
    """TFLOP of a guided step, counted from the layers, and of the folded one."""
    config, tokens = pair.parts.transformer.config, (pair.side_px // 16) ** 2
    return {
        "step_tflop": step_tflop(config, image_tokens=tokens, context_rows=333, kept_rows=333),
        "step_tflop_folded": step_tflop(config, image_tokens=tokens, context_rows=78, kept_rows=78),
    }


def told(section: dict[str, Any]) -> dict[str, Any]:
    """The section itself, printed on the way."""
    print(json.dumps(section, indent=1, default=str), flush=True)
    return section


def summary(sections: dict[str, Any]) -> str:
    """The goals and what was reached, a line each."""
    lines = []
    if "speed_mid" in sections:
        found, queue = sections["speed_mid"], sections["poisson_mid"]
        equal, many = sections["equality_tiny"], sections["replayed_mid"]
        preview = sections["previews_mid"]
        lines = [
            f"images per second, mid-size, ours / pipeline   {found['images_ratio']:.2f}   (1.12)",
            f"mean delay below the pipeline's, {queue['requests']} requests   "
            f"{queue['reduction']:.0%}   (35 %): speed {queue['reduction_by_speed']:.0%}, "
            f"order {queue['reduction_by_order']:.0%}",
            f"the same, {many['requests']} requests x {many['seeds']} seeds   "
            f"{many['reduction']:.0%}   ({many['reduction_95'][0]:.0%} to "
            f"{many['reduction_95'][1]:.0%})",
            f"pixels within 1 of the pipeline's   {equal['pixels_within_1']:.5f}   (0.999)",
            f"a preview's share of a step   {preview['share_of_a_step']:.2%}   (2 %)",
            f"whole steps that a joining request waited   "
            f"{sections['joining_tiny']['whole_steps_waited']}   (1)",
        ]
    return "\n".join(lines)


def main() -> None:
    """Measures, prints and writes results/step_engine*.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few requests, to try the script")
    parser.add_argument("--full-size", action="store_true", help="SD3-medium, random weights")
    parser.add_argument("--sections", help="only these, comma-separated; others stay in the file")
    parser.add_argument("--dtype", default="bfloat16", help="of the full size on a CPU")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--out", type=pathlib.Path, help="result file")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    on_gpu = torch.cuda.is_available()
    full = f"step_engine_{'gpu' if on_gpu else 'full_size_cpu'}"
    name = full if options.full_size else "step_engine"
    out = options.out or RESULTS / f"{name}{'_quick' if options.quick else ''}.json"
    if options.full_size:
        sections = (
            full_size_on_gpu()
            if on_gpu
            else full_size_on_cpu(dtype=options.dtype, threads=options.threads)
        )
        sections["gpu"] = torch.cuda.get_device_name() if on_gpu else "none was to be had"
        told(sections)
    else:
        wanted = options.sections.split(",") if options.sections else None
        known = json.loads(out.read_text(encoding="utf-8")) if wanted and out.exists() else {}
        sections = on_cpu(wanted, known, quick=options.quick, threads=options.threads)
    print(summary(sections))
    document = {**sections, "benchmark": "step_engine", "machine": machine.describe()}
    out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"written: {out}")


if __name__ == "__main__":
    main()

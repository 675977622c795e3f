"""`python -m edge_node.worker`: the worker process.

Owns the command line, the accelerator lock and the exit codes. Everything heavy is imported by the
engine's thread, after the socket answers.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

from edge_node.clock import SystemClock
from edge_node.socket_path import check_socket_path
from edge_node.worker import accelerator_lock, model_files, service
from edge_node.worker.approximations import Approximations
from edge_node.worker.denoiser import Denoiser, ModelUnusable
from edge_node.worker.queue_order import Order
from edge_node.worker.step_engine import EngineLimits, StepEngine

LOG = logging.getLogger(__name__)

# Exit codes by which a supervisor can tell what restarting cannot mend.
EXIT_USAGE = 64
EXIT_ACCELERATOR_TAKEN = 75
EXIT_BROKEN = 70
STOP_WAIT_S = 2.0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The worker's options; wrong ones end the process with code 2, as argparse does."""
    parser = argparse.ArgumentParser(prog="python -m edge_node.worker", description=__doc__)
    parser.add_argument("--socket", type=pathlib.Path, required=True, help="Unix socket to serve")
    parser.add_argument("--engine", choices=("sd3", "emulated"), required=True)
    parser.add_argument(
        "--model", type=pathlib.Path, help="SD3: a diffusers folder or a .safetensors file"
    )
    parser.add_argument("--model-name", help="name to serve under (default: the folder's)")
    _add_model_options(parser)
    parser.add_argument(
        "--dtype", choices=("auto", "float16", "bfloat16", "float32", "float64"), default="auto"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads of torch; more pay on idle cores only"
    )
    parser.add_argument(
        "--emulated-profile", default="orin-64gb-30w", help="device to emulate, as in emulated.py"
    )
    parser.add_argument(
        "--emulated-mode-file",
        type=pathlib.Path,
        help="file that names the profile to become, looked at before every step",
    )
    parser.add_argument(
        "--time-scale", type=float, default=1.0, help="divides all emulated durations"
    )
    parser.add_argument(
        "--pace", type=float, default=0.0, help="least seconds per work unit, for demonstrations"
    )
    parser.add_argument("--rows-max", type=int, help="most rows that share a step")
    parser.add_argument("--queue-max", type=int, default=64, help="most drawings that may wait")
    parser.add_argument("--order", default="fcfs", help="who is drawn next: fcfs, sjf or srpt")
    parser.add_argument("--ageing", help="order by seconds of service - AGEING x age instead")
    parser.add_argument(
        "--promotion",
        metavar="C0,C1",
        help="serve first what is older than C0 + C1 x its own service time; C0 in wall seconds, "
        "which --time-scale does not divide",
    )
    parser.add_argument(
        "--memory-floor",
        type=int,
        default=2**30,
        metavar="BYTES",
        help="memory that further rows must leave free",
    )
    parser.add_argument("--lock", type=pathlib.Path, help="file that stands for the accelerator")
    parser.add_argument("--lock-wait", type=float, default=10.0, help="seconds to wait for it")
    parser.add_argument(
        "--metadata",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="prompt and parameters in PNG files",
    )
    parsed = parser.parse_args(arguments)
    if parsed.engine == "sd3" and parsed.model is None:
        parser.error("--engine sd3 needs --model, a diffusers folder or file of Stable Diffusion 3")
    if parsed.time_scale <= 0.0 or parsed.pace < 0.0:
        parser.error("--time-scale must be positive and --pace not negative")
    try:
        parsed.order = Order.parse(parsed.order, ageing=parsed.ageing, promotion=parsed.promotion)
        parsed.approximations = Approximations(
            taesd3=parsed.taesd3,
            int8_weights=parsed.int8_weights,
            guidance_interval=parsed.guidance_interval and tuple(parsed.guidance_interval),
            step_cache=parsed.step_cache,
        )
    except ValueError as error:
        parser.error(str(error))
    return parsed


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clip",
        type=pathlib.Path,
        nargs=2,
        metavar=("CLIP_L", "CLIP_G"),
        help="CLIP files for a single file without them (default: looked for beside it)",
    )
    parser.add_argument(
        "--model-config",
        type=pathlib.Path,
        help="diffusers folder whose configs go with a single file (default: SD3-medium's)",
    )
    parser.add_argument(
        "--stability-license-accepted",
        action="store_true",
        help="the operator has read and accepts the Stability AI Community License",
    )
    parser.add_argument(
        "--context-mode",
        choices=("sd3", "paper"),
        default="sd3",
        help="context as diffusers pads it (sd3), or the CLIPs' 77 tokens alone (paper)",
    )
    parser.add_argument(
        "--compile",
        choices=("auto", "always", "never"),
        default="auto",
        help="compiled blocks, and CUDA graphs where there is CUDA; auto: on a GPU",
    )
    lossy = parser.add_argument_group("lossy choices, off by default and noted in every image")
    lossy.add_argument("--taesd3", type=pathlib.Path, help="TAESD3 folder that decodes latents")
    lossy.add_argument("--int8-weights", action="store_true", help="needs torchao")
    lossy.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="guide only while the noise level is in it",
    )
    lossy.add_argument(
        "--step-cache",
        type=float,
        metavar="SHARE",
        help="reuse a velocity once where the last two differed by less",
    )


def build_denoiser(options: argparse.Namespace) -> Denoiser[Any]:
    """The chosen engine; called by the engine's thread, because torch takes seconds to import."""
    return _emulated(options) if options.engine == "emulated" else _sd3(options)


def _emulated(options: argparse.Namespace) -> Denoiser[Any]:
    from edge_node.worker import emulated

    if options.emulated_profile not in emulated.FP16_TFLOPS:
        raise ModelUnusable(
            f"there is no emulated profile {options.emulated_profile}: give one of "
            f"{', '.join(emulated.FP16_TFLOPS)}"
        )
    return emulated.EmulatedDenoiser(
        emulated.profile(options.emulated_profile),
        model_name=options.model_name or "sd3-medium-emulated",
        time_scale=options.time_scale,
        pace_s=options.pace,
        rows_limit=options.rows_max,
        mode_path=options.emulated_mode_file,
    )


def _sd3(options: argparse.Namespace) -> Denoiser[Any]:
    files = model_files.find(options.model, options.clip or (), config_folder=options.model_config)
    model_files.check_licence(files, accepted=options.stability_license_accepted)
    # Set before the import, which reads them: weights come from the disk or not at all.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    import torch

    from edge_node.worker import sd3, sd3_parts

    torch.set_num_threads(options.threads)
    return sd3.Sd3Denoiser(
        lambda device, dtype: sd3_parts.load_parts(files, device=device, dtype=dtype),
        options=sd3.Sd3Options(
            model_name=options.model_name or files.name,
            dtype_name=options.dtype,
            context_mode=options.context_mode,
            compiled={"auto": None, "always": True, "never": False}[options.compile],
            approximations=options.approximations,
            pace_s=options.pace,
            rows_limit=options.rows_max,
        ),
        clock=SystemClock(),
    )


async def run(options: argparse.Namespace) -> bool:
    """Serves until SIGTERM or SIGINT; returns whether the engine's thread has ended."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    changes = service.ChangeSignal(loop)
    engine: StepEngine[Any] = StepEngine(
        lambda: build_denoiser(options),
        limits=EngineLimits(
            queue_max=options.queue_max,
            pace_s=options.pace,
            metadata=options.metadata,
            order=options.order,
            memory_floor_bytes=options.memory_floor,
        ),
        clock=SystemClock(),
        on_change=changes.announce,
    )
    await service.serve(socket_path=options.socket, engine=engine, changes=changes, stopped=stopped)
    return engine.stop(wait_s=STOP_WAIT_S)


def end_broken(broken: threading.ExceptHookArgs) -> None:
    """A bug ended a thread: a worker without its loop must be restarted, not look alive."""
    LOG.critical(
        "thread %s ended: the worker ends, too",
        broken.thread.name if broken.thread else "unknown",
        exc_info=broken.exc_value,
    )
    os._exit(EXIT_BROKEN)


def main() -> None:
    """Ends with 0 when told to stop, else with a code that says why."""
    options = parse_arguments(sys.argv[1:])
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="INFO")
    threading.excepthook = end_broken
    # The socket is for this user's node only.
    os.umask(0o077)
    try:
        check_socket_path(options.socket)
        if options.lock:
            accelerator_lock.hold(options.lock, wait_s=options.lock_wait)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(EXIT_USAGE)
    except accelerator_lock.AcceleratorTaken as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(EXIT_ACCELERATOR_TAKEN)
    ended = asyncio.run(run(options))
    sys.stdout.flush()
    if not ended:
        # A thread is inside a step that cannot be interrupted; the interpreter would wait for it.
        os._exit(0)


if __name__ == "__main__":
    main()

"""`python -m edge_node.worker`: the worker process.

Owns the command line, the accelerator lock and the exit codes. Everything heavy is imported by the
engine's thread, after the socket answers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import uvloop

from edge_node import start_note
from edge_node.clock import SystemClock
from edge_node.config_sources import InvalidConfig
from edge_node.log_lines import TEXT, set_format
from edge_node.model_names import served_name
from edge_node.socket_path import check_socket_path
from edge_node.worker import accelerator_lock, image_encoding, lora, model_files, service
from edge_node.worker.approximations import Approximations
from edge_node.worker.denoiser import Denoiser, ModelUnusable
from edge_node.worker.engine_limits import EngineLimits
from edge_node.worker.queue_order import Order
from edge_node.worker.step_engine import StepEngine
from edge_node.worker_options import WorkerOptions, explained

LOG = logging.getLogger(__name__)

# Exit codes by which a supervisor can tell what restarting cannot mend.
EXIT_WRONG_OPTIONS = 2
EXIT_USAGE = 64
EXIT_ACCELERATOR_TAKEN = 75
EXIT_BROKEN = 70
STOP_WAIT_S = 2.0


class StartRefused(SystemExit):
    """The worker does not start, for a reason that has been printed.

    `permanent` is whether it would be the same another time, until somebody mends it.
    """

    def __init__(self, reason: str, *, code: int, permanent: bool) -> None:
        """Prints the reason."""
        super().__init__(code)
        self.reason = reason
        self.permanent = permanent
        sys.stderr.write(f"{reason}\n")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The command line, checked as far as it can be without loading anything heavy."""

    socket_path: pathlib.Path
    lock_wait_s: float
    options: WorkerOptions
    order: Order
    approximations: Approximations


def command_line(arguments: Sequence[str]) -> argparse.Namespace:
    """What was said; a wrong form ends the process with code 2, as argparse does."""
    parser = argparse.ArgumentParser(
        prog="python -m edge_node.worker",
        description="The worker process of a node. `dedgeai worker` starts it with the settings "
        "of a node's file; by hand, --options takes the same settings as JSON.",
        epilog=f"options, with their defaults:\n{explained()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--socket", type=pathlib.Path, required=True, help="Unix socket to serve")
    parser.add_argument(
        "--options",
        default="{}",
        metavar="JSON",
        help="""settings by name: '{"engine": "emulated", "time_scale": 20}'""",
    )
    parser.add_argument(
        "--lock-wait", type=float, default=10.0, help="seconds to wait for worker_lock"
    )
    return parser.parse_args(arguments)


def checked(parsed: argparse.Namespace) -> Arguments:
    """What it means; raises StartRefused where that cannot be honoured."""
    try:
        options = WorkerOptions.from_json(parsed.options)
        if options.engine == "none":
            raise ValueError(
                'engine "none" is of a node without a worker: start none, or choose sd3'
            )
        order = Order(
            discipline=options.queue_order,
            ageing=options.queue_ageing,
            promotion=options.queue_promotion,
            promotion_load=options.queue_promotion_load,
        )
        approximations = Approximations(
            taesd3=options.taesd3_folder,
            int8_weights=options.int8_weights,
            guidance_interval=options.guidance_interval,
            step_cache=options.step_cache,
        )
    except (InvalidConfig, ValueError) as error:
        reason = error.message if isinstance(error, InvalidConfig) else str(error)
        raise StartRefused(reason, code=EXIT_WRONG_OPTIONS, permanent=True) from None
    return Arguments(
        socket_path=parsed.socket,
        lock_wait_s=parsed.lock_wait,
        options=options,
        order=order,
        approximations=approximations,
    )


def model_of(options: WorkerOptions) -> pathlib.Path:
    """Where the model lies."""
    if options.model is not None:
        return options.model
    from edge_node.worker.tiny_sd3 import model_folder

    return model_folder()


def name_of(options: WorkerOptions) -> str:
    """Under which it is served."""
    return served_name(engine=options.engine, model=options.model, model_name=options.model_name)


def build_denoiser(arguments: Arguments) -> Denoiser[Any]:
    """The chosen engine; called by the engine's thread, because torch takes seconds to import."""
    if arguments.options.engine == "emulated":
        return _emulated(arguments.options)
    return _sd3(arguments.options, arguments.approximations)


def _emulated(options: WorkerOptions) -> Denoiser[Any]:
    from edge_node.worker import emulated

    if options.emulated_profile not in emulated.FP16_TFLOPS:
        raise ModelUnusable(
            f"there is no emulated profile {options.emulated_profile}: give one of "
            f"{', '.join(emulated.FP16_TFLOPS)}"
        )
    return emulated.EmulatedDenoiser(
        emulated.profile(options.emulated_profile),
        model_name=name_of(options),
        time_scale=options.time_scale,
        pace_s=options.pace_s,
        rows_limit=options.rows_limit,
        mode_path=options.emulated_mode_file,
    )


def _sd3(options: WorkerOptions, approximations: Approximations) -> Denoiser[Any]:
    files = model_files.find(
        model_of(options), options.clip_files or (), config_folder=options.single_file_configs
    )
    model_files.check_licence(files, accepted=options.stability_license_accepted)
    loras: tuple[lora.LoraFile, ...] = ()
    if options.lora_folder is not None:
        blocks = int(files.parts["transformer"].config.get("num_layers", 18))
        loras = lora.find(
            options.lora_folder, strengths=options.lora_strengths, last_block=blocks - 1
        )
    # Set before the import, which reads them: weights come from the disk or not at all.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    if options.deterministic:  # read when CUDA begins
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    import torch

    from edge_node.worker import sd3, sd3_parts

    torch.set_num_threads(options.torch_threads or 1)
    return sd3.Sd3Denoiser(
        lambda device, dtype: sd3_parts.load_parts(files, device=device, dtype=dtype, loras=loras),
        options=sd3.Sd3Options(
            model_name=name_of(options),
            dtype_name=options.dtype,
            device=options.device,
            context_mode=options.context_mode,
            long_prompts=options.long_prompts,
            compiled={"auto": None, "always": True, "never": False}[options.compile_model],
            approximations=approximations,
            pace_s=options.pace_s,
            rows_limit=options.rows_limit,
            deterministic=options.deterministic,
        ),
        clock=SystemClock(),
    )


async def run(arguments: Arguments) -> bool:
    """Serves until SIGTERM or SIGINT; returns whether the engine's thread has ended."""
    options = arguments.options
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    changes = service.ChangeSignal(loop)
    engine: StepEngine[Any] = StepEngine(
        lambda: build_denoiser(arguments),
        limits=EngineLimits(
            queue_max=options.hosted_tasks_max,
            pace_s=options.pace_s,
            told=image_encoding.Metadata(
                parameters=options.image_metadata, task_ids=options.image_task_ids
            ),
            order=arguments.order,
            memory_floor_bytes=options.memory_floor_bytes,
        ),
        clock=SystemClock(),
        on_change=changes.announce,
    )
    come_up = asyncio.create_task(_forget_the_start(arguments.socket_path, engine, changes))
    try:
        await service.serve(
            socket_path=arguments.socket_path, engine=engine, changes=changes, stopped=stopped
        )
    except service.SocketUnusable as error:
        raise StartRefused(str(error), code=EXIT_USAGE, permanent=False) from None
    finally:
        come_up.cancel()
    return engine.stop(wait_s=STOP_WAIT_S)


async def _forget_the_start(
    socket_path: pathlib.Path, engine: StepEngine[Any], changes: service.ChangeSignal
) -> None:
    """Ready or failed, it can be asked itself from then on."""
    while engine.describe().state not in ("ready", "failed"):
        await changes.wait(after=changes.latest, wait_s_max=service.LOAD_INTERVAL_S_MAX)
    start_note.forget(socket_path)


@contextlib.contextmanager
def start_told(socket_path: pathlib.Path) -> Iterator[None]:
    """What ends the process before it has come up is told beside its socket, and goes on."""
    start_note.begin(socket_path)
    try:
        yield
    except StartRefused as refused:
        start_note.tell(socket_path, refused.reason, permanent=refused.permanent)
        raise
    except Exception as error:
        start_note.tell(socket_path, f"{type(error).__name__}: {error}", permanent=False)
        raise
    except BaseException:
        start_note.forget(socket_path)  # it was told to stop
        raise


def end_broken(socket_path: pathlib.Path, broken: threading.ExceptHookArgs) -> None:
    """A bug ended a thread: a worker without its loop must be restarted, not look alive."""
    LOG.critical(
        "thread %s ended: the worker ends, too",
        broken.thread.name if broken.thread else "unknown",
        exc_info=broken.exc_value,
    )
    start_note.tell(socket_path, f"{broken.exc_type.__name__}: {broken.exc_value}", permanent=False)
    os._exit(EXIT_BROKEN)


def _stop_now(number: int, frame: object) -> NoReturn:
    """Told to stop before it serves: there is nothing to wait for."""
    sys.exit(0)


def main() -> None:
    """Ends with 0 when told to stop, else with a code that says why."""
    parsed = command_line(sys.argv[1:])
    logging.basicConfig(format=TEXT, level="INFO")
    threading.excepthook = partial(end_broken, parsed.socket)
    signal.signal(signal.SIGTERM, _stop_now)
    # The socket is for this user's node only.
    os.umask(0o077)
    with start_told(parsed.socket):
        arguments = checked(parsed)
        set_format(arguments.options.log_format)
        _take_accelerator(arguments)
        ended = uvloop.run(run(arguments))
    start_note.forget(parsed.socket)
    sys.stdout.flush()
    if not ended:
        # A thread is inside a step that cannot be interrupted; the interpreter would wait for it.
        os._exit(0)


def _take_accelerator(arguments: Arguments) -> None:
    lock = arguments.options.worker_lock
    try:
        check_socket_path(arguments.socket_path)
        if lock is not None:
            accelerator_lock.hold(lock, wait_s=arguments.lock_wait_s)
    except ValueError as error:
        raise StartRefused(str(error), code=EXIT_USAGE, permanent=True) from None
    except accelerator_lock.AcceleratorTaken as error:
        code = EXIT_ACCELERATOR_TAKEN
        raise StartRefused(str(error), code=code, permanent=False) from None


if __name__ == "__main__":
    main()

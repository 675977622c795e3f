"""The model's files, its licence, and the memory that it needs.

Owns no knowledge of layouts: worker/model_files.py has it, and finds the same as the worker will.
Headers and sizes are read, not the weights.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

from edge_node.config import NodeConfig
from edge_node.console.doctor_checks.finding import Finding, Level, sized
from edge_node.console.doctor_checks.gpu import has_gpu
from edge_node.telemetry.jetson import DeviceReading, is_jetson
from edge_node.worker import model_files
from edge_node.worker.denoiser import ModelUnusable
from edge_node.worker.model_files import ModelFiles
from edge_node.worker.tiny_sd3 import model_folder

# Peak over weights while loading: docs/models.md, "Loading", by benchmarks/memory_resd3m.py.
_PEAK_SHARE = 1.01
_ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
_FOLDER = "stabilityai/stable-diffusion-3-medium-diffusers --exclude 'text_encoder_3/*'"
_SINGLE_FILES = "stabilityai/stable-diffusion-3-medium"


def examine_model(
    config: NodeConfig, reading: DeviceReading, root: Path, *, node_runs: bool
) -> list[Finding]:
    """Findings on weights, licence and memory.

    Args:
        config: names the model.
        reading: tells the memory that is available.
        root: folder that holds proc.
        node_runs: whether this node holds the weights already.
    """
    if config.engine != "sd3":
        skipped = ("weights", "licence", "memory")
        seen = f"the engine is {config.engine}"
        return [Finding(check=check, level="skipped", seen=seen) for check in skipped]
    path = config.model or model_folder()
    try:
        files = model_files.find(
            path, config.clip_files or (), config_folder=config.single_file_configs
        )
        checked = _check_as_the_loader(files)
    except (ModelUnusable, OSError) as error:
        return [_unusable(config, error)]
    count = sum(len(part.sources) for part in files.parts.values())
    seen = f"{path}: {count} tensors in files of the size that their headers promise"
    seen += ", of the names, shapes and types that the model has" if checked else ""
    return [
        Finding(check="weights", level="ok", seen=seen),
        _licence(config, files),
        _memory(config, files, reading, root, node_runs=node_runs),
    ]


def _check_as_the_loader(files: ModelFiles) -> bool:
    """Whether the loader's own check of headers passed; False where it is not installed.

    Raises:
        ModelUnusable: it did not.
    """
    if not all(importlib.util.find_spec(name) for name in ("torch", "diffusers", "transformers")):
        return False
    from edge_node.worker import sd3_parts

    sd3_parts.check_headers(files)
    return True


def _unusable(config: NodeConfig, error: ModelUnusable | OSError) -> Finding:
    if config.worker_socket is not None and not (config.model and config.model.exists()):
        seen = f"the worker at {config.worker_socket} reads them, and this machine cannot"
        return Finding(check="weights", level="skipped", seen=seen)
    if config.model is None:
        remedy = "pip install --force-reinstall --no-deps dedgeai"
    elif config.model.suffix == ".safetensors":
        what = f"{_SINGLE_FILES} {config.model.name}"
        remedy = f"hf download {what} --local-dir {config.model.parent}"
    else:
        remedy = f"hf download {_FOLDER} --local-dir {config.model}"
    return Finding(check="weights", level="fail", seen=str(error), remedy=remedy)


def _licence(config: NodeConfig, files: ModelFiles) -> Finding:
    if not files.needs_licence:
        seen = f"{files.path} is not under the Stability AI Community License"
        return Finding(check="licence", level="ok", seen=seen)
    if config.stability_license_accepted:
        seen = "the Stability AI Community License is accepted"
        return Finding(check="licence", level="ok", seen=seen)
    return Finding(
        check="licence",
        level="fail",
        seen=f"{files.path} is under the Stability AI Community License: read it at "
        "https://stability.ai/license",
        remedy="stability_license_accepted = true in the configuration, if you accept it",
    )


def _memory(
    config: NodeConfig,
    files: ModelFiles,
    reading: DeviceReading,
    root: Path,
    *,
    node_runs: bool,
) -> Finding:
    available = reading.memory_available_bytes
    if available is None:
        return Finding(check="memory", level="skipped", seen="no MemAvailable to be read")
    if has_gpu(root) and not is_jetson(root):
        seen = f"{sized(available)} of the machine's; the weights go to the GPU's own"
        return Finding(check="memory", level="skipped", seen=seen)
    weights = 0 if node_runs else round(_PEAK_SHARE * weight_bytes(config, files, root))
    seen = f"{sized(available)} available"
    seen += ", the node holds its weights" if node_runs else f", {sized(weights)} for the weights"
    seen += f", {sized(config.memory_floor_bytes)} to be left free"
    if available >= weights + config.memory_floor_bytes:
        return Finding(check="memory", level="ok", seen=seen)
    # The desktop is what a Jetson has most to give back of.
    remedy = "sudo systemctl isolate multi-user.target && sudo systemctl set-default multi-user"
    if not is_jetson(root):
        remedy = "ps -eo rss,pid,args --sort=-rss | head, and stop what is not needed"
    # Above the weights a worker still draws, one row at a time: worker/memory_guard.py.
    level: Level = "fail" if available < weights else "warn"
    return Finding(check="memory", level=level, seen=seen, remedy=remedy)


def weight_bytes(config: NodeConfig, files: ModelFiles, root: Path) -> int:
    """Size of all weights in the precision in which the worker will hold them."""
    automatic = "float16" if has_gpu(root) else "float32"
    item_bytes = _ITEM_BYTES[automatic if config.dtype == "auto" else config.dtype]
    return item_bytes * sum(
        math.prod(source.shape) for part in files.parts.values() for source in part.sources.values()
    )

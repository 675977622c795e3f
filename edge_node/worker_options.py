"""What a worker process is told of its node's settings, on its way from one process to the other.

Owns which settings those are and their form on a command line: JSON with the settings' own names,
of those alone that are not as they are by default. What each means, its default and its bounds are
`config.py`'s, so that whoever starts a worker by hand writes what he would write in node.toml.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from edge_node.config import SETTINGS, NodeConfig
from edge_node.config_sources import InvalidConfig, validated
from edge_node.json_text import parsed


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """A worker's settings; see `config.py` for each. `worker_lock` is None where none is held."""

    engine: Literal["sd3", "emulated", "none"]
    model: Path | None
    model_name: str | None
    clip_files: tuple[Path, Path] | None
    single_file_configs: Path | None
    stability_license_accepted: bool
    dtype: str
    device: Literal["auto", "cuda", "cpu"]
    context_mode: Literal["sd3", "paper"]
    long_prompts: Literal["cut", "chunks"]
    compile_model: Literal["auto", "always", "never"]
    taesd3_folder: Path | None
    lora_folder: Path | None
    lora_strengths: dict[str, float]
    int8_weights: bool
    guidance_interval: tuple[float, float] | None
    step_cache: float | None
    torch_threads: int
    pace_s: float
    emulated_profile: str
    emulated_mode_file: Path | None
    time_scale: float
    rows_max: int
    deterministic: bool
    queue_order: Literal["fcfs", "sjf", "srpt"]
    queue_ageing: float | None
    queue_promotion: tuple[float, float] | None
    queue_promotion_load: float | None
    memory_floor_bytes: int
    image_metadata: bool
    image_task_ids: bool
    hosted_tasks_max: int
    worker_lock: Path | None
    log_format: Literal["text", "json"]

    @property
    def rows_limit(self) -> int | None:
        """Rows that may share a step, as the operator has it; None: as many as pay.

        What a row comes to depends on how many it is computed with: libraries choose their
        algorithms, and with them the order of sums, by the shape of a batch.
        """
        return 1 if self.deterministic else self.rows_max or None

    @classmethod
    def of(cls, config: NodeConfig) -> WorkerOptions:
        """What the worker of a node is told; it holds the node's accelerator in any case."""
        return cls._picked(config.model_copy(update={"worker_lock": worker_lock(config)}))

    @classmethod
    def from_json(cls, text: str) -> WorkerOptions:
        """What `to_json` made, or somebody by hand.

        Raises:
            InvalidConfig: naming each option at fault and what is wrong with it.
        """
        try:
            given = parsed(text)
        except ValueError as error:
            raise InvalidConfig([f"The options are no JSON: {error}."]) from None
        if not isinstance(given, dict):
            raise InvalidConfig(['The options are no JSON object, such as {"engine": "emulated"}.'])
        sources = dict.fromkeys(given, "options")
        return cls._picked(validated(given, sources=sources, known=OPTIONS))

    def to_json(self) -> str:
        """Those that are not as they are by default."""
        values = {name: getattr(self, name) for name in OPTIONS}
        changed = {k: value for k, value in values.items() if value != SETTINGS[k].default}
        return json.dumps(changed, default=str, ensure_ascii=False)

    def command(self, socket_path: Path) -> list[str]:
        """Program and arguments of a worker with these options that serves `socket_path`."""
        program = [sys.executable, "-m", "edge_node.worker"]
        return [*program, "--socket", str(socket_path), "--options", self.to_json()]

    @classmethod
    def _picked(cls, config: NodeConfig) -> WorkerOptions:
        return cls(**{name: getattr(config, name) for name in OPTIONS})


OPTIONS = tuple(field.name for field in fields(WorkerOptions))


def worker_lock(config: NodeConfig) -> Path:
    """File that stands for the accelerator."""
    return config.worker_lock or config.data_folder.resolve() / "run" / "accelerator.lock"


def explained() -> str:
    """Every option with its default and meaning, a line each, for `--help`."""
    return "\n".join(
        f"  {name} ({json.dumps(SETTINGS[name].default)}): {SETTINGS[name].description}"
        for name in OPTIONS
    )

"""Every setting of a node: its unit, its default and what it bounds.

Read from a TOML file, then from environment variables `DEDGEAI_<FIELD>`, then from the command
line, each overriding the one before. Unknown keys are errors.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from edge_node.errors import InvalidRequest

ENVIRONMENT_PREFIX = "DEDGEAI_"
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")


def _split(value: object) -> object:
    """Numbers as the environment gives them, with commas between."""
    return tuple(value.split(",")) if isinstance(value, str) else value


_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class NodeConfig(BaseModel):
    """One node. Times are seconds, sizes bytes, unless the name says otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Identity and addresses.
    node_id: str = Field(default="node-0", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")
    data_folder: Path = Path("dedgeai-data")
    rest_host: str = "127.0.0.1"
    rest_port: int = Field(default=8080, ge=0, le=65535)
    grpc_host: str = "127.0.0.1"
    grpc_port: int = Field(default=9080, ge=0, le=65535)
    # host:port of every other node's gRPC listener.
    peers: tuple[Annotated[str, Field(pattern=r"^[^:\s]+:\d{1,5}$")], ...] = ()
    # Remote gRPC without TLS lets anyone on the network read prompts and place tasks.
    allow_insecure_peering: bool = False

    # Store: an embedded Valkey under data_folder unless a URL is given.
    redis_url: str | None = None
    idempotency_keep_s: float = Field(default=86_400.0, gt=0)
    task_keep_s: float = Field(default=7 * 86_400.0, gt=0)
    image_bytes_total_max: int = Field(default=10 * 2**30, gt=0)
    image_keep_s: float = Field(default=7 * 86_400.0, gt=0)
    # Images that tasks start from, kept until the tasks' deadlines: some 2000 of 512x512 pixels.
    init_image_bytes_total_max: int = Field(default=2**30, gt=0)

    # Worker: a child of the node unless the socket of one that runs already is given.
    worker_socket: Path | None = None
    # File that stands for the accelerator: one worker holds it, never two copies of the weights.
    worker_lock: Path | None = None
    engine: Literal["sd3", "emulated"] = "sd3"
    # Stable Diffusion 3 as a diffusers folder or a .safetensors file; the tiny model of this
    # package when not given.
    model: Path | None = None
    # CLIP-L's and CLIP-bigG's files for a single file without them; else looked for beside it.
    clip_files: tuple[Path, Path] | None = None
    # A diffusers folder whose configs go with a single file; else those of SD3-medium.
    single_file_configs: Path | None = None
    # The operator has read the Stability AI Community License and accepts it.
    stability_license_accepted: bool = False
    dtype: Literal["auto", "float16", "bfloat16", "float32", "float64"] = "auto"
    # sd3: context padded as diffusers does, to the bit; paper: the CLIPs' 77 tokens alone.
    context_mode: Literal["sd3", "paper"] = "sd3"
    # Compiled blocks, and CUDA graphs where there is CUDA; auto is on a GPU.
    compile_model: Literal["auto", "always", "never"] = "auto"
    # Lossy choices: off by default, noted in every image, and nodes that differ in them do not
    # draw for each other. See docs/models.md.
    taesd3_folder: Path | None = None
    int8_weights: bool = False
    guidance_interval: tuple[float, float] | None = None
    step_cache: float | None = Field(default=None, gt=0, lt=1)
    torch_threads: int = Field(default=0, ge=0)
    # Least seconds per work unit: devices of unequal speed for demonstrations.
    pace_s: float = Field(default=0.0, ge=0)
    emulated_profile: str = "orin-64gb-maxn"
    # File that names the profile to become, for experiments with throttling.
    emulated_mode_file: Path | None = None
    # Emulated devices run this many times faster than the ones they stand for.
    time_scale: float = Field(default=1.0, gt=0, le=1000)
    rows_max: int = Field(default=0, ge=0)
    # Who is drawn next: first come, shortest drawing or shortest remaining drawing first.
    queue_order: Literal["fcfs", "sjf", "srpt"] = "fcfs"
    # Share of its age in seconds that is taken off a drawing's seconds of service; not for fcfs.
    queue_ageing: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    # c0 in wall seconds (time_scale does not divide it) and c1: what is older than c0 + c1 x its
    # own service time is drawn first, earliest due first; not for fcfs. "15,1" in the environment.
    queue_promotion: Annotated[
        tuple[_NotNegative, _NotNegative] | None, BeforeValidator(_split)
    ] = None
    # Bytes that the worker leaves to everything else on the device when it takes further rows.
    memory_floor_bytes: int = Field(default=2**30, ge=0)
    image_metadata: bool = True

    # Scheduling.
    policy: str = "slow_server_aware"
    policy_options: dict[str, float | str] = Field(default_factory=dict)
    # A learned policy decides only while it is not worse than this rule: edge_node/tasks/guard.py.
    guard_rule: str = "slow_server_aware"
    # Pins a learned policy: it decides whatever its guard finds. A rule as `policy` has no guard.
    pin_policy: bool = False
    # Share by which the learned policy's mean delay may be above the rule's.
    guard_margin: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    # Live decisions that a replay compares the two on, and wall seconds of the windows in which
    # they alternate: several service delays.
    guard_window_tasks: int = Field(default=2000, ge=100, le=20_000)
    guard_window_s: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    # Wall time that the learned policy may take for a decision.
    decision_budget_s: float = Field(default=0.002, gt=0, allow_inf_nan=False)
    # Seeds the policy's coin; drawn from the machine when not given.
    policy_seed: int | None = None
    # Of the latent memory: length of a slot (one mean service time as measured when not given),
    # latents kept per slot, and how long the store keeps them after the last write.
    slot_s: float | None = Field(default=None, ge=0.001, allow_inf_nan=False)
    latent_slots_max: int = Field(default=64, gt=0, le=4096)
    latent_keep_s: float = Field(default=86_400.0, gt=0, allow_inf_nan=False)

    # Decisions and outcomes that the store keeps for learning: some 600 bytes each with 5 nodes.
    experience_max: int = Field(default=20_000, ge=100)
    # Learn from them in a process of its own; needs dedgeai[train].
    learner: bool = False
    learner_publish_s: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    learner_memory_bytes_max: int = Field(default=2 * 2**30, ge=2**28)

    # Admission.
    tasks_in_flight_max: int = Field(default=2000, gt=0)
    queue_wait_s_max: float = Field(default=3600.0, gt=0)
    hosted_tasks_max: int = Field(default=4000, gt=0)
    prompt_chars_max: int = Field(default=32_000, gt=0)
    steps_default: int = Field(default=15, gt=0)
    guidance_scale_default: float = Field(default=5.0, ge=0)
    guidance_scale_max: float = Field(default=30.0, ge=0)
    strength_default: float = Field(default=0.6, gt=0, le=1)
    images_per_request_max: int = Field(default=10, gt=0)
    deadline_s_default: float = Field(default=3600.0, gt=0)
    deadline_s_max: float = Field(default=86_400.0, gt=0)
    request_bytes_max: int = Field(default=2**20, gt=0)
    init_image_upload_bytes_max: int = Field(default=16 * 2**20, gt=0)
    # Of an uploaded image as it is, before it is scaled: a small file can hold very many.
    init_image_pixels_max: int = Field(default=2**26, gt=0, le=2**27)
    # Uploads held in memory at once, and how long one may take to arrive.
    init_image_uploads_max: int = Field(default=8, gt=0)
    init_image_upload_s_max: float = Field(default=60.0, gt=0)

    # Time between things.
    heartbeat_s: float = Field(default=0.5, gt=0)
    suspect_s: float = Field(default=3.0, gt=0)
    lease_s: float = Field(default=5.0, gt=0)
    tick_s: float = Field(default=0.1, gt=0)
    attempts_max: int = Field(default=5, gt=0)
    drain_s: float = Field(default=20.0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> NodeConfig:
        if self.grpc_host not in LOOPBACK_HOSTS and not self.allow_insecure_peering:
            raise ValueError(
                f"grpc_host {self.grpc_host} can be reached by other machines and peering has no "
                "TLS yet. Keep it on a network that you trust and say so with "
                "allow_insecure_peering = true, or use 127.0.0.1."
            )
        if not self.heartbeat_s * 2 <= min(self.suspect_s, self.lease_s):
            raise ValueError("suspect_s and lease_s must each be at least twice heartbeat_s")
        if self.queue_order == "fcfs" and (self.queue_ageing, self.queue_promotion) != (None, None):
            raise ValueError(
                "queue_order fcfs goes by age already: leave queue_ageing and queue_promotion out, "
                "or choose sjf or srpt"
            )
        return self


def load_config(path: Path | None, overrides: dict[str, Any]) -> NodeConfig:
    """Merges file, environment and `overrides` (None values mean: not given).

    Raises:
        InvalidRequest: naming the key, what is wrong with it and the nearest known one.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values |= tomllib.loads(path.read_text())
        except FileNotFoundError:
            raise InvalidRequest(f"There is no configuration file {path}.") from None
        except tomllib.TOMLDecodeError as error:
            raise InvalidRequest(f"{path} is not valid TOML: {error}.") from None
    values |= _from_environment()
    values |= {key: value for key, value in overrides.items() if value is not None}
    try:
        return NodeConfig(**values)
    except ValidationError as error:
        raise InvalidRequest(_explain(error)) from None


def _from_environment() -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, text in os.environ.items():
        if name.startswith(ENVIRONMENT_PREFIX):
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower()
            values[key] = [peer for peer in text.split(",") if peer] if key == "peers" else text
    return values


def _explain(error: ValidationError) -> str:
    sentences = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "configuration"
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, NodeConfig.model_fields, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            sentences.append(f"{key} is not a setting.{hint}")
        else:
            sentences.append(f"{key}: {problem['msg'].removeprefix('Value error, ')}")
    return " ".join(sentences)

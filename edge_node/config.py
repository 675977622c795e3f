"""Every setting of a node: its meaning, unit, default and bounds, and whether SIGHUP changes it.

Where values come from is `config_sources.py`. `dedgeai config show` prints all of this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from edge_node.request_config import RequestConfig
from edge_node.setting import is_text, pairs, setting, settings_of, split

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")

_NotNegative = Annotated[float, Field(ge=0)]
_PORT_MAX = 65_535
_Address = Annotated[str, Field(pattern=r"^[^:\s]+:\d{1,5}$")]
# What a request is given where it says nothing, and the most that it may say.
_DEFAULTS = {
    "guidance_scale_default": "guidance_scale_max",
    "deadline_s_default": "deadline_s_max",
}
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"


class NodeConfig(RequestConfig):
    """One node. What is None by default is not set; the description says what happens then."""

    # inf is a number only where it means without bound, and nan nowhere.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # Identity and addresses.
    node_id: str = setting(
        "node-0",
        "the name of this node, its own in the cluster: letters, digits, _, . and -",
        pattern=_NAME,
    )
    cluster_name: str = setting(
        "dedgeai",
        "a name; nodes of a cluster of another name are neither found nor let in",
        pattern=_NAME,
    )
    data_folder: Path = setting(
        Path("dedgeai-data"),
        "tasks, images, logs and learned weights; a learner beside the node needs the same path",
    )
    rest_host: str = setting("127.0.0.1", "where the REST surface listens; 0.0.0.0 for everyone")
    rest_port: int = setting(8080, "port of the REST surface", ge=0, le=65535)
    rest_hosts: Annotated[tuple[str, ...], BeforeValidator(split)] = setting(
        (),
        "names under which clients reach the REST surface, where these have dots and are not of a "
        "private network, as of a proxy before it: others are refused, for pages of the internet "
        "can have their names mean this node",
    )
    rest_tls: bool = setting(
        False,
        "true: REST over TLS, with the pair below, or with that of tls_folder; a renewed one "
        "counts without a restart",
    )
    rest_tls_certificate: Path | None = setting(
        None, "PEM of a certificate for the names by which clients reach REST, its chain behind it"
    )
    rest_tls_key: Path | None = setting(None, "PEM of its key")
    keys_file: Path | None = setting(
        None,
        "API keys, as `dedgeai keys` writes them; keys.json in data_folder if not set. With "
        "tls_folder they are signed, and a later list from another node is written here, too. "
        "Without the file no keys are asked for",
    )
    grpc_host: str = setting("127.0.0.1", "where other nodes reach this one; 0.0.0.0 for everyone")
    grpc_port: int = setting(9080, "port for other nodes", ge=0, le=65535)
    tls_folder: Path | None = setting(
        None,
        "node.pem, node.key and ca.pem from `dedgeai certs issue`: nodes prove to each other who "
        "they are, and nobody else is let in or reads along; renewed files count without a restart",
    )
    allow_open_rest: bool = setting(
        False,
        "true: other machines may reach rest_host though no API key is given out, and draw, read "
        "and cancel as they like; once there is a key, it is asked for",
    )
    allow_insecure_peering: bool = setting(
        False,
        "true: other machines may reach grpc_host without tls_folder, though anyone on the network "
        "can then read prompts and place tasks",
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "least severity that the node's process logs", reload=True
    )
    log_format: Literal["text", "json"] = setting(
        "text",
        "json: the node's process, its worker and its learner log an object a line, with the ids "
        "of tasks and traces that a line is about",
    )
    otlp_endpoint: str | None = setting(
        None,
        "where traces go, as http://collector:4318: an OpenTelemetry collector that takes OTLP "
        "over HTTP (dedgeai[otel]); none are made if not set",
        pattern=r"^https?://[^/\s?#]+(/[^\s?#]*)?$",
    )
    traces_share: float = setting(
        1.0,
        "of the traces that begin at this node; where a client began one, it says so itself",
        unit="share",
        ge=0,
        le=1,
    )

    # Other nodes.
    peers: Annotated[tuple[_Address, ...], BeforeValidator(split)] = setting(
        (), "host:port of other nodes' gRPC listeners", reload=True
    )
    accept_new_peers: bool = setting(
        True,
        "true: a node of this cluster that says hello is let in, though peers does not name it",
        reload=True,
    )
    discovery: Literal["static", "mdns"] = setting(
        "static",
        "static: peers and hellos alone; mdns: nodes on the LAN are found, too (dedgeai[mdns])",
    )
    forget_s: float = setting(
        3600.0,
        "silence after which a node that peers does not name is forgotten; before, it is known "
        "as dead, and as away if it left",
        unit="s",
        reload=True,
        gt=0,
        allow_inf_nan=True,
    )

    # Store.
    redis_url: str | None = setting(
        None,
        "redis://host:port/0 or unix:///path of a Valkey that runs beside the node; else the node "
        "starts one under data_folder",
        pattern=r"^(redis|rediss|unix)://",
    )
    idempotency_keep_s: float = setting(
        86_400.0, "how long an Idempotency-Key is remembered", unit="s", gt=0
    )
    task_keep_s: float = setting(
        7 * 86_400.0,
        "how long a finished task can be read",
        unit="s",
        reload=True,
        gt=0,
        allow_inf_nan=True,
    )
    prompt_keep_s: float | None = setting(
        None,
        "how long after its end a task keeps its prompts and what it started from, in its record, "
        "in its image's metadata and among dead letters; as long as the record if not set",
        unit="s",
        reload=True,
        gt=0,
    )
    image_bytes_total_max: int = setting(
        10 * 2**30,
        "of all finished images; the oldest go first",
        unit="bytes",
        reload=True,
        gt=0,
    )
    image_keep_s: float = setting(
        7 * 86_400.0,
        "how long a finished image is kept",
        unit="s",
        reload=True,
        gt=0,
        allow_inf_nan=True,
    )
    store_bytes_max: int = setting(
        192 * 2**20,
        "of the store's memory, above which the oldest finished tasks leave it before task_keep_s; "
        "at most three quarters of an operator's maxmemory",
        unit="bytes",
        reload=True,
        ge=2**20,
    )
    disk_free_bytes_min: int = setting(
        2**28,
        "free space of data_folder's disk below which old images go, and where that is not enough, "
        "no new tasks are taken",
        unit="bytes",
        reload=True,
        ge=0,
    )
    init_image_bytes_total_max: int = setting(
        2**30,
        "of all images that tasks start from, kept until the tasks' deadlines: some 2000 of "
        "512x512 pixels",
        unit="bytes",
        reload=True,
        gt=0,
    )

    # Worker.
    worker_socket: Path | None = setting(
        None, "Unix socket of a worker that runs beside the node; else the node starts one"
    )
    worker_lock: Path | None = setting(
        None,
        "file that stands for the accelerator: one worker holds it, never two copies of the "
        "weights; under data_folder if not set",
    )
    engine: Literal["sd3", "emulated", "none"] = setting(
        "sd3",
        "sd3 draws; emulated takes the time that a device would and returns placeholders; none: "
        "the node has no worker, draws nothing and takes tasks for those that do",
    )
    model: Path | None = setting(
        None,
        "Stable Diffusion 3 as a diffusers folder or a .safetensors file; the tiny model of this "
        "package if not set",
    )
    model_name: str | None = setting(
        None,
        "under which requests ask for it and nodes draw it for each other; that of the folder or "
        "file if not set",
        pattern=_NAME,
    )
    clip_files: Annotated[tuple[Path, Path] | None, BeforeValidator(split)] = setting(
        None,
        "CLIP-L's and CLIP-bigG's files for a single file without them; looked for beside it if "
        "not set",
    )
    single_file_configs: Path | None = setting(
        None, "diffusers folder whose configs go with a single file; SD3-medium's if not set"
    )
    stability_license_accepted: bool = setting(
        False, "the operator has read the Stability AI Community License and accepts it"
    )
    dtype: Literal["auto", "float16", "bfloat16", "float32", "float64"] = setting(
        "auto", "precision of the weights and of drawing"
    )
    device: Literal["auto", "cuda", "cpu"] = setting(
        "auto",
        "where the model draws; auto is a GPU where there is one. On a Jetson say cuda: a "
        "container that loses its GPU then says so, and does not draw on the CPU for hours",
    )
    context_mode: Literal["sd3", "paper"] = setting(
        "sd3", "sd3: context padded as diffusers does, to the bit; paper: the CLIPs' 77 tokens"
    )
    long_prompts: Literal["cut", "chunks"] = setting(
        "cut",
        "prompts of more than 75 tokens: cut as diffusers does, to the bit, or encoded in up to "
        "eight chunks of 75, as A1111 does",
    )
    compile_model: Literal["auto", "always", "never"] = setting(
        "auto", "compiled blocks, and CUDA graphs where there is CUDA; auto is on a GPU"
    )
    lora_folder: Path | None = setting(
        None,
        "folder of LoRAs (*.safetensors), each served beside the model, as <model>+<file's name>",
    )
    lora_strengths: Annotated[
        dict[str, Annotated[float, Field(ge=-10, le=10)]], BeforeValidator(pairs)
    ] = setting(
        {}, "of LoRAs that are not to count in full, by file: ink=0.8,oil=1.2", unit="times"
    )

    # Lossy choices: off by default, noted in every image, and nodes that differ in them do not
    # draw for each other. See docs/models.md.
    taesd3_folder: Path | None = setting(None, "lossy: TAESD3 that decodes in the place of the VAE")
    int8_weights: bool = setting(False, "lossy: 8-bit weights; needs torchao")
    guidance_interval: Annotated[tuple[float, float] | None, BeforeValidator(split)] = setting(
        None, "lossy: guide only while the noise level is between these two"
    )
    step_cache: float | None = setting(
        None,
        "lossy: reuse a velocity once where the last two differed by less than this share",
        gt=0,
        lt=1,
    )
    torch_threads: int = setting(0, "CPU threads of torch; 0: one", ge=0)
    pace_s: float = setting(
        0.0,
        "least time for a work unit: devices of unequal speed for demonstrations",
        unit="s",
        ge=0,
    )
    emulated_profile: str = setting("orin-64gb-maxn", "device that engine emulated stands for")
    emulated_mode_file: Path | None = setting(
        None, "file that names the profile to become, for experiments with throttling"
    )
    time_scale: float = setting(
        1.0, "emulated devices are this many times faster than what they stand for", gt=0, le=1e6
    )
    rows_max: int = setting(
        0, "most rows that share a step; 0: as many as measurements find to pay", ge=0
    )
    deterministic: bool = setting(
        False,
        "a seed gives the same pixels however busy the node is: no step is shared, and a GPU's "
        "libraries use algorithms that repeat themselves; throughput falls where sharing pays",
    )
    queue_order: Literal["fcfs", "sjf", "srpt"] = setting(
        "fcfs", "who is drawn next: first come, shortest or shortest remaining drawing first"
    )
    queue_ageing: float | None = setting(
        None,
        "share of its age that is taken off a drawing's seconds of service; not for fcfs",
        ge=0,
    )
    queue_promotion: Annotated[tuple[_NotNegative, _NotNegative] | None, BeforeValidator(split)] = (
        setting(
            None,
            "c0 and c1: what is older than c0 + c1 x its own service time is drawn first, earliest "
            "due first; not for fcfs, and time_scale does not divide c0",
            unit="s, 1",
        )
    )
    queue_promotion_load: float | None = setting(
        None,
        "beta: adds beta x the longest wait lately to c0, which is 0 without queue_promotion (and "
        "c1 is 1); not for fcfs",
        ge=0,
    )
    worker_hang_s: float = setting(
        5.0,
        "silence of a ready worker, or time without a step, beyond its longest operation as it was "
        "calibrated, after which it hangs and is started again; without a step a minute where "
        "blocks may be compiled",
        unit="s",
        ge=0.5,
    )
    memory_floor_bytes: int = setting(
        2**30,
        "left to everything else on the device when further rows are taken",
        unit="bytes",
        ge=0,
    )
    image_metadata: bool = setting(True, "prompt and parameters are written into image files")
    image_task_ids: bool = setting(
        True, "task ids are written into image files; without them equal images are equal files"
    )

    # Scheduling.
    policy: str = setting("lad_ts", "who draws a task; dedgeai simulate compares them")
    move: Literal["none", "waiting", "running"] | None = setting(
        None,
        "waiting: a task that waits is moved to a node that would draw it sooner; running: a "
        "device that would idle takes what waits or is half drawn elsewhere; none: tasks stay "
        "where they were placed; if not set, waiting where the policy places by expected delay, "
        "else none, for others are there to be compared with",
    )
    move_order: Literal["oldest", "least_remaining"] = setting(
        "oldest",
        "which drawing comes first where one that is taken pushes another aside: the one asked for "
        "first, or the one with least left to do, which needs queue_order srpt",
    )
    helping: Literal["none", "guidance"] = setting(
        "none",
        "guidance: a device with nothing to do computes the other row of guided steps that another "
        "one draws, and asks others for the same; none: each draws alone",
    )
    moves_max: int = setting(3, "how often a task may move", unit="moves", ge=0, le=100)
    move_waiting: bool | None = setting(
        None, "the former name of move: true is waiting and false is none"
    )
    policy_options: Annotated[dict[str, float | str], BeforeValidator(pairs)] = setting(
        {}, "parameters of that policy"
    )
    guard_rules: Annotated[tuple[str, ...], BeforeValidator(split)] = setting(
        ("ring", "slow_server_aware", "power_of_two", "least_expected_delay"),
        "a learned policy decides only while it is not worse than the best of these rules, which a "
        "replay chooses for this cluster; until then it is the first",
        min_length=1,
    )
    guard_rule: str | None = setting(
        None, "the former name, for a single rule: write guard_rules with that one alone"
    )
    pin_policy: bool = setting(
        False, "true: a learned policy decides whatever its guard finds", reload=True
    )
    guard_margin: float = setting(
        0.01,
        "by which a learned policy's mean delay may be above the rule's",
        unit="share",
        reload=True,
        ge=0,
    )
    guard_window_tasks: int = setting(
        2000, "live decisions that a replay compares the two on", unit="tasks", ge=100, le=20_000
    )
    guard_window_s: float = setting(
        60.0,
        "windows in which the two alternate: several service delays",
        unit="s",
        gt=0,
    )
    decision_budget_s: float = setting(
        0.002,
        "CPU time that a learned policy may take for a decision",
        unit="s",
        reload=True,
        gt=0,
    )
    policy_seed: int | None = setting(
        None, "of the policy's coin; drawn from the machine if not set"
    )
    slot_s: float | None = setting(
        None,
        "length of a scheduling slot; one mean service time as measured if not set",
        unit="s",
        ge=0.001,
    )
    latent_slots_max: int = setting(64, "latents kept per slot", unit="latents", gt=0, le=4096)
    latent_keep_s: float = setting(
        86_400.0,
        "how long the store keeps latents after the last write",
        unit="s",
        gt=0,
    )
    experience_max: int = setting(
        20_000,
        "decisions and outcomes that the store keeps for learning: some 600 bytes each with 5 "
        "nodes",
        unit="entries",
        ge=100,
    )
    learner: bool = setting(
        False,
        "true: the node starts a learner (dedgeai[train]) and is willing to learn for the cluster; "
        "leave it false where `dedgeai learner` runs beside the node",
    )
    learned_weights_bytes_max: int = setting(
        16 * 2**20,
        "of a file of learned weights; larger ones are neither taken from other nodes nor used",
        unit="bytes",
        gt=0,
        le=2**28,
    )
    learner_publish_s: float = setting(
        180.0, "time between two attempts to publish weights", unit="s", gt=0
    )
    learner_memory_bytes_max: int = setting(
        2 * 2**30, "resident memory at which the learner ends itself", unit="bytes", ge=2**28
    )

    # Admission.
    tasks_in_flight_max: int = setting(
        2000, "accepted by this node and not final", unit="tasks", reload=True, gt=0
    )
    tasks_in_flight_bytes_max: int = setting(
        64 * 2**20,
        "of the prompts of all tasks accepted by this node and not final",
        unit="bytes",
        reload=True,
        gt=0,
    )
    queue_wait_s_max: float = setting(
        3600.0,
        "expected time in the cluster's queues above which tasks are refused",
        unit="s",
        reload=True,
        gt=0,
        allow_inf_nan=True,
    )
    hosted_tasks_max: int = setting(
        4000, "queued or drawn here, whoever accepted them", unit="tasks", gt=0
    )

    # Time between things.
    heartbeat_s: float = setting(0.5, "at least how often a node sends its state", unit="s", gt=0)
    suspect_s: float = setting(
        3.0,
        "silence after which a node draws for nobody and its tasks are placed again",
        unit="s",
        gt=0,
    )
    lease_s: float = setting(
        5.0, "silence about one task after which it is placed again", unit="s", gt=0
    )
    tick_s: float = setting(0.1, "between two looks at deadlines and leases", unit="s", gt=0, le=5)
    attempts_max: int = setting(5, "placements of one task", unit="attempts", gt=0, le=1000)
    checkpoint_steps: int | None = setting(
        None,
        "denoising steps after which a half-drawn image is sent to the node that accepted it, so "
        "that another one goes on from there; 0 is off; if not set, as often as it costs under 1 % "
        "of the steps' time and 2 % of the link's",
        unit="steps",
        reload=True,
        ge=0,
    )
    checkpoint_bytes_max: int = setting(
        64 * 2**20,
        "of memory for half-drawn images of tasks accepted here, and as much for those that go on "
        "here: each some 500 of 512x512 pixels in float16; 0 keeps none",
        unit="bytes",
        ge=0,
    )
    clock_jump_s_max: float = setting(
        600.0,
        "what the machine's clock may gain or lose between two lives of the node before it asks "
        "whether something synchronises it; beyond, no deadline counts it",
        unit="s",
        ge=0,
    )
    clock_wait_s_max: float = setting(
        30.0,
        "that a node waits at its start for a clock to be synchronised which cannot be right",
        unit="s",
        ge=0,
    )
    drain_s: float = setting(
        20.0,
        "that a node which is told to stop gives to what is under way; half of it at most it "
        "goes on to take tasks, which others draw",
        unit="s",
        ge=0,
    )

    @property
    def rules_compared(self) -> tuple[str, ...]:
        """What a learned policy is compared with, under the setting's present or former name."""
        return self.guard_rules if self.guard_rule is None else (self.guard_rule,)

    @model_validator(mode="after")
    def _consistent(self) -> NodeConfig:
        problems = self._contradictions()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _contradictions(self) -> list[str]:
        """A sentence for each pair of settings that do not go together."""
        problems = [
            f"{key} is {str(text)!r}: write it in UTF-8, or rename what it names."
            for key in type(self).model_fields
            for text in (getattr(self, key),)
            if isinstance(text, str | Path) and not is_text(str(text))
        ]
        problems += [
            f"peers names {address}: ports end at {_PORT_MAX}."
            for address in self.peers
            if not 0 < int(address.rpartition(":")[2]) <= _PORT_MAX
        ]
        secure = self.tls_folder is not None or self.allow_insecure_peering
        if self.grpc_host not in LOOPBACK_HOSTS and not secure:
            problems.append(
                f"grpc_host {self.grpc_host} can be reached by other machines, and nothing proves "
                "who they are: make certificates (dedgeai certs) and set tls_folder; on a network "
                "that you trust say so with allow_insecure_peering = true; or use 127.0.0.1."
            )
        pair = (self.rest_tls_certificate, self.rest_tls_key)
        if (None in pair and any(pair)) or (any(pair) and not self.rest_tls):
            problems.append(
                "rest_tls_certificate and rest_tls_key go together, and with rest_tls = true."
            )
        elif self.rest_tls and not any(pair) and self.tls_folder is None:
            problems.append(
                "rest_tls needs a certificate: set rest_tls_certificate and rest_tls_key, or "
                "tls_folder (dedgeai certs issue NODE_ID --host NAME)."
            )
        if not self.heartbeat_s * 2 <= min(self.suspect_s, self.lease_s):
            problems.append("suspect_s and lease_s must each be at least twice heartbeat_s.")
        problems += [
            f"{default} is {getattr(self, default):g}, more than {bound}, which is "
            f"{getattr(self, bound):g}: lower the one or raise the other."
            for default, bound in _DEFAULTS.items()
            if getattr(self, default) > getattr(self, bound)
        ]
        aged = (self.queue_ageing, self.queue_promotion, self.queue_promotion_load)
        if self.queue_order == "fcfs" and any(value is not None for value in aged):
            problems.append(
                "queue_order fcfs goes by age already: leave queue_ageing, queue_promotion and "
                "queue_promotion_load out, or choose sjf or srpt."
            )
        if self.moderation_command and self.moderation_url:
            problems.append("moderation_command and moderation_url are two judges: leave one out.")
        if self.guidance_interval is not None:
            low, high = self.guidance_interval
            if not 0.0 <= low < high <= 1.0:
                problems.append(
                    f"guidance_interval is {low:g},{high:g}: give two noise levels with "
                    "0 <= low < high <= 1."
                )
        if {"move", "move_waiting"} <= self.model_fields_set:
            problems.append("move_waiting is the former name of move: leave move_waiting out.")
        if self.move_order == "least_remaining" and self.queue_order != "srpt":
            problems.append(
                "move_order least_remaining is for workers that draw in that order: set "
                "queue_order to srpt."
            )
        if {"guard_rule", "guard_rules"} <= self.model_fields_set:
            problems.append("guard_rule is the former name of guard_rules: leave guard_rule out.")
        return problems


SETTINGS = settings_of(NodeConfig)

from dedgeai.v1 import worker_pb2 as _worker_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NodeServiceDescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NodeServiceDescribeResponse(_message.Message):
    __slots__ = ("node_id", "version", "model", "model_fingerprint", "rest_url", "device", "emulated_device")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    REST_URL_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    EMULATED_DEVICE_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    version: str
    model: str
    model_fingerprint: str
    rest_url: str
    device: str
    emulated_device: str
    def __init__(self, node_id: _Optional[str] = ..., version: _Optional[str] = ..., model: _Optional[str] = ..., model_fingerprint: _Optional[str] = ..., rest_url: _Optional[str] = ..., device: _Optional[str] = ..., emulated_device: _Optional[str] = ...) -> None: ...

class NodeState(_message.Message):
    __slots__ = ("node_id", "incarnation", "sequence", "backlog", "capacity", "model", "model_fingerprint", "accepting", "queued", "running", "dispatches_seen", "rest_url", "device", "emulated_device", "grpc_address", "accepted_work_s", "changed_s", "sent_s", "cluster_name", "leaving", "serves", "learning", "sent_at", "keys", "clients", "key_use", "accepted_by_model", "paused", "device_summary", "held", "removals", "helped_by")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ACCEPTING_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    DISPATCHES_SEEN_FIELD_NUMBER: _ClassVar[int]
    REST_URL_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    EMULATED_DEVICE_FIELD_NUMBER: _ClassVar[int]
    GRPC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_WORK_S_FIELD_NUMBER: _ClassVar[int]
    CHANGED_S_FIELD_NUMBER: _ClassVar[int]
    SENT_S_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_NAME_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    SERVES_FIELD_NUMBER: _ClassVar[int]
    LEARNING_FIELD_NUMBER: _ClassVar[int]
    SENT_AT_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    KEY_USE_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_BY_MODEL_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    DEVICE_SUMMARY_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    REMOVALS_FIELD_NUMBER: _ClassVar[int]
    HELPED_BY_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    incarnation: int
    sequence: int
    backlog: float
    capacity: float
    model: str
    model_fingerprint: str
    accepting: bool
    queued: int
    running: int
    dispatches_seen: _containers.RepeatedCompositeFieldContainer[DispatchSeen]
    rest_url: str
    device: str
    emulated_device: str
    grpc_address: str
    accepted_work_s: float
    changed_s: float
    sent_s: float
    cluster_name: str
    leaving: bool
    serves: _containers.RepeatedCompositeFieldContainer[ServedModel]
    learning: Learning
    sent_at: float
    keys: KeysHeld
    clients: int
    key_use: _containers.RepeatedCompositeFieldContainer[KeyUse]
    accepted_by_model: _containers.RepeatedCompositeFieldContainer[AcceptedWork]
    paused: bool
    device_summary: DeviceSummary
    held: _containers.RepeatedCompositeFieldContainer[HeldDrawing]
    removals: _containers.RepeatedCompositeFieldContainer[Removal]
    helped_by: str
    def __init__(self, node_id: _Optional[str] = ..., incarnation: _Optional[int] = ..., sequence: _Optional[int] = ..., backlog: _Optional[float] = ..., capacity: _Optional[float] = ..., model: _Optional[str] = ..., model_fingerprint: _Optional[str] = ..., accepting: _Optional[bool] = ..., queued: _Optional[int] = ..., running: _Optional[int] = ..., dispatches_seen: _Optional[_Iterable[_Union[DispatchSeen, _Mapping]]] = ..., rest_url: _Optional[str] = ..., device: _Optional[str] = ..., emulated_device: _Optional[str] = ..., grpc_address: _Optional[str] = ..., accepted_work_s: _Optional[float] = ..., changed_s: _Optional[float] = ..., sent_s: _Optional[float] = ..., cluster_name: _Optional[str] = ..., leaving: _Optional[bool] = ..., serves: _Optional[_Iterable[_Union[ServedModel, _Mapping]]] = ..., learning: _Optional[_Union[Learning, _Mapping]] = ..., sent_at: _Optional[float] = ..., keys: _Optional[_Union[KeysHeld, _Mapping]] = ..., clients: _Optional[int] = ..., key_use: _Optional[_Iterable[_Union[KeyUse, _Mapping]]] = ..., accepted_by_model: _Optional[_Iterable[_Union[AcceptedWork, _Mapping]]] = ..., paused: _Optional[bool] = ..., device_summary: _Optional[_Union[DeviceSummary, _Mapping]] = ..., held: _Optional[_Iterable[_Union[HeldDrawing, _Mapping]]] = ..., removals: _Optional[_Iterable[_Union[Removal, _Mapping]]] = ..., helped_by: _Optional[str] = ...) -> None: ...

class Removal(_message.Message):
    __slots__ = ("node_id", "address", "removed", "said_at")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    SAID_AT_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    address: str
    removed: bool
    said_at: float
    def __init__(self, node_id: _Optional[str] = ..., address: _Optional[str] = ..., removed: _Optional[bool] = ..., said_at: _Optional[float] = ...) -> None: ...

class HeldDrawing(_message.Message):
    __slots__ = ("task_id", "fence", "model", "age_s", "work_left", "step_work", "begun", "moves_left")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    WORK_LEFT_FIELD_NUMBER: _ClassVar[int]
    STEP_WORK_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    MOVES_LEFT_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    fence: _worker_pb2.Fence
    model: str
    age_s: float
    work_left: float
    step_work: float
    begun: bool
    moves_left: int
    def __init__(self, task_id: _Optional[str] = ..., fence: _Optional[_Union[_worker_pb2.Fence, _Mapping]] = ..., model: _Optional[str] = ..., age_s: _Optional[float] = ..., work_left: _Optional[float] = ..., step_work: _Optional[float] = ..., begun: _Optional[bool] = ..., moves_left: _Optional[int] = ...) -> None: ...

class DeviceSummary(_message.Message):
    __slots__ = ("gpu_load", "temperature_c", "power_w", "power_mode")
    GPU_LOAD_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_C_FIELD_NUMBER: _ClassVar[int]
    POWER_W_FIELD_NUMBER: _ClassVar[int]
    POWER_MODE_FIELD_NUMBER: _ClassVar[int]
    gpu_load: float
    temperature_c: float
    power_w: float
    power_mode: str
    def __init__(self, gpu_load: _Optional[float] = ..., temperature_c: _Optional[float] = ..., power_w: _Optional[float] = ..., power_mode: _Optional[str] = ...) -> None: ...

class OperateRequest(_message.Message):
    __slots__ = ("action",)
    ACTION_FIELD_NUMBER: _ClassVar[int]
    action: str
    def __init__(self, action: _Optional[str] = ...) -> None: ...

class OperateResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AcceptedWork(_message.Message):
    __slots__ = ("model", "work_s")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WORK_S_FIELD_NUMBER: _ClassVar[int]
    model: str
    work_s: float
    def __init__(self, model: _Optional[str] = ..., work_s: _Optional[float] = ...) -> None: ...

class KeyUse(_message.Message):
    __slots__ = ("client", "day", "images", "open_tasks")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    DAY_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    OPEN_TASKS_FIELD_NUMBER: _ClassVar[int]
    client: str
    day: int
    images: int
    open_tasks: int
    def __init__(self, client: _Optional[str] = ..., day: _Optional[int] = ..., images: _Optional[int] = ..., open_tasks: _Optional[int] = ...) -> None: ...

class KeysHeld(_message.Message):
    __slots__ = ("version", "sha256")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    version: int
    sha256: str
    def __init__(self, version: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class Learning(_message.Message):
    __slots__ = ("policy", "willing", "learner", "weights")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    WILLING_FIELD_NUMBER: _ClassVar[int]
    LEARNER_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    policy: str
    willing: bool
    learner: str
    weights: LearnedWeights
    def __init__(self, policy: _Optional[str] = ..., willing: _Optional[bool] = ..., learner: _Optional[str] = ..., weights: _Optional[_Union[LearnedWeights, _Mapping]] = ...) -> None: ...

class LearnedWeights(_message.Message):
    __slots__ = ("policy", "version", "generation", "sha256", "size_bytes")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    policy: str
    version: str
    generation: int
    sha256: str
    size_bytes: int
    def __init__(self, policy: _Optional[str] = ..., version: _Optional[str] = ..., generation: _Optional[int] = ..., sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class ServedModel(_message.Message):
    __slots__ = ("name", "fingerprint", "work_model", "size_px_min", "size_px_max", "size_px_multiple", "steps_max", "steps_default", "guidance_scale_default", "guidance_scale_max", "strength_default", "prompt_chars_max", "masks")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    WORK_MODEL_FIELD_NUMBER: _ClassVar[int]
    SIZE_PX_MIN_FIELD_NUMBER: _ClassVar[int]
    SIZE_PX_MAX_FIELD_NUMBER: _ClassVar[int]
    SIZE_PX_MULTIPLE_FIELD_NUMBER: _ClassVar[int]
    STEPS_MAX_FIELD_NUMBER: _ClassVar[int]
    STEPS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_MAX_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_CHARS_MAX_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    name: str
    fingerprint: str
    work_model: _worker_pb2.WorkModel
    size_px_min: int
    size_px_max: int
    size_px_multiple: int
    steps_max: int
    steps_default: int
    guidance_scale_default: float
    guidance_scale_max: float
    strength_default: float
    prompt_chars_max: int
    masks: bool
    def __init__(self, name: _Optional[str] = ..., fingerprint: _Optional[str] = ..., work_model: _Optional[_Union[_worker_pb2.WorkModel, _Mapping]] = ..., size_px_min: _Optional[int] = ..., size_px_max: _Optional[int] = ..., size_px_multiple: _Optional[int] = ..., steps_max: _Optional[int] = ..., steps_default: _Optional[int] = ..., guidance_scale_default: _Optional[float] = ..., guidance_scale_max: _Optional[float] = ..., strength_default: _Optional[float] = ..., prompt_chars_max: _Optional[int] = ..., masks: _Optional[bool] = ...) -> None: ...

class DispatchSeen(_message.Message):
    __slots__ = ("origin", "dispatch", "incarnation")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    DISPATCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    origin: str
    dispatch: int
    incarnation: int
    def __init__(self, origin: _Optional[str] = ..., dispatch: _Optional[int] = ..., incarnation: _Optional[int] = ...) -> None: ...

class ExchangeStateRequest(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: NodeState
    def __init__(self, state: _Optional[_Union[NodeState, _Mapping]] = ...) -> None: ...

class ExchangeStateResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: NodeState
    def __init__(self, state: _Optional[_Union[NodeState, _Mapping]] = ...) -> None: ...

class OffloadRequest(_message.Message):
    __slots__ = ("task_id", "attempt", "origin", "origin_incarnation", "dispatch", "drawing", "work", "priority", "deadline_s", "init_image", "fence", "client", "checkpoint_steps", "checkpoint", "age_s", "moves_left")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    DISPATCH_FIELD_NUMBER: _ClassVar[int]
    DRAWING_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    INIT_IMAGE_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_STEPS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    MOVES_LEFT_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    attempt: int
    origin: str
    origin_incarnation: int
    dispatch: int
    drawing: _worker_pb2.Drawing
    work: float
    priority: int
    deadline_s: float
    init_image: bytes
    fence: _worker_pb2.Fence
    client: str
    checkpoint_steps: int
    checkpoint: _worker_pb2.Checkpoint
    age_s: float
    moves_left: int
    def __init__(self, task_id: _Optional[str] = ..., attempt: _Optional[int] = ..., origin: _Optional[str] = ..., origin_incarnation: _Optional[int] = ..., dispatch: _Optional[int] = ..., drawing: _Optional[_Union[_worker_pb2.Drawing, _Mapping]] = ..., work: _Optional[float] = ..., priority: _Optional[int] = ..., deadline_s: _Optional[float] = ..., init_image: _Optional[bytes] = ..., fence: _Optional[_Union[_worker_pb2.Fence, _Mapping]] = ..., client: _Optional[str] = ..., checkpoint_steps: _Optional[int] = ..., checkpoint: _Optional[_Union[_worker_pb2.Checkpoint, _Mapping]] = ..., age_s: _Optional[float] = ..., moves_left: _Optional[int] = ...) -> None: ...

class OffloadResponse(_message.Message):
    __slots__ = ("queued", "started", "step_finished", "finished", "failed", "heartbeat")
    class Queued(_message.Message):
        __slots__ = ("position",)
        POSITION_FIELD_NUMBER: _ClassVar[int]
        position: int
        def __init__(self, position: _Optional[int] = ...) -> None: ...
    class Heartbeat(_message.Message):
        __slots__ = ("queue_position",)
        QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
        queue_position: int
        def __init__(self, queue_position: _Optional[int] = ...) -> None: ...
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    STEP_FINISHED_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    queued: OffloadResponse.Queued
    started: _worker_pb2.DrawResponse.Started
    step_finished: _worker_pb2.DrawResponse.StepFinished
    finished: _worker_pb2.DrawResponse.Finished
    failed: _worker_pb2.DrawResponse.Failed
    heartbeat: OffloadResponse.Heartbeat
    def __init__(self, queued: _Optional[_Union[OffloadResponse.Queued, _Mapping]] = ..., started: _Optional[_Union[_worker_pb2.DrawResponse.Started, _Mapping]] = ..., step_finished: _Optional[_Union[_worker_pb2.DrawResponse.StepFinished, _Mapping]] = ..., finished: _Optional[_Union[_worker_pb2.DrawResponse.Finished, _Mapping]] = ..., failed: _Optional[_Union[_worker_pb2.DrawResponse.Failed, _Mapping]] = ..., heartbeat: _Optional[_Union[OffloadResponse.Heartbeat, _Mapping]] = ...) -> None: ...

class CancelOffloadRequest(_message.Message):
    __slots__ = ("task_id", "attempt", "fence")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    attempt: int
    fence: _worker_pb2.Fence
    def __init__(self, task_id: _Optional[str] = ..., attempt: _Optional[int] = ..., fence: _Optional[_Union[_worker_pb2.Fence, _Mapping]] = ...) -> None: ...

class CancelOffloadResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HandOverRequest(_message.Message):
    __slots__ = ("task_id", "fence")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    fence: _worker_pb2.Fence
    def __init__(self, task_id: _Optional[str] = ..., fence: _Optional[_Union[_worker_pb2.Fence, _Mapping]] = ...) -> None: ...

class HandOverResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ComputeRowRequest(_message.Message):
    __slots__ = ("wanted",)
    WANTED_FIELD_NUMBER: _ClassVar[int]
    wanted: _worker_pb2.RowWanted
    def __init__(self, wanted: _Optional[_Union[_worker_pb2.RowWanted, _Mapping]] = ...) -> None: ...

class ComputeRowResponse(_message.Message):
    __slots__ = ("given",)
    GIVEN_FIELD_NUMBER: _ClassVar[int]
    given: _worker_pb2.RowGiven
    def __init__(self, given: _Optional[_Union[_worker_pb2.RowGiven, _Mapping]] = ...) -> None: ...

class TakeTaskRequest(_message.Message):
    __slots__ = ("task_id", "fence", "taker", "reason", "gain_s")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    TAKER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    GAIN_S_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    fence: _worker_pb2.Fence
    taker: str
    reason: str
    gain_s: float
    def __init__(self, task_id: _Optional[str] = ..., fence: _Optional[_Union[_worker_pb2.Fence, _Mapping]] = ..., taker: _Optional[str] = ..., reason: _Optional[str] = ..., gain_s: _Optional[float] = ...) -> None: ...

class TakeTaskResponse(_message.Message):
    __slots__ = ("granted",)
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    granted: bool
    def __init__(self, granted: _Optional[bool] = ...) -> None: ...

class GetTaskRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class GetTaskResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: TaskView
    def __init__(self, task: _Optional[_Union[TaskView, _Mapping]] = ...) -> None: ...

class GetJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class GetJobResponse(_message.Message):
    __slots__ = ("job_id", "tasks")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    tasks: _containers.RepeatedCompositeFieldContainer[TaskView]
    def __init__(self, job_id: _Optional[str] = ..., tasks: _Optional[_Iterable[_Union[TaskView, _Mapping]]] = ...) -> None: ...

class CancelTaskRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class CancelTaskResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: TaskView
    def __init__(self, task: _Optional[_Union[TaskView, _Mapping]] = ...) -> None: ...

class TaskFilter(_message.Message):
    __slots__ = ("statuses", "model", "client")
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedScalarFieldContainer[str]
    model: str
    client: str
    def __init__(self, statuses: _Optional[_Iterable[str]] = ..., model: _Optional[str] = ..., client: _Optional[str] = ...) -> None: ...

class TaskPlace(_message.Message):
    __slots__ = ("accepted_at", "task_id")
    ACCEPTED_AT_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    accepted_at: float
    task_id: str
    def __init__(self, accepted_at: _Optional[float] = ..., task_id: _Optional[str] = ...) -> None: ...

class ListTasksRequest(_message.Message):
    __slots__ = ("filter", "before", "count")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    filter: TaskFilter
    before: TaskPlace
    count: int
    def __init__(self, filter: _Optional[_Union[TaskFilter, _Mapping]] = ..., before: _Optional[_Union[TaskPlace, _Mapping]] = ..., count: _Optional[int] = ...) -> None: ...

class ListTasksResponse(_message.Message):
    __slots__ = ("tasks", "until")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[ListedTask]
    until: TaskPlace
    def __init__(self, tasks: _Optional[_Iterable[_Union[ListedTask, _Mapping]]] = ..., until: _Optional[_Union[TaskPlace, _Mapping]] = ...) -> None: ...

class ListedTask(_message.Message):
    __slots__ = ("accepted_at", "task")
    ACCEPTED_AT_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    accepted_at: float
    task: TaskView
    def __init__(self, accepted_at: _Optional[float] = ..., task: _Optional[_Union[TaskView, _Mapping]] = ...) -> None: ...

class CancelTasksRequest(_message.Message):
    __slots__ = ("filter",)
    FILTER_FIELD_NUMBER: _ClassVar[int]
    filter: TaskFilter
    def __init__(self, filter: _Optional[_Union[TaskFilter, _Mapping]] = ...) -> None: ...

class CancelTasksResponse(_message.Message):
    __slots__ = ("cancelled",)
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    cancelled: int
    def __init__(self, cancelled: _Optional[int] = ...) -> None: ...

class EraseTaskRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class EraseTaskResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ForgetTaskRequest(_message.Message):
    __slots__ = ("task_id", "init_image_sha256")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    INIT_IMAGE_SHA256_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    init_image_sha256: str
    def __init__(self, task_id: _Optional[str] = ..., init_image_sha256: _Optional[str] = ...) -> None: ...

class ForgetTaskResponse(_message.Message):
    __slots__ = ("forgotten",)
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    forgotten: bool
    def __init__(self, forgotten: _Optional[bool] = ...) -> None: ...

class WatchTaskRequest(_message.Message):
    __slots__ = ("task_id", "after")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    after: int
    def __init__(self, task_id: _Optional[str] = ..., after: _Optional[int] = ...) -> None: ...

class WatchTaskResponse(_message.Message):
    __slots__ = ("sequence", "kind", "at", "attempt", "executor", "step", "steps", "queue_position", "error_code", "error_message", "preview", "eta_s", "move")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    EXECUTOR_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    ETA_S_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    kind: str
    at: float
    attempt: int
    executor: str
    step: int
    steps: int
    queue_position: int
    error_code: str
    error_message: str
    preview: bytes
    eta_s: float
    move: Move
    def __init__(self, sequence: _Optional[int] = ..., kind: _Optional[str] = ..., at: _Optional[float] = ..., attempt: _Optional[int] = ..., executor: _Optional[str] = ..., step: _Optional[int] = ..., steps: _Optional[int] = ..., queue_position: _Optional[int] = ..., error_code: _Optional[str] = ..., error_message: _Optional[str] = ..., preview: _Optional[bytes] = ..., eta_s: _Optional[float] = ..., move: _Optional[_Union[Move, _Mapping]] = ...) -> None: ...

class Move(_message.Message):
    __slots__ = ("source", "target", "reason", "gain_s")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    GAIN_S_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    reason: str
    gain_s: float
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., reason: _Optional[str] = ..., gain_s: _Optional[float] = ...) -> None: ...

class WatchEventsRequest(_message.Message):
    __slots__ = ("after", "client", "previews")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    PREVIEWS_FIELD_NUMBER: _ClassVar[int]
    after: int
    client: str
    previews: bool
    def __init__(self, after: _Optional[int] = ..., client: _Optional[str] = ..., previews: _Optional[bool] = ...) -> None: ...

class WatchEventsResponse(_message.Message):
    __slots__ = ("number", "task_id", "client", "event", "missed")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    number: int
    task_id: str
    client: str
    event: WatchTaskResponse
    missed: bool
    def __init__(self, number: _Optional[int] = ..., task_id: _Optional[str] = ..., client: _Optional[str] = ..., event: _Optional[_Union[WatchTaskResponse, _Mapping]] = ..., missed: _Optional[bool] = ...) -> None: ...

class FetchImageRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class FetchImageResponse(_message.Message):
    __slots__ = ("media_type", "chunk")
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    media_type: str
    chunk: bytes
    def __init__(self, media_type: _Optional[str] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class ReadExperienceRequest(_message.Message):
    __slots__ = ("after", "entries_max")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_MAX_FIELD_NUMBER: _ClassVar[int]
    after: str
    entries_max: int
    def __init__(self, after: _Optional[str] = ..., entries_max: _Optional[int] = ...) -> None: ...

class ReadExperienceResponse(_message.Message):
    __slots__ = ("last", "entries", "read_at")
    LAST_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    READ_AT_FIELD_NUMBER: _ClassVar[int]
    last: str
    entries: _containers.RepeatedCompositeFieldContainer[ExperienceEntry]
    read_at: float
    def __init__(self, last: _Optional[str] = ..., entries: _Optional[_Iterable[_Union[ExperienceEntry, _Mapping]]] = ..., read_at: _Optional[float] = ...) -> None: ...

class ExperienceEntry(_message.Message):
    __slots__ = ("fields",)
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    fields: _containers.ScalarMap[str, bytes]
    def __init__(self, fields: _Optional[_Mapping[str, bytes]] = ...) -> None: ...

class FetchWeightsRequest(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    def __init__(self, sha256: _Optional[str] = ...) -> None: ...

class FetchWeightsResponse(_message.Message):
    __slots__ = ("weights", "chunk")
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    weights: LearnedWeights
    chunk: bytes
    def __init__(self, weights: _Optional[_Union[LearnedWeights, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class OfferWeightsRequest(_message.Message):
    __slots__ = ("weights", "chunk")
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    weights: LearnedWeights
    chunk: bytes
    def __init__(self, weights: _Optional[_Union[LearnedWeights, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class OfferWeightsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OfferVerdictRequest(_message.Message):
    __slots__ = ("format", "verdict")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    format: str
    verdict: bytes
    def __init__(self, format: _Optional[str] = ..., verdict: _Optional[bytes] = ...) -> None: ...

class OfferVerdictResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FetchKeysRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FetchKeysResponse(_message.Message):
    __slots__ = ("signed_list",)
    SIGNED_LIST_FIELD_NUMBER: _ClassVar[int]
    signed_list: bytes
    def __init__(self, signed_list: _Optional[bytes] = ...) -> None: ...

class TaskView(_message.Message):
    __slots__ = ("task_id", "job_id", "status", "drawing", "origin", "executor", "attempt", "step", "queue_position", "eta_s", "durability", "created_at", "started_at", "finished_at", "error_code", "error_message", "image_bytes", "emulated_device", "queue_s", "compute_s", "policy", "work", "deadline_at", "priority", "policy_reason", "prompt_tokens", "prompt_tokens_drawn", "client", "moves")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DRAWING_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    EXECUTOR_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    ETA_S_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    EMULATED_DEVICE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_S_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_S_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_AT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    POLICY_REASON_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_DRAWN_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    job_id: str
    status: str
    drawing: _worker_pb2.Drawing
    origin: str
    executor: str
    attempt: int
    step: int
    queue_position: int
    eta_s: float
    durability: str
    created_at: float
    started_at: float
    finished_at: float
    error_code: str
    error_message: str
    image_bytes: int
    emulated_device: str
    queue_s: float
    compute_s: float
    policy: str
    work: float
    deadline_at: float
    priority: int
    policy_reason: str
    prompt_tokens: int
    prompt_tokens_drawn: int
    client: str
    moves: _containers.RepeatedCompositeFieldContainer[Move]
    def __init__(self, task_id: _Optional[str] = ..., job_id: _Optional[str] = ..., status: _Optional[str] = ..., drawing: _Optional[_Union[_worker_pb2.Drawing, _Mapping]] = ..., origin: _Optional[str] = ..., executor: _Optional[str] = ..., attempt: _Optional[int] = ..., step: _Optional[int] = ..., queue_position: _Optional[int] = ..., eta_s: _Optional[float] = ..., durability: _Optional[str] = ..., created_at: _Optional[float] = ..., started_at: _Optional[float] = ..., finished_at: _Optional[float] = ..., error_code: _Optional[str] = ..., error_message: _Optional[str] = ..., image_bytes: _Optional[int] = ..., emulated_device: _Optional[str] = ..., queue_s: _Optional[float] = ..., compute_s: _Optional[float] = ..., policy: _Optional[str] = ..., work: _Optional[float] = ..., deadline_at: _Optional[float] = ..., priority: _Optional[int] = ..., policy_reason: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., prompt_tokens_drawn: _Optional[int] = ..., client: _Optional[str] = ..., moves: _Optional[_Iterable[_Union[Move, _Mapping]]] = ...) -> None: ...

from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Drawing(_message.Message):
    __slots__ = ("prompt", "negative_prompt", "width_px", "height_px", "steps", "guidance_scale", "seed", "model", "image_format", "image_quality", "previews", "init_image_sha256", "strength", "masked")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FORMAT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_QUALITY_FIELD_NUMBER: _ClassVar[int]
    PREVIEWS_FIELD_NUMBER: _ClassVar[int]
    INIT_IMAGE_SHA256_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    negative_prompt: str
    width_px: int
    height_px: int
    steps: int
    guidance_scale: float
    seed: int
    model: str
    image_format: str
    image_quality: int
    previews: int
    init_image_sha256: str
    strength: float
    masked: bool
    def __init__(self, prompt: _Optional[str] = ..., negative_prompt: _Optional[str] = ..., width_px: _Optional[int] = ..., height_px: _Optional[int] = ..., steps: _Optional[int] = ..., guidance_scale: _Optional[float] = ..., seed: _Optional[int] = ..., model: _Optional[str] = ..., image_format: _Optional[str] = ..., image_quality: _Optional[int] = ..., previews: _Optional[int] = ..., init_image_sha256: _Optional[str] = ..., strength: _Optional[float] = ..., masked: _Optional[bool] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("content", "format", "width_px", "height_px", "emulated_device", "prompt_tokens", "prompt_tokens_drawn")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    EMULATED_DEVICE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_DRAWN_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    format: str
    width_px: int
    height_px: int
    emulated_device: str
    prompt_tokens: int
    prompt_tokens_drawn: int
    def __init__(self, content: _Optional[bytes] = ..., format: _Optional[str] = ..., width_px: _Optional[int] = ..., height_px: _Optional[int] = ..., emulated_device: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., prompt_tokens_drawn: _Optional[int] = ...) -> None: ...

class WorkModel(_message.Message):
    __slots__ = ("fixed_steps", "unguided_ratio", "reference_px", "size_costs", "init_image_steps")
    class SizeCost(_message.Message):
        __slots__ = ("width_px", "height_px", "rho")
        WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
        HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
        RHO_FIELD_NUMBER: _ClassVar[int]
        width_px: int
        height_px: int
        rho: float
        def __init__(self, width_px: _Optional[int] = ..., height_px: _Optional[int] = ..., rho: _Optional[float] = ...) -> None: ...
    FIXED_STEPS_FIELD_NUMBER: _ClassVar[int]
    UNGUIDED_RATIO_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_PX_FIELD_NUMBER: _ClassVar[int]
    SIZE_COSTS_FIELD_NUMBER: _ClassVar[int]
    INIT_IMAGE_STEPS_FIELD_NUMBER: _ClassVar[int]
    fixed_steps: float
    unguided_ratio: float
    reference_px: int
    size_costs: _containers.RepeatedCompositeFieldContainer[WorkModel.SizeCost]
    init_image_steps: float
    def __init__(self, fixed_steps: _Optional[float] = ..., unguided_ratio: _Optional[float] = ..., reference_px: _Optional[int] = ..., size_costs: _Optional[_Iterable[_Union[WorkModel.SizeCost, _Mapping]]] = ..., init_image_steps: _Optional[float] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("state", "detail", "engine", "model", "model_fingerprint", "capacity", "work_model", "size_px_min", "size_px_max", "size_px_multiple", "steps_max", "rows_max", "emulated_device", "pace_s", "device", "order", "fault", "masks", "variants", "portable")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[DescribeResponse.State]
        STATE_LOADING: _ClassVar[DescribeResponse.State]
        STATE_WARMING_UP: _ClassVar[DescribeResponse.State]
        STATE_READY: _ClassVar[DescribeResponse.State]
        STATE_FAILED: _ClassVar[DescribeResponse.State]
    STATE_UNSPECIFIED: DescribeResponse.State
    STATE_LOADING: DescribeResponse.State
    STATE_WARMING_UP: DescribeResponse.State
    STATE_READY: DescribeResponse.State
    STATE_FAILED: DescribeResponse.State
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    WORK_MODEL_FIELD_NUMBER: _ClassVar[int]
    SIZE_PX_MIN_FIELD_NUMBER: _ClassVar[int]
    SIZE_PX_MAX_FIELD_NUMBER: _ClassVar[int]
    SIZE_PX_MULTIPLE_FIELD_NUMBER: _ClassVar[int]
    STEPS_MAX_FIELD_NUMBER: _ClassVar[int]
    ROWS_MAX_FIELD_NUMBER: _ClassVar[int]
    EMULATED_DEVICE_FIELD_NUMBER: _ClassVar[int]
    PACE_S_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    PORTABLE_FIELD_NUMBER: _ClassVar[int]
    state: DescribeResponse.State
    detail: str
    engine: str
    model: str
    model_fingerprint: str
    capacity: float
    work_model: WorkModel
    size_px_min: int
    size_px_max: int
    size_px_multiple: int
    steps_max: int
    rows_max: int
    emulated_device: str
    pace_s: float
    device: str
    order: str
    fault: str
    masks: bool
    variants: _containers.RepeatedCompositeFieldContainer[ModelVariant]
    portable: bool
    def __init__(self, state: _Optional[_Union[DescribeResponse.State, str]] = ..., detail: _Optional[str] = ..., engine: _Optional[str] = ..., model: _Optional[str] = ..., model_fingerprint: _Optional[str] = ..., capacity: _Optional[float] = ..., work_model: _Optional[_Union[WorkModel, _Mapping]] = ..., size_px_min: _Optional[int] = ..., size_px_max: _Optional[int] = ..., size_px_multiple: _Optional[int] = ..., steps_max: _Optional[int] = ..., rows_max: _Optional[int] = ..., emulated_device: _Optional[str] = ..., pace_s: _Optional[float] = ..., device: _Optional[str] = ..., order: _Optional[str] = ..., fault: _Optional[str] = ..., masks: _Optional[bool] = ..., variants: _Optional[_Iterable[_Union[ModelVariant, _Mapping]]] = ..., portable: _Optional[bool] = ...) -> None: ...

class ModelVariant(_message.Message):
    __slots__ = ("name", "fingerprint")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    name: str
    fingerprint: str
    def __init__(self, name: _Optional[str] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class Fence(_message.Message):
    __slots__ = ("term", "attempt")
    TERM_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    term: int
    attempt: int
    def __init__(self, term: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class DrawRequest(_message.Message):
    __slots__ = ("task_id", "attempt", "drawing", "priority", "init_image", "deadline_s", "fence", "client", "checkpoint_steps", "checkpoint", "age_s")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    DRAWING_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    INIT_IMAGE_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_STEPS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    attempt: int
    drawing: Drawing
    priority: int
    init_image: bytes
    deadline_s: float
    fence: Fence
    client: str
    checkpoint_steps: int
    checkpoint: Checkpoint
    age_s: float
    def __init__(self, task_id: _Optional[str] = ..., attempt: _Optional[int] = ..., drawing: _Optional[_Union[Drawing, _Mapping]] = ..., priority: _Optional[int] = ..., init_image: _Optional[bytes] = ..., deadline_s: _Optional[float] = ..., fence: _Optional[_Union[Fence, _Mapping]] = ..., client: _Optional[str] = ..., checkpoint_steps: _Optional[int] = ..., checkpoint: _Optional[_Union[Checkpoint, _Mapping]] = ..., age_s: _Optional[float] = ...) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("drawing_sha256", "model_fingerprint", "step", "dtype", "shape", "latent", "velocity", "change")
    DRAWING_SHA256_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    LATENT_FIELD_NUMBER: _ClassVar[int]
    VELOCITY_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    drawing_sha256: str
    model_fingerprint: str
    step: int
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    latent: bytes
    velocity: bytes
    change: float
    def __init__(self, drawing_sha256: _Optional[str] = ..., model_fingerprint: _Optional[str] = ..., step: _Optional[int] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., latent: _Optional[bytes] = ..., velocity: _Optional[bytes] = ..., change: _Optional[float] = ...) -> None: ...

class DrawResponse(_message.Message):
    __slots__ = ("queued", "started", "step_finished", "finished", "failed")
    class Queued(_message.Message):
        __slots__ = ("position",)
        POSITION_FIELD_NUMBER: _ClassVar[int]
        position: int
        def __init__(self, position: _Optional[int] = ...) -> None: ...
    class Started(_message.Message):
        __slots__ = ("step",)
        STEP_FIELD_NUMBER: _ClassVar[int]
        step: int
        def __init__(self, step: _Optional[int] = ...) -> None: ...
    class StepFinished(_message.Message):
        __slots__ = ("step", "steps", "preview", "checkpoint")
        STEP_FIELD_NUMBER: _ClassVar[int]
        STEPS_FIELD_NUMBER: _ClassVar[int]
        PREVIEW_FIELD_NUMBER: _ClassVar[int]
        CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
        step: int
        steps: int
        preview: bytes
        checkpoint: Checkpoint
        def __init__(self, step: _Optional[int] = ..., steps: _Optional[int] = ..., preview: _Optional[bytes] = ..., checkpoint: _Optional[_Union[Checkpoint, _Mapping]] = ...) -> None: ...
    class Finished(_message.Message):
        __slots__ = ("image", "queue_s", "compute_s")
        IMAGE_FIELD_NUMBER: _ClassVar[int]
        QUEUE_S_FIELD_NUMBER: _ClassVar[int]
        COMPUTE_S_FIELD_NUMBER: _ClassVar[int]
        image: Image
        queue_s: float
        compute_s: float
        def __init__(self, image: _Optional[_Union[Image, _Mapping]] = ..., queue_s: _Optional[float] = ..., compute_s: _Optional[float] = ...) -> None: ...
    class Failed(_message.Message):
        __slots__ = ("code", "message", "retryable")
        CODE_FIELD_NUMBER: _ClassVar[int]
        MESSAGE_FIELD_NUMBER: _ClassVar[int]
        RETRYABLE_FIELD_NUMBER: _ClassVar[int]
        code: str
        message: str
        retryable: bool
        def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., retryable: _Optional[bool] = ...) -> None: ...
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    STEP_FINISHED_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    queued: DrawResponse.Queued
    started: DrawResponse.Started
    step_finished: DrawResponse.StepFinished
    finished: DrawResponse.Finished
    failed: DrawResponse.Failed
    def __init__(self, queued: _Optional[_Union[DrawResponse.Queued, _Mapping]] = ..., started: _Optional[_Union[DrawResponse.Started, _Mapping]] = ..., step_finished: _Optional[_Union[DrawResponse.StepFinished, _Mapping]] = ..., finished: _Optional[_Union[DrawResponse.Finished, _Mapping]] = ..., failed: _Optional[_Union[DrawResponse.Failed, _Mapping]] = ...) -> None: ...

class DrawManyRequest(_message.Message):
    __slots__ = ("wanted",)
    class Wanted(_message.Message):
        __slots__ = ("number", "draw", "hand_over")
        NUMBER_FIELD_NUMBER: _ClassVar[int]
        DRAW_FIELD_NUMBER: _ClassVar[int]
        HAND_OVER_FIELD_NUMBER: _ClassVar[int]
        number: int
        draw: DrawRequest
        hand_over: bool
        def __init__(self, number: _Optional[int] = ..., draw: _Optional[_Union[DrawRequest, _Mapping]] = ..., hand_over: _Optional[bool] = ...) -> None: ...
    WANTED_FIELD_NUMBER: _ClassVar[int]
    wanted: _containers.RepeatedCompositeFieldContainer[DrawManyRequest.Wanted]
    def __init__(self, wanted: _Optional[_Iterable[_Union[DrawManyRequest.Wanted, _Mapping]]] = ...) -> None: ...

class DrawManyResponse(_message.Message):
    __slots__ = ("told",)
    class Told(_message.Message):
        __slots__ = ("number", "response", "refused")
        NUMBER_FIELD_NUMBER: _ClassVar[int]
        RESPONSE_FIELD_NUMBER: _ClassVar[int]
        REFUSED_FIELD_NUMBER: _ClassVar[int]
        number: int
        response: DrawResponse
        refused: DrawManyResponse.Refused
        def __init__(self, number: _Optional[int] = ..., response: _Optional[_Union[DrawResponse, _Mapping]] = ..., refused: _Optional[_Union[DrawManyResponse.Refused, _Mapping]] = ...) -> None: ...
    class Refused(_message.Message):
        __slots__ = ("status", "message")
        STATUS_FIELD_NUMBER: _ClassVar[int]
        MESSAGE_FIELD_NUMBER: _ClassVar[int]
        status: str
        message: str
        def __init__(self, status: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
    TOLD_FIELD_NUMBER: _ClassVar[int]
    told: _containers.RepeatedCompositeFieldContainer[DrawManyResponse.Told]
    def __init__(self, told: _Optional[_Iterable[_Union[DrawManyResponse.Told, _Mapping]]] = ...) -> None: ...

class WatchLoadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchLoadResponse(_message.Message):
    __slots__ = ("backlog", "queued", "running", "capacity", "steps_done", "resident_bytes")
    BACKLOG_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    STEPS_DONE_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    backlog: float
    queued: int
    running: int
    capacity: float
    steps_done: int
    resident_bytes: int
    def __init__(self, backlog: _Optional[float] = ..., queued: _Optional[int] = ..., running: _Optional[int] = ..., capacity: _Optional[float] = ..., steps_done: _Optional[int] = ..., resident_bytes: _Optional[int] = ...) -> None: ...

class RowWanted(_message.Message):
    __slots__ = ("task_id", "fence", "drawing", "model_fingerprint", "step", "latent", "pair_s", "row_s", "leader")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    DRAWING_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    LATENT_FIELD_NUMBER: _ClassVar[int]
    PAIR_S_FIELD_NUMBER: _ClassVar[int]
    ROW_S_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    fence: Fence
    drawing: Drawing
    model_fingerprint: str
    step: int
    latent: Numbers
    pair_s: float
    row_s: float
    leader: str
    def __init__(self, task_id: _Optional[str] = ..., fence: _Optional[_Union[Fence, _Mapping]] = ..., drawing: _Optional[_Union[Drawing, _Mapping]] = ..., model_fingerprint: _Optional[str] = ..., step: _Optional[int] = ..., latent: _Optional[_Union[Numbers, _Mapping]] = ..., pair_s: _Optional[float] = ..., row_s: _Optional[float] = ..., leader: _Optional[str] = ...) -> None: ...

class RowGiven(_message.Message):
    __slots__ = ("task_id", "fence", "drawing_sha256", "step", "velocity", "refused", "took_s")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    DRAWING_SHA256_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    VELOCITY_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    TOOK_S_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    fence: Fence
    drawing_sha256: str
    step: int
    velocity: Numbers
    refused: str
    took_s: float
    def __init__(self, task_id: _Optional[str] = ..., fence: _Optional[_Union[Fence, _Mapping]] = ..., drawing_sha256: _Optional[str] = ..., step: _Optional[int] = ..., velocity: _Optional[_Union[Numbers, _Mapping]] = ..., refused: _Optional[str] = ..., took_s: _Optional[float] = ...) -> None: ...

class Numbers(_message.Message):
    __slots__ = ("dtype", "shape", "content")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    content: bytes
    def __init__(self, dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., content: _Optional[bytes] = ...) -> None: ...

class ShareRowsRequest(_message.Message):
    __slots__ = ("given",)
    GIVEN_FIELD_NUMBER: _ClassVar[int]
    given: RowGiven
    def __init__(self, given: _Optional[_Union[RowGiven, _Mapping]] = ...) -> None: ...

class ShareRowsResponse(_message.Message):
    __slots__ = ("wanted",)
    WANTED_FIELD_NUMBER: _ClassVar[int]
    wanted: RowWanted
    def __init__(self, wanted: _Optional[_Union[RowWanted, _Mapping]] = ...) -> None: ...

class GiveRowRequest(_message.Message):
    __slots__ = ("wanted",)
    WANTED_FIELD_NUMBER: _ClassVar[int]
    wanted: RowWanted
    def __init__(self, wanted: _Optional[_Union[RowWanted, _Mapping]] = ...) -> None: ...

class GiveRowResponse(_message.Message):
    __slots__ = ("given",)
    GIVEN_FIELD_NUMBER: _ClassVar[int]
    given: RowGiven
    def __init__(self, given: _Optional[_Union[RowGiven, _Mapping]] = ...) -> None: ...

import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATUS_UNSPECIFIED: _ClassVar[JobStatus]
    JOB_STATUS_QUEUED: _ClassVar[JobStatus]
    JOB_STATUS_QUEUED_REMOTE: _ClassVar[JobStatus]
    JOB_STATUS_RUNNING: _ClassVar[JobStatus]
    JOB_STATUS_COMPLETE: _ClassVar[JobStatus]
    JOB_STATUS_FAILED: _ClassVar[JobStatus]
    JOB_STATUS_CANCELED: _ClassVar[JobStatus]

class ExecutionMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXECUTION_MODE_UNSPECIFIED: _ClassVar[ExecutionMode]
    EXECUTION_MODE_LOCAL: _ClassVar[ExecutionMode]
    EXECUTION_MODE_REMOTE: _ClassVar[ExecutionMode]
JOB_STATUS_UNSPECIFIED: JobStatus
JOB_STATUS_QUEUED: JobStatus
JOB_STATUS_QUEUED_REMOTE: JobStatus
JOB_STATUS_RUNNING: JobStatus
JOB_STATUS_COMPLETE: JobStatus
JOB_STATUS_FAILED: JobStatus
JOB_STATUS_CANCELED: JobStatus
EXECUTION_MODE_UNSPECIFIED: ExecutionMode
EXECUTION_MODE_LOCAL: ExecutionMode
EXECUTION_MODE_REMOTE: ExecutionMode

class JobOptions(_message.Message):
    __slots__ = ("model", "language", "use_remote_worker", "diarization_enabled", "diarization_max_duration", "diarization_fast_switching", "min_speakers", "max_speakers", "word_timestamps", "initial_prompt", "hotwords", "vad_disabled", "speaker_per_channel")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    USE_REMOTE_WORKER_FIELD_NUMBER: _ClassVar[int]
    DIARIZATION_ENABLED_FIELD_NUMBER: _ClassVar[int]
    DIARIZATION_MAX_DURATION_FIELD_NUMBER: _ClassVar[int]
    DIARIZATION_FAST_SWITCHING_FIELD_NUMBER: _ClassVar[int]
    MIN_SPEAKERS_FIELD_NUMBER: _ClassVar[int]
    MAX_SPEAKERS_FIELD_NUMBER: _ClassVar[int]
    WORD_TIMESTAMPS_FIELD_NUMBER: _ClassVar[int]
    INITIAL_PROMPT_FIELD_NUMBER: _ClassVar[int]
    HOTWORDS_FIELD_NUMBER: _ClassVar[int]
    VAD_DISABLED_FIELD_NUMBER: _ClassVar[int]
    SPEAKER_PER_CHANNEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    language: str
    use_remote_worker: bool
    diarization_enabled: bool
    diarization_max_duration: _duration_pb2.Duration
    diarization_fast_switching: bool
    min_speakers: int
    max_speakers: int
    word_timestamps: bool
    initial_prompt: str
    hotwords: str
    vad_disabled: bool
    speaker_per_channel: bool
    def __init__(self, model: _Optional[str] = ..., language: _Optional[str] = ..., use_remote_worker: _Optional[bool] = ..., diarization_enabled: _Optional[bool] = ..., diarization_max_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., diarization_fast_switching: _Optional[bool] = ..., min_speakers: _Optional[int] = ..., max_speakers: _Optional[int] = ..., word_timestamps: _Optional[bool] = ..., initial_prompt: _Optional[str] = ..., hotwords: _Optional[str] = ..., vad_disabled: _Optional[bool] = ..., speaker_per_channel: _Optional[bool] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("job_id", "upload_id", "filename", "status", "execution_mode", "progress", "message", "worker", "attempt", "created_at", "started_at", "finished_at", "options", "last_error_code", "last_error_message", "audio_duration", "size_bytes", "last_event", "silent_stretches")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_MODE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    AUDIO_DURATION_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAST_EVENT_FIELD_NUMBER: _ClassVar[int]
    SILENT_STRETCHES_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    upload_id: str
    filename: str
    status: JobStatus
    execution_mode: ExecutionMode
    progress: JobProgress
    message: str
    worker: JobWorker
    attempt: int
    created_at: _timestamp_pb2.Timestamp
    started_at: _timestamp_pb2.Timestamp
    finished_at: _timestamp_pb2.Timestamp
    options: JobOptions
    last_error_code: str
    last_error_message: str
    audio_duration: _duration_pb2.Duration
    size_bytes: int
    last_event: int
    silent_stretches: _containers.RepeatedCompositeFieldContainer[Stretch]
    def __init__(self, job_id: _Optional[str] = ..., upload_id: _Optional[str] = ..., filename: _Optional[str] = ..., status: _Optional[_Union[JobStatus, str]] = ..., execution_mode: _Optional[_Union[ExecutionMode, str]] = ..., progress: _Optional[_Union[JobProgress, _Mapping]] = ..., message: _Optional[str] = ..., worker: _Optional[_Union[JobWorker, _Mapping]] = ..., attempt: _Optional[int] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., finished_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., options: _Optional[_Union[JobOptions, _Mapping]] = ..., last_error_code: _Optional[str] = ..., last_error_message: _Optional[str] = ..., audio_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., size_bytes: _Optional[int] = ..., last_event: _Optional[int] = ..., silent_stretches: _Optional[_Iterable[_Union[Stretch, _Mapping]]] = ...) -> None: ...

class JobProgress(_message.Message):
    __slots__ = ("stage", "percent", "remaining")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    stage: str
    percent: float
    remaining: _duration_pb2.Duration
    def __init__(self, stage: _Optional[str] = ..., percent: _Optional[float] = ..., remaining: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Stretch(_message.Message):
    __slots__ = ("start", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: _duration_pb2.Duration
    end: _duration_pb2.Duration
    def __init__(self, start: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., end: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class JobWorker(_message.Message):
    __slots__ = ("worker_job_id", "url", "last_seen_at", "gpu")
    WORKER_JOB_ID_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_AT_FIELD_NUMBER: _ClassVar[int]
    GPU_FIELD_NUMBER: _ClassVar[int]
    worker_job_id: str
    url: str
    last_seen_at: _timestamp_pb2.Timestamp
    gpu: bool
    def __init__(self, worker_job_id: _Optional[str] = ..., url: _Optional[str] = ..., last_seen_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., gpu: _Optional[bool] = ...) -> None: ...

class CreateJobsRequest(_message.Message):
    __slots__ = ("owner", "upload_ids", "options", "request_id")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_IDS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    owner: str
    upload_ids: _containers.RepeatedScalarFieldContainer[str]
    options: JobOptions
    request_id: str
    def __init__(self, owner: _Optional[str] = ..., upload_ids: _Optional[_Iterable[str]] = ..., options: _Optional[_Union[JobOptions, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateJobsResponse(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ...) -> None: ...

class GetJobRequest(_message.Message):
    __slots__ = ("owner", "job_id")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    owner: str
    job_id: str
    def __init__(self, owner: _Optional[str] = ..., job_id: _Optional[str] = ...) -> None: ...

class GetJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("owner", "status", "page_size", "page_token")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    owner: str
    status: JobStatus
    page_size: int
    page_token: str
    def __init__(self, owner: _Optional[str] = ..., status: _Optional[_Union[JobStatus, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs", "next_page_token")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    next_page_token: str
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchJobRequest(_message.Message):
    __slots__ = ("owner", "job_id", "after_event")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_EVENT_FIELD_NUMBER: _ClassVar[int]
    owner: str
    job_id: str
    after_event: int
    def __init__(self, owner: _Optional[str] = ..., job_id: _Optional[str] = ..., after_event: _Optional[int] = ...) -> None: ...

class WatchJobResponse(_message.Message):
    __slots__ = ("number", "occurred_at", "changed", "segment")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    number: int
    occurred_at: _timestamp_pb2.Timestamp
    changed: JobChanged
    segment: TranscriptSegment
    def __init__(self, number: _Optional[int] = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., changed: _Optional[_Union[JobChanged, _Mapping]] = ..., segment: _Optional[_Union[TranscriptSegment, _Mapping]] = ...) -> None: ...

class JobChanged(_message.Message):
    __slots__ = ("status", "progress", "message", "attempt", "last_error_code", "last_error_message")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    status: JobStatus
    progress: JobProgress
    message: str
    attempt: int
    last_error_code: str
    last_error_message: str
    def __init__(self, status: _Optional[_Union[JobStatus, str]] = ..., progress: _Optional[_Union[JobProgress, _Mapping]] = ..., message: _Optional[str] = ..., attempt: _Optional[int] = ..., last_error_code: _Optional[str] = ..., last_error_message: _Optional[str] = ...) -> None: ...

class CancelJobRequest(_message.Message):
    __slots__ = ("owner", "job_id")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    owner: str
    job_id: str
    def __init__(self, owner: _Optional[str] = ..., job_id: _Optional[str] = ...) -> None: ...

class CancelJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class DeleteJobRequest(_message.Message):
    __slots__ = ("owner", "job_id")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    owner: str
    job_id: str
    def __init__(self, owner: _Optional[str] = ..., job_id: _Optional[str] = ...) -> None: ...

class DeleteJobResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetTranscriptRequest(_message.Message):
    __slots__ = ("owner", "job_id")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    owner: str
    job_id: str
    def __init__(self, owner: _Optional[str] = ..., job_id: _Optional[str] = ...) -> None: ...

class GetTranscriptResponse(_message.Message):
    __slots__ = ("header", "segment")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    header: TranscriptHeader
    segment: TranscriptSegment
    def __init__(self, header: _Optional[_Union[TranscriptHeader, _Mapping]] = ..., segment: _Optional[_Union[TranscriptSegment, _Mapping]] = ...) -> None: ...

class TranscriptHeader(_message.Message):
    __slots__ = ("language", "duration", "speakers", "filename", "turns", "silent_stretches")
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    SPEAKERS_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    SILENT_STRETCHES_FIELD_NUMBER: _ClassVar[int]
    language: str
    duration: _duration_pb2.Duration
    speakers: _containers.RepeatedScalarFieldContainer[str]
    filename: str
    turns: _containers.RepeatedCompositeFieldContainer[SpeakerTurn]
    silent_stretches: _containers.RepeatedCompositeFieldContainer[Stretch]
    def __init__(self, language: _Optional[str] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., speakers: _Optional[_Iterable[str]] = ..., filename: _Optional[str] = ..., turns: _Optional[_Iterable[_Union[SpeakerTurn, _Mapping]]] = ..., silent_stretches: _Optional[_Iterable[_Union[Stretch, _Mapping]]] = ...) -> None: ...

class SpeakerTurn(_message.Message):
    __slots__ = ("start", "end", "speaker")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    SPEAKER_FIELD_NUMBER: _ClassVar[int]
    start: _duration_pb2.Duration
    end: _duration_pb2.Duration
    speaker: str
    def __init__(self, start: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., end: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., speaker: _Optional[str] = ...) -> None: ...

class TranscriptSegment(_message.Message):
    __slots__ = ("id", "start", "end", "text", "speaker", "words")
    ID_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SPEAKER_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    id: int
    start: _duration_pb2.Duration
    end: _duration_pb2.Duration
    text: str
    speaker: str
    words: _containers.RepeatedCompositeFieldContainer[TranscriptWord]
    def __init__(self, id: _Optional[int] = ..., start: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., end: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., text: _Optional[str] = ..., speaker: _Optional[str] = ..., words: _Optional[_Iterable[_Union[TranscriptWord, _Mapping]]] = ...) -> None: ...

class TranscriptWord(_message.Message):
    __slots__ = ("text", "start", "end", "probability", "speaker")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    SPEAKER_FIELD_NUMBER: _ClassVar[int]
    text: str
    start: _duration_pb2.Duration
    end: _duration_pb2.Duration
    probability: float
    speaker: str
    def __init__(self, text: _Optional[str] = ..., start: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., end: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., probability: _Optional[float] = ..., speaker: _Optional[str] = ...) -> None: ...

class GetRuntimeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetRuntimeResponse(_message.Message):
    __slots__ = ("version", "mode", "configured", "workers", "local_worker", "queue")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    CONFIGURED_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    LOCAL_WORKER_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    version: str
    mode: str
    configured: bool
    workers: _containers.RepeatedCompositeFieldContainer[RemoteWorker]
    local_worker: RemoteWorker
    queue: QueueDepth
    def __init__(self, version: _Optional[str] = ..., mode: _Optional[str] = ..., configured: _Optional[bool] = ..., workers: _Optional[_Iterable[_Union[RemoteWorker, _Mapping]]] = ..., local_worker: _Optional[_Union[RemoteWorker, _Mapping]] = ..., queue: _Optional[_Union[QueueDepth, _Mapping]] = ...) -> None: ...

class RemoteWorker(_message.Message):
    __slots__ = ("url", "connected", "last_seen_at", "latency", "version", "error", "error_code", "active_jobs", "max_concurrent_jobs", "gpu", "gpu_name", "models", "diarization", "max_file_bytes", "draining", "diarization_note")
    URL_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_AT_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_JOBS_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENT_JOBS_FIELD_NUMBER: _ClassVar[int]
    GPU_FIELD_NUMBER: _ClassVar[int]
    GPU_NAME_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    DIARIZATION_FIELD_NUMBER: _ClassVar[int]
    MAX_FILE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    DIARIZATION_NOTE_FIELD_NUMBER: _ClassVar[int]
    url: str
    connected: bool
    last_seen_at: _timestamp_pb2.Timestamp
    latency: _duration_pb2.Duration
    version: str
    error: str
    error_code: str
    active_jobs: int
    max_concurrent_jobs: int
    gpu: bool
    gpu_name: str
    models: _containers.RepeatedCompositeFieldContainer[WorkerModel]
    diarization: str
    max_file_bytes: int
    draining: bool
    diarization_note: str
    def __init__(self, url: _Optional[str] = ..., connected: _Optional[bool] = ..., last_seen_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., latency: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., version: _Optional[str] = ..., error: _Optional[str] = ..., error_code: _Optional[str] = ..., active_jobs: _Optional[int] = ..., max_concurrent_jobs: _Optional[int] = ..., gpu: _Optional[bool] = ..., gpu_name: _Optional[str] = ..., models: _Optional[_Iterable[_Union[WorkerModel, _Mapping]]] = ..., diarization: _Optional[str] = ..., max_file_bytes: _Optional[int] = ..., draining: _Optional[bool] = ..., diarization_note: _Optional[str] = ...) -> None: ...

class WorkerModel(_message.Message):
    __slots__ = ("name", "state", "error", "note")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    error: str
    note: str
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., error: _Optional[str] = ..., note: _Optional[str] = ...) -> None: ...

class QueueDepth(_message.Message):
    __slots__ = ("queued", "queued_remote", "running")
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    QUEUED_REMOTE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    queued: int
    queued_remote: int
    running: int
    def __init__(self, queued: _Optional[int] = ..., queued_remote: _Optional[int] = ..., running: _Optional[int] = ...) -> None: ...

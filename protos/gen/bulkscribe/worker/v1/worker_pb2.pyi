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

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_AVAILABLE: _ClassVar[ModelState]
    MODEL_STATE_LOADING: _ClassVar[ModelState]
    MODEL_STATE_LOADED: _ClassVar[ModelState]
    MODEL_STATE_FAILED: _ClassVar[ModelState]
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_AVAILABLE: ModelState
MODEL_STATE_LOADING: ModelState
MODEL_STATE_LOADED: ModelState
MODEL_STATE_FAILED: ModelState

class WatchRequest(_message.Message):
    __slots__ = ("interval", "controller_id", "controller_version")
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    CONTROLLER_ID_FIELD_NUMBER: _ClassVar[int]
    CONTROLLER_VERSION_FIELD_NUMBER: _ClassVar[int]
    interval: _duration_pb2.Duration
    controller_id: str
    controller_version: str
    def __init__(self, interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., controller_id: _Optional[str] = ..., controller_version: _Optional[str] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("held", "capacity")
    HELD_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    held: HeldAttempts
    capacity: Capacity
    def __init__(self, held: _Optional[_Union[HeldAttempts, _Mapping]] = ..., capacity: _Optional[_Union[Capacity, _Mapping]] = ...) -> None: ...

class HeldAttempts(_message.Message):
    __slots__ = ("attempts",)
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    attempts: _containers.RepeatedCompositeFieldContainer[AttemptRef]
    def __init__(self, attempts: _Optional[_Iterable[_Union[AttemptRef, _Mapping]]] = ...) -> None: ...

class AttemptRef(_message.Message):
    __slots__ = ("job_id", "attempt")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    attempt: int
    def __init__(self, job_id: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class Capacity(_message.Message):
    __slots__ = ("revision", "total", "free", "draining", "instance_id", "version", "device", "models", "default_model", "diarization", "diarization_error", "max_file_bytes", "reported_at", "diarization_note")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_MODEL_FIELD_NUMBER: _ClassVar[int]
    DIARIZATION_FIELD_NUMBER: _ClassVar[int]
    DIARIZATION_ERROR_FIELD_NUMBER: _ClassVar[int]
    MAX_FILE_BYTES_FIELD_NUMBER: _ClassVar[int]
    REPORTED_AT_FIELD_NUMBER: _ClassVar[int]
    DIARIZATION_NOTE_FIELD_NUMBER: _ClassVar[int]
    revision: int
    total: int
    free: int
    draining: bool
    instance_id: str
    version: str
    device: Device
    models: _containers.RepeatedCompositeFieldContainer[Model]
    default_model: str
    diarization: str
    diarization_error: str
    max_file_bytes: int
    reported_at: _timestamp_pb2.Timestamp
    diarization_note: str
    def __init__(self, revision: _Optional[int] = ..., total: _Optional[int] = ..., free: _Optional[int] = ..., draining: _Optional[bool] = ..., instance_id: _Optional[str] = ..., version: _Optional[str] = ..., device: _Optional[_Union[Device, _Mapping]] = ..., models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., default_model: _Optional[str] = ..., diarization: _Optional[str] = ..., diarization_error: _Optional[str] = ..., max_file_bytes: _Optional[int] = ..., reported_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., diarization_note: _Optional[str] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("kind", "name")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "state", "error", "languages", "note")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LANGUAGES_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: ModelState
    error: str
    languages: _containers.RepeatedScalarFieldContainer[str]
    note: str
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[ModelState, str]] = ..., error: _Optional[str] = ..., languages: _Optional[_Iterable[str]] = ..., note: _Optional[str] = ...) -> None: ...

class Audio(_message.Message):
    __slots__ = ("sha256", "size_bytes")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    size_bytes: int
    def __init__(self, sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class StatAudioRequest(_message.Message):
    __slots__ = ("audio",)
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    audio: Audio
    def __init__(self, audio: _Optional[_Union[Audio, _Mapping]] = ...) -> None: ...

class StatAudioResponse(_message.Message):
    __slots__ = ("committed_bytes", "complete")
    COMMITTED_BYTES_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    committed_bytes: int
    complete: bool
    def __init__(self, committed_bytes: _Optional[int] = ..., complete: _Optional[bool] = ...) -> None: ...

class PutAudioRequest(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: PutAudioHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[PutAudioHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class PutAudioHeader(_message.Message):
    __slots__ = ("audio", "offset")
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    audio: Audio
    offset: int
    def __init__(self, audio: _Optional[_Union[Audio, _Mapping]] = ..., offset: _Optional[int] = ...) -> None: ...

class PutAudioResponse(_message.Message):
    __slots__ = ("committed_bytes", "complete")
    COMMITTED_BYTES_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    committed_bytes: int
    complete: bool
    def __init__(self, committed_bytes: _Optional[int] = ..., complete: _Optional[bool] = ...) -> None: ...

class RunRequest(_message.Message):
    __slots__ = ("dispatch", "attach", "acknowledge", "cancel")
    DISPATCH_FIELD_NUMBER: _ClassVar[int]
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGE_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    dispatch: Dispatch
    attach: Attach
    acknowledge: Acknowledge
    cancel: Cancel
    def __init__(self, dispatch: _Optional[_Union[Dispatch, _Mapping]] = ..., attach: _Optional[_Union[Attach, _Mapping]] = ..., acknowledge: _Optional[_Union[Acknowledge, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ...) -> None: ...

class Dispatch(_message.Message):
    __slots__ = ("attempt", "audio", "options", "finished", "last_event")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    LAST_EVENT_FIELD_NUMBER: _ClassVar[int]
    attempt: AttemptRef
    audio: Audio
    options: TranscriptionOptions
    finished: FinishedWork
    last_event: int
    def __init__(self, attempt: _Optional[_Union[AttemptRef, _Mapping]] = ..., audio: _Optional[_Union[Audio, _Mapping]] = ..., options: _Optional[_Union[TranscriptionOptions, _Mapping]] = ..., finished: _Optional[_Union[FinishedWork, _Mapping]] = ..., last_event: _Optional[int] = ...) -> None: ...

class Attach(_message.Message):
    __slots__ = ("attempt", "last_event", "give_up")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LAST_EVENT_FIELD_NUMBER: _ClassVar[int]
    GIVE_UP_FIELD_NUMBER: _ClassVar[int]
    attempt: AttemptRef
    last_event: int
    give_up: bool
    def __init__(self, attempt: _Optional[_Union[AttemptRef, _Mapping]] = ..., last_event: _Optional[int] = ..., give_up: _Optional[bool] = ...) -> None: ...

class Acknowledge(_message.Message):
    __slots__ = ("through_event",)
    THROUGH_EVENT_FIELD_NUMBER: _ClassVar[int]
    through_event: int
    def __init__(self, through_event: _Optional[int] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TranscriptionOptions(_message.Message):
    __slots__ = ("model", "language", "diarization", "diarization_max_duration", "diarization_fast_switching", "min_speakers", "max_speakers", "word_timestamps", "initial_prompt", "hotwords", "vad_disabled", "speaker_per_channel")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    DIARIZATION_FIELD_NUMBER: _ClassVar[int]
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
    diarization: bool
    diarization_max_duration: _duration_pb2.Duration
    diarization_fast_switching: bool
    min_speakers: int
    max_speakers: int
    word_timestamps: bool
    initial_prompt: str
    hotwords: str
    vad_disabled: bool
    speaker_per_channel: bool
    def __init__(self, model: _Optional[str] = ..., language: _Optional[str] = ..., diarization: _Optional[bool] = ..., diarization_max_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., diarization_fast_switching: _Optional[bool] = ..., min_speakers: _Optional[int] = ..., max_speakers: _Optional[int] = ..., word_timestamps: _Optional[bool] = ..., initial_prompt: _Optional[str] = ..., hotwords: _Optional[str] = ..., vad_disabled: _Optional[bool] = ..., speaker_per_channel: _Optional[bool] = ...) -> None: ...

class FinishedWork(_message.Message):
    __slots__ = ("plan", "windows", "turns", "speaker_chunks", "decoded_windows")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    SPEAKER_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    DECODED_WINDOWS_FIELD_NUMBER: _ClassVar[int]
    plan: WindowPlan
    windows: _containers.RepeatedScalarFieldContainer[int]
    turns: SpeakerTurns
    speaker_chunks: _containers.RepeatedCompositeFieldContainer[SpeakerChunk]
    decoded_windows: _containers.RepeatedCompositeFieldContainer[WindowFinished]
    def __init__(self, plan: _Optional[_Union[WindowPlan, _Mapping]] = ..., windows: _Optional[_Iterable[int]] = ..., turns: _Optional[_Union[SpeakerTurns, _Mapping]] = ..., speaker_chunks: _Optional[_Iterable[_Union[SpeakerChunk, _Mapping]]] = ..., decoded_windows: _Optional[_Iterable[_Union[WindowFinished, _Mapping]]] = ...) -> None: ...

class RunResponse(_message.Message):
    __slots__ = ("accepted", "event")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    accepted: Accepted
    event: Event
    def __init__(self, accepted: _Optional[_Union[Accepted, _Mapping]] = ..., event: _Optional[_Union[Event, _Mapping]] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("worker_job_id", "capacity")
    WORKER_JOB_ID_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    worker_job_id: str
    capacity: Capacity
    def __init__(self, worker_job_id: _Optional[str] = ..., capacity: _Optional[_Union[Capacity, _Mapping]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("number", "occurred_at", "stage_changed", "progress", "planned", "speakers_found", "window_finished", "outcome", "speaker_chunk_found", "window_decoded")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    STAGE_CHANGED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PLANNED_FIELD_NUMBER: _ClassVar[int]
    SPEAKERS_FOUND_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FINISHED_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    SPEAKER_CHUNK_FOUND_FIELD_NUMBER: _ClassVar[int]
    WINDOW_DECODED_FIELD_NUMBER: _ClassVar[int]
    number: int
    occurred_at: _timestamp_pb2.Timestamp
    stage_changed: StageChanged
    progress: Progress
    planned: WindowPlan
    speakers_found: SpeakerTurns
    window_finished: WindowFinished
    outcome: Outcome
    speaker_chunk_found: SpeakerChunk
    window_decoded: WindowFinished
    def __init__(self, number: _Optional[int] = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., stage_changed: _Optional[_Union[StageChanged, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., planned: _Optional[_Union[WindowPlan, _Mapping]] = ..., speakers_found: _Optional[_Union[SpeakerTurns, _Mapping]] = ..., window_finished: _Optional[_Union[WindowFinished, _Mapping]] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ..., speaker_chunk_found: _Optional[_Union[SpeakerChunk, _Mapping]] = ..., window_decoded: _Optional[_Union[WindowFinished, _Mapping]] = ...) -> None: ...

class StageChanged(_message.Message):
    __slots__ = ("stage", "detail")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    stage: str
    detail: str
    def __init__(self, stage: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("percent", "remaining")
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    percent: float
    remaining: _duration_pb2.Duration
    def __init__(self, percent: _Optional[float] = ..., remaining: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WindowPlan(_message.Message):
    __slots__ = ("fingerprint", "language", "language_probability", "duration", "windows")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    language: str
    language_probability: float
    duration: _duration_pb2.Duration
    windows: _containers.RepeatedCompositeFieldContainer[Window]
    def __init__(self, fingerprint: _Optional[str] = ..., language: _Optional[str] = ..., language_probability: _Optional[float] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., windows: _Optional[_Iterable[_Union[Window, _Mapping]]] = ...) -> None: ...

class Window(_message.Message):
    __slots__ = ("index", "start", "end")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    index: int
    start: _duration_pb2.Duration
    end: _duration_pb2.Duration
    def __init__(self, index: _Optional[int] = ..., start: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., end: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class SpeakerTurns(_message.Message):
    __slots__ = ("turns", "exclusive")
    TURNS_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    turns: _containers.RepeatedCompositeFieldContainer[SpeakerTurn]
    exclusive: _containers.RepeatedCompositeFieldContainer[SpeakerTurn]
    def __init__(self, turns: _Optional[_Iterable[_Union[SpeakerTurn, _Mapping]]] = ..., exclusive: _Optional[_Iterable[_Union[SpeakerTurn, _Mapping]]] = ...) -> None: ...

class SpeakerChunk(_message.Message):
    __slots__ = ("index", "start", "end", "voices", "turns", "exclusive")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    VOICES_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    index: int
    start: _duration_pb2.Duration
    end: _duration_pb2.Duration
    voices: _containers.RepeatedCompositeFieldContainer[Voice]
    turns: _containers.RepeatedCompositeFieldContainer[VoiceTurn]
    exclusive: _containers.RepeatedCompositeFieldContainer[VoiceTurn]
    def __init__(self, index: _Optional[int] = ..., start: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., end: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., voices: _Optional[_Iterable[_Union[Voice, _Mapping]]] = ..., turns: _Optional[_Iterable[_Union[VoiceTurn, _Mapping]]] = ..., exclusive: _Optional[_Iterable[_Union[VoiceTurn, _Mapping]]] = ...) -> None: ...

class Voice(_message.Message):
    __slots__ = ("embedding", "spoken")
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    SPOKEN_FIELD_NUMBER: _ClassVar[int]
    embedding: _containers.RepeatedScalarFieldContainer[float]
    spoken: _duration_pb2.Duration
    def __init__(self, embedding: _Optional[_Iterable[float]] = ..., spoken: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class VoiceTurn(_message.Message):
    __slots__ = ("start", "end", "voice")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    VOICE_FIELD_NUMBER: _ClassVar[int]
    start: _duration_pb2.Duration
    end: _duration_pb2.Duration
    voice: int
    def __init__(self, start: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., end: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., voice: _Optional[int] = ...) -> None: ...

class SpeakerTurn(_message.Message):
    __slots__ = ("start", "end", "speaker")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    SPEAKER_FIELD_NUMBER: _ClassVar[int]
    start: _duration_pb2.Duration
    end: _duration_pb2.Duration
    speaker: str
    def __init__(self, start: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., end: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., speaker: _Optional[str] = ...) -> None: ...

class WindowFinished(_message.Message):
    __slots__ = ("index", "segments", "silent")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    SILENT_FIELD_NUMBER: _ClassVar[int]
    index: int
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    silent: bool
    def __init__(self, index: _Optional[int] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., silent: _Optional[bool] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("start", "end", "text", "speaker", "words")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SPEAKER_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    start: _duration_pb2.Duration
    end: _duration_pb2.Duration
    text: str
    speaker: str
    words: _containers.RepeatedCompositeFieldContainer[Word]
    def __init__(self, start: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., end: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., text: _Optional[str] = ..., speaker: _Optional[str] = ..., words: _Optional[_Iterable[_Union[Word, _Mapping]]] = ...) -> None: ...

class Word(_message.Message):
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

class Outcome(_message.Message):
    __slots__ = ("completed", "failed", "canceled", "handed_back")
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CANCELED_FIELD_NUMBER: _ClassVar[int]
    HANDED_BACK_FIELD_NUMBER: _ClassVar[int]
    completed: Completed
    failed: Failed
    canceled: Canceled
    handed_back: HandedBack
    def __init__(self, completed: _Optional[_Union[Completed, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ..., canceled: _Optional[_Union[Canceled, _Mapping]] = ..., handed_back: _Optional[_Union[HandedBack, _Mapping]] = ...) -> None: ...

class Completed(_message.Message):
    __slots__ = ("audio_duration", "processing_duration", "note")
    AUDIO_DURATION_FIELD_NUMBER: _ClassVar[int]
    PROCESSING_DURATION_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    audio_duration: _duration_pb2.Duration
    processing_duration: _duration_pb2.Duration
    note: str
    def __init__(self, audio_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., processing_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., note: _Optional[str] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("reason", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Canceled(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HandedBack(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...

"""The shapes of the JSON answers, as types: mypy holds `wire` to them, and the OpenAPI document is made from them."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict  # pydantic reads these on Python 3.11, not typing's

Status = Literal["queued", "queued_remote", "running", "complete", "failed", "canceled"]
Mode = Literal["local", "remote"]


class ErrorAnswer(TypedDict):
    error: str
    code: str


class SessionAnswer(TypedDict):
    csrfToken: str
    sessionId: str
    cookieName: str


class UploadAnswer(TypedDict):
    id: str
    filename: str
    sizeBytes: int
    sha256: str
    durationSeconds: float | None


class KnownUploadAnswer(UploadAnswer):
    """``offset`` bytes of it are there and synced; the digest and the duration only once it is complete."""

    complete: bool
    offset: int


class KnownUploadsAnswer(TypedDict):
    uploads: list[KnownUploadAnswer]


class RefusedFile(TypedDict):
    filename: str
    code: str
    error: str


class UploadsAnswer(TypedDict):
    uploads: list[UploadAnswer]
    errors: list[RefusedFile]


class CreatedJob(TypedDict):
    jobId: str
    uploadId: str
    status: Status
    executionMode: Mode


class CreatedJobs(TypedDict):
    jobId: str
    status: Status
    executionMode: Mode
    jobs: list[CreatedJob]


class ProgressAnswer(TypedDict):
    """``secondsLeft`` is the worker's estimate; null while it has none, and once the job ended."""

    stage: str
    percent: float
    secondsLeft: float | None


class StretchAnswer(TypedDict):
    start: float
    end: float


class JobWorkerAnswer(TypedDict):
    workerJobId: str
    url: str | None
    lastSeenAt: str | None
    gpu: bool


class OptionsAnswer(TypedDict):
    model: str | None
    language: str | None
    useRemoteWorker: bool
    diarizationEnabled: bool
    diarizationMaxDurationSeconds: float | None
    diarizationFastSwitching: bool
    speakerPerChannel: bool
    minSpeakers: int | None
    maxSpeakers: int | None
    wordTimestamps: bool
    initialPrompt: str | None
    hotwords: str | None
    vad: bool


class JobAnswer(TypedDict):
    """``silentStretches`` are where voice was heard that gave no words."""

    jobId: str
    uploadId: str
    filename: str
    status: Status
    executionMode: Mode
    progress: ProgressAnswer
    message: str
    worker: JobWorkerAnswer | None
    attempt: int
    createdAt: str | None
    startedAt: str | None
    finishedAt: str | None
    options: OptionsAnswer
    lastErrorCode: str | None
    lastErrorMessage: str | None
    audioDurationSeconds: float | None
    sizeBytes: int
    lastEventId: int
    silentStretches: list[StretchAnswer]


class JobsAnswer(TypedDict):
    jobs: list[JobAnswer]
    nextPageToken: str | None


class DeletedAnswer(TypedDict):
    jobId: str
    deleted: bool


class WordAnswer(TypedDict):
    word: str
    start: float
    end: float
    probability: float
    speaker: NotRequired[str]


class SegmentAnswer(TypedDict):
    id: int
    start: float
    end: float
    text: str
    speaker: str | None
    words: list[WordAnswer]


class TurnAnswer(TypedDict):
    start: float
    end: float
    speaker: str


class TranscriptAnswer(TypedDict):
    """``turns`` tell who speaks when, whether or not words were understood; ``silentStretches`` are where voice was heard
    that gave no words."""

    language: str
    duration: float
    text: str
    segments: list[SegmentAnswer]
    speakers: list[str]
    turns: list[TurnAnswer]
    silentStretches: list[StretchAnswer]


class StateEvent(TypedDict):
    """Data of a `status` event."""

    status: Status
    progress: ProgressAnswer
    message: str
    attempt: int
    lastErrorCode: str | None
    lastErrorMessage: str | None


class SegmentEvent(TypedDict):
    """Data of a `segment` event."""

    segment: SegmentAnswer


class ModelAnswer(TypedDict):
    """``note`` is what people should know before they choose it."""

    name: str
    state: str
    error: str | None
    note: str | None


class CapabilitiesAnswer(TypedDict):
    """All null while the worker has not been heard of."""

    activeJobs: int | None
    maxConcurrentJobs: int | None
    gpu: bool | None
    gpuName: str | None
    models: list[ModelAnswer] | None
    diarization: str | None
    diarizationNote: str | None
    maxFileMB: int | None


class WorkerAnswer(TypedDict):
    url: str | None
    connected: bool
    lastSeenAt: str | None
    latencyMs: float | None
    workerVersion: str | None
    error: str | None
    errorCode: str | None
    draining: bool
    workerCapabilities: CapabilitiesAnswer


class RemoteWorkerAnswer(WorkerAnswer):
    mode: str
    configured: bool


class QueueAnswer(TypedDict):
    queued: int
    queuedRemote: int
    running: int


class RuntimeAnswer(TypedDict):
    remoteWorker: RemoteWorkerAnswer
    workers: list[WorkerAnswer]
    localWorker: WorkerAnswer | None
    queue: QueueAnswer
    version: str


class HealthAnswer(TypedDict):
    status: Literal["ok"]
    controllerConnected: bool
    version: str

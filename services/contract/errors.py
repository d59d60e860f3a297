"""The one table of everything that can go wrong: reason, gRPC code, retryable, meaning, what to do.

Servicers raise ServiceError; an interceptor turns it into a status with ErrorInfo; clients turn it back. HTTP
statuses are the gateway's alone. The README's table of codes is printed from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from grpc import StatusCode

ERROR_DOMAIN = "bulkscribe"


class Reason(Enum):
    """Every reason by its public code; the value is the code."""

    # of the remote path, as the operations guide names them
    REMOTE_WORKER_UNAUTHORIZED = "REMOTE_WORKER_UNAUTHORIZED"
    REMOTE_WORKER_UNREACHABLE = "REMOTE_WORKER_UNREACHABLE"
    REMOTE_WORKER_TIMEOUT = "REMOTE_WORKER_TIMEOUT"
    REMOTE_WORKER_CAPACITY = "REMOTE_WORKER_CAPACITY"
    REMOTE_DISPATCH_FAILED = "REMOTE_DISPATCH_FAILED"
    REMOTE_FAILED = "REMOTE_FAILED"
    USER_CANCELED = "USER_CANCELED"
    # of the local path
    LOCAL_DISPATCH_FAILED = "LOCAL_DISPATCH_FAILED"
    LOCAL_FAILED = "LOCAL_FAILED"
    # of requests
    UNAUTHENTICATED = "UNAUTHENTICATED"
    CSRF_INVALID = "CSRF_INVALID"
    INVALID_REQUEST = "INVALID_REQUEST"
    NOT_FOUND = "NOT_FOUND"
    MODEL_UNKNOWN = "MODEL_UNKNOWN"
    LANGUAGE_UNSUPPORTED = "LANGUAGE_UNSUPPORTED"
    AUDIO_INVALID = "AUDIO_INVALID"
    FILE_TOO_LARGE = "FILE_TOO_LARGE"
    STORAGE_FULL = "STORAGE_FULL"
    STORAGE_FAILED = "STORAGE_FAILED"
    UPLOAD_INCOMPLETE = "UPLOAD_INCOMPLETE"
    UPLOAD_OFFSET_MISMATCH = "UPLOAD_OFFSET_MISMATCH"
    UPLOAD_DIGEST_MISMATCH = "UPLOAD_DIGEST_MISMATCH"
    UPLOAD_BUSY = "UPLOAD_BUSY"
    UPLOAD_IN_USE = "UPLOAD_IN_USE"
    JOB_ENDED = "JOB_ENDED"
    JOB_NOT_ENDED = "JOB_NOT_ENDED"
    TRANSCRIPT_NOT_READY = "TRANSCRIPT_NOT_READY"
    CONTROLLER_UNREACHABLE = "CONTROLLER_UNREACHABLE"
    # of workers
    WORKER_FULL = "WORKER_FULL"
    WORKER_DRAINING = "WORKER_DRAINING"
    VERSION_INCOMPATIBLE = "VERSION_INCOMPATIBLE"
    AUDIO_MISSING = "AUDIO_MISSING"
    ATTEMPT_UNKNOWN = "ATTEMPT_UNKNOWN"
    ATTEMPT_STALE = "ATTEMPT_STALE"
    STREAM_TAKEN_OVER = "STREAM_TAKEN_OVER"
    MODEL_UNAVAILABLE = "MODEL_UNAVAILABLE"
    DIARIZATION_UNAVAILABLE = "DIARIZATION_UNAVAILABLE"
    ENGINE_CRASHED = "ENGINE_CRASHED"
    ENGINE_FAILED = "ENGINE_FAILED"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class ErrorEntry:
    """``retryable``: the same call may succeed later without anybody changing anything."""

    code: StatusCode
    retryable: bool
    meaning: str
    action: str


_E, _C, _R = ErrorEntry, StatusCode, Reason

ERRORS: dict[Reason, ErrorEntry] = {
    _R.REMOTE_WORKER_UNAUTHORIZED: _E(
        _C.UNAUTHENTICATED, True, "Token mismatch", "Check `REMOTE_WORKER_TOKEN` matches the worker's `WORKER_TOKEN`"
    ),
    _R.REMOTE_WORKER_UNREACHABLE: _E(
        _C.UNAVAILABLE, True, "Worker temporarily unreachable", "Job stays queued; wait for recovery or cancel"
    ),
    _R.REMOTE_WORKER_TIMEOUT: _E(
        _C.DEADLINE_EXCEEDED,
        False,
        "The job ran longer than allowed",
        "Increase `REMOTE_WORKER_TIMEOUT_SECONDS` or check worker health",
    ),
    _R.REMOTE_WORKER_CAPACITY: _E(
        _C.DEADLINE_EXCEEDED,
        False,
        "Timed out waiting for capacity",
        "Reduce batch size, increase worker capacity or `REMOTE_WORKER_CAPACITY_TIMEOUT_SECONDS`",
    ),
    _R.REMOTE_DISPATCH_FAILED: _E(
        _C.FAILED_PRECONDITION, False, "Failed to create job on worker", "Check worker logs; the message has its reason"
    ),
    _R.REMOTE_FAILED: _E(_C.INTERNAL, False, "Worker reported job failure", "Check worker logs for details"),
    _R.USER_CANCELED: _E(_C.CANCELLED, False, "User canceled the job", "No action needed"),
    _R.LOCAL_DISPATCH_FAILED: _E(
        _C.FAILED_PRECONDITION, False, "The local worker refused the job", "The message has its reason"
    ),
    _R.LOCAL_FAILED: _E(_C.INTERNAL, False, "The local worker reported job failure", "The message has its reason"),
    _R.UNAUTHENTICATED: _E(_C.UNAUTHENTICATED, False, "Token or session missing or wrong", "Send the right one"),
    _R.CSRF_INVALID: _E(
        _C.PERMISSION_DENIED,
        False,
        "CSRF token missing or wrong",
        "Send the `csrfToken` of `GET /api/session` as `X-CSRF-Token`",
    ),
    _R.INVALID_REQUEST: _E(_C.INVALID_ARGUMENT, False, "The request is malformed", "The message names the field"),
    _R.NOT_FOUND: _E(_C.NOT_FOUND, False, "No such thing, or another session's", "Check the id and the session"),
    _R.MODEL_UNKNOWN: _E(
        _C.INVALID_ARGUMENT, False, "No worker offers this model", "Choose one that the message lists"
    ),
    _R.LANGUAGE_UNSUPPORTED: _E(
        _C.INVALID_ARGUMENT, False, "The model does not know this language", "Choose another, or none to detect it"
    ),
    _R.AUDIO_INVALID: _E(
        _C.INVALID_ARGUMENT, False, "No audio can be decoded from the file", "Check that it plays, and upload it again"
    ),
    _R.FILE_TOO_LARGE: _E(
        _C.RESOURCE_EXHAUSTED,
        False,
        "The file is over the limit",
        "Split it, or raise `GATEWAY_MAX_UPLOAD_MB` and `WORKER_MAX_FILE_MB`",
    ),
    _R.STORAGE_FULL: _E(_C.RESOURCE_EXHAUSTED, True, "The disk is full", "Free some room; nothing was lost"),
    _R.STORAGE_FAILED: _E(
        _C.FAILED_PRECONDITION, True, "The disk cannot be read or written", "Check the disk; nothing was lost"
    ),
    _R.UPLOAD_INCOMPLETE: _E(_C.FAILED_PRECONDITION, False, "The upload is not complete", "Finish it first"),
    _R.UPLOAD_OFFSET_MISMATCH: _E(
        _C.OUT_OF_RANGE, True, "The offset is not the committed one", "Ask for it and go on from there"
    ),
    _R.UPLOAD_DIGEST_MISMATCH: _E(_C.DATA_LOSS, True, "The content differs from its digest", "Upload it again"),
    _R.UPLOAD_BUSY: _E(_C.ABORTED, True, "Another stream writes this upload", "Wait for it to end"),
    _R.UPLOAD_IN_USE: _E(_C.FAILED_PRECONDITION, False, "A job uses the upload", "Delete the job first"),
    _R.JOB_ENDED: _E(_C.FAILED_PRECONDITION, False, "The job has already ended", "Nothing to cancel"),
    _R.JOB_NOT_ENDED: _E(_C.FAILED_PRECONDITION, False, "The job has not ended", "Cancel it first"),
    _R.TRANSCRIPT_NOT_READY: _E(
        _C.FAILED_PRECONDITION, False, "There is no transcript yet", "Wait until the job is complete"
    ),
    _R.CONTROLLER_UNREACHABLE: _E(
        _C.UNAVAILABLE, True, "The controller does not answer", "Check that it runs and `CONTROLLER_ADDRESS` is right"
    ),
    _R.WORKER_FULL: _E(_C.RESOURCE_EXHAUSTED, True, "No free slot on the worker", "Wait; the controller tries again"),
    _R.WORKER_DRAINING: _E(
        _C.FAILED_PRECONDITION, True, "The worker is shutting down", "Wait; the controller tries again"
    ),
    _R.VERSION_INCOMPATIBLE: _E(
        _C.FAILED_PRECONDITION,
        True,
        "Controller and worker are of versions that do not understand each other",
        "Update the older one; the message names both",
    ),
    _R.AUDIO_MISSING: _E(
        _C.FAILED_PRECONDITION, True, "The worker does not hold the recording", "Upload it by PutAudio"
    ),
    _R.ATTEMPT_UNKNOWN: _E(_C.NOT_FOUND, False, "The worker does not hold this attempt", "Dispatch the next one"),
    _R.ATTEMPT_STALE: _E(_C.ABORTED, False, "A higher attempt of the job was seen", "Stop; another one is at it"),
    _R.STREAM_TAKEN_OVER: _E(_C.ABORTED, False, "A newer stream took over", "Stop; another one is at it"),
    _R.MODEL_UNAVAILABLE: _E(
        _C.FAILED_PRECONDITION, False, "The model cannot be loaded", "The message says which variable to set"
    ),
    _R.DIARIZATION_UNAVAILABLE: _E(
        _C.FAILED_PRECONDITION,
        False,
        "The worker has no diarization model",
        "Set `WORKER_DIARIZATION_MODEL` or `HF_TOKEN` on the worker",
    ),
    _R.ENGINE_CRASHED: _E(_C.INTERNAL, True, "The engine process died in the middle of the job", "Check worker logs"),
    _R.ENGINE_FAILED: _E(_C.INTERNAL, False, "The engine met an error it does not know", "Check worker logs"),
    _R.INTERNAL: _E(_C.INTERNAL, False, "A fault of the program", "Check the logs and report it"),
}


class ServiceError(Exception):
    """A call that cannot be served. ``message`` is for people: what is wrong and what to do; no path, no secret."""

    def __init__(self, reason: Reason, message: str = "") -> None:
        entry = ERRORS[reason]
        self.reason = reason
        self.message = message or f"{entry.meaning}. {entry.action}."
        super().__init__(self.message)

    @property
    def code(self) -> StatusCode:
        return ERRORS[self.reason].code

    @property
    def retryable(self) -> bool:
        return ERRORS[self.reason].retryable

"""HTTP statuses of the error table, and errors as JSON. Nothing outside the gateway knows HTTP statuses."""

from __future__ import annotations

from aiohttp import web

from gateway.answers import ErrorAnswer
from services.contract.errors import Reason, ServiceError

_R = Reason

HTTP_STATUS: dict[Reason, int] = {
    _R.REMOTE_WORKER_UNAUTHORIZED: 502,
    _R.REMOTE_WORKER_UNREACHABLE: 503,
    _R.REMOTE_WORKER_TIMEOUT: 504,
    _R.REMOTE_WORKER_CAPACITY: 503,
    _R.REMOTE_DISPATCH_FAILED: 502,
    _R.REMOTE_FAILED: 502,
    _R.USER_CANCELED: 409,
    _R.LOCAL_DISPATCH_FAILED: 502,
    _R.LOCAL_FAILED: 502,
    _R.UNAUTHENTICATED: 401,
    _R.CSRF_INVALID: 403,
    _R.INVALID_REQUEST: 400,
    _R.NOT_FOUND: 404,
    _R.MODEL_UNKNOWN: 400,
    _R.LANGUAGE_UNSUPPORTED: 400,
    _R.AUDIO_INVALID: 422,
    _R.FILE_TOO_LARGE: 413,
    _R.STORAGE_FULL: 507,
    _R.STORAGE_FAILED: 507,
    _R.UPLOAD_INCOMPLETE: 409,
    _R.UPLOAD_OFFSET_MISMATCH: 409,
    _R.UPLOAD_DIGEST_MISMATCH: 422,
    _R.UPLOAD_BUSY: 409,
    _R.UPLOAD_IN_USE: 409,
    _R.JOB_ENDED: 409,
    _R.JOB_NOT_ENDED: 409,
    _R.TRANSCRIPT_NOT_READY: 409,
    _R.CONTROLLER_UNREACHABLE: 503,
    _R.WORKER_FULL: 503,
    _R.WORKER_DRAINING: 503,
    _R.VERSION_INCOMPATIBLE: 503,
    _R.AUDIO_MISSING: 502,
    _R.ATTEMPT_UNKNOWN: 404,
    _R.ATTEMPT_STALE: 409,
    _R.STREAM_TAKEN_OVER: 409,
    _R.MODEL_UNAVAILABLE: 503,
    _R.DIARIZATION_UNAVAILABLE: 409,
    _R.ENGINE_CRASHED: 502,
    _R.ENGINE_FAILED: 502,
    _R.INTERNAL: 500,
}

RETRY_SECONDS = 5
"""What `Retry-After` says with 503: by then a controller that restarted is back."""

# What aiohttp itself refuses: (code, what and what to do).
_REFUSALS = {
    404: (Reason.NOT_FOUND, "There is no such address. /api/openapi.json lists all that there are."),
    405: (Reason.INVALID_REQUEST, "This address does not take {method}; it takes {allowed}."),
    412: (Reason.INVALID_REQUEST, "Send the header Tus-Resumable: 1.0.0; no other version is spoken."),
    413: (Reason.INVALID_REQUEST, "The request body is too large; recordings go to POST /api/uploads."),
    415: (
        Reason.INVALID_REQUEST,
        "The body must be of the type application/offset+octet-stream, in no other encoding.",
    ),
}


def error_answer(error: ServiceError) -> ErrorAnswer:
    return {"error": error.message, "code": error.reason.value}


def error_response(error: ServiceError) -> web.Response:
    status = HTTP_STATUS[error.reason]
    headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else {}
    return web.json_response(error_answer(error), status=status, headers=headers)


def refusal_response(refused: web.HTTPException, method: str) -> web.Response:
    """What aiohttp refused by itself (no such route, wrong method, body too large), as the JSON all errors are."""
    allow = refused.headers.get("Allow", "")
    reason, template = _REFUSALS.get(refused.status, (Reason.INVALID_REQUEST, "The request is refused: {reason}."))
    message = template.format(method=method, allowed=allow.replace(",", ", "), reason=refused.reason)
    answer: ErrorAnswer = {"error": message, "code": reason.value}
    return web.json_response(answer, status=refused.status, headers={"Allow": allow} if allow else {})


def not_json() -> ServiceError:
    return ServiceError(Reason.INVALID_REQUEST, "The body must be a JSON object in UTF-8.")

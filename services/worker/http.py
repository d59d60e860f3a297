"""The worker's plain HTTP: health for balancers, ping for operators, metrics. Everything else is gRPC."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from services.contract.errors import ERRORS, Reason
from services.contract.limits import MEGABYTE, VERSION
from services.contract.metadata import bearer_matches
from services.worker.metrics import Metrics
from services.worker.status import WorkerStatus

log = structlog.get_logger()

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def http_app(status: WorkerStatus, metrics: Metrics, token: str, ping_public: bool) -> web.Application:
    async def health(_request: web.Request) -> web.Response:
        state = "draining" if status.slots.draining else "ok"
        return web.json_response({"status": state, "version": VERSION, "ready": status.engine.ready})

    async def ping(request: web.Request) -> web.Response:
        if not ping_public and not bearer_matches(request.headers.get("Authorization"), token):
            log.warning("remote_call_unauthorized", peer=request.remote)
            return _error(
                401, Reason.UNAUTHENTICATED, "The bearer token is missing or wrong. Send WORKER_TOKEN's value."
            )
        return web.json_response(ping_answer(status))

    async def metrics_text(_request: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application(middlewares=[_json_errors])
    app.router.add_get("/health", health)
    app.router.add_get("/v1/ping", ping)
    app.router.add_get("/metrics", metrics_text)
    return app


def ping_answer(status: WorkerStatus) -> dict[str, object]:
    """Capacity and capabilities; times in seconds."""
    engine, slots = status.engine, status.slots
    return {
        "status": "draining" if slots.draining else "ok",
        "activeJobs": slots.taken,
        "maxConcurrentJobs": slots.total,
        "gpu": engine.device == "cuda",
        "gpuName": engine.device_name or None,
        "engineError": engine.trouble or None,
        "model": status.offer.default_model,
        "models": [
            {"name": model.name, "state": model.state, "error": model.error or None, "note": model.note or None}
            for model in engine.models
        ],
        "diarization": bool(engine.diarization),
        "diarizationModel": engine.diarization or None,
        "diarizationError": engine.diarization_error or None,
        "diarizationNote": engine.diarization_note or None,
        "maxFileMB": status.offer.max_file_bytes // MEGABYTE,
        "version": VERSION,
        "draining": slots.draining,
        "uptimeSeconds": round(time.monotonic() - status.offer.started, 1),
    }


@web.middleware
async def _json_errors(request: web.Request, handler: Answer) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        reason = Reason.NOT_FOUND if error.status == 404 else Reason.INVALID_REQUEST
        return _error(error.status, reason, f"{error.reason}. This port answers /health, /v1/ping, /metrics and gRPC.")
    except Exception:  # the boundary: every error becomes an answer here
        log.exception("http_failed", path=request.path)
        return _error(500, Reason.INTERNAL, f"{ERRORS[Reason.INTERNAL].meaning}. {ERRORS[Reason.INTERNAL].action}.")


def _error(http_status: int, reason: Reason, message: str) -> web.Response:
    return web.json_response({"error": message, "code": reason.value}, status=http_status)

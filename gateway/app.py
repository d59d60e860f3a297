"""The aiohttp application: its routes, who may call them, errors as JSON, the access log, security headers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from gateway.controller import Controller
from gateway.endpoints import Endpoint, Respond
from gateway.errors import error_response, refusal_response
from gateway.metrics import Metrics
from gateway.openapi import OpenApiRoutes
from gateway.routes import tus
from gateway.routes.events import SILENCE_SECONDS, EventRoutes
from gateway.routes.health import HealthRoutes
from gateway.routes.jobs import JobRoutes
from gateway.routes.page import PageRoutes
from gateway.routes.runtime import RuntimeRoutes
from gateway.routes.session import SessionRoutes
from gateway.routes.uploads import UploadRoutes
from gateway.sessions import Sessions
from services.contract.errors import Reason, ServiceError

log = structlog.get_logger()

MAX_BODY_BYTES = 1024 * 1024
"""Largest JSON body; recordings are streams and have a limit of their own."""
READ_BUFFER_BYTES = 1024 * 1024
SHUTDOWN_SECONDS = 5.0
"""How long requests in flight may take to end before they are canceled."""

CLIENT_GONE = 499
"""As other servers count requests whose client went away, or that the gateway's end cut."""

QUIET = frozenset({"/healthz", "/metrics"})
"""Asked every few seconds by supervisors; logged only when they fail."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Server": "bulkscribe",
}


def make_app(
    controller: Controller, sessions: Sessions, max_upload_bytes: int, silence_seconds: float = SILENCE_SECONDS
) -> web.Application:
    """The whole gateway over a controller. Leaving ends its event streams at once."""
    metrics = Metrics()
    stopping = asyncio.Event()
    endpoints = [
        *SessionRoutes(sessions).endpoints(),
        *RuntimeRoutes(controller).endpoints(),
        *tus.TusRoutes(controller, metrics, max_upload_bytes).endpoints(),
        *UploadRoutes(controller, metrics, max_upload_bytes).endpoints(),
        *JobRoutes(controller).endpoints(),
        *EventRoutes(controller, metrics, stopping, silence_seconds).endpoints(),
        *HealthRoutes(controller, metrics).endpoints(),
        *PageRoutes().endpoints(),
    ]
    endpoints += OpenApiRoutes(endpoints).endpoints()
    app = web.Application(middlewares=[_observing(metrics), _errors_as_json], client_max_size=MAX_BODY_BYTES)
    _add_routes(app, endpoints, sessions)
    app.on_response_prepare.append(_add_headers)
    app.on_response_prepare.append(tus.add_headers)

    async def end_streams(_app: web.Application) -> None:
        stopping.set()

    app.on_shutdown.append(end_streams)
    return app


def make_runner(app: web.Application) -> web.AppRunner:
    """A client that goes away cancels its request, and with it the calls to the controller."""
    return web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        read_bufsize=READ_BUFFER_BYTES,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )


def _add_routes(app: web.Application, endpoints: Sequence[Endpoint], sessions: Sessions) -> None:
    for endpoint in endpoints:
        respond = _for_sessions(endpoint.respond, sessions) if endpoint.session else endpoint.respond
        app.router.add_route(endpoint.method, endpoint.path, respond)
        if endpoint.method == "GET" and not endpoint.session:
            app.router.add_route("HEAD", endpoint.path, respond)


def _for_sessions(respond: Respond, sessions: Sessions) -> Respond:
    async def admitted(request: web.Request) -> web.StreamResponse:
        sessions.admit(request)
        return await respond(request)

    return admitted


@web.middleware
async def _errors_as_json(request: web.Request, handler: Respond) -> web.StreamResponse:
    try:
        return await handler(request)
    except ServiceError as error:
        return error_response(error)
    except web.HTTPException as refused:
        if refused.status < 400:
            raise
        return refusal_response(refused, request.method)
    except ConnectionError:
        return web.Response(status=CLIENT_GONE)  # nobody reads it
    except Exception:  # the boundary: every error becomes a status here
        log.exception("request_failed", method=request.method, route=_route(request))
        if request.writer.output_size and request.transport is not None:
            request.transport.abort()  # an answer has begun: a broken one must not look whole
        return error_response(ServiceError(Reason.INTERNAL))


def _observing(metrics: Metrics) -> Middleware:
    @web.middleware
    async def observing(request: web.Request, handler: Respond) -> web.StreamResponse:
        began = time.perf_counter()
        status = CLIENT_GONE
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            _observe(metrics, request, status, time.perf_counter() - began)

    return observing


def _observe(metrics: Metrics, request: web.Request, status: int, seconds: float) -> None:
    route = _route(request)
    metrics.requests.labels(request.method, route, status).inc()
    metrics.request_seconds.labels(route).observe(seconds)
    if route in QUIET and status < 400:
        return
    job_id = request.match_info.get("job_id")
    named = {"job_id": job_id} if job_id else {}
    log.info("request", method=request.method, route=route, status=status, ms=round(seconds * 1000, 1), **named)


def _route(request: web.Request) -> str:
    """The route's pattern, never what was asked for: that may hold anything, and metrics must stay few."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "none"


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        if name == "Server":
            response.headers[name] = value
        else:
            response.headers.setdefault(name, value)

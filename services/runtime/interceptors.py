"""Server interceptors for all four RPC kinds: who calls, whether the request is valid, what an error means."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import protovalidate
import structlog

from services.contract.errors import Reason, ServiceError
from services.contract.metadata import AUTHORIZATION, ERROR_DETAILS, bearer_matches
from services.runtime.errors import status_of
from services.runtime.listener import peer_name

log = structlog.get_logger()

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"
Translate: TypeAlias = "Callable[[Exception], ServiceError | None]"

# Health and reflection answer anybody: they tell nothing that the open `/health` does not.
OPEN_SERVICES = ("/grpc.health.v1.Health/", "/grpc.reflection.")


class BearerTokenInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls without the right token, before a byte of the request is read."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Handler | None:
        if details.method.startswith(OPEN_SERVICES):
            return await continuation(details)
        given = next((value for key, value in details.invocation_metadata or () if key == AUTHORIZATION), None)
        if bearer_matches(str(given or ""), self._token):
            return await continuation(details)
        return _refusing(await continuation(details))


class ServiceErrorInterceptor(grpc.aio.ServerInterceptor):
    """Validates requests by their proto rules; turns ServiceError into a status, anything else into INTERNAL.

    ``translate`` knows the process's own exceptions.
    """

    def __init__(self, translate: Translate) -> None:
        self._translate = translate

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Handler | None:
        handler = await continuation(details)
        if handler is None or details.method.startswith(OPEN_SERVICES):
            return handler
        return _guarded(handler, details.method, self._translate)


def _guarded(handler: Handler, method: str, translate: Translate) -> Handler:
    behavior = _behavior(handler)
    if handler.response_streaming:

        async def stream(request: Any, context: Context) -> None:
            try:
                await _respond(behavior(_validated(handler, request), context), context)
            except Exception as error:  # noqa: BLE001 - the boundary: every error becomes a status here
                await _abort(translate(error) or error, context, method)

        return _with_behavior(handler, stream)

    async def single(request: Any, context: Context) -> Any:
        try:
            return await behavior(_validated(handler, request), context)
        except Exception as error:  # noqa: BLE001 - the boundary: every error becomes a status here
            return await _abort(translate(error) or error, context, method)

    return _with_behavior(handler, single)


async def _respond(responses: AsyncGenerator[Any] | Awaitable[None], context: Context) -> None:
    """Writes what a generator yields; a coroutine writes by itself. A call that breaks ends the generator here and
    now: left to grpc.aio, its `finally` would run whenever the garbage collector finds it."""
    if not isinstance(responses, AsyncGenerator):
        await responses
        return
    async with contextlib.aclosing(responses):
        async for response in responses:
            await context.write(response)


def _validated(handler: Handler, request: Any) -> Any:
    if handler.request_streaming:
        return _validated_stream(request)
    _validate(request)
    return request


async def _validated_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        _validate(request)
        yield request


def _validate(request: Any) -> None:
    try:
        protovalidate.validate(request)
    except protovalidate.ValidationError as error:
        raise ServiceError(Reason.INVALID_REQUEST, f"{error}".replace("\n", "; ")) from error


async def _abort(error: Exception, context: Context, method: str) -> None:
    while isinstance(error, ExceptionGroup):  # of a servicer's own tasks; the first one tells why
        error = error.exceptions[0]
    if isinstance(error, grpc.aio.AbortError | grpc.aio.UsageError):
        raise error
    if not isinstance(error, ServiceError):
        log.error("rpc_failed", method=method, exc_info=error)
        error = ServiceError(Reason.INTERNAL)
    status = status_of(error)
    await context.abort(error.code, error.message, ((ERROR_DETAILS, status.SerializeToString()),))


def _refusing(handler: Handler | None) -> Handler | None:
    if handler is None:
        return None
    refusal = ServiceError(
        Reason.UNAUTHENTICATED, "The bearer token is missing or wrong. Check that both sides have the same token."
    )

    async def refuse(_request: Any, context: Context) -> None:
        log.warning("remote_call_unauthorized", peer=peer_name(context.peer()))
        await _abort(refusal, context, "")

    return _with_behavior(handler, refuse)


def _kind(handler: Handler) -> str:
    request = "stream" if handler.request_streaming else "unary"
    response = "stream" if handler.response_streaming else "unary"
    return f"{request}_{response}"


def _behavior(handler: Handler) -> Callable[[Any, Context], Any]:
    behavior: Callable[[Any, Context], Any] = getattr(handler, _kind(handler))
    return behavior


def _with_behavior(handler: Handler, behavior: Callable[[Any, Context], Any]) -> Handler:
    make = getattr(grpc, f"{_kind(handler)}_rpc_method_handler")
    made: Handler = make(behavior, handler.request_deserializer, handler.response_serializer)
    return made

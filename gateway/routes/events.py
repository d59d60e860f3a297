"""GET /api/jobs/{id}/events: a job's events as server-sent events.

Ids are the controller's event numbers, so that a client that comes back with Last-Event-ID misses and repeats
nothing. While the controller is away the stream stays open and goes on from the last number when it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import structlog
from aiohttp import web
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from gateway import wire
from gateway.controller import Controller
from gateway.endpoints import JOB_ID, Endpoint
from gateway.metrics import Metrics
from gateway.requests import WatchJob, read_query
from gateway.sessions import owner_of
from gateway.transcripts import compact_json
from services.contract.errors import Reason, ServiceError

log = structlog.get_logger()

SILENCE_SECONDS = 10.0
"""After so long without an event a comment is sent; promised is one every 15 s at least."""
LONGEST_PAUSE_SECONDS = 5.0

HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
KEEP_ALIVE = b": keep-alive\n\n"


class EventRoutes:
    """``stopping`` ends all streams, so that the gateway's shutdown does not wait for them."""

    def __init__(
        self,
        controller: Controller,
        metrics: Metrics,
        stopping: asyncio.Event,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._controller = controller
        self._metrics = metrics
        self._stopping = stopping
        self._silence_seconds = silence_seconds

    def endpoints(self) -> list[Endpoint]:
        errors = (Reason.INVALID_REQUEST, Reason.NOT_FOUND, Reason.CONTROLLER_UNREACHABLE)
        path = f"/api/jobs{JOB_ID}/events"
        return [
            Endpoint(
                "GET",
                path,
                self.follow,
                "A job's events, as they come",
                ("text/event-stream",),
                query=WatchJob,
                errors=errors,
            )
        ]

    async def follow(self, request: web.Request) -> web.StreamResponse:
        after = _last_event(request)
        owner, job_id = owner_of(request), request.match_info["job_id"]
        await self._controller.get_job(owner, job_id)  # errors while they can still be a status
        response = web.StreamResponse(headers=HEADERS)
        await response.prepare(request)
        with self._metrics.event_streams.track_inprogress(), suppress(ConnectionError):
            await self._send(response, FollowedJob(self._controller, owner, job_id, after).events())
            await response.write_eof()
        return response

    async def _send(self, response: web.StreamResponse, events: AsyncGenerator[wire.Event, None]) -> None:
        stream = EventStream(response, self._silence_seconds)
        tasks: set[asyncio.Task[None]] = set()
        try:
            async with asyncio.TaskGroup() as group:
                for name, work in (
                    ("events", stream.copy(events)),
                    ("comments", stream.keep_alive()),
                    ("end", self._end()),
                ):
                    tasks.add(group.create_task(work, name=f"sse-{name}"))
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
        except* ConnectionError:  # the client went away
            pass
        except* ServiceError as group_of_errors:
            log.warning("event_stream_ended", error=str(group_of_errors.exceptions[0]))

    async def _end(self) -> None:
        await self._stopping.wait()


class EventStream:
    """Frames to one client: events, and comments in the silence between them."""

    def __init__(self, response: web.StreamResponse, silence_seconds: float) -> None:
        self._response = response
        self._silence_seconds = silence_seconds
        self._spoken_at = 0.0

    async def copy(self, events: AsyncGenerator[wire.Event, None]) -> None:
        async with aclosing(events):
            async for event in events:
                await self._write(frame(event))

    async def keep_alive(self) -> None:
        """One comment at once, so that proxies pass the headers on; then one after each stretch of silence."""
        await self._write(KEEP_ALIVE)
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self._spoken_at + self._silence_seconds - now())
            if now() - self._spoken_at >= self._silence_seconds:
                await self._write(KEEP_ALIVE)

    async def _write(self, data: bytes) -> None:
        self._spoken_at = asyncio.get_running_loop().time()
        await self._response.write(data)


def frame(event: wire.Event) -> bytes:
    """One server-sent event. JSON has no bare line ends, so its data is one line."""
    name, data = wire.event_answer(event)
    return f"id: {event.number}\nevent: {name}\ndata: {compact_json(data)}\n\n".encode("utf-8", "replace")


class FollowedJob:
    """Every event after number ``after`` once, until the job's last; goes on for as long as the controller is away."""

    def __init__(self, controller: Controller, owner: str, job_id: str, after: int) -> None:
        self._controller = controller
        self._owner = owner
        self._job_id = job_id
        self._last = after
        self._stream: AsyncGenerator[wire.Event, None] | None = None
        self._away = AsyncRetrying(
            retry=retry_if_exception(_is_away),
            wait=wait_random_exponential(multiplier=0.2, max=LONGEST_PAUSE_SECONDS),
            before_sleep=self._tell,
        )

    async def events(self) -> AsyncGenerator[wire.Event, None]:
        try:
            event: wire.Event | None
            while (event := await self._away(self._next)) is not None:
                self._last = event.number
                yield event
        finally:
            if self._stream is not None:
                await self._stream.aclose()

    async def _next(self) -> wire.Event | None:
        """The next event, None after the last. A stream that failed is left, so that another try opens a new one."""
        if self._stream is None:
            self._stream = self._controller.watch_job(self._owner, self._job_id, self._last)
        try:
            return await anext(self._stream, None)
        except ServiceError:
            self._stream = None
            raise

    def _tell(self, state: RetryCallState) -> None:
        log.info("event_stream_waits", job_id=self._job_id, after_event=self._last, attempt=state.attempt_number)


def _is_away(error: BaseException) -> bool:
    return isinstance(error, ServiceError) and error.reason is Reason.CONTROLLER_UNREACHABLE


def _last_event(request: web.Request) -> int:
    """Where the client stopped: the header that browsers send by themselves, else the query."""
    header = request.headers.get("Last-Event-ID", "")
    return read_query(request, WatchJob, **({"lastEventId": header} if header else {})).last_event_id

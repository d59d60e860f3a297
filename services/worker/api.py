"""WorkerService: the worker's side of the contract. Each RPC is a thin answer from status, recordings and attempts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import structlog
from bulkscribe.worker.v1 import worker_pb2, worker_pb2_grpc

from services.contract.errors import Reason, ServiceError
from services.contract.limits import VERSION
from services.contract.versions import require_compatible
from services.runtime.interceptors import Context
from services.runtime.listener import peer_name
from services.runtime.server import Registration
from services.worker import wire
from services.worker.attempt import Attempt, AttemptState
from services.worker.attempts import Attempts
from services.worker.audio import AudioStore, Committed, Recording
from services.worker.metrics import Metrics
from services.worker.status import WorkerStatus, wait_or_interval
from services.worker.work import AttemptKey

log = structlog.get_logger()

WATCH_SECONDS = 5.0
"""How often to report to a caller that names no interval."""


def registration(api: WorkerApi) -> Registration:
    descriptor = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"]
    return descriptor, worker_pb2_grpc.add_WorkerServiceServicer_to_server, api


class WorkerApi(worker_pb2_grpc.WorkerServiceServicer):
    def __init__(self, status: WorkerStatus, attempts: Attempts, audio: AudioStore, metrics: Metrics) -> None:
        self._status = status
        self._attempts = attempts
        self._audio = audio
        self._metrics = metrics

    async def Watch(
        self, request: worker_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[worker_pb2.WatchResponse]:
        interval = wire.seconds(request.interval) if request.HasField("interval") else WATCH_SECONDS
        watch = {"controller": request.controller_id, "peer": peer_name(context.peer())}
        log.info("remote_watch_began", interval_seconds=interval, version=request.controller_version, **watch)
        require_compatible("The worker", VERSION, "The controller", request.controller_version)
        try:
            yield worker_pb2.WatchResponse(held=wire.held_message(self._attempts.held()))
            left_alone = _LeftAlone(self._attempts, interval)
            while True:
                seen = self._status.slots.revision
                yield worker_pb2.WatchResponse(capacity=self._capacity())
                if held := left_alone.look():
                    yield worker_pb2.WatchResponse(held=wire.held_message(held))
                if self._status.slots.revision == seen:
                    await wait_or_interval(self._status.changed, interval)
        finally:
            log.info("remote_watch_ended", **watch)

    async def StatAudio(self, request: worker_pb2.StatAudioRequest, context: Context) -> worker_pb2.StatAudioResponse:
        recording = wire.recording(request.audio)
        held = await self._audio.stat(recording)
        self._foresee(recording, held)
        return worker_pb2.StatAudioResponse(committed_bytes=held.size, complete=held.complete)

    async def PutAudio(
        self, requests: AsyncIterator[worker_pb2.PutAudioRequest], context: Context
    ) -> worker_pb2.PutAudioResponse:
        first = await anext(requests, None)
        if first is None or first.WhichOneof("part") != "header":
            raise ServiceError(Reason.INVALID_REQUEST, "The first message of an upload is its header.")
        recording = wire.recording(first.header.audio)
        async with self._audio.upload(recording, first.header.offset) as upload:
            async for request in requests:
                if request.WhichOneof("part") != "data":
                    raise ServiceError(Reason.INVALID_REQUEST, "After its header an upload carries data only.")
                await upload.append(request.data)
        held = upload.committed
        self._foresee(recording, held)
        return worker_pb2.PutAudioResponse(committed_bytes=held.size, complete=held.complete)

    def _foresee(self, recording: Recording, held: Committed) -> None:
        """Who sees to it that the whole recording is here will dispatch a job with it."""
        if held.complete:
            with contextlib.suppress(ServiceError):  # it is a hint; the dispatch says what is wrong
                self._attempts.foresee(self._audio.find(recording))

    async def Run(self, requests: AsyncIterator[worker_pb2.RunRequest], context: Context) -> None:
        first = await anext(requests, None)
        attempt = self._begin(first)
        await attempt.decided()
        last_event = _last_event(first, attempt)
        stream = attempt.attach(last_event)
        attempt.log.info("remote_attempt_attached", last_event=last_event, peer=peer_name(context.peer()))
        talk = _Talk(self._attempts, attempt, stream, last_event)
        try:
            accepted = worker_pb2.Accepted(worker_job_id=attempt.worker_job_id, capacity=self._capacity())
            await context.write(worker_pb2.RunResponse(accepted=accepted))
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(talk.listen(requests), name=f"requests of {attempt.key}")
                await talk.tell(context)
                listening.cancel()
        finally:
            self._attempts.detach(attempt, stream)

    def _begin(self, first: worker_pb2.RunRequest | None) -> Attempt:
        """The attempt that the first request dispatches or attaches to."""
        if first is not None and first.WhichOneof("command") == "attach":
            attempt = self._attempts.find(wire.attempt_key(first.attach.attempt))
            if first.attach.give_up:
                self._attempts.cancel(attempt)
            return attempt
        if first is None or first.WhichOneof("command") != "dispatch":
            raise ServiceError(Reason.INVALID_REQUEST, "The first request of a run dispatches or attaches.")
        dispatch = first.dispatch
        try:
            return self._dispatch(dispatch)
        except ServiceError as error:
            self._metrics.refused.labels(error.reason.value).inc()
            log.info(
                "remote_attempt_refused",
                job_id=dispatch.attempt.job_id,
                attempt=dispatch.attempt.attempt,
                reason=error.reason.value,
                error=error.message,
            )
            raise

    def _dispatch(self, dispatch: worker_pb2.Dispatch) -> Attempt:
        """Without an `await`, so that the same dispatch on two streams is one run."""
        known = self._attempts.find_or_supersede(wire.attempt_key(dispatch.attempt))
        if known is not None:
            return known
        if dispatch.last_event > 0:  # it ran here before this process did
            raise ServiceError(Reason.ATTEMPT_UNKNOWN)
        if self._status.slots.draining:
            raise ServiceError(Reason.WORKER_DRAINING)
        path = self._audio.find(wire.recording(dispatch.audio))
        work = wire.work(dispatch, path)
        self._status.check(work.options)
        return self._attempts.accept(work)

    def _capacity(self) -> worker_pb2.Capacity:
        return wire.capacity_message(self._status, datetime.now(UTC))


class _LeftAlone:
    """Attempts that nobody listened to for a whole interval: their controller may not know that it has them, since its
    dispatch was cut in the middle, or it was restarted meanwhile."""

    def __init__(self, attempts: Attempts, interval: float) -> None:
        self._attempts = attempts
        self._interval = interval
        self._known: list[AttemptKey] = attempts.unattended()
        self._looked = asyncio.get_running_loop().time()

    def look(self) -> list[AttemptKey]:
        """None but once an interval."""
        now = asyncio.get_running_loop().time()
        if now - self._looked < self._interval:
            return []
        before, self._known, self._looked = self._known, self._attempts.unattended(), now
        return [key for key in self._known if key in before]


def _last_event(first: worker_pb2.RunRequest | None, attempt: Attempt) -> int:
    """The last event that the caller has; whoever gives an attempt up goes on anywhere."""
    assert first is not None
    if first.WhichOneof("command") == "dispatch":
        return first.dispatch.last_event
    return attempt.acknowledged if first.attach.give_up else first.attach.last_event


class _Talk:
    """The two directions of one attempt's stream. Ends when its attempt needs no more of it."""

    def __init__(self, attempts: Attempts, attempt: Attempt, stream: int, last_event: int) -> None:
        self._attempts = attempts
        self._attempt = attempt
        self._stream = stream
        self._sent = last_event
        self._half_closed = False

    async def listen(self, requests: AsyncIterator[worker_pb2.RunRequest]) -> None:
        async for request in requests:
            if not self._attempt.owned_by(self._stream):
                return  # a late acknowledgement would take events from the stream that took over
            match request.WhichOneof("command"):
                case "acknowledge":
                    self._attempts.acknowledge(self._attempt, request.acknowledge.through_event)
                case "cancel":
                    self._attempts.cancel(self._attempt)
                case _:
                    raise ServiceError(Reason.INVALID_REQUEST, "A run is dispatched or attached to once.")
        self._half_closed = True
        self._attempt.changed.ring()

    async def tell(self, context: Context) -> None:
        """Sends events until the outcome is acknowledged, or sent to a client that has nothing more to say.

        Raises STREAM_TAKEN_OVER, ATTEMPT_STALE.
        """
        while not self._over():
            event = self._attempt.event_after(self._sent)
            if event is None:
                await self._attempt.changed.wait()
                continue
            await context.write(worker_pb2.RunResponse(event=wire.event_message(event)))
            self._sent = event.number

    def _over(self) -> bool:
        if self._attempt.state is AttemptState.SUPERSEDED:
            raise ServiceError(Reason.ATTEMPT_STALE)
        if not self._attempt.owned_by(self._stream):
            raise ServiceError(Reason.STREAM_TAKEN_OVER)
        outcome = self._attempt.outcome
        told = outcome is not None and self._sent == outcome.number
        return self._attempt.state is AttemptState.SETTLED or (told and self._half_closed)

"""Links to workers: one a worker, which listens to its heartbeat and knows what it can take.

The heartbeat is the only thing that tells whether a worker can be reached: everything else waits on the link.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol
from weakref import WeakValueDictionary

import grpc
import structlog
from bulkscribe.worker.v1 import worker_pb2, worker_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.contract.errors import ERRORS, Reason, ServiceError
from services.contract.limits import HEARTBEATS_MISSED, VERSION
from services.contract.versions import require_compatible
from services.controller.jobs import ExecutionMode, JobError
from services.controller.scheduling import Offer
from services.runtime.backoff import Backoff
from services.runtime.channel import Metadata, call_metadata, open_channel
from services.runtime.errors import service_error

log = structlog.get_logger()

NOT_ALLOWED = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
"""What the worker says of a wrong token, and a proxy before it (401 and 403)."""

LONGEST_PAUSE = 12
"""In intervals: how long a worker that refuses everything is left alone at most."""

MOST_SENT = 100
"""Recordings that a link remembers to have sent: more than are on their way to a worker at once."""

HELD_SECONDS = 300.0
"""How long a worker is taken to hold what it said that it holds: it removes nothing that was used in the last quarter of an hour."""

MODEL_STATES = {
    worker_pb2.MODEL_STATE_AVAILABLE: "available",
    worker_pb2.MODEL_STATE_LOADING: "loading",
    worker_pb2.MODEL_STATE_LOADED: "loaded",
    worker_pb2.MODEL_STATE_FAILED: "failed",
}


@dataclass(frozen=True, slots=True)
class WorkerModel:
    name: str
    state: str
    error: str
    languages: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Capacity:
    """A worker's own report; ``revision`` orders reports of one ``instance_id``. ``diarization``: the model's name, or ""
    where there is none (``diarization_error`` says why) or none yet."""

    revision: int
    instance_id: str
    total: int
    free: int
    draining: bool
    version: str
    gpu: bool
    gpu_name: str
    models: tuple[WorkerModel, ...]
    default_model: str
    diarization: str
    max_file_bytes: int
    diarization_note: str = ""
    diarization_error: str = ""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """What is known of a worker, for people."""

    url: str
    connected: bool
    last_seen_at: datetime | None
    latency_seconds: float | None
    capacity: Capacity | None
    error: JobError | None


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """``interval_seconds``: how often the worker reports, and the longest wait between two tries to reach it."""

    url: str
    mode: ExecutionMode
    token: str
    interval_seconds: float
    ca_certificates: bytes | None = None


class Call(Protocol):
    """A stream that goes with the link."""

    def cancel(self) -> bool: ...


HeldListener = Callable[["WorkerLink", list[tuple[str, int]]], None]


class WorkerLink:
    """The connection to one worker. ``on_change`` is called when it came, went, or can take more or less."""

    def __init__(self, settings: LinkSettings, on_change: Callable[[], None], on_held: HeldListener) -> None:
        self.url = settings.url
        self.mode = settings.mode
        self.metadata: Metadata = call_metadata(settings.token)
        self._settings = settings
        self._on_change = on_change
        self._on_held = on_held
        self._channel = open_channel(settings.url, settings.ca_certificates)
        self.stub: Any = worker_pb2_grpc.WorkerServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)
        self.capacity: Capacity | None = None
        self.last_seen_at: datetime | None = None
        self.error: JobError | None = None
        self._latency: float | None = None
        self._reserved = 0
        self._shut = False
        self._paused_until = 0.0
        self._pauses = Backoff(settings.interval_seconds / 8, settings.interval_seconds * LONGEST_PAUSE)
        self._held_first: list[tuple[str, int]] | None = None
        self.accepted = 0
        """Dispatches that it accepted."""
        self._calls: set[Call] = set()
        self._sending: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._sent: OrderedDict[str, float] = OrderedDict()  # digest -> when it was all there, by the loop's clock
        self._backoff = Backoff(settings.interval_seconds / 8, settings.interval_seconds)
        self._connected = asyncio.Event()
        self._disconnected = asyncio.Event()
        self._disconnected.set()

    @property
    def name(self) -> str:
        """For logs and people: a socket's path says nothing to them."""
        return "local" if self.mode is ExecutionMode.LOCAL else self.url

    @property
    def instance_id(self) -> str:
        """Of the process that was last heard; "" before."""
        return self.capacity.instance_id if self.capacity is not None else ""

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    async def heard_within(self, seconds: float | None) -> bool:
        """Whether it is connected, or will be in so many seconds; None waits for it."""
        try:
            async with asyncio.timeout(seconds):
                await self._connected.wait()
        except TimeoutError:
            return False
        return True

    async def wait_disconnected(self) -> None:
        await self._disconnected.wait()

    def status(self) -> WorkerStatus:
        return WorkerStatus(self.name, self.connected, self.last_seen_at, self._latency, self.capacity, self.error)

    def offer(self) -> Offer:
        """What may be dispatched: the reported free slots less those that dispatches under way have spent.

        A worker that is away takes nothing, and is remembered for what it could take.
        """
        capacity = self.capacity
        if capacity is None:
            return Offer(self.url, self.mode, 0, known=False)
        return Offer(
            self.url,
            self.mode,
            max(0, capacity.free - self._reserved) if self.connected and not capacity.draining and self._open() else 0,
            frozenset(model.name for model in capacity.models),
            frozenset(model.name for model in capacity.models if model.state == "failed"),
            bool(capacity.diarization) if capacity.diarization or capacity.diarization_error else None,
            capacity.default_model,
            idle=capacity.free == capacity.total and self._reserved == 0,
        )

    def _open(self) -> bool:
        return not self._shut and asyncio.get_running_loop().time() >= self._paused_until

    def shut(self, shut: bool) -> None:
        """Whether what it runs is to stay alone."""
        self._shut = shut
        self._on_change()

    def pause(self) -> None:
        """It refused for a reason of its own, and may refuse the next job as well: none for a while, which grows."""
        loop, seconds = asyncio.get_running_loop(), self._pauses.failed()
        self._paused_until = loop.time() + seconds
        loop.call_later(seconds, self._on_change)

    def reserve(self) -> None:
        """Spends a credit until `release`."""
        self._reserved += 1

    def release(self, capacity: Capacity | None = None) -> None:
        """The dispatch was accepted (with the capacity after it) or came to nothing."""
        self._reserved -= 1
        if capacity is not None:
            self.accepted += 1
            self._pauses.succeeded()
            self._take(capacity)
        self._on_change()

    async def run(self) -> None:
        """Keeps the heartbeat, for ever."""
        while True:
            if await self._listen():
                self._backoff.succeeded()
            await asyncio.sleep(self._backoff.failed())

    def hold(self) -> None:
        """The worker refused what its capacity promised: no credits until its next report."""
        if self.capacity is not None:
            self.capacity = replace(self.capacity, free=0)

    def carry(self, call: Call) -> None:
        """The call is canceled when the heartbeat stops, so that nobody waits on a dead stream."""
        self._calls.add(call)

    def drop(self, call: Call) -> None:
        self._calls.discard(call)
        call.cancel()

    def sending(self, sha256: str) -> asyncio.Lock:
        """Held by whoever brings this recording to the worker, which takes it from one only."""
        lock = self._sending.get(sha256)
        if lock is None:
            lock = self._sending[sha256] = asyncio.Lock()
        return lock

    def was_sent(self, sha256: str) -> bool:
        """Whether some of this recording went to this life of the worker."""
        return sha256 in self._sent

    def holds(self, sha256: str) -> bool:
        """Whether the worker said so lately. Should its disk have lost it since, it refuses the dispatch: see `forget_sent`."""
        return asyncio.get_running_loop().time() < self._sent.get(sha256, -math.inf) + HELD_SECONDS

    def note_sent(self, sha256: str, complete: bool) -> None:
        self._sent[sha256] = asyncio.get_running_loop().time() if complete else -math.inf
        self._sent.move_to_end(sha256)
        if len(self._sent) > MOST_SENT:
            self._sent.popitem(last=False)

    def forget_sent(self, sha256: str) -> bool:
        """The worker says that it does not hold it; whether that is news."""
        was_held = self.holds(sha256)
        self._sent.pop(sha256, None)
        return was_held

    async def close(self) -> None:
        await self._channel.close()

    async def _listen(self) -> bool:
        """Listens until the heartbeat stops. True when it had been heard."""
        heard = False
        try:
            async for response in self._heartbeats():
                self._hear(response)
                heard = heard or self.connected
        except TimeoutError:
            self._lose(ServiceError(Reason.REMOTE_WORKER_UNREACHABLE, self._silent()))
        except grpc.aio.AioRpcError as error:
            self._lose(self._meaning(error))
        except ServiceError as error:
            self._lose(error)
        else:
            self._lose(ServiceError(Reason.REMOTE_WORKER_UNREACHABLE, f"{self.subject} ended its heartbeat."))
        return heard

    async def _heartbeats(self) -> AsyncIterator[worker_pb2.WatchResponse]:
        request = worker_pb2.WatchRequest(controller_id="controller", controller_version=VERSION)
        request.interval.FromMicroseconds(round(self._settings.interval_seconds * 1e6))
        # Ready as soon as the channel is: its tries to connect and ours would wait for one another.
        call = self.stub.Watch(request, metadata=self.metadata, wait_for_ready=True)
        responses = aiter(call)
        now, measured = asyncio.get_running_loop().time, -math.inf
        try:
            while True:
                async with asyncio.timeout(self._settings.interval_seconds * HEARTBEATS_MISSED):
                    try:
                        response = await anext(responses)
                    except StopAsyncIteration:
                        return
                yield response
                if response.WhichOneof("report") == "capacity" and now() >= measured + self._settings.interval_seconds:
                    measured = now()
                    await self._measure_latency()
        finally:
            call.cancel()

    async def _measure_latency(self) -> None:
        now = asyncio.get_running_loop().time
        begun = now()
        await self._health.Check(
            health_pb2.HealthCheckRequest(), timeout=self._settings.interval_seconds * HEARTBEATS_MISSED
        )
        self._latency = now() - begun

    def _hear(self, response: worker_pb2.WatchResponse) -> None:
        self.last_seen_at = datetime.now(UTC)
        if response.WhichOneof("report") == "held":
            held = [(ref.job_id, ref.attempt) for ref in response.held.attempts]
            if self.connected:
                self._on_held(self, held)
            else:  # whether it is understood is known by its first capacity
                self._held_first = held
            return
        capacity = capacity_of(response.capacity)
        require_compatible("This controller", VERSION, self.subject, capacity.version)
        self._take(capacity)
        if not self.connected:
            self.error = None
            self._connected.set()
            self._disconnected.clear()
            log.info(self.event("connected"), worker=self.name)
        if self._held_first is not None:
            self._on_held(self, self._held_first)
            self._held_first = None
        self._on_change()

    def _take(self, capacity: Capacity) -> None:
        """Reports cross on two streams: of one instance the newest counts, of another one the latest to arrive."""
        known = self.capacity
        if known is not None and known.instance_id == capacity.instance_id and known.revision > capacity.revision:
            return
        if known is not None and known.instance_id != capacity.instance_id:
            self._sent.clear()
        if known is None or (known.total, known.draining) != (capacity.total, capacity.draining):
            log.info(
                "worker_capacity_reported",
                worker=self.name,
                free=capacity.free,
                total=capacity.total,
                draining=capacity.draining,
            )
        self.capacity = capacity

    def _lose(self, error: ServiceError) -> None:
        was_connected = self.connected
        self._connected.clear()
        self._disconnected.set()
        for call in list(self._calls):
            call.cancel()
        said = JobError(error.reason.value, error.message)
        if was_connected or said != self.error:
            log.warning(self.event("lost"), worker=self.name, code=said.code, error=said.message)
        self.error = said
        self._on_change()

    def _meaning(self, error: grpc.aio.AioRpcError) -> ServiceError:
        if error.code() in NOT_ALLOWED:
            entry = ERRORS[Reason.REMOTE_WORKER_UNAUTHORIZED]
            message = f"{self.subject} refuses the token. {entry.action}, and restart both."
            return ServiceError(Reason.REMOTE_WORKER_UNAUTHORIZED, message)
        known = service_error(error, Reason.REMOTE_WORKER_UNREACHABLE)
        if known.reason is not Reason.REMOTE_WORKER_UNREACHABLE:
            return known
        message = f"{self.subject} cannot be reached. Check that it runs, and the network between."
        return ServiceError(Reason.REMOTE_WORKER_UNREACHABLE, message)

    def event(self, what: str) -> str:
        """Events of the remote path are told from those of the local one by their names."""
        return f"{self.mode.value}_worker_{what}"

    @property
    def subject(self) -> str:
        """As a sentence about it begins."""
        return "The local worker" if self.mode is ExecutionMode.LOCAL else f"The worker at {self.url}"

    def _silent(self) -> str:
        said = f"{self.subject} has been silent for {self._settings.interval_seconds * HEARTBEATS_MISSED:g} s."
        if self.last_seen_at is not None or self.mode is ExecutionMode.LOCAL:
            return said
        # gRPC tries again by itself, and keeps to itself what it met: nobody there, no such host, a certificate it does not trust
        return (
            f"{said} Check that it runs, that REMOTE_WORKER_URL has its host and port, http or https as it speaks, and, with https, "
            "that REMOTE_WORKER_CA is its certificate's authority."
        )


def capacity_of(message: worker_pb2.Capacity) -> Capacity:
    return Capacity(
        revision=message.revision,
        instance_id=message.instance_id,
        total=message.total,
        free=message.free,
        draining=message.draining,
        version=message.version,
        gpu=message.device.kind == "cuda",
        gpu_name=message.device.name,
        models=tuple(
            WorkerModel(
                model.name,
                MODEL_STATES.get(model.state, "available"),
                model.error,
                tuple(model.languages),
                model.note,
            )
            for model in message.models
        ),
        default_model=message.default_model,
        diarization=message.diarization,
        max_file_bytes=message.max_file_bytes,
        diarization_note=message.diarization_note,
        diarization_error=message.diarization_error,
    )

"""A worker that does as it is told by a test: proves the controller's plumbing, nothing about transcription."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import ClassVar
from uuid import uuid4

from bulkscribe.worker.v1 import worker_pb2 as pb
from bulkscribe.worker.v1 import worker_pb2_grpc
from google.protobuf.duration_pb2 import Duration

from services.contract.errors import Reason, ServiceError
from services.contract.limits import VERSION
from services.runtime.server import Server

Key = tuple[str, int]


def duration(seconds: float) -> Duration:
    message = Duration()
    message.FromMicroseconds(round(seconds * 1e6))
    return message


def completed() -> pb.Event:
    return pb.Event(outcome=pb.Outcome(completed=pb.Completed()))


def failed(reason: Reason, message: str) -> pb.Event:
    return pb.Event(outcome=pb.Outcome(failed=pb.Failed(reason=reason.value, message=message)))


def handed_back() -> pb.Event:
    return pb.Event(outcome=pb.Outcome(handed_back=pb.HandedBack(message="The worker is shutting down.")))


def planned(fingerprint: str = "f", windows: int = 2) -> pb.Event:
    cuts = [pb.Window(index=i, start=duration(i * 10), end=duration(i * 10 + 10)) for i in range(windows)]
    return pb.Event(
        planned=pb.WindowPlan(fingerprint=fingerprint, language="en", duration=duration(windows * 10), windows=cuts)
    )


def window(index: int, *texts: str, silent: bool = False) -> pb.Event:
    segments = [pb.Segment(start=duration(index * 10), end=duration(index * 10 + 9), text=text) for text in texts]
    return pb.Event(window_finished=pb.WindowFinished(index=index, segments=segments, silent=silent))


def progress(percent: float, seconds_left: float | None = None) -> pb.Event:
    remaining = duration(seconds_left) if seconds_left is not None else None
    return pb.Event(progress=pb.Progress(percent=percent, remaining=remaining))


def stage(name: str, detail: str = "") -> pb.Event:
    return pb.Event(stage_changed=pb.StageChanged(stage=name, detail=detail))


def whole_run() -> list[pb.Event]:
    return [planned(), window(0, " hello there"), progress(50), window(1, " good morning"), completed()]


@dataclass
class Held:
    """An attempt at the fake; ``script`` may grow while it runs."""

    dispatch: pb.Dispatch
    script: list[pb.Event]
    acknowledged: int = 0
    canceled: bool = False
    grown: asyncio.Event = field(default_factory=asyncio.Event)
    owner: object = None

    def add(self, *events: pb.Event) -> None:
        self.script += events
        self.grown.set()


class FakeWorker(worker_pb2_grpc.WorkerServiceServicer):
    """``plan`` gives the script of a new attempt; ``refuse`` an error instead of accepting it."""

    serving: ClassVar[set[FakeWorker]] = set()
    """Those that were started and not stopped."""

    def __init__(self, slots: int = 1, models: tuple[str, ...] = ("demo",)) -> None:
        self.slots = slots
        self.models = models
        self.plan: Callable[[pb.Dispatch], list[pb.Event]] = lambda dispatch: whole_run()
        self.refuse: Callable[[pb.Dispatch], ServiceError | None] = lambda dispatch: None
        self.held: dict[Key, Held] = {}
        self.dispatched: list[Key] = []
        self.audio: dict[str, bytearray] = {}
        self.diarization, self.diarization_error, self.diarization_note = "demo", "", ""
        self.max_concurrent = 0
        self.upload_limit: int | None = None
        self.uploads = 0
        self.stats = 0
        self.asked = 0
        self.broken_streams = 0
        """So many streams break with a fault of the program after their first event."""
        self._changed: set[asyncio.Event] = set()
        self._revision = 0
        self.server: Server | None = None
        self.port = 0
        self.instance = str(uuid4())
        self.version = VERSION
        self.changed_at = 0.0
        self.obedient = True
        """Whether a cancel ends an attempt."""

    # --- life

    async def start(self, token: str = "worker-token", port: int = 0) -> str:
        self.server = Server(
            [
                (
                    pb.DESCRIPTOR.services_by_name["WorkerService"],
                    worker_pb2_grpc.add_WorkerServiceServicer_to_server,
                    self,
                )
            ],
            token,
        )
        self.port = await self.server.start(f"127.0.0.1:{port}")
        self.serving.add(self)
        return f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """Again is no fault: a test may have stopped what its fixture stops."""
        server, self.server = self.server, None
        self.serving.discard(self)
        if server is not None:
            await server.stop(0)

    @property
    def active(self) -> int:
        return sum(1 for held in self.held.values() if not self._ended(held))

    def changed(self) -> None:
        self._revision += 1
        self.changed_at = asyncio.get_running_loop().time()
        self.max_concurrent = max(self.max_concurrent, self.active)
        for event in self._changed:
            event.set()

    # --- the contract

    async def Watch(self, request: pb.WatchRequest, context: object) -> AsyncIterator[pb.WatchResponse]:
        woken = asyncio.Event()
        self._changed.add(woken)
        try:
            held = [pb.AttemptRef(job_id=job, attempt=number) for job, number in self.held]
            yield pb.WatchResponse(held=pb.HeldAttempts(attempts=held))
            while True:
                woken.clear()
                yield pb.WatchResponse(capacity=self.capacity())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(request.interval.ToMilliseconds() / 1e3):
                        await woken.wait()
        finally:
            self._changed.discard(woken)

    def capacity(self) -> pb.Capacity:
        return pb.Capacity(
            revision=self._revision,
            total=self.slots,
            free=self.slots - self.active,
            instance_id=self.instance,
            version=self.version,
            device=pb.Device(kind="cuda", name="Fake GPU"),
            models=[pb.Model(name=name, state=pb.MODEL_STATE_LOADED, languages=["en"]) for name in self.models],
            default_model=self.models[0],
            diarization=self.diarization,
            diarization_error=self.diarization_error,
            diarization_note=self.diarization_note,
            max_file_bytes=1 << 31,
        )

    async def StatAudio(self, request: pb.StatAudioRequest, context: object) -> pb.StatAudioResponse:
        self.stats += 1
        held = self.audio.get(request.audio.sha256, b"")
        return pb.StatAudioResponse(committed_bytes=len(held), complete=len(held) == request.audio.size_bytes)

    async def PutAudio(self, requests: AsyncIterator[pb.PutAudioRequest], context: object) -> pb.PutAudioResponse:
        header = (await anext(requests)).header
        content = self.audio.setdefault(header.audio.sha256, bytearray())
        if header.offset != len(content):
            raise ServiceError(Reason.UPLOAD_OFFSET_MISMATCH)
        self.uploads += 1
        async for request in requests:
            content += request.data
            if self.upload_limit is not None and len(content) >= self.upload_limit:
                self.upload_limit = None
                raise RuntimeError("cut")
        return pb.PutAudioResponse(committed_bytes=len(content), complete=True)

    async def Run(self, requests: AsyncIterator[pb.RunRequest], context: object) -> AsyncIterator[pb.RunResponse]:
        first = await anext(requests)
        kind = first.WhichOneof("command")
        ref = first.dispatch.attempt if kind == "dispatch" else first.attach.attempt
        key = (ref.job_id, ref.attempt)
        if key not in self.held:
            if kind == "attach":
                raise ServiceError(Reason.ATTEMPT_UNKNOWN)
            self._accept(key, first.dispatch)
        held = self.held[key]
        held.owner = requests
        if kind == "attach" and first.attach.give_up and not self._ended(held):
            self._cancel(held)
        yield pb.RunResponse(accepted=pb.Accepted(worker_job_id=f"wk_{key[0][:6]}", capacity=self.capacity()))
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(self._listen(held, requests))
            number = first.dispatch.last_event if kind == "dispatch" else first.attach.last_event
            while True:
                while number < len(held.script):
                    event = pb.Event()
                    event.CopyFrom(held.script[number])
                    number += 1
                    event.number = number
                    yield pb.RunResponse(event=event)
                    if self.broken_streams:
                        self.broken_streams -= 1
                        raise RuntimeError("the stream breaks, as the test wants")
                if self._ended(held) and held.acknowledged >= len(held.script):
                    break
                held.grown.clear()
                await held.grown.wait()
            listening.cancel()
        self.held.pop(key, None)

    def _accept(self, key: Key, dispatch: pb.Dispatch) -> None:
        self.asked += 1
        refusal = self.refuse(dispatch)
        if refusal is not None:
            raise refusal
        if len(self.audio.get(dispatch.audio.sha256, b"")) != dispatch.audio.size_bytes:
            raise ServiceError(Reason.AUDIO_MISSING)
        if self.active >= self.slots:
            raise ServiceError(Reason.WORKER_FULL)
        self.held[key] = Held(dispatch, self.plan(dispatch))
        self.dispatched.append(key)
        self.changed()

    async def _listen(self, held: Held, requests: AsyncIterator[pb.RunRequest]) -> None:
        async for request in requests:
            if request.WhichOneof("command") == "cancel" and not self._ended(held):
                self._cancel(held)
            elif request.WhichOneof("command") == "acknowledge":
                held.acknowledged = max(held.acknowledged, request.acknowledge.through_event)
                self.changed()
            held.grown.set()

    def _cancel(self, held: Held) -> None:
        held.canceled = True
        if not self.obedient:
            return
        held.script.append(pb.Event(outcome=pb.Outcome(canceled=pb.Canceled())))
        self.changed()

    @staticmethod
    def _ended(held: Held) -> bool:
        return bool(held.script) and held.script[-1].WhichOneof("kind") == "outcome"

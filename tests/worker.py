"""A worker's front in this process, on a free port, over a fake engine; and a controller's side of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from bulkscribe.worker.v1 import worker_pb2 as pb
from bulkscribe.worker.v1 import worker_pb2_grpc

from services.contract.errors import Reason
from services.runtime.channel import call_metadata, open_channel
from services.runtime.errors import service_error
from services.worker import wire
from services.worker.__main__ import _serve
from services.worker.settings import WorkerSettings
from tests.fakes.engine import FakeEngine
from tests.ports import free_port

TOKEN = "right-token-of-this-test"
DEADLINE = 20.0
CONTENT = b"sound" * 1000


def audio_of(content: bytes = CONTENT) -> pb.Audio:
    return pb.Audio(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def ref(job_id: str, attempt: int = 1) -> pb.AttemptRef:
    return pb.AttemptRef(job_id=job_id, attempt=attempt)


def dispatch(
    job_id: str, attempt: int = 1, last_event: int = 0, content: bytes = CONTENT, **options: Any
) -> pb.RunRequest:
    options = pb.TranscriptionOptions(**({"model": "demo"} | options))
    return pb.RunRequest(
        dispatch=pb.Dispatch(
            attempt=ref(job_id, attempt), audio=audio_of(content), options=options, last_event=last_event
        )
    )


def attach(job_id: str, attempt: int = 1, last_event: int = 0) -> pb.RunRequest:
    return pb.RunRequest(attach=pb.Attach(attempt=ref(job_id, attempt), last_event=last_event))


def acknowledge(through: int) -> pb.RunRequest:
    return pb.RunRequest(acknowledge=pb.Acknowledge(through_event=through))


CANCEL = pb.RunRequest(cancel=pb.Cancel())


def put_requests(
    content: bytes, offset: int = 0, until: int | None = None, audio: pb.Audio | None = None, chunk: int = 1 << 20
) -> list[pb.PutAudioRequest]:
    """``until=offset``: the header alone. A client that is still writing when it is refused may see INTERNAL instead
    of the reason: grpc.aio takes its own failed write for the end."""
    header = pb.PutAudioHeader(audio=audio or audio_of(content), offset=offset)
    end = len(content) if until is None else until
    pieces = [content[start : min(start + chunk, end)] for start in range(offset, end, chunk)]
    return [pb.PutAudioRequest(header=header), *(pb.PutAudioRequest(data=piece) for piece in pieces)]


@dataclass
class RunCall:
    """One `Run` stream, by hand."""

    call: Any
    events: list[pb.Event] = field(default_factory=list)

    async def say(self, *requests: pb.RunRequest) -> None:
        for request in requests:
            await self.call.write(request)

    async def accepted(self) -> pb.Accepted:
        answer = await self._read()
        assert answer.WhichOneof("answer") == "accepted", answer
        return answer.accepted

    async def event(self) -> pb.Event:
        answer = await self._read()
        assert answer.WhichOneof("answer") == "event", answer
        self.events.append(answer.event)
        return answer.event

    async def until_accepted_and(self, kind: str) -> pb.Event:
        await self.accepted()
        return await self.until(kind)

    async def until(self, kind: str) -> pb.Event:
        while (event := await self.event()).WhichOneof("kind") != kind:
            pass
        return event

    async def ended(self) -> None:
        async with asyncio.timeout(DEADLINE):
            assert await self.call.read() is grpc.aio.EOF
            assert await self.call.code() is grpc.StatusCode.OK, await self.call.details()

    async def refusal(self) -> Reason:
        """The reason for which the worker ended the stream; what it sent before is passed over."""
        try:
            async with asyncio.timeout(DEADLINE):
                while (answer := await self.call.read()) is not grpc.aio.EOF:
                    if answer.WhichOneof("answer") == "event":
                        self.events.append(answer.event)
        except grpc.aio.AioRpcError as error:
            return service_error(error, Reason.REMOTE_WORKER_UNREACHABLE).reason
        code = await self.call.code()
        raise AssertionError(f"the stream ended with {code}: {await self.call.details()}")

    async def _read(self) -> pb.RunResponse:
        async with asyncio.timeout(DEADLINE):
            answer = await self.call.read()
        assert answer is not grpc.aio.EOF, "the worker ended the stream"
        return answer


@dataclass
class Rig:
    """A running worker and a channel to it."""

    engine: FakeEngine
    channel: grpc.aio.Channel
    url: str
    folder: Path
    stopping: asyncio.Event
    token: str = TOKEN

    def __post_init__(self) -> None:
        self.stub: Any = worker_pb2_grpc.WorkerServiceStub(self.channel)
        self.metadata = call_metadata(self.token)

    @asynccontextmanager
    async def run(self, *requests: pb.RunRequest) -> AsyncIterator[RunCall]:
        call = RunCall(self.stub.Run(metadata=self.metadata))
        await call.say(*requests)
        try:
            yield call
        finally:
            call.call.cancel()

    async def put(self, content: bytes = CONTENT, **more: Any) -> pb.PutAudioResponse:
        return await self.stub.PutAudio(iter(put_requests(content, **more)), metadata=self.metadata)

    async def stat(self, content: bytes = CONTENT) -> pb.StatAudioResponse:
        return await self.stub.StatAudio(pb.StatAudioRequest(audio=audio_of(content)), metadata=self.metadata)

    def watch(self, interval: float = 0.5) -> Any:
        request = pb.WatchRequest(interval=wire.duration(interval), controller_id="test")
        return self.stub.Watch(request, metadata=self.metadata)

    async def capacity(self) -> pb.Capacity:
        watch = self.watch()
        try:
            await watch.read()
            return (await watch.read()).capacity
        finally:
            watch.cancel()

    async def held(self) -> list[tuple[str, int]]:
        watch = self.watch()
        try:
            return [(held.job_id, held.attempt) for held in (await watch.read()).held.attempts]
        finally:
            watch.cancel()

    def stored(self, content: bytes = CONTENT) -> Path:
        digest = hashlib.sha256(content).hexdigest()
        return self.folder / "data" / "audio" / digest[:2] / digest


async def eventually(condition: Callable[[], bool]) -> None:
    """Until the condition holds; fails after the deadline."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - there is no event for what a test looks at
            await asyncio.sleep(0.005)


async def reason_of(call: Any) -> Reason:
    """The reason for which a call was refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return service_error(caught.value, Reason.REMOTE_WORKER_UNREACHABLE).reason


@asynccontextmanager
async def running_worker(folder: Path, engine: FakeEngine | None = None, **settings: Any) -> AsyncIterator[Rig]:
    """A worker that serves until the block ends; ``settings`` override the defaults."""
    engine = engine or FakeEngine()
    port = free_port()
    given = {
        "worker_token": TOKEN,
        "worker_host": "127.0.0.1",
        "worker_port": port,
        "worker_model": "demo",
        "worker_data_dir": folder / "data",
        "log_dir": folder / "logs",
    }
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_serve(WorkerSettings(**(given | settings)), None, lambda _: engine, stopping))
        channel = open_channel(f"http://127.0.0.1:{port}")
        try:
            async with asyncio.timeout(DEADLINE):
                await channel.channel_ready()
            yield Rig(engine, channel, f"http://127.0.0.1:{port}", folder, stopping)
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await channel.close()
            stopping.set()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running_worker(tmp_path) as made:
        yield made

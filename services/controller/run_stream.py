"""One `Run` stream to a worker: messages out, messages in, and what its end means."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import IO, Any

import grpc
from bulkscribe.worker.v1 import worker_pb2

from services.contract.errors import Reason, ServiceError
from services.contract.limits import CHUNK_BYTES
from services.controller.workers import WorkerLink
from services.runtime.errors import service_error

ANSWER_SECONDS = 30.0
"""How long a worker may take to answer what costs it only a look at its own memory and disk."""

TOGETHER_SECONDS = 0.005
"""Events that come so close to one another are made durable in one step; the first waits no longer for it."""

MOST_TOGETHER = 100

GOODBYE_SECONDS = 5.0
"""How long the worker may take to end a stream whose outcome was acknowledged."""


class LinkLostError(Exception):
    """The stream broke; what the worker does is not known until it is attached to again."""


class RunStream:
    """Opened once; canceled when the link's heartbeat stops. Not for two readers; writers queue."""

    def __init__(self, link: WorkerLink) -> None:
        self._link = link
        self._call: Any = link.stub.Run(metadata=link.metadata)
        self._writing = asyncio.Lock()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._call.add_done_callback(self._end)
        self._reading: asyncio.Future[Any] | None = None
        self._broken: Exception | None = None
        link.carry(self._call)

    async def send(self, request: worker_pb2.RunRequest) -> bool:
        """Whether it went on its way. Why it did not is left to the next `read`, which can tell it."""
        async with self._writing:
            return await self._write(self._call.write(request))

    async def _write(self, step: Coroutine[Any, Any, None]) -> bool:
        """A call that is canceled before its metadata went out leaves those who write waiting for ever."""
        writing = asyncio.ensure_future(step)
        try:
            await asyncio.wait({writing, self._over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            writing.cancel()
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
            if writing.done():
                writing.result()
                return True
        return False

    def _end(self, _call: object) -> None:
        if not self._over.done():
            self._over.set_result(None)

    async def read(self, seconds: float | None) -> worker_pb2.RunResponse | None:
        """The next message; None when the worker ended the stream.

        Raises TimeoutError (the next `read` goes on waiting for the same message), LinkLostError, and ServiceError
        when the worker refused. Canceling a grpc.aio read takes the whole call with it, hence the future.
        """
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._call.read())
        done, _ = await asyncio.wait({self._reading}, timeout=seconds)
        if not done:
            raise TimeoutError
        reading, self._reading = self._reading, None
        try:
            answer = reading.result()
        except asyncio.CancelledError:
            raise LinkLostError from None
        except grpc.aio.AioRpcError as error:
            raise meaning(error) from error
        return None if answer is grpc.aio.EOF else answer

    async def events(self, seconds: float | None) -> list[worker_pb2.Event]:
        """The next event and those close behind it, up to an outcome. Raises as `read`; the stream's end is a lost link."""
        if self._broken is not None:
            raise self._broken
        events = [await self._event(seconds)]
        while events[-1].WhichOneof("kind") != "outcome" and len(events) < MOST_TOGETHER:
            try:
                events.append(await self._event(TOGETHER_SECONDS))
            except TimeoutError:
                break
            except (LinkLostError, ServiceError) as broken:  # told once those before it are taken
                self._broken = broken
                break
        return events

    async def _event(self, seconds: float | None) -> worker_pb2.Event:
        answer = await self.read(seconds)
        if answer is None:
            raise LinkLostError  # the worker ended the stream without an outcome: it is going away
        return answer.event

    async def answer(self) -> worker_pb2.Accepted:
        """The first message. Raises as `read`; silence is a lost link."""
        try:
            response = await self.read(ANSWER_SECONDS)
        except TimeoutError:
            raise LinkLostError from None
        if response is None or response.WhichOneof("answer") != "accepted":
            raise LinkLostError
        return response.accepted

    async def finish(self) -> None:
        """Says that nothing more comes, and lets the worker end the stream: only then was the last message read."""
        try:
            async with self._writing:
                await self._write(self._call.done_writing())
            while await self.read(GOODBYE_SECONDS) is not None:
                pass
        except (LinkLostError, ServiceError, TimeoutError, asyncio.InvalidStateError, grpc.aio.AioRpcError):
            return  # the worker still holds the outcome, and says so at its next heartbeat
        finally:
            self.close()

    def close(self) -> None:
        self._link.drop(self._call)
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None


async def upload_audio(link: WorkerLink, audio: worker_pb2.Audio, path: Path, wanted: Callable[[], bool]) -> int:
    """Brings a recording to the worker, from where an earlier upload was cut; returns the bytes sent.

    The worker is asked what it has, but for what it said a moment ago that it holds, and for a recording of a single message
    that was not sent before. Stops, with what was sent kept, once it is no longer ``wanted``. Raises LinkLostError, and
    ServiceError when the worker refuses the recording or it cannot be read here.
    """
    async with link.sending(audio.sha256):
        if link.holds(audio.sha256):
            return 0
        try:
            if audio.size_bytes <= CHUNK_BYTES and not link.was_sent(audio.sha256):
                try:
                    return await _send_audio(link, audio, path, 0, wanted)
                except grpc.aio.AioRpcError as error:
                    if not _is_held(error):
                        raise
            held = await link.stub.StatAudio(
                worker_pb2.StatAudioRequest(audio=audio), metadata=link.metadata, timeout=ANSWER_SECONDS
            )
            link.note_sent(audio.sha256, held.complete)
            return 0 if held.complete else await _send_audio(link, audio, path, held.committed_bytes, wanted)
        except grpc.aio.AioRpcError as error:
            raise meaning(error) from error
        except asyncio.CancelledError:
            raise lost_or_canceled() from None


async def _send_audio(
    link: WorkerLink, audio: worker_pb2.Audio, path: Path, offset: int, wanted: Callable[[], bool]
) -> int:
    try:
        file = await asyncio.to_thread(path.open, "rb", 0)
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        raise ServiceError(
            Reason.NOT_FOUND if gone else Reason.STORAGE_FAILED,
            f"The controller cannot read the recording ({error.strerror}). Upload it again.",
        ) from error
    link.note_sent(audio.sha256, complete=False)
    with file:
        call = link.stub.PutAudio(_put_requests(audio, file, offset, wanted), metadata=link.metadata)
        link.carry(call)
        try:
            answer = await call
        finally:
            link.drop(call)
    link.note_sent(audio.sha256, answer.complete)
    sent: int = answer.committed_bytes - offset
    return sent


async def _put_requests(
    audio: worker_pb2.Audio, file: IO[bytes], offset: int, wanted: Callable[[], bool]
) -> AsyncIterator[worker_pb2.PutAudioRequest]:
    yield worker_pb2.PutAudioRequest(header=worker_pb2.PutAudioHeader(audio=audio, offset=offset))
    file.seek(offset)
    while wanted() and offset < audio.size_bytes and (data := await asyncio.to_thread(file.read, CHUNK_BYTES)):
        offset += len(data)
        yield worker_pb2.PutAudioRequest(data=data)


def _is_held(error: grpc.aio.AioRpcError) -> bool:
    """Whether the worker refuses what begins at the beginning because it has that, or more, already."""
    known = meaning(error)
    return isinstance(known, ServiceError) and known.reason is Reason.UPLOAD_OFFSET_MISMATCH


def meaning(error: grpc.aio.AioRpcError) -> Exception:
    """LinkLostError, unless the worker itself said why."""
    known = service_error(error, Reason.REMOTE_WORKER_UNREACHABLE)
    if known.reason in (Reason.REMOTE_WORKER_UNREACHABLE, Reason.UNAUTHENTICATED):
        return LinkLostError()  # the heartbeat meets the same, and tells people
    return known


def lost_or_canceled() -> BaseException:
    """A call that the link canceled raises CancelledError just as a task that is being canceled does."""
    task = asyncio.current_task()
    return asyncio.CancelledError() if task is not None and task.cancelling() else LinkLostError()

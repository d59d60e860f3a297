"""The gateway's link to the controller: every call with token and deadline, every failure a ServiceError.

Unary calls end within CALL_SECONDS, so that a controller that is away or stopped means 503 within 10 s. Streams have
no deadline of their own: keepalive tells after about 10 s that the peer is gone, and each message has its limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import grpc
from bulkscribe.jobs.v1 import jobs_pb2, jobs_pb2_grpc, uploads_pb2, uploads_pb2_grpc

from gateway import wire
from gateway.answers import Status
from gateway.requests import JobOptions
from gateway.transcripts import Segment, Transcript
from services.contract.errors import Reason, ServiceError
from services.runtime.channel import call_metadata
from services.runtime.errors import service_error

CALL_SECONDS = 8.0
CONNECT_SECONDS = 3.0
WHY_SECONDS = 2.0
"""How much of that a call may wait for a connection: a controller that just restarted is no error then."""
MESSAGE_SECONDS = 30.0
"""How long one message of a stream may take: a disk that syncs a large file can hold one up for seconds."""
FINISH_SECONDS = 300.0
"""How long the controller may take to sync, check and probe a recording whose bytes are all there."""

Response = TypeVar("Response")
UNREACHABLE = Reason.CONTROLLER_UNREACHABLE


class Controller:
    """The controller's two services, as calls for one owner. Owns no channel: whoever made it closes it."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._channel = channel
        self._metadata = call_metadata(token)
        self._jobs: Any = jobs_pb2_grpc.JobServiceStub(channel)  # type: ignore[no-untyped-call]  # as generated
        self._uploads: Any = uploads_pb2_grpc.UploadServiceStub(channel)  # type: ignore[no-untyped-call]  # as generated

    @property
    def connected(self) -> bool:
        """Whether the channel is up at this moment; asking also makes it try."""
        return self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

    # --- jobs

    async def runtime(self) -> jobs_pb2.GetRuntimeResponse:
        response: jobs_pb2.GetRuntimeResponse = await self._ask(self._jobs.GetRuntime, jobs_pb2.GetRuntimeRequest())
        return response

    async def create_jobs(
        self, owner: str, upload_ids: list[str], options: JobOptions, request_id: str
    ) -> jobs_pb2.CreateJobsResponse:
        request = jobs_pb2.CreateJobsRequest(
            owner=owner, upload_ids=upload_ids, options=wire.options_message(options), request_id=request_id
        )
        response: jobs_pb2.CreateJobsResponse = await self._ask(self._jobs.CreateJobs, request)
        return response

    async def list_jobs(
        self, owner: str, status: Status | None, page_size: int, page_token: str
    ) -> jobs_pb2.ListJobsResponse:
        number = wire.STATUS_NUMBERS[status] if status else jobs_pb2.JOB_STATUS_UNSPECIFIED
        request = jobs_pb2.ListJobsRequest(owner=owner, status=number, page_size=page_size, page_token=page_token)
        response: jobs_pb2.ListJobsResponse = await self._ask(self._jobs.ListJobs, request)
        return response

    async def get_job(self, owner: str, job_id: str) -> jobs_pb2.Job:
        request = jobs_pb2.GetJobRequest(owner=owner, job_id=job_id)
        response: jobs_pb2.GetJobResponse = await self._ask(self._jobs.GetJob, request)
        return response.job

    async def cancel_job(self, owner: str, job_id: str) -> jobs_pb2.Job:
        request = jobs_pb2.CancelJobRequest(owner=owner, job_id=job_id)
        response: jobs_pb2.CancelJobResponse = await self._ask(self._jobs.CancelJob, request)
        return response.job

    async def delete_job(self, owner: str, job_id: str) -> None:
        await self._ask(self._jobs.DeleteJob, jobs_pb2.DeleteJobRequest(owner=owner, job_id=job_id))

    async def watch_job(self, owner: str, job_id: str, after: int) -> AsyncGenerator[wire.Event, None]:
        """The job's events after number ``after``; waits as long as it takes for the next one."""
        request = jobs_pb2.WatchJobRequest(owner=owner, job_id=job_id, after_event=after)
        async with aclosing(self._stream(self._jobs.WatchJob, request, None)) as events:
            async for event in events:
                yield event

    async def transcript(self, owner: str, job_id: str) -> Transcript:
        request = jobs_pb2.GetTranscriptRequest(owner=owner, job_id=job_id)
        header = jobs_pb2.TranscriptHeader()
        segments: list[Segment] = []
        await self._reach()
        async with aclosing(self._stream(self._jobs.GetTranscript, request, CALL_SECONDS)) as parts:
            async for part in parts:
                if part.WhichOneof("part") == "header":
                    header = part.header
                else:
                    segments.append(wire.segment_value(part.segment))
        return wire.transcript_value(header, segments)

    # --- uploads

    async def create_upload(
        self, owner: str, filename: str, size_bytes: int = 0, sha256: str = "", request_id: str = ""
    ) -> uploads_pb2.Upload:
        """``size_bytes`` and ``sha256`` are what it must become; 0 and empty where that is not known."""
        request = uploads_pb2.CreateUploadRequest(
            owner=owner, filename=filename, size_bytes=size_bytes, sha256=sha256, request_id=request_id
        )
        response: uploads_pb2.CreateUploadResponse = await self._ask(self._uploads.CreateUpload, request)
        return response.upload

    async def get_upload(self, owner: str, upload_id: str, settle: bool = False) -> uploads_pb2.Upload:
        """With ``settle``, a stream that still writes it ends, and the offset stays as it is told."""
        request = uploads_pb2.GetUploadRequest(owner=owner, upload_id=upload_id, settle=settle)
        response: uploads_pb2.GetUploadResponse = await self._ask(self._uploads.GetUpload, request)
        return response.upload

    async def list_uploads(self, owner: str, sha256: str) -> list[uploads_pb2.Upload]:
        request = uploads_pb2.ListUploadsRequest(owner=owner, sha256=sha256)
        response: uploads_pb2.ListUploadsResponse = await self._ask(self._uploads.ListUploads, request)
        return list(response.uploads)

    async def delete_upload(self, owner: str, upload_id: str) -> None:
        await self._ask(self._uploads.DeleteUpload, uploads_pb2.DeleteUploadRequest(owner=owner, upload_id=upload_id))

    @asynccontextmanager
    async def write_upload(
        self, owner: str, upload_id: str, offset: int = 0, take_over: bool = False
    ) -> AsyncIterator[UploadStream]:
        """A stream that writes an upload from ``offset`` on; leaving the block before its answer came cancels it.

        With ``take_over``, another stream that writes it ends for this one.
        """
        call = self._uploads.WriteUpload(metadata=self._metadata)
        stream = UploadStream(call, offset, partial(self._ask_why, owner, upload_id, offset))
        try:
            await stream.send(_header(owner, upload_id, offset, take_over))
            yield stream
        finally:
            call.cancel()

    async def _ask_why(
        self, owner: str, upload_id: str, offset: int, last: uploads_pb2.WriteUploadRequest, begins_at: int
    ) -> ServiceError:
        """A stream that the other side ends in the middle of a write ends here without its reason: grpc.aio takes its own
        failed write for it. So the last message is sent once more, with nothing behind it; where bytes before it were lost
        on the way, an empty one in its place, since its own would come to lie where they belong.

        ``offset`` is where the stream began. Where nothing of it can have been written there, that was wrong, and is asked for again;
        so it is where its one message may have been written whole, for whoever hears of a wrong offset looks what there is.
        """
        upload = await self.get_upload(owner, upload_id, settle=True)
        at = upload.committed_bytes
        if at != begins_at:
            if 0 < upload.size_bytes == upload.committed_bytes:
                return ServiceError(UNREACHABLE)
            ends_at = begins_at + len(last.data)
            if not offset <= at <= ends_at or offset == begins_at < at == ends_at:
                at = offset
            last = uploads_pb2.WriteUploadRequest(data=b"")
        call = self._uploads.WriteUpload(metadata=self._metadata)
        try:
            await call.write(_header(owner, upload_id, at, take_over=True))
            await call.write(last)
            await _within(WHY_SECONDS, call)
        except asyncio.InvalidStateError:
            return ServiceError(UNREACHABLE)
        except grpc.aio.AioRpcError as error:
            return understood(error)
        except ServiceError as error:
            return error
        finally:
            call.cancel()
        return ServiceError(UNREACHABLE)

    # --- what all calls share

    async def _ask(self, method: Callable[..., Awaitable[Response]], request: object) -> Response:
        now = asyncio.get_running_loop().time
        deadline = now() + CALL_SECONDS
        await self._reach()
        try:
            return await method(request, timeout=deadline - now(), metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise understood(error) from error

    async def _reach(self) -> None:
        """Waits for the connection. Without this, calls fail at once until the channel's next try, up to 5 s later."""
        await _within(CONNECT_SECONDS, self._ready())

    async def _ready(self) -> None:
        while (state := self._channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            await self._channel.wait_for_state_change(state)

    async def _stream(
        self, method: Callable[..., Any], request: object, message_seconds: float | None
    ) -> AsyncGenerator[Any, None]:
        call = method(request, metadata=self._metadata)
        try:
            while (message := await _within(message_seconds, call.read())) is not grpc.aio.EOF:
                yield message
        except grpc.aio.AioRpcError as error:
            raise understood(error) from error
        finally:
            call.cancel()


class UploadStream:
    """One WriteUpload call. A finished `write` is not delivery: only what `finish` or `end` returns is.

    A task that is canceled in a `write` may still `end` the stream: what it had taken is handed on.
    """

    def __init__(
        self,
        call: Any,
        offset: int,
        ask_why: Callable[[uploads_pb2.WriteUploadRequest, int], Awaitable[ServiceError]],
    ) -> None:
        self._call = call
        self._ask_why = ask_why
        self._last = uploads_pb2.WriteUploadRequest()
        self._last_begins_at = offset
        self._writing: asyncio.Future[None] | None = None

    async def write(self, data: bytes) -> None:
        """Sends bytes, and waits while the controller cannot take more."""
        await self.send(uploads_pb2.WriteUploadRequest(data=data))

    async def finish(self) -> uploads_pb2.Upload:
        """Says that the recording is whole; returns the upload once it is durable and audio was found in it."""
        await self.send(uploads_pb2.WriteUploadRequest(finish=uploads_pb2.FinishUpload()))
        return await self.end(FINISH_SECONDS)

    async def end(self, limit: float = MESSAGE_SECONDS) -> uploads_pb2.Upload:
        """Says that no more comes for now; returns the upload once what came is durable."""
        try:
            if self._writing is not None:
                await _within(MESSAGE_SECONDS, self._writing)
            await self._call.done_writing()
            response: uploads_pb2.WriteUploadResponse = await _within(limit, self._call)
        except (asyncio.InvalidStateError, grpc.aio.AioRpcError) as error:
            raise await self._end() from error
        return response.upload

    async def send(self, message: uploads_pb2.WriteUploadRequest) -> None:
        self._last_begins_at += len(self._last.data)
        self._last = message
        self._writing = asyncio.ensure_future(self._call.write(message))
        self._writing.add_done_callback(_heard)
        try:
            # Canceled inside of `write`, gRPC would cancel the whole call.
            await _within(MESSAGE_SECONDS, asyncio.shield(self._writing))
        except (asyncio.InvalidStateError, grpc.aio.AioRpcError) as error:
            raise await self._end() from error

    async def _end(self) -> ServiceError:
        """Why the controller ended the stream before its last message."""
        try:
            await _within(CALL_SECONDS, self._call)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INTERNAL and not error.trailing_metadata():
                return await self._ask_why(self._last, self._last_begins_at)
            return understood(error)
        except ServiceError as error:
            return error
        return ServiceError(Reason.INTERNAL)


def is_being_checked(upload: uploads_pb2.Upload) -> bool:
    """Whether all bytes are there, and no more: a client takes the last offset for the end of it, which comes only after
    the content was checked."""
    return 0 < upload.size_bytes == upload.committed_bytes and not upload.complete


def _header(owner: str, upload_id: str, offset: int, take_over: bool) -> uploads_pb2.WriteUploadRequest:
    header = uploads_pb2.WriteUploadHeader(owner=owner, upload_id=upload_id, offset=offset, take_over=take_over)
    return uploads_pb2.WriteUploadRequest(header=header)


def _heard(written: asyncio.Future[None]) -> None:
    """Else a failure that nobody waits for any more would be told as one that was forgotten."""
    if not written.cancelled():
        written.exception()


async def _within(limit: float | None, waiting: Awaitable[Response]) -> Response:
    try:
        async with asyncio.timeout(limit):
            return await waiting
    except TimeoutError:
        raise ServiceError(UNREACHABLE) from None


def understood(error: grpc.aio.AioRpcError) -> ServiceError:
    """What a failed call means for the gateway's client, who cannot help it that the gateway's token is wrong."""
    meaning = service_error(error, UNREACHABLE)
    if meaning.reason is not Reason.UNAUTHENTICATED:
        return meaning
    return ServiceError(
        UNREACHABLE, "The controller refuses the gateway's token. Set CONTROLLER_TOKEN of both to the same value."
    )

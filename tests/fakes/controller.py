"""A controller in memory: proves the gateway's plumbing, nothing about transcription.

Jobs move when a test says so (`start`, `add_segment`, `complete`, ...); recordings are counted and digested, not kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from bulkscribe.jobs.v1 import jobs_pb2 as jobs
from bulkscribe.jobs.v1 import jobs_pb2_grpc, uploads_pb2_grpc
from bulkscribe.jobs.v1 import uploads_pb2 as uploads
from google.protobuf.duration_pb2 import Duration

from services.contract.errors import Reason, ServiceError
from services.controller.jobs import UploadId
from services.controller.turns import Turns
from services.runtime.server import Server

NOT_AUDIO = b"not audio"
ENDED = (jobs.JOB_STATUS_COMPLETE, jobs.JOB_STATUS_FAILED, jobs.JOB_STATUS_CANCELED)


def duration(seconds: float) -> Duration:
    message = Duration()
    message.FromMicroseconds(round(seconds * 1e6))
    return message


def segment(number: int, text: str = " hello", speaker: str = "", words: bool = False) -> jobs.TranscriptSegment:
    start, end = duration(number * 2), duration(number * 2 + 1.5)
    word = jobs.TranscriptWord(text=text, start=start, end=end, probability=0.5, speaker=speaker)
    return jobs.TranscriptSegment(
        id=number, start=start, end=end, text=text, speaker=speaker, words=[word] if words else []
    )


@dataclass
class StoredJob:
    owner: str
    message: jobs.Job
    events: list[jobs.WatchJobResponse] = field(default_factory=list)
    segments: list[jobs.TranscriptSegment] = field(default_factory=list)
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)


@dataclass
class StoredUpload:
    """``written`` counts what streams brought; what a cut one brought stays, as in a controller that syncs."""

    owner: str
    message: uploads.Upload
    declared_sha256: str = ""
    request_id: str = ""
    written: int = 0
    beginning: bytes = b""
    digest: Any = field(default_factory=hashlib.sha256)


@dataclass
class FakeController:
    """``full``, ``taking`` and ``finishes`` (by itself, when somebody asks) are switches for tests; ``canceled_writes``
    counts streams that were cut."""

    token: str | None = None
    jobs: dict[str, StoredJob] = field(default_factory=dict)
    uploads: dict[str, StoredUpload] = field(default_factory=dict)
    requests: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    runtime: jobs.GetRuntimeResponse = field(
        default_factory=lambda: jobs.GetRuntimeResponse(version="0.1.0", mode="off")
    )
    models: tuple[str, ...] = ("", "demo")
    full: bool = False
    finishes: bool = True
    taking: asyncio.Event = field(default_factory=asyncio.Event)
    digest: bool = True
    canceled_writes: int = 0
    turns: Turns = field(default_factory=Turns)
    open_watches: int = 0
    received: int = 0
    port: int = 0
    _numbers: Any = field(default_factory=lambda: itertools.count(1))
    _server: Server | None = None

    def __post_init__(self) -> None:
        self.taking.set()

    async def start(self) -> None:
        """Listens; after `stop`, on the same port again."""
        self._server = Server(
            [
                (
                    jobs.DESCRIPTOR.services_by_name["JobService"],
                    jobs_pb2_grpc.add_JobServiceServicer_to_server,
                    Jobs(self),
                ),
                (
                    uploads.DESCRIPTOR.services_by_name["UploadService"],
                    uploads_pb2_grpc.add_UploadServiceServicer_to_server,
                    Uploads(self),
                ),
            ],
            self.token,
        )
        self.port = await self._server.start(f"127.0.0.1:{self.port}")

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def new_id(self, kind: str) -> str:
        return f"{kind}-{next(self._numbers)}"

    # --- what a test does to a job

    async def change(
        self,
        job_id: str,
        status: jobs.JobStatus,
        stage: str = "",
        percent: float = 0,
        seconds_left: float | None = None,
        **more: str,
    ) -> None:
        job = self.jobs[job_id]
        job.message.status = status
        remaining = duration(seconds_left) if seconds_left is not None else None
        job.message.progress.CopyFrom(jobs.JobProgress(stage=stage, percent=percent, remaining=remaining))
        for name, value in more.items():
            setattr(job.message, name, value)
        changed = jobs.JobChanged(status=status, progress=job.message.progress, attempt=1, **more)
        await self._add(job, jobs.WatchJobResponse(changed=changed))

    async def add_segment(self, job_id: str, given: jobs.TranscriptSegment) -> None:
        job = self.jobs[job_id]
        job.segments.append(given)
        await self._add(job, jobs.WatchJobResponse(segment=given))

    def add_silence(self, job_id: str, start: float, end: float) -> None:
        """Voice that gave no words, in seconds."""
        stretch = jobs.Stretch(start=duration(start), end=duration(end))
        self.jobs[job_id].message.silent_stretches.append(stretch)

    async def complete(self, job_id: str, *segments: jobs.TranscriptSegment) -> None:
        for given in segments:
            await self.add_segment(job_id, given)
        await self.change(job_id, jobs.JOB_STATUS_COMPLETE, "done", 100)

    async def _add(self, job: StoredJob, event: jobs.WatchJobResponse) -> None:
        event.number = len(job.events) + 1
        job.message.last_event = event.number
        event.occurred_at.GetCurrentTime()
        job.events.append(event)
        async with job.moved:
            job.moved.notify_all()

    def job_of(self, request: Any) -> StoredJob:
        job = self.jobs.get(request.job_id)
        if job is None or job.owner != request.owner:
            raise ServiceError(Reason.NOT_FOUND)
        return job

    def upload_of(self, owner: str, upload_id: str) -> StoredUpload:
        upload = self.uploads.get(upload_id)
        if upload is None or upload.owner != owner:
            raise ServiceError(Reason.NOT_FOUND)
        return upload


class Jobs(jobs_pb2_grpc.JobServiceServicer):
    def __init__(self, controller: FakeController) -> None:
        self._controller = controller

    async def CreateJobs(self, request: jobs.CreateJobsRequest, context: Any) -> jobs.CreateJobsResponse:
        fake, key = self._controller, (request.owner, request.request_id)
        if request.options.model not in fake.models:
            raise ServiceError(
                Reason.MODEL_UNKNOWN, f"No worker offers the model {request.options.model!r}; choose demo."
            )
        if not request.request_id or key not in fake.requests:
            fake.requests[key] = [await self._create(request, upload_id) for upload_id in request.upload_ids]
        return jobs.CreateJobsResponse(jobs=[fake.jobs[job_id].message for job_id in fake.requests[key]])

    async def _create(self, request: jobs.CreateJobsRequest, upload_id: str) -> str:
        upload = self._controller.upload_of(request.owner, upload_id).message
        remote = request.options.use_remote_worker
        job = jobs.Job(
            job_id=self._controller.new_id("job"),
            upload_id=upload_id,
            filename=upload.filename,
            status=jobs.JOB_STATUS_QUEUED,
            execution_mode=jobs.EXECUTION_MODE_REMOTE if remote else jobs.EXECUTION_MODE_LOCAL,
            options=request.options,
            audio_duration=upload.duration,
            size_bytes=upload.committed_bytes,
        )
        job.created_at.GetCurrentTime()
        self._controller.jobs[job.job_id] = StoredJob(request.owner, job)
        await self._controller.change(job.job_id, jobs.JOB_STATUS_QUEUED, "waiting")
        return job.job_id

    async def GetJob(self, request: jobs.GetJobRequest, context: Any) -> jobs.GetJobResponse:
        return jobs.GetJobResponse(job=self._controller.job_of(request).message)

    async def ListJobs(self, request: jobs.ListJobsRequest, context: Any) -> jobs.ListJobsResponse:
        own = [job.message for job in reversed(self._controller.jobs.values()) if job.owner == request.owner]
        own = [job for job in own if request.status in (jobs.JOB_STATUS_UNSPECIFIED, job.status)]
        begin, size = int(request.page_token or 0), request.page_size or 50
        more = str(begin + size) if begin + size < len(own) else ""
        return jobs.ListJobsResponse(jobs=own[begin : begin + size], next_page_token=more)

    async def WatchJob(self, request: jobs.WatchJobRequest, context: Any) -> AsyncIterator[jobs.WatchJobResponse]:
        job, sent = self._controller.job_of(request), request.after_event
        self._controller.open_watches += 1
        try:
            while sent < len(job.events) or job.message.status not in ENDED:
                for event in job.events[sent:]:
                    yield event
                    sent = event.number
                async with job.moved:
                    await job.moved.wait_for(lambda seen=sent: len(job.events) > seen or job.message.status in ENDED)
        finally:
            self._controller.open_watches -= 1

    async def CancelJob(self, request: jobs.CancelJobRequest, context: Any) -> jobs.CancelJobResponse:
        job = self._controller.job_of(request)
        if job.message.status in ENDED:
            raise ServiceError(Reason.JOB_ENDED)
        await self._controller.change(request.job_id, jobs.JOB_STATUS_CANCELED, last_error_code="USER_CANCELED")
        return jobs.CancelJobResponse(job=job.message)

    async def DeleteJob(self, request: jobs.DeleteJobRequest, context: Any) -> jobs.DeleteJobResponse:
        if self._controller.job_of(request).message.status not in ENDED:
            raise ServiceError(Reason.JOB_NOT_ENDED)
        del self._controller.jobs[request.job_id]
        return jobs.DeleteJobResponse()

    async def GetTranscript(
        self, request: jobs.GetTranscriptRequest, context: Any
    ) -> AsyncIterator[jobs.GetTranscriptResponse]:
        job = self._controller.job_of(request)
        if job.message.status != jobs.JOB_STATUS_COMPLETE:
            raise ServiceError(Reason.TRANSCRIPT_NOT_READY)
        speakers = dict.fromkeys(given.speaker for given in job.segments if given.speaker)
        header = jobs.TranscriptHeader(
            language="en",
            duration=duration(60),
            speakers=speakers,
            filename=job.message.filename,
            silent_stretches=job.message.silent_stretches,
        )
        yield jobs.GetTranscriptResponse(header=header)
        for given in job.segments:
            yield jobs.GetTranscriptResponse(segment=given)

    async def GetRuntime(self, request: jobs.GetRuntimeRequest, context: Any) -> jobs.GetRuntimeResponse:
        return self._controller.runtime


class Uploads(uploads_pb2_grpc.UploadServiceServicer):
    """A recording that begins with NOT_AUDIO is refused when it is finished."""

    def __init__(self, controller: FakeController) -> None:
        self._controller = controller

    async def CreateUpload(self, request: uploads.CreateUploadRequest, context: Any) -> uploads.CreateUploadResponse:
        for known in self._controller.uploads.values():
            if request.request_id and (known.owner, known.request_id) == (request.owner, request.request_id):
                return uploads.CreateUploadResponse(upload=known.message)
        upload = uploads.Upload(
            upload_id=self._controller.new_id("upload"), filename=request.filename, size_bytes=request.size_bytes
        )
        stored = StoredUpload(request.owner, upload, request.sha256, request.request_id)
        self._controller.uploads[upload.upload_id] = stored
        return uploads.CreateUploadResponse(upload=upload)

    async def GetUpload(self, request: uploads.GetUploadRequest, context: Any) -> uploads.GetUploadResponse:
        stored = self._controller.upload_of(request.owner, request.upload_id)
        if request.settle:
            await self._controller.turns.settle(UploadId(request.upload_id))
            if 0 < stored.message.size_bytes == stored.written and self._controller.finishes:
                with suppress(ServiceError):
                    self._finished(stored)
                stored = self._controller.upload_of(request.owner, request.upload_id)
        return uploads.GetUploadResponse(upload=stored.message)

    async def ListUploads(self, request: uploads.ListUploadsRequest, context: Any) -> uploads.ListUploadsResponse:
        found = [
            stored.message
            for stored in self._controller.uploads.values()
            if stored.owner == request.owner and stored.message.complete and stored.message.sha256 == request.sha256
        ]
        return uploads.ListUploadsResponse(uploads=found)

    async def WriteUpload(
        self, requests: AsyncIterator[uploads.WriteUploadRequest], context: Any
    ) -> uploads.WriteUploadResponse:
        header = (await anext(requests)).header
        stored = self._controller.upload_of(header.owner, header.upload_id)
        try:
            async with self._controller.turns.take(UploadId(header.upload_id), header.take_over):
                if header.offset != stored.written:
                    raise ServiceError(Reason.UPLOAD_OFFSET_MISMATCH)
                return await self._write(stored, requests)
        except (asyncio.CancelledError, grpc.aio.AioRpcError):
            self._controller.canceled_writes += 1
            raise

    async def _write(
        self, stored: StoredUpload, requests: AsyncIterator[uploads.WriteUploadRequest]
    ) -> uploads.WriteUploadResponse:
        fake = self._controller
        async for request in requests:
            await fake.taking.wait()
            if fake.full:
                raise ServiceError(Reason.STORAGE_FULL)
            if request.WhichOneof("part") == "finish":
                return self._finished(stored)
            stored.written += len(request.data)
            stored.message.committed_bytes = stored.written
            fake.received += len(request.data)
            stored.beginning = stored.beginning or request.data[: len(NOT_AUDIO)]
            if fake.digest:
                stored.digest.update(request.data)
        fake.canceled_writes += 1
        return uploads.WriteUploadResponse(upload=stored.message)

    def _finished(self, stored: StoredUpload) -> uploads.WriteUploadResponse:
        upload, digest = stored.message, stored.digest.hexdigest()
        if not stored.written or stored.beginning == NOT_AUDIO:
            del self._controller.uploads[upload.upload_id]
            raise ServiceError(Reason.AUDIO_INVALID)
        if stored.declared_sha256 not in ("", digest):
            del self._controller.uploads[upload.upload_id]
            raise ServiceError(Reason.UPLOAD_DIGEST_MISMATCH)
        upload.committed_bytes, upload.size_bytes = stored.written, stored.written
        upload.complete, upload.sha256 = True, digest
        upload.duration.CopyFrom(duration(60))
        return uploads.WriteUploadResponse(upload=upload)

    async def DeleteUpload(self, request: uploads.DeleteUploadRequest, context: Any) -> uploads.DeleteUploadResponse:
        self._controller.upload_of(request.owner, request.upload_id)
        del self._controller.uploads[request.upload_id]
        return uploads.DeleteUploadResponse()

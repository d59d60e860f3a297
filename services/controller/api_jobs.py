"""JobService: what clients ask about jobs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import uuid4

import structlog
from bulkscribe.jobs.v1 import jobs_pb2, jobs_pb2_grpc

from services.contract.errors import ERRORS, Reason, ServiceError
from services.contract.limits import VERSION
from services.controller import admission, wire
from services.controller.dispatch import Dispatcher
from services.controller.jobs import (
    Change,
    ExecutionMode,
    FinishedWork,
    Job,
    JobError,
    JobId,
    JobState,
    Owner,
    Recording,
    TransitionError,
    UploadId,
    created,
)
from services.controller.journal import JobJournal
from services.controller.local_worker import LocalWorker
from services.controller.recordings import Recordings
from services.controller.scheduling import Demand, demand_of
from services.controller.settings import Mode
from services.controller.watchers import Watchers
from services.controller.workers import Capacity, WorkerLink
from services.runtime.interceptors import Context

log = structlog.get_logger()

DEFAULT_PAGE = 50
EVENTS_A_READ = 200

LOCAL_START_SECONDS = 5.0
"""Less than clients wait for an answer; starting takes about two."""

NO_WORKER = (
    "No remote worker is configured. Set REMOTE_WORKER_URL and REMOTE_WORKER_TOKEN with REMOTE_WORKER_MODE optional or "
    "required and restart the controller, or cancel the job."
)
"""A job that asked for a remote worker, in a controller that has none (any more)."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers and how they are used. The ``local`` one is also in ``links``."""

    mode: Mode
    links: list[WorkerLink]
    local: WorkerLink
    process: LocalWorker
    configured: bool

    async def wait_local(self) -> None:
        """Has the local worker started, and gives it a moment: what it offers decides about the jobs for it."""
        self.process.want()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOCAL_START_SECONDS):
                while self.local.capacity is None and not self.process.trouble:
                    await self.local.heard_within(None)

    def of(self, mode: ExecutionMode) -> list[WorkerLink]:
        return [link for link in self.links if link.mode is mode]

    def capacities(self, mode: ExecutionMode) -> list[Capacity | None]:
        """Of all workers that may run a job of this mode; None of one that was never heard."""
        return [link.capacity for link in self.of(mode)]


class JobApi(jobs_pb2_grpc.JobServiceServicer):
    def __init__(
        self, journal: JobJournal, watchers: Watchers, dispatcher: Dispatcher, fleet: Fleet, recordings: Recordings
    ) -> None:
        self._journal = journal
        self._store = journal.store
        self._watchers = watchers
        self._dispatcher = dispatcher
        self._fleet = fleet
        self._recordings = recordings

    async def CreateJobs(self, request: jobs_pb2.CreateJobsRequest, context: Context) -> jobs_pb2.CreateJobsResponse:
        owner = Owner(request.owner)
        jobs = await self._store.jobs_of_request(owner, request.request_id) if request.request_id else ()
        # To its end, also when the client goes away: a job that is stored must be in line.
        jobs = jobs or await asyncio.shield(asyncio.ensure_future(self._create(owner, request)))
        return jobs_pb2.CreateJobsResponse(jobs=[self._message(job) for job in jobs])

    async def _create(self, owner: Owner, request: jobs_pb2.CreateJobsRequest) -> tuple[Job, ...]:
        options = wire.options_of(request.options)
        mode = admission.execution_mode(self._fleet.mode, options)
        if mode is ExecutionMode.LOCAL:
            await self._fleet.wait_local()
        capacities = self._fleet.capacities(mode)
        admission.check_options(options, capacities)
        admission.check_diarization(options, capacities)
        recordings = {
            upload: await self._recording(owner, UploadId(upload)) for upload in dict.fromkeys(request.upload_ids)
        }
        for recording in recordings.values():
            admission.check_recording(recording, capacities)
        now, mark = datetime.now(UTC), self._dispatcher.wait_mark()
        new = [
            Job(JobId(uuid4().hex), owner, recordings[upload], options, mode, now, wait_mark=mark)
            for upload in request.upload_ids
        ]
        jobs = await self._store.create_jobs([created(job, now) for job in new], request.request_id)
        if jobs[0].id == new[0].id:
            log.info("jobs_created", count=len(jobs), mode=mode.value, first_job_id=jobs[0].id)
            self._dispatcher.submit(jobs)
        return jobs

    async def _recording(self, owner: Owner, upload_id: UploadId) -> Recording:
        upload = await self._recordings.owned(owner, upload_id)
        if not upload.complete:
            raise ServiceError(Reason.UPLOAD_INCOMPLETE)
        return Recording(upload.id, upload.filename, upload.sha256, upload.size_bytes, upload.duration_seconds)

    async def GetJob(self, request: jobs_pb2.GetJobRequest, context: Context) -> jobs_pb2.GetJobResponse:
        return jobs_pb2.GetJobResponse(job=self._message(await self._owned(request.owner, request.job_id)))

    async def ListJobs(self, request: jobs_pb2.ListJobsRequest, context: Context) -> jobs_pb2.ListJobsResponse:
        state = wire.STATES_BACK.get(request.status)
        try:
            page = await self._store.list_jobs(
                Owner(request.owner), state, request.page_size or DEFAULT_PAGE, request.page_token
            )
        except ValueError:
            raise ServiceError(Reason.INVALID_REQUEST, "The page token is not one that was given out.") from None
        return jobs_pb2.ListJobsResponse(
            jobs=[self._message(job) for job in page.jobs], next_page_token=page.next_token
        )

    async def WatchJob(
        self, request: jobs_pb2.WatchJobRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.WatchJobResponse]:
        job_id = JobId(request.job_id)
        last = request.after_event
        with self._watchers.watch(job_id) as watch:
            job = await self._owned(request.owner, job_id)
            ended = job.state.ended and last >= job.last_event
            while not ended:
                events = watch.following(last) or await self._store.events(job_id, last, EVENTS_A_READ)
                for event in events:
                    yield wire.event_message(event)
                    last = event.number
                    ended = isinstance(event, Change) and event.state.ended  # nothing follows it
                if not events:
                    now = await self._store.get_job(job_id)  # deleted, or watched from beyond its end
                    ended = now is None or (now.state.ended and last >= now.last_event)
                if not ended and len(events) < EVENTS_A_READ:
                    await watch.wait(last)

    async def CancelJob(self, request: jobs_pb2.CancelJobRequest, context: Context) -> jobs_pb2.CancelJobResponse:
        job = await self._owned(request.owner, request.job_id)
        error = JobError(Reason.USER_CANCELED.value, f"{ERRORS[Reason.USER_CANCELED].meaning}.")
        try:
            canceled = await self._journal.change(job.id, lambda current: current.cancel(datetime.now(UTC), error))
        except TransitionError as refused:
            raise ServiceError(
                Reason.JOB_ENDED, f"The job is already {refused.state.value}; there is nothing to cancel."
            ) from None
        if canceled is None:
            raise ServiceError(Reason.NOT_FOUND)
        self._dispatcher.forget(canceled.id)
        return jobs_pb2.CancelJobResponse(job=self._message(canceled))

    async def DeleteJob(self, request: jobs_pb2.DeleteJobRequest, context: Context) -> jobs_pb2.DeleteJobResponse:
        job = await self._owned(request.owner, request.job_id)
        if not job.state.ended:
            raise ServiceError(Reason.JOB_NOT_ENDED, f"The job is {job.state.value}; cancel it first.")
        await self._store.delete_job(job.id)
        self._watchers.notify(job.id)
        await self._recordings.remove_unused(job.recording.upload_id)
        log.info("job_deleted", job_id=job.id)
        return jobs_pb2.DeleteJobResponse()

    async def GetTranscript(
        self, request: jobs_pb2.GetTranscriptRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.GetTranscriptResponse]:
        job = await self._owned(request.owner, request.job_id)
        if job.state is not JobState.COMPLETE:
            raise ServiceError(Reason.TRANSCRIPT_NOT_READY, f"The job is {job.state.value}; there is no transcript.")
        finished = await self._store.finished_work(job.id)
        header = jobs_pb2.TranscriptHeader(
            language=job.language,
            duration=wire.duration(_duration(job, finished)),
            speakers=await self._speakers(job.id) if job.options.diarization else (),
            filename=job.recording.filename,
            turns=wire.turn_messages(finished),
            silent_stretches=wire.stretch_messages(job),
        )
        yield jobs_pb2.GetTranscriptResponse(header=header)
        async for final in self._store.segments(job.id):
            yield jobs_pb2.GetTranscriptResponse(segment=wire.segment_message(final))

    async def GetRuntime(self, request: jobs_pb2.GetRuntimeRequest, context: Context) -> jobs_pb2.GetRuntimeResponse:
        depth = self._dispatcher.depth()
        fleet = self._fleet
        return jobs_pb2.GetRuntimeResponse(
            version=VERSION,
            mode=fleet.mode,
            configured=fleet.configured,
            workers=[wire.worker_message(link.status()) for link in fleet.of(ExecutionMode.REMOTE)],
            local_worker=wire.worker_message(fleet.local.status()),
            queue=jobs_pb2.QueueDepth(
                queued=depth[JobState.QUEUED],
                queued_remote=depth[JobState.QUEUED_REMOTE],
                running=depth[JobState.RUNNING],
            ),
        )

    async def _owned(self, owner: str, job_id: str) -> Job:
        job = await self._store.get_job(JobId(job_id))
        if job is None or job.owner != owner:
            raise ServiceError(Reason.NOT_FOUND, "There is no such job in this session.")
        return job

    async def _speakers(self, job_id: JobId) -> Sequence[str]:
        """In the order of appearance."""
        speakers: dict[str, None] = {}
        async for final in self._store.segments(job_id):
            if final.segment.speaker:
                speakers.setdefault(final.segment.speaker)
        return list(speakers)

    def _message(self, job: Job) -> jobs_pb2.Job:
        return wire.job_message(conditioned(job, self._fleet, self._dispatcher.refusal(job.id)))


def _duration(job: Job, finished: FinishedWork) -> float:
    """As the worker decoded it; headers may be wrong."""
    return finished.plan.duration_seconds if finished.plan is not None else job.recording.duration_seconds


def conditioned(job: Job, fleet: Fleet, refusal: JobError | None) -> Job:
    """The job with what it waits for: a condition of its workers, not a state of its own, so nothing is stored."""
    if job.state.ended:
        return job
    if refusal is not None and job.state is not JobState.RUNNING:
        return replace(job, message=refusal.message, error=refusal)
    links = fleet.of(job.mode)
    if job.state is JobState.RUNNING:
        links = [link for link in links if job.worker is not None and link.name == job.worker.url]
    if any(link.connected for link in links):
        if job.state is JobState.RUNNING or job.stage != "waiting":
            return job
        if (away := _able_and_away(links, demand_of(job))) is not None:
            what = _FOR_SPEAKERS if job.options.diarizes_voices else _for_model(job.options.model)
            return replace(job, message=f"{what} {away.message}", error=away)
        if job.options.diarizes_voices and (missing := _diarization_trouble(links)):
            return replace(job, message=f"{_FOR_SPEAKERS} {missing}")
        return replace(job, message="Waiting for worker capacity")
    job = replace(job, seconds_left=None)  # nobody knows how the worker gets on
    if job.mode is ExecutionMode.LOCAL:
        return replace(job, message=fleet.process.trouble or "The local worker is starting")
    trouble = next((link.error for link in links if link.error is not None), None)
    if trouble is None and not links:
        trouble = JobError(Reason.REMOTE_WORKER_UNREACHABLE.value, NO_WORKER)
    if trouble is None:
        return replace(job, message="Waiting for the worker to be reached")
    return replace(job, message=trouble.message, error=trouble)


_FOR_SPEAKERS = "Waiting for a worker that tells speakers apart."


def _for_model(model: str) -> str:
    return f"Waiting for a worker with {f'the model {model!r}' if model else 'its default model'}."


def _diarization_trouble(links: Sequence[WorkerLink]) -> str:
    """Why no worker that is there can tell speakers apart now, while one may be able to later; nothing where one can."""
    here = [link.capacity for link in links if link.connected and link.capacity is not None]
    if any(capacity.diarization for capacity in here):
        return ""
    return next((capacity.diarization_note for capacity in here if not capacity.diarization_error), "")


def _able_and_away(links: Sequence[WorkerLink], demand: Demand) -> JobError | None:
    """Why a worker cannot be reached that could take the job, or might, while none that is there can."""
    here = [link.offer() for link in links if link.connected]
    if any(offer.may_do(demand) or not offer.tells(demand) for offer in here):
        return None
    away = [(link, link.offer()) for link in links if not link.connected]
    return next((link.error for link, offer in away if offer.serves(demand) or not offer.tells(demand)), None)

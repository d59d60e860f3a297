"""One attempt of one job at one worker: dispatched or found running, followed to its outcome, whatever the link does.

Each event is made durable before it is acknowledged. A stream that breaks is no failure: the attempt goes on at
the worker, and this side attaches again once the heartbeat is back.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog
from bulkscribe.worker.v1 import worker_pb2

from services.contract.errors import ERRORS, Reason, ServiceError
from services.controller import wire
from services.controller.jobs import (
    AttemptState,
    ExecutionMode,
    FinishedWork,
    Job,
    JobError,
    JobUpdate,
    Plan,
    Stretch,
    TransitionError,
    Verb,
    WorkerRef,
    changed,
    with_segments,
)
from services.controller.journal import JobJournal
from services.controller.run_stream import LinkLostError, RunStream, upload_audio
from services.controller.store.protocol import ConflictError
from services.controller.wait_clock import WaitClock
from services.controller.workers import WorkerLink, capacity_of
from services.runtime.backoff import Backoff
from services.runtime.blobs import BlobFolder

log = structlog.get_logger()

CRASHES_ALLOWED = 3
"""Attempts that an engine's death may cost a job: after so many it is the recording that kills it."""


BEGINS_ANEW = (
    "The recording is cut otherwise than before (another model, or another version); its transcript begins anew."
)
"""Told to watchers, who have segments that are no longer part of it."""

NOT_HELD = frozenset({Reason.ATTEMPT_UNKNOWN, Reason.ATTEMPT_STALE})
"""What a worker says of an attempt that it does not have. A stream that was taken over is none of them: whoever did it
(a call that the network repeated) does not follow the attempt, and this side takes it back."""


@dataclass(frozen=True, slots=True)
class AttemptSettings:
    """``lease_seconds``: how long to wait for a worker that is gone; None where no other could take the job."""

    run_seconds: float
    lease_seconds: float | None
    retry_seconds: float


@dataclass(frozen=True, slots=True)
class Stores:
    """What an attempt writes to and reads from."""

    journal: JobJournal
    blobs: BlobFolder
    clock: WaitClock


class Attempt:
    """Drives one attempt; ``job`` is the job as last made durable."""

    def __init__(self, job: Job, number: int, link: WorkerLink, stores: Stores, settings: AttemptSettings) -> None:
        self.job = job
        self.number = number
        self.link = link
        self._stores = stores
        self._journal = stores.journal
        self._settings = settings
        self._abandoned = False
        self._stream: RunStream | None = None
        # As it was when this attempt began: nobody else adds to it since.
        self._finished: FinishedWork | None = None if job.attempt else FinishedWork()
        self._finished_windows: set[int] | None = None
        self._plan: Plan | None = None
        self._backoff = Backoff(settings.retry_seconds / 8, settings.retry_seconds)
        self._log = log.bind(job_id=job.id, attempt=number, worker=link.name)

    @property
    def abandoned(self) -> bool:
        """Whether the job has ended or gone on without this attempt."""
        return self._abandoned

    async def dispatch(self) -> AttemptState:
        """Uploads the recording, has the attempt accepted, and follows it. The caller reserved a credit.

        Raises ServiceError when the worker refuses, LinkLostError when it is not known whether it did.
        """
        capacity = None
        try:
            await self._upload()
            if self._abandoned:
                return AttemptState.ENDED
            try:
                accepted = await self._ask()
            except ServiceError as refusal:
                if refusal.reason is not Reason.AUDIO_MISSING or not self.link.forget_sent(self.job.recording.sha256):
                    raise
                await self._upload()  # its disk lost what it had
                if self._abandoned:
                    return AttemptState.ENDED
                accepted = await self._ask()
            capacity = capacity_of(accepted.capacity)
        finally:
            self.link.release(capacity)
        try:
            await self._note_start(accepted.worker_job_id)
            return await self._follow_through()
        finally:
            self._close()

    async def attach(self) -> AttemptState:
        """Finds an attempt that the worker may hold, and follows it."""
        try:
            return await self._attach_and_follow()
        finally:
            self._close()

    async def abandon(self) -> None:
        """The job is no longer this attempt's: the worker is told to stop, now or once it can be reached."""
        self._abandoned = True
        if self._stream is not None and not await self._stream.send(wire.cancel_message()):
            self._log.info("remote_cancel_postponed")

    # --- dispatch

    async def _upload(self) -> None:
        audio = wire.audio_message(self.job)
        now = asyncio.get_running_loop().time
        begun = now()
        path = self._stores.blobs.path(audio.sha256)
        sent = await upload_audio(self.link, audio, path, lambda: not self._abandoned)
        if sent:
            seconds = round(now() - begun, 3)
            self._log.info(self.link.event("audio_uploaded"), bytes=sent, seconds=seconds)

    async def _ask(self) -> worker_pb2.Accepted:
        store = self._journal.store
        finished = await self._finished_before()
        await store.note_dispatch(self.job, self.number, WorkerRef(self.link.name), datetime.now(UTC))
        self._stream = RunStream(self.link)
        await self._stream.send(wire.dispatch_message(self.job, self.number, finished))
        try:
            return await self._stream.answer()
        except BaseException:
            self._close()
            raise

    async def _note_start(self, worker_job_id: str) -> None:
        try:
            await self._started(worker_job_id)
        except (ConflictError, TransitionError):  # canceled while the worker was asked
            await self.abandon()

    async def _started(self, worker_job_id: str) -> None:
        now = datetime.now(UTC)
        gpu = self.link.capacity is not None and self.link.capacity.gpu
        worker = WorkerRef(self.link.name, worker_job_id, gpu, now)
        self.job = await self._journal.record(changed(self.job.start(now, self.number, worker), now))
        self._log.info(self.link.event("job_started"), worker_job_id=worker_job_id)

    # --- follow

    async def _follow_through(self) -> AttemptState:
        try:
            return await self._follow()
        except (LinkLostError, ServiceError) as error:
            self._log.warning(self.link.event("stream_lost"), error=str(error))
            return await self._attach_and_follow()

    async def _attach_and_follow(self) -> AttemptState:
        while await self._link_is_back():
            try:
                await self._attach()
                return await self._follow()
            except LinkLostError:
                await asyncio.sleep(self._backoff.failed())
            except ServiceError as error:
                self._log.warning(self.link.event("attempt_lost"), reason=error.reason.value, error=error.message)
                if error.reason not in NOT_HELD:  # a fault on the way; the attempt itself goes on
                    await asyncio.sleep(self._backoff.failed())
                    continue
                return await self._give_back("The worker lost the job; it goes on from what was finished.")
        self._log.warning("remote_lease_over")
        return await self._give_back("The worker could not be reached; another one goes on.")

    async def _link_is_back(self) -> bool:
        """False when the lease is over before the worker is heard again."""
        return await self.link.heard_within(None if self._abandoned else self._settings.lease_seconds)

    async def _attach(self) -> None:
        self._close()
        self._stream = RunStream(self.link)
        await self._stream.send(wire.attach_message(self.job, self.number))
        await self._stream.answer()
        self._log.info("remote_attempt_attached", after_event=self.job.worker_event)
        if self._abandoned:
            await self._stream.send(wire.cancel_message())

    async def _follow(self) -> AttemptState:
        assert self._stream is not None
        while True:
            events = await self._next()
            if events is None:
                continue
            self._backoff.succeeded()
            ending = await self._take(events)
            await self._stream.send(wire.acknowledge_message(events[-1].number))
            if ending is not None:  # it is durable, whether or not the worker hears of it now
                await self._stream.finish()
                return ending

    async def _next(self) -> list[worker_pb2.Event] | None:
        """The next events; None when the job has run for too long, which ends it. Only reachable time counts."""
        assert self._stream is not None
        left = None if self._abandoned else max(0.0, self._settings.run_seconds - self.job.run_seconds)
        now = asyncio.get_running_loop().time
        begun = now()
        try:
            return await self._stream.events(left)
        except TimeoutError:
            await self._time_out()
            return None
        finally:
            ran = now() - begun
            self.job = replace(self.job, run_seconds=self.job.run_seconds + ran)

    async def _take(self, messages: list[worker_pb2.Event]) -> AttemptState | None:
        """Makes events durable. None: more will come."""
        ended = AttemptState.ENDED if messages[-1].WhichOneof("kind") == "outcome" else None
        fresh = [message for message in messages if message.number > self.job.worker_event]
        if self._abandoned or not fresh:
            return ended
        try:
            return await self._apply(fresh)
        except (ConflictError, TransitionError):  # it was canceled, or another attempt has it
            await self.abandon()
            return ended

    async def _apply(self, messages: list[worker_pb2.Event]) -> AttemptState | None:
        """All in one step, but for an outcome that ends the attempt and not the job's work."""
        step = JobUpdate(self.job)
        for message in messages:
            event = wire.worker_event(message)
            if isinstance(event, wire.Failed | wire.Canceled | wire.HandedBack):
                if step.job is not self.job:
                    self.job = await self._journal.record(step)
                return await self._ended_early(message.number, event)
            if isinstance(event, Plan) and self._plan is not None and step.job is not self.job:
                # it may make what the step adds forgotten
                step = JobUpdate(await self._journal.record(step))
                self.job = step.job
            step = step.then(await self._update(step.job, message.number, event))
        self.job = await self._journal.record(step)
        return AttemptState.ENDED if self.job.state.ended else None

    async def _update(self, job: Job, number: int, event: wire.WorkerEvent | None) -> JobUpdate:
        now = datetime.now(UTC)
        worker = replace(job.worker, last_seen_at=now) if job.worker else None
        job = replace(job, worker_event=number, worker=worker)
        match event:
            case wire.StageReported(stage, detail):
                return changed(replace(job, stage=stage, message=detail), now)
            case wire.ProgressReported(percent, seconds_left):
                return changed(replace(job, percent=max(percent, job.percent), seconds_left=seconds_left), now)
            case Plan():
                return await self._planned(job, event)
            case wire.TurnsReported(payload):
                return JobUpdate(job, turns=payload)
            case wire.SpeakerChunkReported(index, payload):
                return JobUpdate(job, speaker_chunks=((index, payload),))
            case wire.DecodedReported(index, payload):
                return JobUpdate(job, decoded_windows=((index, payload),))
            case wire.WindowReported():
                return await self._window_finished(job, event)
            case wire.Completed(note=note):
                return replace(changed(job.complete(now, note), now), attempt_ended=AttemptState.ENDED)
            case _:
                return JobUpdate(job)

    async def _planned(self, job: Job, plan: Plan) -> JobUpdate:
        known = self._plan or (await self._finished_before()).plan
        self._plan = plan
        job = replace(job, language=plan.language)
        if known is None:
            return JobUpdate(job, plan=plan)
        if known.fingerprint == plan.fingerprint:
            return JobUpdate(job)
        self._finished_windows = set()
        anew = replace(job, percent=0.0, seconds_left=None, segment_count=0, silent_stretches=(), message=BEGINS_ANEW)
        return replace(changed(anew, datetime.now(UTC)), plan=plan, forget_finished_work=True)

    async def _window_finished(self, job: Job, window: wire.WindowReported) -> JobUpdate:
        """A window that an earlier attempt finished stays as it is: its segments were told to watchers already."""
        if self._finished_windows is None:
            self._finished_windows = set((await self._finished_before()).windows)
        if window.index in self._finished_windows:
            return JobUpdate(job)
        self._finished_windows.add(window.index)
        silent = await self._stretch(window.index) if window.silent else None
        return with_segments(job, window.index, window.segments, silent)

    async def _stretch(self, window: int) -> Stretch | None:
        """Where the window lies. The plan may come in the same step, or have come to an earlier process of this program."""
        plan = self._plan or (await self._finished_before()).plan
        return wire.window_stretch(plan, window) if plan is not None else None

    async def _finished_before(self) -> FinishedWork:
        if self._finished is None:
            self._finished = await self._journal.store.finished_work(self.job.id)
        return self._finished

    # --- ends

    async def _ended_early(self, number: int, outcome: wire.Failed | wire.Canceled | wire.HandedBack) -> AttemptState:
        match outcome:
            case wire.Failed():
                return await self._failed(replace(self.job, worker_event=number), outcome)
            case wire.HandedBack(message):
                return await self._give_back(message)
            case _:
                return await self._give_back("The worker gave the job up; it waits for another attempt.")

    async def _failed(self, job: Job, failure: wire.Failed) -> AttemptState:
        reason = Reason.__members__.get(failure.reason)
        if reason is not None and ERRORS[reason].retryable and not await self._crashed_too_often():
            self._log.warning(self.link.event("attempt_failed"), reason=failure.reason, error=failure.message)
            return await self._give_back(failure.message, AttemptState.CRASHED)
        code = Reason.REMOTE_FAILED if job.mode is ExecutionMode.REMOTE else Reason.LOCAL_FAILED
        now = datetime.now(UTC)
        failed = changed(job.fail(now, JobError(code.value, failure.message)), now)
        self.job = await self._journal.record(replace(failed, attempt_ended=AttemptState.ENDED))
        return AttemptState.ENDED

    async def _crashed_too_often(self) -> bool:
        """Attempts that were lost otherwise are no fault of the recording."""
        return await self._journal.store.crashes(self.job.id) + 1 >= CRASHES_ALLOWED

    async def _time_out(self) -> None:
        now = datetime.now(UTC)
        entry = ERRORS[Reason.REMOTE_WORKER_TIMEOUT]
        message = f"{entry.meaning} ({self._settings.run_seconds:g} s). {entry.action}."
        failed = self.job.fail(now, JobError(Reason.REMOTE_WORKER_TIMEOUT.value, message))
        try:
            self.job = await self._journal.record(replace(changed(failed, now), attempt_ended=AttemptState.ENDED))
        except ConflictError:
            self._log.info("remote_timeout_overtaken")
        await self.abandon()

    async def _give_back(self, message: str, ending: AttemptState = AttemptState.LOST) -> AttemptState:
        """The job waits for its next attempt, unless it has ended or gone on without this one."""
        if self._abandoned:
            return AttemptState.ENDED

        def requeue(job: Job) -> Job:
            if job.attempt != self.number:
                raise TransitionError(job, Verb.REQUEUE)
            return job.requeue(message, self._stores.clock.read())

        waiting = await self._journal.change_if_allowed(self.job.id, requeue, ending)
        return ending if waiting is not None else AttemptState.ENDED

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

"""Hands waiting jobs to workers that have a free slot, and keeps one task for each job that runs.

Woken by what changes (a job comes, a slot is free, a worker is heard or lost); it never looks at a queue that
nothing happened to. The queue is in memory; the store is what it is made from at the start.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from services.contract.errors import ERRORS, Reason, ServiceError
from services.controller import wire
from services.controller.attempt import Attempt, AttemptSettings, Ending, Stores
from services.controller.jobs import WAITING, ExecutionMode, Job, JobError, JobId, JobState
from services.controller.run_stream import LinkLostError, upload_audio
from services.controller.scheduling import ReadyQueue, demand_of
from services.controller.store.protocol import Dispatch
from services.controller.workers import WorkerLink
from services.runtime.backoff import Backoff

log = structlog.get_logger()

CLOCK_SAVE_SECONDS = 30.0
"""How much of the waiting time a crash may forget."""

OF_CAPACITY = frozenset({Reason.WORKER_FULL, Reason.WORKER_DRAINING})
"""Refusals that say nothing of the job itself: it keeps its place, and the worker is asked for nothing until it reports."""

LATE_SHARE = 0.1
"""How late a wait may be ended, of the time that it may take."""


@dataclass(frozen=True, slots=True)
class DispatchSettings:
    """All in seconds, as the settings of the same names."""

    run_seconds: float
    capacity_seconds: float
    lease_seconds: float
    retry_seconds: float


class Dispatcher:
    """Owns the queue and the running attempts. ``want_local`` starts the local worker, once there is a job for it."""

    def __init__(
        self, stores: Stores, links: list[WorkerLink], settings: DispatchSettings, want_local: Callable[[], None]
    ) -> None:
        self._want_local = want_local
        self._stores = stores
        self._journal = stores.journal
        self._links = links
        self._settings = settings
        self._queue = ReadyQueue()
        self._waiting: dict[JobId, ExecutionMode] = {}
        self._running: dict[JobId, Attempt] = {}
        self._refusals: dict[JobId, JobError] = {}
        self._ahead: dict[str, JobId] = {}
        self._changed = asyncio.Event()
        self._backoff = Backoff(settings.retry_seconds / 8, settings.retry_seconds)
        self._tasks: asyncio.TaskGroup | None = None

    # --- what others tell

    def wake(self) -> None:
        """A worker came, went, or can take more or less."""
        remote = [link for link in self._links if link.mode is ExecutionMode.REMOTE]
        self._stores.clock.run(any(link.connected for link in remote))
        self._changed.set()

    def submit(self, jobs: Iterable[Job]) -> None:
        """Takes new jobs."""
        for job in jobs:
            self._enqueue(job)
        self._changed.set()

    def forget(self, job_id: JobId) -> None:
        """The job was canceled in the store: it leaves the queue, or its worker is told."""
        self._queue.discard(job_id)
        self._waiting.pop(job_id, None)
        self._refusals.pop(job_id, None)
        attempt = self._running.get(job_id)
        if attempt is not None and self._tasks is not None:
            self._tasks.create_task(attempt.abandon(), name=f"abandon {job_id}")

    def worker_holds(self, link: WorkerLink, held: list[tuple[str, int]]) -> None:
        """A worker that was just heard names its attempts: those that nobody here follows are settled."""
        for job_id, number in held:
            running = self._running.get(JobId(job_id))
            if self._tasks is not None and (running is None or (running.link, running.number) != (link, number)):
                self._tasks.create_task(self._settle(link, JobId(job_id), number), name=f"settle {job_id}/{number}")

    def wait_mark(self) -> float:
        """Where a job that begins to wait now stands on the clock that its wait is measured by."""
        return self._stores.clock.read()

    def refusal(self, job_id: JobId) -> JobError | None:
        """Why a worker last refused a job that waits to be asked for again."""
        return self._refusals.get(job_id)

    def depth(self) -> Counter[JobState]:
        """How many jobs wait and run; one that is being dispatched still waits."""
        modes = Counter(self._waiting.values())
        asked = Counter(attempt.job.state for attempt in self._running.values())
        return Counter(
            {
                JobState.QUEUED: modes[ExecutionMode.LOCAL] + asked[JobState.QUEUED],
                JobState.QUEUED_REMOTE: modes[ExecutionMode.REMOTE] + asked[JobState.QUEUED_REMOTE],
                JobState.RUNNING: asked[JobState.RUNNING],
            }
        )

    # --- the loops

    async def run(self) -> None:
        """Dispatches until it is canceled; running attempts go on at their workers."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                await self._resume()
                tasks.create_task(self._expire_waiting(), name="expire waiting jobs")
                while True:
                    await self._changed.wait()
                    self._changed.clear()
                    self._dispatch_all(tasks)
                    self._bring_ahead(tasks)
        finally:
            self._tasks = None

    def _dispatch_all(self, tasks: asyncio.TaskGroup) -> None:
        by_url = {link.url: link for link in self._links}
        while taken := self._queue.take(link.offer() for link in self._links):
            job_id, url = taken
            by_url[url].reserve()
            tasks.create_task(self._run_job(job_id, by_url[url]), name=f"job {job_id}")

    def _bring_ahead(self, tasks: asyncio.TaskGroup) -> None:
        """Each worker gets the recording of its next job while it works on another, so that no slot waits for it."""
        for link in self._links:
            job_id = self._queue.upcoming(link.offer()) if link.connected else None
            if job_id is not None and self._ahead.get(link.url) != job_id:
                self._ahead[link.url] = job_id
                tasks.create_task(self._bring(link, job_id), name=f"bring {job_id}")

    async def _bring(self, link: WorkerLink, job_id: JobId) -> None:
        """Whatever is wrong is left to the dispatch, which tells people."""
        job = await self._journal.store.get_job(job_id)
        if job is None or job.state not in WAITING:
            return
        audio = wire.audio_message(job)
        try:
            sent = await upload_audio(link, audio, self._stores.blobs.path(audio.sha256))
        except (LinkLostError, ServiceError, OSError) as error:
            log.info("remote_audio_not_brought_ahead", job_id=job_id, worker=link.name, error=str(error))
        else:
            log.info("remote_audio_brought_ahead", job_id=job_id, worker=link.name, bytes=sent)

    async def _resume(self) -> None:
        jobs = await self._journal.store.unfinished_jobs()
        for job in jobs:
            link = self._link_of(job)
            if job.state is not JobState.RUNNING:
                self._enqueue(job)
            elif link is not None:
                self._attach(job, job.attempt, link)
            else:
                await self._requeue_orphan(job)
        log.info("jobs_resumed", waiting=len(self._queue), running=len(self._running))
        self._changed.set()

    def _link_of(self, job: Job) -> WorkerLink | None:
        url = job.worker.url if job.worker else None
        return next((link for link in self._links if link.url == url), None)

    async def _requeue_orphan(self, job: Job) -> None:
        mark = self._stores.clock.read()
        text = "Its worker is gone; the job waits for another."
        waiting = await self._journal.change_if_allowed(job.id, lambda current: current.requeue(text, mark))
        if waiting is not None:
            self._enqueue(waiting, front=True)

    def _enqueue(self, job: Job, front: bool = False) -> None:
        if job.mode is ExecutionMode.LOCAL:
            self._want_local()
        self._waiting[job.id] = job.mode
        put = self._queue.push_front if front else self._queue.push
        put(job.id, demand_of(job))

    # --- one job

    async def _run_job(self, job_id: JobId, link: WorkerLink) -> None:
        """Dispatches a job for which a credit was reserved."""
        job = await self._journal.store.get_job(job_id)
        if job is None or job.state not in WAITING:
            link.release()
            return
        number = next_attempt(job, await self._journal.store.last_dispatch(job_id), link.url)
        attempt = self._begin(job, number, link)
        try:
            ending = await attempt.dispatch()
        except ServiceError as refusal:
            await self._refused(attempt, refusal)
        except LinkLostError:
            log.info("remote_dispatch_interrupted", job_id=job_id, worker=link.name)
            await self._back_in_line(job_id)
        except Exception:  # noqa: BLE001 - one job's fault (a full disk, a bug) must not end the others
            await self._recover(attempt)
        else:
            await self._ended(attempt, ending)
        finally:
            self._done(attempt)

    def _attach(self, job: Job, number: int, link: WorkerLink, abandoned: bool = False) -> None:
        assert self._tasks is not None
        attempt = self._begin(job, number, link)
        self._tasks.create_task(self._run_attached(attempt, abandoned), name=f"job {job.id}")

    async def _run_attached(self, attempt: Attempt, abandoned: bool) -> None:
        try:
            if abandoned:
                await attempt.abandon()
            await self._ended(attempt, await attempt.attach())
        except Exception:  # noqa: BLE001 - one job's fault (a full disk, a bug) must not end the others
            await self._recover(attempt)
        finally:
            self._done(attempt)

    async def _recover(self, attempt: Attempt) -> None:
        """Goes on, after a pause, from what the store holds."""
        job_id, tasks = attempt.job.id, self._tasks
        log.exception("job_interrupted", job_id=job_id, attempt=attempt.number)
        await asyncio.sleep(self._backoff.failed())
        if tasks is not None:
            tasks.create_task(self._resume_job(job_id), name=f"resume {job_id}")

    async def _resume_job(self, job_id: JobId) -> None:
        job = await self._journal.store.get_job(job_id)
        link = self._link_of(job) if job is not None else None
        if job is not None and job.state is JobState.RUNNING and link is not None:
            self._attach(job, job.attempt, link)
        else:
            await self._back_in_line(job_id)
            self._changed.set()

    def _begin(self, job: Job, number: int, link: WorkerLink) -> Attempt:
        others = any(other is not link and other.mode is link.mode for other in self._links)
        settings = AttemptSettings(
            self._settings.run_seconds, self._settings.lease_seconds if others else None, self._settings.retry_seconds
        )
        attempt = Attempt(job, number, link, self._stores, settings)
        self._running[job.id] = attempt
        self._waiting.pop(job.id, None)
        return attempt

    def _done(self, attempt: Attempt) -> None:
        if self._running.get(attempt.job.id) is attempt:
            del self._running[attempt.job.id]
        self._changed.set()

    async def _ended(self, attempt: Attempt, ending: Ending) -> None:
        job_id = attempt.job.id
        self._backoff.succeeded()
        self._refusals.pop(job_id, None)
        await self._journal.store.end_attempt(job_id, attempt.number, ending.value, datetime.now(UTC))
        if ending is Ending.LOST:
            await self._back_in_line(job_id)

    async def _back_in_line(self, job_id: JobId, front: bool = True) -> None:
        job = await self._journal.store.get_job(job_id)
        if job is not None and job.state in WAITING:
            self._enqueue(job, front)

    async def _refused(self, attempt: Attempt, refusal: ServiceError) -> None:
        """A worker that could take it later costs no attempt; any other refusal is the job's end."""
        job, link = attempt.job, attempt.link
        await self._journal.store.end_attempt(job.id, attempt.number, "refused", datetime.now(UTC))
        log.warning(
            "remote_dispatch_refused",
            job_id=job.id,
            worker=link.name,
            reason=refusal.reason.value,
            error=refusal.message,
        )
        if refusal.reason in OF_CAPACITY:
            link.hold()
            await asyncio.sleep(self._backoff.failed())
            await self._back_in_line(job.id)
            return
        if refusal.retryable:  # behind the others, which may fit where this one does not
            said = f"{link.subject} cannot take the job now: {refusal.message}"
            self._refusals[job.id] = JobError(refusal.reason.value, said)
            await asyncio.sleep(self._backoff.failed())
            await self._back_in_line(job.id, front=False)
            return
        self._refusals.pop(job.id, None)
        remote = job.mode is ExecutionMode.REMOTE
        code = Reason.REMOTE_DISPATCH_FAILED if remote else Reason.LOCAL_DISPATCH_FAILED
        error = JobError(code.value, refusal.message)
        await self._journal.change_if_allowed(job.id, lambda current: current.fail(datetime.now(UTC), error))

    async def _settle(self, link: WorkerLink, job_id: JobId, number: int) -> None:
        """Decides about an attempt that a worker holds: follow it, or have it stopped and forgotten."""
        job = await self._journal.store.get_job(job_id)
        if job is None or job_id in self._running:
            return  # another controller's, or in good hands
        asked = await self._journal.store.last_dispatch(job_id)
        ours = asked is not None and (asked.number, asked.worker_url) == (number, link.url)
        if job.state in WAITING and ours:
            self._queue.discard(job_id)
            link.reserve()
            await self._run_job(job_id, link)
        elif job.state is JobState.RUNNING and job.attempt == number and ours:
            self._attach(job, number, link)
        else:
            self._attach(job, number, link, abandoned=True)

    # --- waiting has an end

    async def _expire_waiting(self) -> None:
        clock, saved = self._stores.clock, self._stores.clock.read()
        longest = min(CLOCK_SAVE_SECONDS, self._settings.capacity_seconds * LATE_SHARE)
        while True:
            pause = min([longest, *[max(left, 0.05) for left in await self._expire_heads()]])
            await asyncio.sleep(pause)
            if clock.read() - saved >= CLOCK_SAVE_SECONDS:
                saved = clock.read()
                await self._journal.store.write_wait_clock(saved)

    async def _expire_heads(self) -> list[float]:
        """Fails the jobs at the heads that waited too long; returns the seconds that the others have left."""
        left = []
        for job_id in self._queue.oldest(ExecutionMode.REMOTE):
            job = await self._journal.store.get_job(job_id)
            if job is None:
                self.forget(job_id)
                continue
            remaining = job.wait_mark + self._settings.capacity_seconds - self._stores.clock.read()
            if remaining > 0:
                left.append(remaining)
            elif job_id in self._queue:
                self._queue.discard(job_id)
                self._waiting.pop(job_id, None)
                self._refusals.pop(job_id, None)
                await self._fail_waiting(job_id)
                left.append(0.0)
        return left

    async def _fail_waiting(self, job_id: JobId) -> None:
        entry = ERRORS[Reason.REMOTE_WORKER_CAPACITY]
        message = f"{entry.meaning} ({self._settings.capacity_seconds:g} s). {entry.action}."
        error = JobError(Reason.REMOTE_WORKER_CAPACITY.value, message)
        await self._journal.change_if_allowed(job_id, lambda job: job.fail(datetime.now(UTC), error))


def next_attempt(job: Job, asked: Dispatch | None, url: str) -> int:
    """The number to dispatch with. One that was asked for and never begun is asked for again where it cannot be
    running anywhere else: at the same worker, or after a refusal."""
    if asked is None or asked.number <= job.attempt:
        return job.attempt + 1
    if asked.ending == "refused" or asked.worker_url == url:
        return asked.number
    return asked.number + 1

"""Hands waiting jobs to workers that have a free slot, and keeps one task for each job that runs.

Woken by what changes (a job comes, a slot is free, a worker is heard or lost); it never looks at a queue that
nothing happened to. The queue is in memory; the store is what it is made from at the start.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from typing import Any

import structlog

from services.contract.errors import ERRORS, Reason, ServiceError
from services.controller import wire
from services.controller.attempt import Attempt, AttemptSettings, Stores
from services.controller.dismissals import Dismissals
from services.controller.jobs import WAITING, AttemptState, ExecutionMode, Job, JobError, JobId, JobState
from services.controller.run_stream import LinkLostError, upload_audio
from services.controller.scheduling import ReadyQueue, Waits, demand_of
from services.controller.store.protocol import Dispatch
from services.controller.workers import WorkerLink
from services.runtime.backoff import Backoff

log = structlog.get_logger()

CLOCK_SAVE_SECONDS = 30.0
"""How much of the waiting time a crash may forget."""

OF_CAPACITY = frozenset({Reason.WORKER_FULL, Reason.WORKER_DRAINING})
"""Refusals that say nothing of the job itself: it keeps its place, and the worker is asked for nothing until it reports."""

FAULTS_ALLOWED = 3
"""Dispatches that a worker may answer with a fault of its own before the job is told of it."""

LATE_SHARE = 0.1
"""How late a wait may be ended, of the time that it may take."""


class Place(Enum):
    """Where a job goes on waiting."""

    OWN = "own"  # it had its turn, and lost it through no fault of its own
    BACK = "back"
    UNKNOWN = "unknown"  # it may have been accepted: what was asked for is looked at before anything else is


Work = Callable[[], Awaitable[Place | None]]


@dataclass(frozen=True, slots=True)
class DispatchSettings:
    """All in seconds, as the settings of the same names."""

    run_seconds: float
    capacity_seconds: float
    lease_seconds: float
    retry_seconds: float


class Dispatcher:
    """Owns the queue and the running attempts. ``want_local`` starts the local worker, once there is a job for it.

    Invariant: a job is in at most one task's hand; whoever comes for it meanwhile comes again when it was let go.
    """

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
        self._waits = Waits()
        self._in_hand: set[JobId] = set()
        self._taken_meanwhile: set[JobId] = set()
        self._running: dict[JobId, Attempt] = {}
        self._refusals: dict[JobId, JobError] = {}
        self._faults: dict[JobId, list[tuple[str, int]]] = {}
        self._suspects: set[JobId] = set()
        self._alone_at: dict[JobId, WorkerLink] = {}
        self._dismissals = Dismissals(stores.journal.store, self._spawn)
        self._ahead: dict[str, JobId] = {}
        self._held_early: list[tuple[WorkerLink, list[tuple[str, int]]]] = []
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
        self._leave_line(job_id)
        attempt = self._running.get(job_id)
        if attempt is not None:
            self._spawn(f"abandon {job_id}", attempt.abandon())

    def worker_holds(self, link: WorkerLink, held: list[tuple[str, int]]) -> None:
        """A worker that was just heard names its attempts: those that nobody here follows are settled."""
        if self._tasks is None:  # what is ours is not known yet
            self._held_early.append((link, held))
            return
        for name, number in held:
            job_id = JobId(name)
            running = self._running.get(job_id)
            if running is not None and (running.link, running.number) == (link, number):
                continue
            if job_id in self._in_hand:
                self._spawn(f"look at {job_id}/{number}", self._dismiss_stale(link, job_id, number))
            else:
                self._take_in_hand(job_id, partial(self._settle, link, job_id, number))

    def wait_mark(self) -> float:
        """Where a job that begins to wait now stands on the clock that its wait is measured by."""
        return self._stores.clock.read()

    def refusal(self, job_id: JobId) -> JobError | None:
        """Why a worker last refused a job that waits to be asked for again."""
        return self._refusals.get(job_id)

    def depth(self) -> Counter[JobState]:
        """How many jobs wait and run; one that is being dispatched still waits."""
        modes = Counter(self._waiting.values())
        asked = Counter(attempt.job.state for attempt in self._running.values() if not attempt.abandoned)
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
        jobs = await self._journal.store.unfinished_jobs()
        asked = await self._journal.store.asked_jobs()
        self._suspects = set(await self._journal.store.crashed_jobs())
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                self._resume(jobs, asked)
                self._spawn("expire waiting jobs", self._expire_waiting())
                while True:
                    await self._changed.wait()
                    self._changed.clear()
                    self._dispatch_all()
                    self._bring_ahead()
            finally:
                self._tasks = None  # a group that ends takes no more

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Nothing, while the dispatcher ends: what is in the store is gone on with by the next one."""
        if self._tasks is None:
            work.close()
        else:
            self._tasks.create_task(work, name=name)

    def _resume(self, jobs: Iterable[Job], asked: frozenset[JobId]) -> None:
        for job in jobs:
            self._queue.arrive(job.id)
            if job.state is JobState.RUNNING or job.id in asked:
                self._take_in_hand(job.id, partial(self._resume_job, job.id))
            else:
                self._enqueue(job)
        log.info("jobs_resumed", waiting=len(self._queue), running=len(self._in_hand))
        early, self._held_early = self._held_early, []
        for link, held in early:
            self.worker_holds(link, held)
        self._changed.set()

    def _dispatch_all(self) -> None:
        by_url = {link.url: link for link in self._links}
        while taken := self._queue.take(link.offer() for link in self._links):
            job_id, url = taken
            if job_id in self._in_hand:
                self._taken_meanwhile.add(job_id)
            else:
                by_url[url].reserve()
                if job_id in self._suspects:
                    self._alone_at[job_id] = by_url[url]
                    by_url[url].shut(True)
                self._take_in_hand(job_id, partial(self._run_job, job_id, by_url[url]))

    def _bring_ahead(self) -> None:
        """Each worker gets the recording of its next job while it works on another, so that no slot waits for it."""
        for link in self._links:
            job_id = self._queue.upcoming(link.offer()) if link.connected else None
            if job_id is not None and job_id not in self._ahead.values():
                self._ahead[link.url] = job_id
                self._spawn(f"bring {job_id}", self._bring(link, job_id))

    async def _bring(self, link: WorkerLink, job_id: JobId) -> None:
        """Whatever is wrong is left to the dispatch, which tells people."""
        try:
            job = await self._journal.store.get_job(job_id)
            if job is None or job.state not in WAITING:
                return
            audio = wire.audio_message(job)
            sent = await upload_audio(link, audio, self._stores.blobs.path(audio.sha256), lambda: True)
        except Exception as error:  # noqa: BLE001 - see above
            log.info("remote_audio_not_brought_ahead", job_id=job_id, worker=link.name, error=str(error))
        else:
            log.info("remote_audio_brought_ahead", job_id=job_id, worker=link.name, bytes=sent)

    # --- who has a job in hand, and who waits

    def _take_in_hand(self, job_id: JobId, work: Work) -> None:
        """Starts a task that sees the job through; nobody else touches the job meanwhile."""
        if self._tasks is not None and job_id not in self._in_hand:
            self._in_hand.add(job_id)
            self._spawn(f"job {job_id}", self._see_through(job_id, work))

    async def _see_through(self, job_id: JobId, work: Work) -> None:
        """Whatever happens to the store, the disk or the link: one job's trouble must not end the others."""
        waiting: Job | None = None
        place: Place | None = None
        try:
            while True:
                try:
                    place = await work()
                    if place is Place.UNKNOWN:
                        work = partial(self._resume_job, job_id)
                        continue
                    job = await self._journal.store.get_job(job_id)
                    waiting = job if job is not None and job.state in WAITING else None
                    break
                except Exception:
                    log.exception("remote_job_interrupted", job_id=job_id)
                    await asyncio.sleep(self._backoff.failed())
                    work = partial(self._resume_job, job_id)
        finally:
            self._in_hand.discard(job_id)
            self._running.pop(job_id, None)
            if (link := self._alone_at.pop(job_id, None)) is not None:
                link.shut(False)
        if job_id in self._taken_meanwhile:
            self._taken_meanwhile.discard(job_id)
            place = place or Place.OWN
        if waiting is None:
            self._leave_line(job_id)
        elif place is not None or job_id not in self._queue:  # a job that waits is in line, whatever happened
            self._enqueue(waiting, place or Place.OWN)
            self._expire_longest()  # a job that is asked for again and again is seldom found in line
        self._changed.set()

    def _enqueue(self, job: Job, place: Place = Place.OWN) -> None:
        if job.mode is ExecutionMode.LOCAL:
            self._want_local()
        else:
            self._waits.begin(job.id, job.wait_mark)
        self._waiting[job.id] = job.mode
        put = self._queue.push_back if place is Place.BACK else self._queue.push
        put(job.id, demand_of(job, alone=job.id in self._suspects))

    def _leave_line(self, job_id: JobId) -> None:
        self._queue.forget(job_id)
        self._waits.end(job_id)
        self._waiting.pop(job_id, None)
        self._refusals.pop(job_id, None)
        self._faults.pop(job_id, None)
        self._suspects.discard(job_id)

    # --- one job

    async def _run_job(self, job_id: JobId, link: WorkerLink) -> Place | None:
        """Dispatches a job for which a credit was reserved. Returns where it goes on waiting, if it does."""
        attempt: Attempt | None = None
        try:
            job = await self._journal.store.get_job(job_id)
            if job is None or job.state not in WAITING:
                self._leave_line(job_id)
                return None
            number = next_attempt(job, await self._journal.store.last_dispatch(job_id), link.name)
            attempt = self._begin(job, number, link)
        finally:
            if attempt is None:
                link.release()
        try:
            ending = await attempt.dispatch()
        except ServiceError as refusal:
            return await self._refused(attempt, refusal)
        except LinkLostError:
            log.info("remote_dispatch_interrupted", job_id=job_id, worker=link.name)
            await asyncio.sleep(self._backoff.failed())
            return Place.UNKNOWN
        return await self._ended(attempt, ending)

    async def _follow_job(self, job: Job, link: WorkerLink) -> Place | None:
        attempt = self._begin(job, job.attempt, link)
        return await self._ended(attempt, await attempt.attach())

    async def _resume_job(self, job_id: JobId) -> Place | None:
        """Goes on from what the store holds."""
        job = await self._journal.store.get_job(job_id)
        if job is None or job.state is not JobState.RUNNING:
            waits = job is not None and job.state in WAITING
            if job is not None and waits:
                self._waiting[job_id] = job.mode
                self._running.pop(job_id, None)
            return await self._resume_asked(job_id, waits)
        link = self._link_at(job.worker.url if job.worker else "")
        if link is not None:
            return await self._follow_job(job, link)
        mark, text = self._stores.clock.read(), "Its worker is gone; the job waits for another."
        await self._journal.change_if_allowed(job_id, lambda current: current.requeue(text, mark), AttemptState.LOST)
        return Place.OWN

    async def _resume_asked(self, job_id: JobId, waits: bool) -> Place | None:
        """A worker that was asked may have accepted: for a job that ``waits`` it is asked again before any other is,
        unless its lease ends first; for one that has ended it is told, now or when it names the attempt."""
        asked = await self._journal.store.last_dispatch(job_id)
        if asked is None or asked.state is not AttemptState.ASKED:
            return Place.OWN
        link = self._link_at(asked.worker_url)
        if link is None or not await link.heard_within(self._lease_seconds(link) if waits else 0.0):
            return Place.OWN
        return await self._settle(link, job_id, asked.number)

    def _lease_seconds(self, link: WorkerLink) -> float | None:
        """How long to wait for a worker that is gone; None where no other could take its jobs."""
        others = any(other is not link and other.mode is link.mode for other in self._links)
        return self._settings.lease_seconds if others else None

    def _link_at(self, url: str) -> WorkerLink | None:
        return next((link for link in self._links if link.name == url), None)

    def _begin(self, job: Job, number: int, link: WorkerLink) -> Attempt:
        settings = AttemptSettings(self._settings.run_seconds, self._lease_seconds(link), self._settings.retry_seconds)
        attempt = Attempt(job, number, link, self._stores, settings)
        self._running[job.id] = attempt
        self._waits.end(job.id)
        self._waiting.pop(job.id, None)
        return attempt

    async def _ended(self, attempt: Attempt, ending: AttemptState) -> Place | None:
        job_id = attempt.job.id
        self._refusals.pop(job_id, None)
        if not attempt.job.state.ended:  # else it ended in the same step
            await self._journal.store.end_attempt(job_id, attempt.number, ending, datetime.now(UTC))
        if ending is AttemptState.ENDED:
            self._backoff.succeeded()
            return None
        await asyncio.sleep(
            self._backoff.failed()
        )  # a worker that gives back all that it gets is not asked at full speed
        if ending is AttemptState.CRASHED:
            self._suspects.add(job_id)
            return Place.BACK
        return Place.OWN

    async def _refused(self, attempt: Attempt, refusal: ServiceError) -> Place | None:
        """A worker that could take it later costs no attempt; any other refusal is the job's end."""
        job, link = attempt.job, attempt.link
        used_up = refusal.reason is Reason.ATTEMPT_STALE  # it ran there, and was stopped or forgotten since
        state = AttemptState.LOST if used_up else AttemptState.REFUSED
        await self._journal.store.end_attempt(job.id, attempt.number, state, datetime.now(UTC))
        log.warning(
            link.event("dispatch_refused"),
            job_id=job.id,
            worker=link.name,
            reason=refusal.reason.value,
            error=refusal.message,
        )
        if used_up or refusal.reason in OF_CAPACITY:
            if not used_up:
                link.hold()
            await asyncio.sleep(self._backoff.failed())
            return Place.OWN
        # Behind the others, which may fit where this one does not.
        if refusal.retryable or self._may_be_chance(job.id, link, refusal):
            said = f"{link.subject} cannot take the job now: {refusal.message}"
            self._refusals[job.id] = JobError(refusal.reason.value, said)
            link.pause()
            return Place.BACK
        self._refusals.pop(job.id, None)
        remote = job.mode is ExecutionMode.REMOTE
        code = Reason.REMOTE_DISPATCH_FAILED if remote else Reason.LOCAL_DISPATCH_FAILED
        error = JobError(code.value, refusal.message)
        await self._journal.change_if_allowed(job.id, lambda current: current.fail(datetime.now(UTC), error))
        return None

    def _may_be_chance(self, job_id: JobId, link: WorkerLink, refusal: ServiceError) -> bool:
        """A fault of the worker's program, or on the way to it, says nothing of the job unless it comes every time, and
        from workers that take others meanwhile."""
        if refusal.reason is not Reason.INTERNAL:
            return False
        met = self._faults.setdefault(job_id, [])
        if (link.name, link.accepted) not in met:
            met.append((link.name, link.accepted))
        return len(met) < FAULTS_ALLOWED

    # --- attempts that workers hold and nobody here follows

    async def _settle(self, link: WorkerLink, job_id: JobId, number: int) -> Place | None:
        """Follows an attempt that was found, or has it stopped and forgotten."""
        job = await self._journal.store.get_job(job_id)
        asked = await self._journal.store.last_dispatch(job_id)
        if job is None or asked is None:
            if await self._journal.store.was_left_behind(job_id, number):
                self._dismissals.begin(link, job_id, number)
            return None  # else another controller's
        ours = (asked.number, asked.worker_url) == (number, link.name)
        if job.state in WAITING and ours and asked.state in (AttemptState.ASKED, AttemptState.REFUSED):
            self._queue.discard(job_id)
            link.reserve()
            return await self._run_job(job_id, link)
        if job.state is JobState.RUNNING and job.attempt == number and ours:
            return await self._follow_job(job, link)
        if not await self._is_asked_by_another_name(link, number, asked):
            await self._give_up(link, job_id, number, asked)
        return None

    async def _is_asked_by_another_name(self, link: WorkerLink, number: int, asked: Dispatch) -> bool:
        """Whether the attempt was asked of this very worker, at another address that still answers: there it is followed."""
        other = self._link_at(asked.worker_url)
        if asked.number != number or other is None or other is link:
            return False
        heard = await other.heard_within(self._lease_seconds(other))
        return heard and link.instance_id != "" and link.instance_id == other.instance_id

    async def _give_up(self, link: WorkerLink, job_id: JobId, number: int, asked: Dispatch) -> None:
        """Durably, where it is the one that was asked for last: its number is never asked for again."""
        if (asked.number, asked.worker_url) == (number, link.name):
            await self._journal.store.end_attempt(job_id, number, AttemptState.LOST, datetime.now(UTC))
        self._dismissals.begin(link, job_id, number)

    async def _dismiss_stale(self, link: WorkerLink, job_id: JobId, number: int) -> None:
        """The job goes on elsewhere, or in another attempt: this one is stopped, so that its slot is free."""
        try:
            asked = await self._journal.store.last_dispatch(job_id)
            running = self._running.get(job_id)  # after the wait: it may have gone on meanwhile
            if running is not None:
                stale = (running.number, running.link) != (number, link)
            else:
                stale = asked is not None and (asked.number, asked.worker_url) != (number, link.name)
            if stale and asked is not None and not await self._is_asked_by_another_name(link, number, asked):
                await self._give_up(link, job_id, number, asked)
        except Exception:
            log.exception("remote_attempt_not_dismissed", job_id=job_id, attempt=number, worker=link.name)

    # --- waiting has an end

    async def _expire_waiting(self) -> None:
        clock, saved = self._stores.clock, self._stores.clock.read()
        longest = min(CLOCK_SAVE_SECONDS, self._settings.capacity_seconds * LATE_SHARE)
        while True:
            await asyncio.sleep(min(longest, max(self._expire_longest(), 0.05)))
            if clock.read() - saved >= CLOCK_SAVE_SECONDS:
                saved = clock.read()
                try:
                    await self._journal.store.write_wait_clock(saved)
                except Exception:  # a full disk: it is written the next time
                    log.exception("remote_capacity_clock_not_saved")

    def _expire_longest(self) -> float:
        """Has the jobs failed that waited too long; returns the seconds that the next one has left."""
        in_hand = []
        left = self._settings.capacity_seconds
        while (longest := self._waits.longest()) is not None:
            mark, job_id = longest
            remaining = mark + self._settings.capacity_seconds - self._stores.clock.read()
            if remaining > 0:
                left = remaining
                break
            if job_id in self._in_hand:
                self._waits.end(job_id)
                in_hand.append((job_id, mark))
            else:
                self._queue.discard(job_id)  # its place remains, for it may go on waiting
                self._waits.end(job_id)
                self._take_in_hand(job_id, partial(self._expire, job_id))
        for job_id, mark in in_hand:  # looked at again once it was let go
            self._waits.begin(job_id, mark)
        return min(left, 1.0) if in_hand else left

    async def _expire(self, job_id: JobId) -> None:
        job = await self._journal.store.get_job(job_id)
        if job is None or job.state not in WAITING:
            return
        if self._waits_for_who_is_away(job):
            mark = self._stores.clock.read()
            await self._journal.change_if_allowed(job_id, lambda current: replace(current, wait_mark=mark))
        else:
            await self._fail_waiting(job_id)

    def _waits_for_who_is_away(self, job: Job) -> bool:
        """That a worker cannot be reached is no fault of the jobs that only it can run."""
        demand = demand_of(job)
        links = [link for link in self._links if link.mode is job.mode]
        if any(link.connected and link.offer().may_do(demand) for link in links):
            return False
        away = [link.offer() for link in links if not link.connected]
        return any(offer.serves(demand) or not offer.tells(demand) for offer in away)

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
    here = asked.state is AttemptState.ASKED and asked.worker_url == url
    return asked.number if here or asked.state is AttemptState.REFUSED else asked.number + 1

"""A controller's store whose steps take time, fail when a scenario asks for it, and are cut by crashes.

A write is: a delay, the commit, a delay; a crash falls before or after the commit, never into it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from random import Random
from typing import Any

from services.controller.jobs import (
    WAITING,
    AttemptState,
    Change,
    FinalSegment,
    FinishedWork,
    Job,
    JobId,
    JobState,
    JobUpdate,
    Owner,
    WorkerRef,
)
from services.controller.store.protocol import Dispatch, Page, StoreFullError, Upload
from tests.fakes.store import MemoryStore, Tables
from tests.simulation.invariants import Rules
from tests.simulation.process import Process


class DiskError(Exception):
    """What a scenario has a store raise."""


class SimulatedStore:
    """Implements services.controller.store.protocol.Store, as far as controllers without uploads ask.

    ``around`` is called before and after each commit, with "before" or "after" and what is committed; it may kill the
    process.
    """

    def __init__(
        self,
        tables: Tables,
        process: Process,
        rules: Rules,
        random: Random,
        around: Callable[[str, str], None],
    ) -> None:
        self._memory = MemoryStore(tables)
        self._process = process
        self._rules = rules
        self._random = random
        self._around = around
        self.failing = 0.0
        """The probability that a write fails; reads fail less often, and not at the start, which is then over."""
        self.started = False

    # --- reads

    async def get_upload(self, upload_id: Any) -> Upload | None:
        await self._pause()
        return await self._memory.get_upload(upload_id)

    async def jobs_of_request(self, owner: Owner, request_id: str) -> tuple[Job, ...]:
        await self._pause()
        return await self._memory.jobs_of_request(owner, request_id)

    async def get_job(self, job_id: JobId) -> Job | None:
        await self._read()
        return await self._memory.get_job(job_id)

    async def list_jobs(self, owner: Owner, state: JobState | None, limit: int, token: str) -> Page:
        await self._pause()
        return await self._memory.list_jobs(owner, state, limit, token)

    async def unfinished_jobs(self) -> Sequence[Job]:
        await self._pause()
        return await self._memory.unfinished_jobs()

    async def crashed_jobs(self) -> frozenset[JobId]:
        await self._pause()
        return await self._memory.crashed_jobs()

    async def was_left_behind(self, job_id: JobId, attempt: int) -> bool:
        await self._read()
        return await self._memory.was_left_behind(job_id, attempt)

    async def forget_left_behind(self, job_id: JobId, attempt: int) -> None:
        await self._pause()
        await self._memory.forget_left_behind(job_id, attempt)

    async def asked_jobs(self) -> frozenset[JobId]:
        await self._pause()
        return await self._memory.asked_jobs()

    async def last_dispatch(self, job_id: JobId) -> Dispatch | None:
        await self._read()
        return await self._memory.last_dispatch(job_id)

    async def crashes(self, job_id: JobId) -> int:
        await self._read()
        return await self._memory.crashes(job_id)

    async def finished_work(self, job_id: JobId) -> FinishedWork:
        await self._read()
        return await self._memory.finished_work(job_id)

    async def events(self, job_id: JobId, after: int, limit: int) -> Sequence[Change | FinalSegment]:
        await self._pause()
        return await self._memory.events(job_id, after, limit)

    async def segments(self, job_id: JobId) -> AsyncIterator[FinalSegment]:
        await self._pause()
        async for final in self._memory.segments(job_id):
            yield final

    async def read_wait_clock(self) -> float:
        await self._pause()
        return await self._memory.read_wait_clock()

    # --- writes

    async def create_jobs(self, created: Sequence[JobUpdate], request_id: str) -> tuple[Job, ...]:
        async def commit() -> tuple[Job, ...]:
            jobs = await self._memory.create_jobs(created, request_id)
            self._rules.created(self._memory.tables, jobs)
            return jobs

        return await self._write(commit)

    async def save(self, update: JobUpdate) -> Job:
        async def commit() -> Job:
            check = self._rules.saving(self._memory.tables, update)
            job = await self._memory.save(update)
            check()
            return job

        row = self._memory.tables.jobs.get(update.job.id)
        starts = row is not None and row.job.state in WAITING and update.job.state is JobState.RUNNING
        return await self._write(commit, "start" if starts else "end" if update.job.state.ended else "event")

    async def note_dispatch(self, job: Job, attempt: int, worker: WorkerRef, now: datetime) -> None:
        async def commit() -> None:
            check = self._rules.dispatching(self._memory.tables, job, attempt, worker.url)
            await self._memory.note_dispatch(job, attempt, worker, now)
            check()

        await self._write(commit, "dispatch")

    async def end_attempt(self, job_id: JobId, attempt: int, state: AttemptState, now: datetime) -> None:
        await self._write(lambda: self._memory.end_attempt(job_id, attempt, state, now))

    async def write_wait_clock(self, seconds: float) -> None:
        await self._write(lambda: self._memory.write_wait_clock(seconds))

    async def _write(self, commit: Callable[[], Any], kind: str = "") -> Any:
        await self._pause()
        self._around("before", kind)
        self._process.require_life()
        if self.failing and self._random.random() < self.failing:
            raise StoreFullError if self._random.random() < 0.5 else DiskError("the disk is not what it was")
        result = await commit()
        self._around("after", kind)
        await self._pause()
        return result

    async def _read(self) -> None:
        await self._pause()
        if self.failing and self.started and self._random.random() < self.failing / 4:
            raise DiskError("the disk is not what it was")

    async def _pause(self) -> None:
        self._process.require_life()
        await asyncio.sleep(self._random.expovariate(500.0))
        self._process.require_life()

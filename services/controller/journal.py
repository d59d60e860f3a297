"""Writes what happens to jobs: durable first, then told to whoever watches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from services.controller.jobs import AttemptState, ExecutionMode, Job, JobId, JobUpdate, TransitionError, changed
from services.controller.store.protocol import ConflictError, Store
from services.controller.watchers import Watchers

log = structlog.get_logger()


class JobJournal:
    """The one way to change a stored job."""

    def __init__(self, store: Store, watchers: Watchers) -> None:
        self.store = store
        self._watchers = watchers

    async def record(self, update: JobUpdate) -> Job:
        """Raises ConflictError when the job is no longer what ``update`` was made from."""
        job = await self.store.save(update)
        self._watchers.notify(job.id, update.events)
        if job.state.ended:
            log.info(
                "remote_job_ended" if job.mode is ExecutionMode.REMOTE else "local_job_ended",
                job_id=job.id,
                state=job.state.value,
                attempt=job.attempt,
                code=job.error.code if job.error else None,
            )
        return job

    async def change(
        self, job_id: JobId, verb: Callable[[Job], Job], attempt_ended: AttemptState | None = None
    ) -> Job | None:
        """Applies a verb to the job as it stands, again when somebody else was faster; None for no such job.

        In the same step its attempt ends, where it does. Raises TransitionError when the job's state does not allow it.
        """
        while True:
            job = await self.store.get_job(job_id)
            if job is None:
                return None
            try:
                step = changed(verb(job), datetime.now(UTC))
                return await self.record(replace(step, attempt_ended=attempt_ended))
            except ConflictError:
                continue

    async def change_if_allowed(
        self, job_id: JobId, verb: Callable[[Job], Job], attempt_ended: AttemptState | None = None
    ) -> Job | None:
        """As `change`; None also when the job has gone on without us."""
        try:
            return await self.change(job_id, verb, attempt_ended)
        except TransitionError:
            return None

"""What the controller needs of a store. Every write is durable when it returns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.controller.jobs import (
    AttemptState,
    Change,
    FinalSegment,
    FinishedWork,
    Job,
    JobId,
    JobState,
    JobUpdate,
    Owner,
    UploadId,
    WorkerRef,
)


class StoreFullError(Exception):
    """There is no room for what was to be written; nothing was."""


class ConflictError(Exception):
    """The job was changed by somebody else since it was read; nothing was written."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A recording, whole or on its way.

    ``sha256``, ``size_bytes`` and the duration are there once it is sealed: all of it was verified, and its file is
    about to become the blob of its digest, which is complete. ``declared_...`` is what it must become, where that was
    said when it was begun.
    """

    id: UploadId
    owner: Owner
    filename: str
    created_at: datetime
    size_bytes: int = 0
    sha256: str = ""
    duration_seconds: float = 0.0
    complete: bool = False
    request_id: str = ""
    declared_bytes: int = 0
    declared_sha256: str = ""
    completed_at: datetime | None = None

    @property
    def sealed(self) -> bool:
        return bool(self.sha256)


@dataclass(frozen=True, slots=True)
class Page:
    """``next_token`` is empty on the last page."""

    jobs: tuple[Job, ...]
    next_token: str


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Who was asked to run which attempt, and what is known of it."""

    number: int
    worker_url: str
    state: AttemptState


class Store(Protocol):
    async def open(self) -> None:
        """Migrates to the newest schema. Raises StoreError with a message for people."""

    async def close(self) -> None: ...

    async def create_upload(self, upload: Upload) -> Upload:
        """The upload, or the one that the same owner made before with the same request id."""

    async def get_upload(self, upload_id: UploadId) -> Upload | None: ...

    async def incomplete_uploads(self) -> Sequence[Upload]: ...

    async def uploads_of_content(self, owner: Owner, sha256: str) -> Sequence[Upload]:
        """The owner's complete ones, oldest first."""

    async def unused_uploads(self, before: datetime) -> Sequence[Upload]:
        """Those that were complete before a moment, and that no job refers to."""

    async def save_upload(self, upload: Upload) -> None: ...

    async def delete_upload(self, upload_id: UploadId) -> bool:
        """False, and nothing done, while a job refers to it."""

    async def blob_in_use(self, sha256: str) -> bool:
        """Whether an upload is, or is about to be, of this content."""

    async def blobs_in_use(self) -> frozenset[str]:
        """All their digests."""

    async def create_jobs(self, created: Sequence[JobUpdate], request_id: str) -> tuple[Job, ...]:
        """The jobs, or those that the same owner created before with the same non-empty request id."""

    async def jobs_of_request(self, owner: Owner, request_id: str) -> tuple[Job, ...]:
        """In the order of their creation; none for a request that was never made."""

    async def get_job(self, job_id: JobId) -> Job | None: ...

    async def list_jobs(self, owner: Owner, state: JobState | None, limit: int, token: str) -> Page:
        """Newest first. Raises ValueError for a token that this store did not give."""

    async def unfinished_jobs(self) -> Sequence[Job]:
        """All that have not ended, oldest first; for the start."""

    async def save(self, update: JobUpdate) -> Job:
        """Writes if ``update.job.version`` is still the stored one; returns the job with the next version.

        Raises ConflictError.
        """

    async def note_dispatch(self, job: Job, attempt: int, worker: WorkerRef, now: datetime) -> None:
        """Makes durable, before the worker is asked, who is asked to run which attempt.

        Raises ConflictError for an attempt that has ended.
        """

    async def asked_jobs(self) -> frozenset[JobId]:
        """Jobs that wait, though a worker was asked to run a new attempt: it may have accepted."""

    async def last_dispatch(self, job_id: JobId) -> Dispatch | None: ...

    async def end_attempt(self, job_id: JobId, attempt: int, state: AttemptState, now: datetime) -> None:
        """Nothing, where the attempt's state does not allow it: it has ended already."""

    async def crashes(self, job_id: JobId) -> int:
        """How many attempts are CRASHED."""

    async def crashed_jobs(self) -> frozenset[JobId]:
        """Jobs that have not ended and have CRASHED attempts."""

    async def was_left_behind(self, job_id: JobId, attempt: int) -> bool:
        """Whether the job was deleted while a worker might still run the attempt."""

    async def forget_left_behind(self, job_id: JobId, attempt: int) -> None:
        """No worker runs it any more."""

    async def finished_work(self, job_id: JobId) -> FinishedWork: ...

    async def events(self, job_id: JobId, after: int, limit: int) -> Sequence[Change | FinalSegment]:
        """In the order of their numbers."""

    def segments(self, job_id: JobId) -> AsyncIterator[FinalSegment]:
        """The transcript, in the order of time."""

    async def delete_job(self, job_id: JobId) -> None:
        """With all that is of it; attempts that may still run are remembered as left behind."""

    async def read_wait_clock(self) -> float: ...

    async def write_wait_clock(self, seconds: float) -> None: ...


class StoreError(Exception):
    """The store cannot be used; the message says why and what to do."""

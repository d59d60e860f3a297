"""A store in memory: the same answers as the SQL store, and no file.

What it holds lies in `Tables`, which outlive a store as a database outlives a process. Rows that break a key or a
reference raise IntegrityError, as a database does, and then nothing of the step was written.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from sqlalchemy.exc import IntegrityError

from services.controller.jobs import (
    ATTEMPT_TRANSITIONS,
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
    Plan,
    UploadId,
    WorkerRef,
)
from services.controller.store.protocol import ConflictError, Dispatch, Page, Upload


@dataclass
class Row:
    """A job and everything that is deleted with it; ``sequence`` grows in the order of creation."""

    job: Job
    sequence: int
    request_id: str
    changes: dict[int, Change] = field(default_factory=dict)
    segments: dict[int, FinalSegment] = field(default_factory=dict)
    windows: set[int] = field(default_factory=set)
    plan: Plan | None = None
    turns: bytes | None = None
    speaker_chunks: dict[int, bytes] = field(default_factory=dict)
    decoded: dict[int, bytes] = field(default_factory=dict)
    attempts: dict[int, Dispatch] = field(default_factory=dict)


@dataclass
class Tables:
    """What is durable."""

    uploads: dict[UploadId, Upload] = field(default_factory=dict)
    left_behind: set[tuple[JobId, int]] = field(default_factory=set)
    jobs: dict[JobId, Row] = field(default_factory=dict)
    sequence: int = 0
    wait_clock: float = 0.0


class MemoryStore:
    """Implements services.controller.store.protocol.Store."""

    def __init__(self, tables: Tables | None = None) -> None:
        self.tables = tables if tables is not None else Tables()

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    # --- uploads

    async def create_upload(self, upload: Upload) -> Upload:
        for known in self.tables.uploads.values():
            if upload.request_id and (known.owner, known.request_id) == (upload.owner, upload.request_id):
                return known
        _require_new([upload.id], self.tables.uploads)
        self.tables.uploads[upload.id] = upload
        return upload

    async def get_upload(self, upload_id: UploadId) -> Upload | None:
        return self.tables.uploads.get(upload_id)

    async def incomplete_uploads(self) -> Sequence[Upload]:
        return [upload for upload in self.tables.uploads.values() if not upload.complete]

    async def uploads_of_content(self, owner: Owner, sha256: str) -> Sequence[Upload]:
        same = [
            upload
            for upload in self.tables.uploads.values()
            if (upload.owner, upload.sha256, upload.complete) == (owner, sha256, True)
        ]
        return sorted(same, key=lambda upload: upload.created_at)

    async def unused_uploads(self, before: datetime) -> Sequence[Upload]:
        used = {row.job.recording.upload_id for row in self.tables.jobs.values()}
        return [
            upload
            for upload in self.tables.uploads.values()
            if upload.complete and upload.id not in used and (upload.completed_at or upload.created_at) < before
        ]

    async def blobs_in_use(self) -> frozenset[str]:
        return frozenset(upload.sha256 for upload in self.tables.uploads.values() if upload.sha256)

    async def save_upload(self, upload: Upload) -> None:
        if upload.id in self.tables.uploads:
            self.tables.uploads[upload.id] = upload

    async def delete_upload(self, upload_id: UploadId) -> bool:
        if any(row.job.recording.upload_id == upload_id for row in self.tables.jobs.values()):
            return False
        return self.tables.uploads.pop(upload_id, None) is not None

    async def blob_in_use(self, sha256: str) -> bool:
        return any(upload.sha256 == sha256 for upload in self.tables.uploads.values())

    # --- jobs

    async def create_jobs(self, created: Sequence[JobUpdate], request_id: str) -> tuple[Job, ...]:
        known = self._of_request(created[0].job.owner, request_id) if request_id else ()
        if known:
            return known
        _require_new([update.job.id for update in created], self.tables.jobs)
        if any(update.job.recording.upload_id not in self.tables.uploads for update in created):
            raise _broken("FOREIGN KEY constraint failed")
        for update in created:
            self.tables.sequence += 1
            changes = {change.number: change for change in update.changes}
            self.tables.jobs[update.job.id] = Row(_kept(update.job), self.tables.sequence, request_id, changes)
        return tuple(update.job for update in created)

    async def jobs_of_request(self, owner: Owner, request_id: str) -> tuple[Job, ...]:
        return self._of_request(owner, request_id)

    async def get_job(self, job_id: JobId) -> Job | None:
        row = self.tables.jobs.get(job_id)
        return row.job if row else None

    async def list_jobs(self, owner: Owner, state: JobState | None, limit: int, token: str) -> Page:
        before = _sequence(token) if token else self.tables.sequence + 1
        found = [
            row
            for row in reversed(self.tables.jobs.values())
            if row.job.owner == owner and row.sequence < before and state in (None, row.job.state)
        ]
        more = str(found[limit - 1].sequence) if len(found) > limit else ""
        return Page(tuple(row.job for row in found[:limit]), more)

    async def unfinished_jobs(self) -> Sequence[Job]:
        return tuple(row.job for row in self.tables.jobs.values() if not row.job.state.ended)

    async def save(self, update: JobUpdate) -> Job:
        row = self.tables.jobs.get(update.job.id)
        if row is None or row.job.version != update.job.version:
            raise ConflictError(update.job.id)
        _require_details_new(row, update)
        if update.attempt_ended is not None:
            _move_attempt(row, update.job.attempt, update.attempt_ended)
        row.job = _kept(replace(update.job, version=update.job.version + 1))
        _write_details(row, update)
        return row.job

    async def delete_job(self, job_id: JobId) -> None:
        row = self.tables.jobs.pop(job_id, None)
        for number, asked in (row.attempts if row else {}).items():
            if asked.state is AttemptState.ASKED:
                self.tables.left_behind.add((job_id, number))

    # --- attempts and what they made

    async def note_dispatch(self, job: Job, attempt: int, worker: WorkerRef, now: datetime) -> None:
        attempts = self.tables.jobs[job.id].attempts
        known = attempts.get(attempt)
        if AttemptState.ASKED not in ATTEMPT_TRANSITIONS[known.state if known else None]:
            raise ConflictError(job.id)
        attempts[attempt] = Dispatch(attempt, worker.url, AttemptState.ASKED)

    async def crashed_jobs(self) -> frozenset[JobId]:
        return frozenset(
            job_id
            for job_id, row in self.tables.jobs.items()
            if not row.job.state.ended and any(one.state is AttemptState.CRASHED for one in row.attempts.values())
        )

    async def was_left_behind(self, job_id: JobId, attempt: int) -> bool:
        return (job_id, attempt) in self.tables.left_behind

    async def forget_left_behind(self, job_id: JobId, attempt: int) -> None:
        self.tables.left_behind.discard((job_id, attempt))

    async def asked_jobs(self) -> frozenset[JobId]:
        return frozenset(
            job_id
            for job_id, row in self.tables.jobs.items()
            if row.job.state in WAITING
            and any(
                asked.state is AttemptState.ASKED and asked.number > row.job.attempt for asked in row.attempts.values()
            )
        )

    async def last_dispatch(self, job_id: JobId) -> Dispatch | None:
        row = self.tables.jobs.get(job_id)
        return row.attempts[max(row.attempts)] if row and row.attempts else None

    async def end_attempt(self, job_id: JobId, attempt: int, state: AttemptState, now: datetime) -> None:
        row = self.tables.jobs.get(job_id)
        if row is not None:
            _move_attempt(row, attempt, state)

    async def crashes(self, job_id: JobId) -> int:
        row = self.tables.jobs.get(job_id)
        return sum(dispatch.state is AttemptState.CRASHED for dispatch in row.attempts.values()) if row else 0

    async def finished_work(self, job_id: JobId) -> FinishedWork:
        row = self.tables.jobs.get(job_id)
        if row is None or row.plan is None:
            return FinishedWork()
        chunks = tuple(row.speaker_chunks[index] for index in sorted(row.speaker_chunks))
        decoded = tuple(row.decoded[index] for index in sorted(row.decoded))
        return FinishedWork(row.plan, frozenset(row.windows), row.turns, chunks, decoded)

    async def events(self, job_id: JobId, after: int, limit: int) -> Sequence[Change | FinalSegment]:
        row = self.tables.jobs.get(job_id)
        if row is None:
            return []
        numbers = sorted(number for number in (*row.changes, *row.segments) if number > after)
        return [row.changes.get(number) or row.segments[number] for number in numbers[:limit]]

    async def segments(self, job_id: JobId) -> AsyncIterator[FinalSegment]:
        row = self.tables.jobs.get(job_id)
        for number in sorted(row.segments) if row else ():
            yield row.segments[number]  # type: ignore[union-attr]  # there are none without a row

    # --- the clock that ticks while a worker can be reached

    async def read_wait_clock(self) -> float:
        return self.tables.wait_clock

    async def write_wait_clock(self, seconds: float) -> None:
        self.tables.wait_clock = seconds

    def _of_request(self, owner: Owner, request_id: str) -> tuple[Job, ...]:
        same = (owner, request_id)
        return tuple(row.job for row in self.tables.jobs.values() if (row.job.owner, row.request_id) == same)


def _write_details(row: Row, update: JobUpdate) -> None:
    if update.forget_finished_work:
        row.segments, row.windows, row.plan, row.turns = {}, set(), None, None
        row.speaker_chunks, row.decoded = {}, {}
    if update.plan is not None:
        row.plan, row.turns = update.plan, None
    row.speaker_chunks |= dict(update.speaker_chunks)
    if update.turns is not None and row.plan is not None:
        row.turns, row.speaker_chunks = update.turns, {}
    row.decoded |= dict(update.decoded_windows)
    row.windows |= set(update.finished_windows)
    row.decoded = {index: window for index, window in row.decoded.items() if index not in update.finished_windows}
    if update.job.state.ended:
        row.decoded, row.speaker_chunks = {}, {}
    row.changes |= {change.number: change for change in update.changes}
    row.segments |= {final.number: final for final in update.segments}


def _move_attempt(row: Row, number: int, state: AttemptState) -> None:
    known = row.attempts.get(number)
    if known is not None and state in ATTEMPT_TRANSITIONS[known.state]:
        row.attempts[number] = replace(known, state=state)


def _require_details_new(row: Row, update: JobUpdate) -> None:
    forgotten = update.forget_finished_work
    _require_new(update.finished_windows, () if forgotten else row.windows)
    _require_new([final.number for final in update.segments], () if forgotten else row.segments)
    _require_new([change.number for change in update.changes], row.changes)
    if update.plan is not None and row.plan is not None and not forgotten:
        raise _broken("UNIQUE constraint failed")


def _require_new(given: Sequence[object], known: Iterable[object]) -> None:
    if len(set(given)) < len(given) or not set(given).isdisjoint(known):
        raise _broken("UNIQUE constraint failed")


def _broken(text: str) -> IntegrityError:
    return IntegrityError(text, None, Exception(text))


def _kept(job: Job) -> Job:
    """As a database gives it back: moments in UTC."""
    moments = {name: getattr(job, name) for name in ("created_at", "started_at", "finished_at")}
    return replace(job, **{name: moment and moment.astimezone(UTC) for name, moment in moments.items()})


def _sequence(token: str) -> int:
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise ValueError("no page token of this store")
    return int(token)

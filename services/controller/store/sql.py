"""The store on SQLAlchemy: what is read and written for each question. How, is the database's own (`database.py`)."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import ColumnElement, Connection, Integer, RowMapping, bindparam, exists, func, make_url, select
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

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
    Plan,
    UploadId,
    WorkerRef,
    states_before,
)
from services.controller.store import rows, schema
from services.controller.store.database import Database, Work, database
from services.controller.store.newest import Newest
from services.controller.store.protocol import ConflictError, Dispatch, Page, StoreError, StoreFullError, Upload
from services.controller.store.schema import UtcDateTime

T = TypeVar("T")

SEGMENTS_A_READ = 500

MOST_KNOWN = 2000
"""Jobs, and uploads, that are known without a query: more than are on their way at once, a few MB."""


def _numbered(table: Any) -> Any:
    this = (table.c.job_id == bindparam("this_id")) & (table.c.number > bindparam("this_after"))
    return select(table).where(this).order_by(table.c.number).limit(bindparam("this_limit", type_=Integer))


def _of_job(query: Any) -> Any:
    return query.where(query.selected_columns[0].table.c.job_id == bindparam("this_id"))


def _of_request(table: Any) -> Any:
    return (table.c.owner == bindparam("this_owner")) & (table.c.request_id == bindparam("this_request"))


_MADE = (schema.segments, schema.finished_windows, schema.decoded_windows, schema.speaker_chunks, schema.plans)
"""What attempts made of a job."""

# Asked for all the time: made once, they take half as long.
_GET_JOB = select(schema.jobs).where(schema.jobs.c.id == bindparam("this_id"))
_SAVE_JOB = schema.jobs.update().where(
    (schema.jobs.c.id == bindparam("this_id")) & (schema.jobs.c.version == bindparam("this_version"))
)
_GET_UPLOAD = select(schema.uploads).where(schema.uploads.c.id == bindparam("this_id"))
_SAVE_UPLOAD = schema.uploads.update().where(schema.uploads.c.id == bindparam("this_id"))
_UPLOAD_OF_REQUEST = select(schema.uploads).where(_of_request(schema.uploads))
_UPLOADS_OF_CONTENT = (
    select(schema.uploads)
    .where(
        (schema.uploads.c.owner == bindparam("this_owner"))
        & (schema.uploads.c.sha256 == bindparam("this_sha256"))
        & schema.uploads.c.complete.is_(True)
    )
    .order_by(schema.uploads.c.created_at)
)
_JOBS_OF_REQUEST = select(schema.jobs).where(_of_request(schema.jobs)).order_by(schema.jobs.c.request_index)
_LAST_DISPATCH = (
    select(schema.attempts)
    .where(schema.attempts.c.job_id == bindparam("this_id"))
    .order_by(schema.attempts.c.number.desc())
    .limit(1)
)
_PLAN = _of_job(select(schema.plans))
_WINDOWS = _of_job(select(schema.finished_windows.c.window_index))
_CHUNKS = _of_job(select(schema.speaker_chunks.c.payload)).order_by(schema.speaker_chunks.c.chunk_index)
_DECODED = _of_job(select(schema.decoded_windows.c.payload)).order_by(schema.decoded_windows.c.window_index)
_EVENTS = _numbered(schema.events)
_SEGMENTS = _numbered(schema.segments)


class SqlStore:
    """One store for all databases that SQLAlchemy speaks to. Raises StoreError."""

    def __init__(self, url: str) -> None:
        try:
            self._database: Database = database(make_url(url))
        except (SQLAlchemyError, ImportError) as error:
            raise StoreError(
                f"DATABASE_URL is none that can be used: {_first_line(error)}. It must be like "
                "sqlite:///folder/file.db or postgresql+asyncpg://user@host/name, with that driver installed."
            ) from error
        self._jobs_known: Newest[JobId, Job] = Newest(MOST_KNOWN)
        self._uploads_known: Newest[UploadId, Upload] = Newest(MOST_KNOWN)

    async def open(self) -> None:
        try:
            await self._database.write(migrate)
        except CommandError as error:
            raise StoreError(
                f"DATABASE_URL: the database is of a newer version than this program ({_first_line(error)}). Start that "
                "version, or name another database."
            ) from error
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise StoreError(f"DATABASE_URL: the database cannot be used: {_first_line(error)}") from error

    async def close(self) -> None:
        await self._database.close()

    async def _write(self, work: Work[T]) -> T:
        """One transaction. Raises StoreFullError."""
        try:
            return await self._database.write(work)
        except DBAPIError as error:
            if _is_full(error):
                raise StoreFullError from error
            raise

    async def _select(self, query: Any, values: dict[str, Any] | None = None) -> Sequence[RowMapping]:
        return await self._database.read(lambda connection: connection.execute(query, values).mappings().all())

    async def _execute(self, statement: Any, values: dict[str, Any] | None = None) -> int:
        """How many rows it changed."""
        return await self._write(lambda connection: connection.execute(statement, values).rowcount)

    # --- uploads

    async def create_upload(self, upload: Upload) -> Upload:
        same = {"this_owner": upload.owner, "this_request": upload.request_id}

        def create(connection: Connection) -> Upload:
            known = connection.execute(_UPLOAD_OF_REQUEST, same).mappings().first() if upload.request_id else None
            if known is not None:
                return rows.upload_of(known)
            connection.execute(schema.uploads.insert(), rows.upload_row(upload))
            return upload

        write = self._uploads_known.writing(upload.id)
        known = await self._write(create)
        if known.id == upload.id:
            self._uploads_known.written(write, known)
        return known

    async def get_upload(self, upload_id: UploadId) -> Upload | None:
        if (known := self._uploads_known.get(upload_id)) is not None:
            return known
        found = await self._select(_GET_UPLOAD, {"this_id": upload_id})
        return rows.upload_of(found[0]) if found else None

    async def incomplete_uploads(self) -> Sequence[Upload]:
        return await self._uploads(select(schema.uploads).where(schema.uploads.c.complete.is_(False)))

    async def uploads_of_content(self, owner: Owner, sha256: str) -> Sequence[Upload]:
        return await self._uploads(_UPLOADS_OF_CONTENT, {"this_owner": owner, "this_sha256": sha256})

    async def unused_uploads(self, before: datetime) -> Sequence[Upload]:
        table = schema.uploads
        old = func.coalesce(table.c.completed_at, table.c.created_at) < bindparam("before", before, UtcDateTime())
        unused = ~exists().where(schema.jobs.c.upload_id == table.c.id)
        return await self._uploads(select(table).where(table.c.complete.is_(True) & old & unused))

    async def _uploads(self, query: Any, values: dict[str, Any] | None = None) -> Sequence[Upload]:
        return [rows.upload_of(row) for row in await self._select(query, values)]

    async def save_upload(self, upload: Upload) -> None:
        values = rows.upload_row(upload) | {"this_id": upload.id}
        write = self._uploads_known.writing(upload.id)
        if await self._execute(_SAVE_UPLOAD, values):
            self._uploads_known.written(write, upload)

    async def delete_upload(self, upload_id: UploadId) -> bool:
        table, used = schema.uploads, schema.jobs.c.upload_id
        free = ~exists().where(used == table.c.id)
        self._uploads_known.writing(upload_id)
        return await self._execute(table.delete().where((table.c.id == upload_id) & free)) == 1

    async def blob_in_use(self, sha256: str) -> bool:
        table = schema.uploads
        return bool(await self._select(select(table.c.id).where(table.c.sha256 == sha256).limit(1)))

    async def blobs_in_use(self) -> frozenset[str]:
        digests = schema.uploads.c.sha256
        found = await self._select(select(digests).where(digests != "").distinct())
        return frozenset(row[digests] for row in found)

    # --- jobs

    async def create_jobs(self, created: Sequence[JobUpdate], request_id: str) -> tuple[Job, ...]:
        values = [
            rows.job_row(update.job) | {"request_id": request_id or None, "request_index": index}
            for index, update in enumerate(created)
        ]
        changes = [rows.change_row(update.job.id, change) for update in created for change in update.changes]

        same = {"this_owner": created[0].job.owner, "this_request": request_id}

        def create(connection: Connection) -> tuple[Job, ...]:
            known = connection.execute(_JOBS_OF_REQUEST, same).mappings().all() if request_id else ()
            if known:
                return tuple(rows.job_of(row) for row in known)
            connection.execute(schema.jobs.insert(), values)
            connection.execute(schema.events.insert(), changes)
            return tuple(update.job for update in created)

        writes = [self._jobs_known.writing(update.job.id) for update in created]
        jobs = await self._write(create)
        for write, job in zip(writes, jobs, strict=False):
            if write.key == job.id:
                self._jobs_known.written(write, job)
        return jobs

    async def jobs_of_request(self, owner: Owner, request_id: str) -> tuple[Job, ...]:
        return await self._jobs(_JOBS_OF_REQUEST, {"this_owner": owner, "this_request": request_id})

    async def get_job(self, job_id: JobId) -> Job | None:
        if (known := self._jobs_known.get(job_id)) is not None:
            return known
        found = await self._select(_GET_JOB, {"this_id": job_id})
        return rows.job_of(found[0]) if found else None

    async def list_jobs(self, owner: Owner, state: JobState | None, limit: int, token: str) -> Page:
        table = schema.jobs
        query = select(table).where(table.c.owner == owner).order_by(table.c.sequence.desc()).limit(limit + 1)
        if token:
            query = query.where(table.c.sequence < _sequence(token))
        if state is not None:
            query = query.where(table.c.state == state.value)
        found = await self._select(query)
        more = str(found[limit - 1]["sequence"]) if len(found) > limit else ""
        return Page(tuple(rows.job_of(row) for row in found[:limit]), more)

    async def unfinished_jobs(self) -> Sequence[Job]:
        table = schema.jobs
        open_states = [state.value for state in JobState if not state.ended]
        return await self._jobs(select(table).where(table.c.state.in_(open_states)).order_by(table.c.sequence))

    async def _jobs(self, query: Any, values: dict[str, Any] | None = None) -> tuple[Job, ...]:
        return tuple(rows.job_of(row) for row in await self._select(query, values))

    async def save(self, update: JobUpdate) -> Job:
        job = update.job
        values = rows.job_row(job) | {"version": job.version + 1}
        now = update.changes[-1].occurred_at if update.changes else None

        def compare_and_set(connection: Connection) -> None:
            done = connection.execute(_SAVE_JOB, values | {"this_id": job.id, "this_version": job.version})
            if done.rowcount != 1:
                raise ConflictError(job.id)
            _write_details(connection, update)
            if update.attempt_ended is not None:
                _move_attempt(connection, job.id, job.attempt, update.attempt_ended, now)

        write = self._jobs_known.writing(job.id)
        await self._write(compare_and_set)
        saved = replace(job, version=job.version + 1)
        self._jobs_known.written(write, saved)
        return saved

    async def delete_job(self, job_id: JobId) -> None:
        asked, left = schema.attempts, schema.left_behind
        pending = select(asked.c.job_id, asked.c.number).where(
            (asked.c.job_id == job_id) & (asked.c.state == AttemptState.ASKED.value)
        )

        def delete(connection: Connection) -> None:
            connection.execute(left.insert().from_select(["job_id", "number"], pending))
            for table in (*_MADE, schema.events, schema.attempts):
                connection.execute(table.delete().where(table.c.job_id == job_id))
            connection.execute(schema.jobs.delete().where(schema.jobs.c.id == job_id))

        self._jobs_known.writing(job_id)
        await self._write(delete)

    # --- attempts and what they made

    async def note_dispatch(self, job: Job, attempt: int, worker: WorkerRef, now: datetime) -> None:
        state = AttemptState.ASKED
        values = {"worker_url": worker.url, "dispatched_at": now, "ended_at": None, "state": state.value}

        def note(connection: Connection) -> None:
            this = {"this_id": job.id, "this_number": attempt}
            if connection.execute(_attempt_before(state), values | this).rowcount == 0:
                connection.execute(schema.attempts.insert(), values | {"job_id": job.id, "number": attempt})

        try:
            await self._write(note)
        except IntegrityError as error:
            raise ConflictError(job.id) from error

    async def asked_jobs(self) -> frozenset[JobId]:
        asked, jobs = schema.attempts, schema.jobs
        newer = (asked.c.state == AttemptState.ASKED.value) & (asked.c.number > jobs.c.attempt)
        query = select(jobs.c.id).join(asked, asked.c.job_id == jobs.c.id)
        query = query.where(newer & jobs.c.state.in_([state.value for state in WAITING]))
        return frozenset(JobId(row["id"]) for row in await self._select(query))

    async def last_dispatch(self, job_id: JobId) -> Dispatch | None:
        found = await self._select(_LAST_DISPATCH, {"this_id": job_id})
        return Dispatch(found[0]["number"], found[0]["worker_url"], AttemptState(found[0]["state"])) if found else None

    async def end_attempt(self, job_id: JobId, attempt: int, state: AttemptState, now: datetime) -> None:
        await self._write(lambda connection: _move_attempt(connection, job_id, attempt, state, now))

    async def crashes(self, job_id: JobId) -> int:
        table = schema.attempts
        same = (table.c.job_id == job_id) & (table.c.state == AttemptState.CRASHED.value)
        return len(await self._select(select(table.c.number).where(same)))

    async def crashed_jobs(self) -> frozenset[JobId]:
        attempts, jobs = schema.attempts, schema.jobs
        open_states = [state.value for state in JobState if not state.ended]
        query = select(jobs.c.id).join(attempts, attempts.c.job_id == jobs.c.id).distinct()
        query = query.where((attempts.c.state == AttemptState.CRASHED.value) & jobs.c.state.in_(open_states))
        return frozenset(JobId(row["id"]) for row in await self._select(query))

    async def was_left_behind(self, job_id: JobId, attempt: int) -> bool:
        return bool(await self._select(select(schema.left_behind).where(_left_behind(job_id, attempt))))

    async def forget_left_behind(self, job_id: JobId, attempt: int) -> None:
        if await self.was_left_behind(job_id, attempt):
            await self._execute(schema.left_behind.delete().where(_left_behind(job_id, attempt)))

    async def finished_work(self, job_id: JobId) -> FinishedWork:
        this = {"this_id": job_id}

        def read(connection: Connection) -> FinishedWork:
            plan = connection.execute(_PLAN, this).mappings().first()
            if plan is None:
                return FinishedWork()
            done, found, words = (
                connection.execute(query, this).scalars().all() for query in (_WINDOWS, _CHUNKS, _DECODED)
            )
            value = Plan(plan["fingerprint"], plan["language"], plan["duration_seconds"], plan["payload"])
            return FinishedWork(value, frozenset(done), plan["turns"], tuple(found), tuple(words))

        return await self._database.read(read)

    async def events(self, job_id: JobId, after: int, limit: int) -> Sequence[Change | FinalSegment]:
        this = {"this_id": job_id, "this_after": after, "this_limit": limit}

        def read(connection: Connection) -> list[Change | FinalSegment]:
            found: list[Change | FinalSegment] = []
            found += [rows.change_of(row) for row in connection.execute(_EVENTS, this).mappings()]
            found += [rows.segment_of(row) for row in connection.execute(_SEGMENTS, this).mappings()]
            return found

        return sorted(await self._database.read(read), key=lambda item: item.number)[:limit]

    async def segments(self, job_id: JobId) -> AsyncIterator[FinalSegment]:
        after = 0
        while True:
            this = {"this_id": job_id, "this_after": after, "this_limit": SEGMENTS_A_READ}
            found = await self._select(_SEGMENTS, this)
            for row in found:
                yield rows.segment_of(row)
            if len(found) < SEGMENTS_A_READ:
                return
            after = found[-1]["number"]

    # --- the clock that ticks while a worker can be reached

    async def read_wait_clock(self) -> float:
        found = await self._select(select(schema.wait_clock.c.seconds))
        return found[0]["seconds"] if found else 0.0

    async def write_wait_clock(self, seconds: float) -> None:
        table = schema.wait_clock

        def write(connection: Connection) -> None:
            if connection.execute(table.update().values(seconds=seconds)).rowcount == 0:
                connection.execute(table.insert().values(id=1, seconds=seconds))

        await self._write(write)


def migrate(connection: Connection, revision: str = "head") -> None:
    """Brings the database to a schema, the newest one, inside the connection's transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _sequence(token: str) -> int:
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise ValueError("no page token of this store")
    return int(token)


@cache
def _attempt_before(state: AttemptState) -> Any:
    """Changes an attempt that may become ``state``."""
    table = schema.attempts
    this = (table.c.job_id == bindparam("this_id")) & (table.c.number == bindparam("this_number"))
    return table.update().where(this & table.c.state.in_([known.value for known in states_before(state)]))


def _left_behind(job_id: JobId, number: int) -> ColumnElement[bool]:
    return (schema.left_behind.c.job_id == job_id) & (schema.left_behind.c.number == number)


def _move_attempt(
    connection: Connection, job_id: JobId, number: int, state: AttemptState, now: datetime | None
) -> None:
    values = {"this_id": job_id, "this_number": number, "ended_at": now, "state": state.value}
    connection.execute(_attempt_before(state), values)


def _write_details(connection: Connection, update: JobUpdate) -> None:
    job_id = update.job.id
    if update.forget_finished_work:
        for table in _MADE:
            connection.execute(table.delete().where(table.c.job_id == job_id))
    if update.plan is not None:
        plan = {
            "job_id": job_id,
            "fingerprint": update.plan.fingerprint,
            "language": update.plan.language,
            "duration_seconds": update.plan.duration_seconds,
            "payload": update.plan.payload,
        }
        connection.execute(schema.plans.insert(), plan)
    chunks, plans = schema.speaker_chunks, schema.plans
    for index, payload in update.speaker_chunks:
        connection.execute(chunks.delete().where((chunks.c.job_id == job_id) & (chunks.c.chunk_index == index)))
        connection.execute(chunks.insert(), {"job_id": job_id, "chunk_index": index, "payload": payload})
    if update.job.options.diarization:
        _write_decoded(connection, update)
    if update.turns is not None:
        connection.execute(plans.update().where(plans.c.job_id == job_id).values(turns=update.turns))
        connection.execute(chunks.delete().where(chunks.c.job_id == job_id))
    if update.finished_windows:
        done = [{"job_id": job_id, "window_index": index} for index in update.finished_windows]
        connection.execute(schema.finished_windows.insert(), done)
    if update.changes:
        connection.execute(schema.events.insert(), [rows.change_row(job_id, change) for change in update.changes])
    if update.segments:
        connection.execute(schema.segments.insert(), [rows.segment_row(job_id, s) for s in update.segments])


def _write_decoded(connection: Connection, update: JobUpdate) -> None:
    """Of an ended job nothing is of use, and of windows that are finished not what they were decoded to."""
    table, job_id = schema.decoded_windows, update.job.id
    if update.job.state.ended:
        for each in (table, schema.speaker_chunks):
            connection.execute(each.delete().where(each.c.job_id == job_id))
        return
    kept = {index: payload for index, payload in update.decoded_windows if index not in update.finished_windows}
    gone = {*kept, *update.finished_windows}
    if gone:
        connection.execute(table.delete().where((table.c.job_id == job_id) & table.c.window_index.in_(gone)))
    if kept:
        made = [{"job_id": job_id, "window_index": index, "payload": payload} for index, payload in kept.items()]
        connection.execute(table.insert(), made)


def _is_full(error: DBAPIError) -> bool:
    """SQLite tells it in words, PostgreSQL by its code (appendix A of its manual)."""
    return "disk is full" in str(error.orig) or getattr(error.orig, "sqlstate", None) == "53100"


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]

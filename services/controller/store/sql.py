"""The store on SQLAlchemy: SQLite (WAL, synchronous=FULL) by default, PostgreSQL by URL.

Writers queue on one lock where the database has a single writer anyway, so none of them ever sees "locked".
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from datetime import datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, ColumnElement, Connection, bindparam, event, exists, func, select
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

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
from services.controller.store.protocol import ConflictError, Dispatch, Page, StoreError, StoreFullError, Upload
from services.controller.store.schema import UtcDateTime

SEGMENTS_A_READ = 500

# Asked for all the time: made once, they take half as long.
_GET = select(schema.jobs).where(schema.jobs.c.id == bindparam("this_id"))
_SAVE = schema.jobs.update().where(
    (schema.jobs.c.id == bindparam("this_id")) & (schema.jobs.c.version == bindparam("this_version"))
)


class SqlStore:
    """One store for all databases that SQLAlchemy speaks to; ``url`` names an async driver. Raises StoreError."""

    def __init__(self, url: str) -> None:
        try:
            self._engine = _engine(url)
        except (SQLAlchemyError, ImportError) as error:
            raise StoreError(
                f"DATABASE_URL is none that can be used: {_first_line(error)}. It must be like "
                "sqlite+aiosqlite:///folder/file.db or postgresql+asyncpg://user@host/name, with that driver installed."
            ) from error
        self._writing = asyncio.Lock()

    async def open(self) -> None:
        try:
            _require_sqlite_file(self._engine.url)
            async with self._engine.connect() as connection:
                await connection.run_sync(migrate)
                await connection.commit()
        except CommandError as error:
            raise StoreError(
                f"DATABASE_URL: the database is of a newer version than this program ({_first_line(error)}). Start that "
                "version, or name another database."
            ) from error
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise StoreError(f"DATABASE_URL: the database cannot be used: {_first_line(error)}") from error

    async def close(self) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        """One transaction. Raises StoreFullError."""
        try:
            async with self._writing, self._engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            if _is_full(error):
                raise StoreFullError from error
            raise

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[AsyncConnection]:
        """One state of the database for several reads; a SQLite transaction sees one anyway."""
        async with self._engine.connect() as connection:
            if connection.dialect.name != "sqlite":
                await connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    # --- uploads

    async def create_upload(self, upload: Upload) -> Upload:
        table = schema.uploads
        try:
            async with self._write() as connection:
                await connection.execute(table.insert().values(rows.upload_row(upload)))
            return upload
        except IntegrityError:
            if not upload.request_id:
                raise
            same = (table.c.owner == upload.owner) & (table.c.request_id == upload.request_id)
            async with self._engine.connect() as connection:
                row = (await connection.execute(select(table).where(same))).mappings().one()
            return rows.upload_of(dict(row))

    async def get_upload(self, upload_id: UploadId) -> Upload | None:
        table = schema.uploads
        async with self._engine.connect() as connection:
            row = (await connection.execute(select(table).where(table.c.id == upload_id))).mappings().first()
        return rows.upload_of(dict(row)) if row else None

    async def incomplete_uploads(self) -> Sequence[Upload]:
        return await self._select_uploads(select(schema.uploads).where(schema.uploads.c.complete.is_(False)))

    async def uploads_of_content(self, owner: Owner, sha256: str) -> Sequence[Upload]:
        table = schema.uploads
        same = (table.c.owner == owner) & (table.c.sha256 == sha256) & table.c.complete.is_(True)
        return await self._select_uploads(select(table).where(same).order_by(table.c.created_at))

    async def unused_uploads(self, before: datetime) -> Sequence[Upload]:
        table = schema.uploads
        old = func.coalesce(table.c.completed_at, table.c.created_at) < bindparam("before", before, UtcDateTime())
        unused = ~exists().where(schema.jobs.c.upload_id == table.c.id)
        return await self._select_uploads(select(table).where(table.c.complete.is_(True) & old & unused))

    async def _select_uploads(self, query: Any) -> Sequence[Upload]:
        async with self._engine.connect() as connection:
            return [rows.upload_of(dict(row)) for row in (await connection.execute(query)).mappings()]

    async def save_upload(self, upload: Upload) -> None:
        table = schema.uploads
        async with self._write() as connection:
            await connection.execute(table.update().where(table.c.id == upload.id).values(rows.upload_row(upload)))

    async def delete_upload(self, upload_id: UploadId) -> bool:
        table, used = schema.uploads, schema.jobs.c.upload_id
        free = ~exists().where(used == table.c.id)
        async with self._write() as connection:
            done = await connection.execute(table.delete().where((table.c.id == upload_id) & free))
        return done.rowcount == 1

    async def blob_in_use(self, sha256: str) -> bool:
        async with self._engine.connect() as connection:
            found = await connection.execute(
                select(schema.uploads.c.id).where(schema.uploads.c.sha256 == sha256).limit(1)
            )
            return found.first() is not None

    async def blobs_in_use(self) -> frozenset[str]:
        digests = schema.uploads.c.sha256
        async with self._engine.connect() as connection:
            return frozenset((await connection.execute(select(digests).where(digests != "").distinct())).scalars())

    # --- jobs

    async def create_jobs(self, created: Sequence[JobUpdate], request_id: str) -> tuple[Job, ...]:
        values = [
            rows.job_row(update.job) | {"request_id": request_id or None, "request_index": index}
            for index, update in enumerate(created)
        ]
        changes = [rows.change_row(update.job.id, change) for update in created for change in update.changes]
        try:
            async with self._write() as connection:
                await connection.execute(schema.jobs.insert(), values)
                await connection.execute(schema.events.insert(), changes)
            return tuple(update.job for update in created)
        except IntegrityError:
            known = await self.jobs_of_request(created[0].job.owner, request_id)
            if not known:
                raise
            return known

    async def jobs_of_request(self, owner: Owner, request_id: str) -> tuple[Job, ...]:
        table = schema.jobs
        same = (table.c.owner == owner) & (table.c.request_id == request_id)
        return await self._select_jobs(select(table).where(same).order_by(table.c.request_index))

    async def get_job(self, job_id: JobId) -> Job | None:
        async with self._engine.connect() as connection:
            row = (await connection.execute(_GET, {"this_id": job_id})).mappings().first()
        return rows.job_of(row) if row else None

    async def list_jobs(self, owner: Owner, state: JobState | None, limit: int, token: str) -> Page:
        table = schema.jobs
        query = select(table).where(table.c.owner == owner).order_by(table.c.sequence.desc()).limit(limit + 1)
        if token:
            query = query.where(table.c.sequence < _sequence(token))
        if state is not None:
            query = query.where(table.c.state == state.value)
        async with self._engine.connect() as connection:
            found = (await connection.execute(query)).mappings().all()
        more = str(found[limit - 1]["sequence"]) if len(found) > limit else ""
        return Page(tuple(rows.job_of(row) for row in found[:limit]), more)

    async def unfinished_jobs(self) -> Sequence[Job]:
        table = schema.jobs
        open_states = [state.value for state in JobState if not state.ended]
        return await self._select_jobs(select(table).where(table.c.state.in_(open_states)).order_by(table.c.sequence))

    async def _select_jobs(self, query: Any) -> tuple[Job, ...]:
        async with self._engine.connect() as connection:
            return tuple(rows.job_of(row) for row in (await connection.execute(query)).mappings())

    async def save(self, update: JobUpdate) -> Job:
        job = update.job
        values = rows.job_row(job) | {"version": job.version + 1}
        async with self._write() as connection:
            done = await connection.execute(_SAVE, values | {"this_id": job.id, "this_version": job.version})
            if done.rowcount != 1:
                raise ConflictError(job.id)
            await _write_details(connection, update)
            if update.attempt_ended is not None:
                now = update.changes[-1].occurred_at if update.changes else None
                await _move_attempt(connection, job.id, job.attempt, update.attempt_ended, now)
        return rows.job_of(values)

    async def delete_job(self, job_id: JobId) -> None:
        asked, left = schema.attempts, schema.left_behind
        pending = select(asked.c.job_id, asked.c.number).where(
            (asked.c.job_id == job_id) & (asked.c.state == AttemptState.ASKED.value)
        )
        async with self._write() as connection:
            await connection.execute(left.insert().from_select(["job_id", "number"], pending))
            for table in (schema.segments, schema.events, schema.finished_windows, schema.plans, schema.attempts):
                await connection.execute(table.delete().where(table.c.job_id == job_id))
            await connection.execute(schema.jobs.delete().where(schema.jobs.c.id == job_id))

    # --- attempts and what they made

    async def note_dispatch(self, job: Job, attempt: int, worker: WorkerRef, now: datetime) -> None:
        values = {"worker_url": worker.url, "dispatched_at": now, "ended_at": None, "state": AttemptState.ASKED.value}
        new = schema.attempts.insert().values(job_id=job.id, number=attempt, **values)
        async with self._write() as connection:
            again = schema.attempts.update().where(_attempt_before(job.id, attempt, AttemptState.ASKED)).values(values)
            if (await connection.execute(again)).rowcount == 0:
                try:
                    await connection.execute(new)
                except IntegrityError as error:
                    raise ConflictError(job.id) from error

    async def asked_jobs(self) -> frozenset[JobId]:
        asked, jobs = schema.attempts, schema.jobs
        newer = (asked.c.state == AttemptState.ASKED.value) & (asked.c.number > jobs.c.attempt)
        query = select(jobs.c.id).join(asked, asked.c.job_id == jobs.c.id)
        query = query.where(newer & jobs.c.state.in_([state.value for state in WAITING]))
        async with self._engine.connect() as connection:
            return frozenset((await connection.execute(query)).scalars())

    async def last_dispatch(self, job_id: JobId) -> Dispatch | None:
        table = schema.attempts
        query = select(table).where(table.c.job_id == job_id).order_by(table.c.number.desc()).limit(1)
        async with self._engine.connect() as connection:
            row = (await connection.execute(query)).mappings().first()
        return Dispatch(row["number"], row["worker_url"], AttemptState(row["state"])) if row else None

    async def end_attempt(self, job_id: JobId, attempt: int, state: AttemptState, now: datetime) -> None:
        async with self._write() as connection:
            await _move_attempt(connection, job_id, attempt, state, now)

    async def crashes(self, job_id: JobId) -> int:
        table = schema.attempts
        same = (table.c.job_id == job_id) & (table.c.state == AttemptState.CRASHED.value)
        async with self._engine.connect() as connection:
            return (await connection.execute(select(func.count()).select_from(table).where(same))).scalar_one()

    async def crashed_jobs(self) -> frozenset[JobId]:
        attempts, jobs = schema.attempts, schema.jobs
        open_states = [state.value for state in JobState if not state.ended]
        query = select(jobs.c.id).join(attempts, attempts.c.job_id == jobs.c.id).distinct()
        query = query.where((attempts.c.state == AttemptState.CRASHED.value) & jobs.c.state.in_(open_states))
        async with self._engine.connect() as connection:
            return frozenset((await connection.execute(query)).scalars())

    async def was_left_behind(self, job_id: JobId, attempt: int) -> bool:
        async with self._engine.connect() as connection:
            found = await connection.execute(select(schema.left_behind).where(_left_behind(job_id, attempt)))
            return found.first() is not None

    async def forget_left_behind(self, job_id: JobId, attempt: int) -> None:
        if await self.was_left_behind(job_id, attempt):
            async with self._write() as connection:
                await connection.execute(schema.left_behind.delete().where(_left_behind(job_id, attempt)))

    async def finished_work(self, job_id: JobId) -> FinishedWork:
        windows, plans = schema.finished_windows, schema.plans
        async with self._engine.connect() as connection:
            plan = (await connection.execute(select(plans).where(plans.c.job_id == job_id))).mappings().first()
            if plan is None:
                return FinishedWork()
            done = await connection.execute(select(windows.c.window_index).where(windows.c.job_id == job_id))
            value = Plan(plan["fingerprint"], plan["language"], plan["duration_seconds"], plan["payload"])
            return FinishedWork(value, frozenset(done.scalars()), plan["turns"])

    async def events(self, job_id: JobId, after: int, limit: int) -> Sequence[Change | FinalSegment]:
        async with self._snapshot() as connection:
            changes = await _numbered(connection, schema.events, job_id, after, limit)
            segments = await _numbered(connection, schema.segments, job_id, after, limit)
        found: list[Change | FinalSegment] = [rows.change_of(row) for row in changes]
        found += [rows.segment_of(row) for row in segments]
        return sorted(found, key=lambda item: item.number)[:limit]

    async def segments(self, job_id: JobId) -> AsyncIterator[FinalSegment]:
        after = 0
        while True:
            async with self._engine.connect() as connection:
                found = await _numbered(connection, schema.segments, job_id, after, SEGMENTS_A_READ)
            for row in found:
                yield rows.segment_of(row)
            if len(found) < SEGMENTS_A_READ:
                return
            after = found[-1]["number"]

    # --- the clock that ticks while a worker can be reached

    async def read_wait_clock(self) -> float:
        async with self._engine.connect() as connection:
            return (await connection.execute(select(schema.wait_clock.c.seconds))).scalar() or 0.0

    async def write_wait_clock(self, seconds: float) -> None:
        table = schema.wait_clock
        async with self._write() as connection:
            if (await connection.execute(table.update().values(seconds=seconds))).rowcount == 0:
                await connection.execute(table.insert().values(id=1, seconds=seconds))


def migrate(connection: Connection, revision: str = "head") -> None:
    """Brings the database to a schema, the newest one, inside the connection's transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _engine(url: str) -> AsyncEngine:
    engine = create_async_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _require_sqlite_file(url: URL) -> None:
    """Here rather than on the driver's own thread, which outlives the loop that it was to tell of its failure."""
    if url.get_backend_name() == "sqlite" and url.database:
        with closing(sqlite3.connect(url.database)) as database:
            database.execute("PRAGMA schema_version")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    """Transactions begin where SQLAlchemy says: Python's own rules leave out reads, and commit at every CREATE TABLE."""
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


def _sequence(token: str) -> int:
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise ValueError("no page token of this store")
    return int(token)


def _attempt_before(job_id: JobId, number: int, state: AttemptState) -> ColumnElement[bool]:
    """The attempt, as long as it may become ``state``."""
    table = schema.attempts
    before = [known.value for known in states_before(state)]
    return (table.c.job_id == job_id) & (table.c.number == number) & table.c.state.in_(before)


def _left_behind(job_id: JobId, number: int) -> ColumnElement[bool]:
    return (schema.left_behind.c.job_id == job_id) & (schema.left_behind.c.number == number)


async def _move_attempt(
    connection: AsyncConnection, job_id: JobId, number: int, state: AttemptState, now: datetime | None
) -> None:
    values = {"ended_at": now, "state": state.value}
    await connection.execute(schema.attempts.update().where(_attempt_before(job_id, number, state)).values(values))


async def _write_details(connection: AsyncConnection, update: JobUpdate) -> None:
    job_id = update.job.id
    if update.forget_finished_work:
        for table in (schema.segments, schema.finished_windows, schema.plans):
            await connection.execute(table.delete().where(table.c.job_id == job_id))
    if update.plan is not None:
        plan = {
            "job_id": job_id,
            "fingerprint": update.plan.fingerprint,
            "language": update.plan.language,
            "duration_seconds": update.plan.duration_seconds,
            "payload": update.plan.payload,
        }
        await connection.execute(schema.plans.insert().values(plan))
    if update.turns is not None:
        plans = schema.plans
        await connection.execute(plans.update().where(plans.c.job_id == job_id).values(turns=update.turns))
    if update.finished_windows:
        done = [{"job_id": job_id, "window_index": index} for index in update.finished_windows]
        await connection.execute(schema.finished_windows.insert(), done)
    if update.changes:
        await connection.execute(schema.events.insert(), [rows.change_row(job_id, change) for change in update.changes])
    if update.segments:
        await connection.execute(schema.segments.insert(), [rows.segment_row(job_id, s) for s in update.segments])


async def _numbered(connection: AsyncConnection, table: Any, job_id: JobId, after: int, limit: int) -> Sequence[Any]:
    query = (
        select(table).where((table.c.job_id == job_id) & (table.c.number > after)).order_by(table.c.number).limit(limit)
    )
    return (await connection.execute(query)).mappings().all()


def _is_full(error: DBAPIError) -> bool:
    """SQLite tells it in words, PostgreSQL by its code (appendix A of its manual)."""
    return "disk is full" in str(error.orig) or getattr(error.orig, "sqlstate", None) == "53100"


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]

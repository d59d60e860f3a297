"""The journal of attempts on disk: one SQLite file in the worker's own folder, written by one thread.

Invariant: what a call was given is synced when the call returns (WAL, synchronous=FULL), and a step is written whole or
not at all; no event lies in it without its attempt. Events lie in it as the contract's messages, so that a newer version
reads what an older one wrote.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from services.contract.errors import Reason, ServiceError
from services.contract.limits import MEGABYTE
from services.runtime.blobs import RESERVED_BYTES
from services.runtime.lifecycle import StartupError
from services.worker import wire
from services.worker.attempts import Entry, JournalFullError, KeptAttempt
from services.worker.work import AttemptKey

Result = TypeVar("Result")

FORMAT = 1
"""``user_version`` of the file; raise it with a step in `_migrate`."""

_TABLES = """
CREATE TABLE attempts (
    job_id TEXT NOT NULL, attempt INTEGER NOT NULL, worker_job_id TEXT NOT NULL,
    acknowledged INTEGER NOT NULL DEFAULT 0, is_over INTEGER NOT NULL DEFAULT 0, waited_seconds REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (job_id, attempt)
) WITHOUT ROWID;
CREATE TABLE events (
    job_id TEXT NOT NULL, attempt INTEGER NOT NULL, number INTEGER NOT NULL, message BLOB NOT NULL,
    PRIMARY KEY (job_id, attempt, number)
);
"""
_SAME = "job_id = ? AND attempt = ?"
_ADD_EVENT = "INSERT INTO events SELECT job_id, attempt, ?3, ?4 FROM attempts WHERE job_id = ?1 AND attempt = ?2"
_DROP_ORPHANS = "DELETE FROM events WHERE (job_id, attempt) NOT IN (SELECT job_id, attempt FROM attempts)"

_NOT_NOW = frozenset(
    {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
    }
)
"""What a disk that fails, or another that reads the file, brings about: it may pass."""


class SqliteJournal:
    """An ``AttemptJournal``. ``quota_bytes`` bounds the events that nobody has acknowledged yet."""

    def __init__(self, path: Path, quota_bytes: int) -> None:
        self._path = path
        self._quota_bytes = quota_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._database: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Raises StartupError."""
        try:
            await self._call(self._open)
        except (sqlite3.Error, JournalFullError) as error:
            raise StartupError(
                f"WORKER_DATA_DIR: the journal of attempts {self._path.name} in it cannot be used ({error}). Results"
                " that were not fetched yet may be in it: repair the disk, or move the file away to start without them."
            ) from error

    async def close(self) -> None:
        await self._call(self._close)
        self._thread.shutdown()

    async def load(self) -> Sequence[KeptAttempt]:
        return await self._call(self._load)

    async def accept(self, key: AttemptKey, worker_job_id: str) -> None:
        try:
            await self._call(self._accept, key, worker_job_id)
        except JournalFullError as error:
            raise ServiceError(error.reason) from error

    async def write(self, entries: Sequence[Entry]) -> None:
        await self._call(self._write, entries)

    async def grow_older(self, seconds: float) -> None:
        await self._call(self._execute, "UPDATE attempts SET waited_seconds = waited_seconds + ?", [(seconds,)])

    async def forget(self, keys: Sequence[AttemptKey]) -> None:
        await self._call(self._forget, keys)

    async def _call(self, step: Callable[..., Result], *given: object) -> Result:
        """In the one thread, so that steps keep their order, also when the caller is canceled meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, step, *given)

    # --- in the thread

    def _open(self) -> None:
        self._database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
            self._database.execute(f"PRAGMA {pragma}")
        self._migrate()
        with contextlib.suppress(JournalFullError), self._transaction() as database:  # there is a next start
            database.execute(_DROP_ORPHANS)

    def _migrate(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > FORMAT:
            raise sqlite3.DatabaseError(f"its format {version} is of a newer version; this one knows {FORMAT}")
        if version < 1:
            with self._transaction() as database:
                for statement in _TABLES.split(";\n"):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {FORMAT}")

    def _close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _load(self) -> Sequence[KeptAttempt]:
        found = self._connection.execute(
            "SELECT job_id, attempt, worker_job_id, acknowledged, is_over, waited_seconds FROM attempts"
        ).fetchall()
        return [
            KeptAttempt(
                AttemptKey(job_id, attempt),
                worker_job_id,
                acknowledged,
                tuple(wire.event_of(message) for (message,) in self._messages(job_id, attempt)),
                bool(over),
                waited,
            )
            for job_id, attempt, worker_job_id, acknowledged, over, waited in found
        ]

    def _messages(self, job_id: str, attempt: int) -> Sequence[tuple[bytes]]:
        query = f"SELECT message FROM events WHERE {_SAME} ORDER BY number"  # noqa: S608 - a constant
        return self._connection.execute(query, (job_id, attempt)).fetchall()

    def _accept(self, key: AttemptKey, worker_job_id: str) -> None:
        with _not_now():
            self._require_room()
        same = (key.job_id, key.attempt)
        with self._transaction() as database:  # also over what could not be forgotten in its time
            database.execute(f"DELETE FROM events WHERE {_SAME}", same)  # noqa: S608 - a constant
            database.execute(
                "INSERT OR REPLACE INTO attempts (job_id, attempt, worker_job_id) VALUES (?, ?, ?)",
                (*same, worker_job_id),
            )

    def _require_room(self) -> None:
        """While something is left for what runs already. Raises ServiceError, JournalFullError."""
        (kept,) = self._connection.execute("SELECT TOTAL(LENGTH(message)) FROM events").fetchone()
        if kept >= self._quota_bytes:
            raise ServiceError(
                Reason.STORAGE_FULL,
                f"The worker keeps {kept / MEGABYTE:.0f} MB of results that nobody has fetched, and takes no more jobs"
                " before that. Let their controllers reach it, or raise WORKER_JOURNAL_QUOTA_MB.",
            )
        disk = os.statvfs(self._path.parent)
        if disk.f_bavail * disk.f_frsize < RESERVED_BYTES:
            raise JournalFullError("too little is left on the disk")

    def _write(self, entries: Sequence[Entry]) -> None:
        with self._transaction() as database:
            for entry in entries:
                same = (entry.key.job_id, entry.key.attempt)
                new = [(*same, event.number, wire.event_bytes(event)) for event in entry.events if not entry.over]
                database.executemany(_ADD_EVENT, new)
                gone = "TRUE" if entry.over else f"number <= {int(entry.acknowledged)}"
                database.execute(f"DELETE FROM events WHERE {_SAME} AND {gone}", same)  # noqa: S608 - constants
                database.execute(
                    f"UPDATE attempts SET acknowledged = ?, is_over = ?, waited_seconds = 0 WHERE {_SAME}",  # noqa: S608
                    (entry.acknowledged, entry.over, *same),
                )

    def _forget(self, keys: Sequence[AttemptKey]) -> None:
        with self._transaction() as database:
            for table in ("events", "attempts"):
                database.executemany(
                    f"DELETE FROM {table} WHERE job_id = ? AND attempt <= ?",  # noqa: S608 - a constant
                    [(key.job_id, key.attempt) for key in keys],
                )

    def _execute(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        with self._transaction() as database:
            database.executemany(statement, rows)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Raises JournalFullError."""
        database = self._connection
        with _not_now():
            try:
                database.execute("BEGIN IMMEDIATE")
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    @property
    def _connection(self) -> sqlite3.Connection:
        assert self._database is not None, "the journal is open"
        return self._database


@contextmanager
def _not_now() -> Iterator[None]:
    """Tells what may pass from what will not. Raises JournalFullError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        code = error.sqlite_errorcode & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise JournalFullError(str(error)) from error
        if code in _NOT_NOW:
            raise JournalFullError(str(error), Reason.STORAGE_FAILED) from error
        raise
    except MemoryError as error:  # what sqlite3 makes of SQLITE_NOMEM
        raise JournalFullError("out of memory", Reason.STORAGE_FAILED) from error
    except OSError as error:
        raise JournalFullError(error.strerror or "the disk fails", Reason.STORAGE_FAILED) from error

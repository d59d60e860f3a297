"""Where transactions run. One is a plain function of a connection, so that what it does costs one change of threads and
not one for each statement; for SQLite on threads of its own, for other databases on their asynchronous driver.

Invariant: what `write` returned is durable; what raised was not written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import IsolationLevel
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

T = TypeVar("T")
Work = Callable[[Connection], T]
"""Only reads and writes through the connection: it may be run a second time, after the first was rolled back."""

MOST_TOGETHER = 100
"""Writes in one transaction: the first waits for the last."""


class Database(Protocol):
    async def read(self, work: Work[T]) -> T:
        """All that ``work`` reads is of one state of the database."""

    async def write(self, work: Work[T]) -> T:
        """All of it or nothing."""

    async def close(self) -> None: ...


def database(url: URL) -> Database:
    """Raises SQLAlchemyError and ImportError for a URL that names no driver at hand."""
    if url.get_backend_name() != "sqlite":
        return AsyncDatabase(create_async_engine(url))
    if not url.database:
        raise ArgumentError("it names no file, and what is in memory is gone at the end")
    return SqliteFile(url)


@dataclass(frozen=True, slots=True)
class _Write:
    work: Work[Any]
    done: Future[Any]


class SqliteFile:
    """SQLite (WAL, synchronous=FULL) with a thread that reads and one that writes: readers wait for no disk.

    Writes that came while another was on its way to the disk share one transaction. Where one of them fails, all are
    rolled back and each is done by itself.
    """

    def __init__(self, url: URL) -> None:
        self.engine: Engine = create_engine(url.set(drivername="sqlite"))
        event.listen(self.engine, "connect", _set_up_sqlite)
        event.listen(self.engine, "begin", _begin_sqlite)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="store-reads")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store-writes")
        self._waiting: SimpleQueue[_Write] = SimpleQueue()

    async def read(self, work: Work[T]) -> T:
        return await _ended(self._reader.submit(self._read, work))

    async def write(self, work: Work[T]) -> T:
        done: Future[T] = Future()
        self._waiting.put(_Write(work, done))
        self._writer.submit(self._write_waiting)
        return await _ended(done)

    async def close(self) -> None:
        for thread in (self._writer, self._reader):
            thread.shutdown()
        self.engine.dispose()

    def _read(self, work: Work[T]) -> T:
        with self.engine.connect() as connection:
            return work(connection)

    def _write_waiting(self) -> None:
        """Called once for each write; those that an earlier call took along leave nothing to do."""
        writes: list[_Write] = []
        while len(writes) < MOST_TOGETHER:
            try:
                write = self._waiting.get_nowait()
            except Empty:
                break
            if write.done.set_running_or_notify_cancel():
                writes.append(write)
        if len(writes) > 1 and self._write_together(writes):
            return
        for write in writes:
            self._write_alone(write)

    def _write_together(self, writes: Sequence[_Write]) -> bool:
        """False, and nothing done, where one of them cannot be."""
        try:
            with self.engine.begin() as connection:
                results = [write.work(connection) for write in writes]
        except Exception:  # noqa: BLE001 - whose it is, and what it was, is told to its own caller
            return False
        for write, result in zip(writes, results, strict=True):
            write.done.set_result(result)
        return True

    def _write_alone(self, write: _Write) -> None:
        try:
            with self.engine.begin() as connection:
                result = write.work(connection)
        except BaseException as error:  # noqa: BLE001 - the caller's, on another thread
            write.done.set_exception(error)
        else:
            write.done.set_result(result)


class AsyncDatabase:
    """Any other database, by a driver for asyncio. One writes at a time, so that none can wait for another's rows."""

    def __init__(self, engine: AsyncEngine, reading: IsolationLevel = "REPEATABLE READ") -> None:
        self._engine = engine
        self._reading: IsolationLevel = reading
        self._writing = asyncio.Lock()

    async def read(self, work: Work[T]) -> T:
        async with self._engine.connect() as connection:
            await connection.execution_options(isolation_level=self._reading)
            return await connection.run_sync(work)

    async def write(self, work: Work[T]) -> T:
        async with self._writing, self._engine.begin() as connection:
            return await connection.run_sync(work)

    async def close(self) -> None:
        await self._engine.dispose()


async def _ended(work: Future[T]) -> T:
    """Its result. A caller that is canceled waits until it is known not to go on."""
    waiting = asyncio.wrap_future(work)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        if not work.cancel():
            await asyncio.wait({waiting})
            if waiting.done() and not waiting.cancelled():
                waiting.exception()  # nobody is left to be told
        raise


def _begin_sqlite(connection: Connection) -> None:
    """Past SQLAlchemy, to which it would be a statement like others: a tenth of what a write costs."""
    driver: Any = connection.connection.driver_connection
    driver.execute("BEGIN")


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    """Transactions begin where SQLAlchemy says: Python's own rules leave out reads, and commit at every CREATE TABLE."""
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

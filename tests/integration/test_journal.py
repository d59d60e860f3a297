"""The journal of attempts on a real file."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.contract.errors import Reason, ServiceError
from services.runtime.lifecycle import StartupError
from services.worker.attempt import Event, HandedBack
from services.worker.attempts import Entry, JournalFullError, KeptAttempt
from services.worker.journal import FORMAT, SqliteJournal
from services.worker.work import AttemptKey, Progress
from tests.fakes.engine import window_finished

MOMENT = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)
KEY = AttemptKey("job", 1)


def event(number: int) -> Event:
    return Event(number, MOMENT, window_finished(number))


@asynccontextmanager
async def opened(folder: Path, quota_bytes: int = 1 << 20) -> AsyncIterator[SqliteJournal]:
    journal = SqliteJournal(folder / "attempts.db", quota_bytes)
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()


def kept(key: AttemptKey = KEY, acknowledged: int = 0, *events: Event, over: bool = False) -> KeptAttempt:
    return KeptAttempt(key, "wk_1", acknowledged, events, over, 0.0)


async def test_what_was_written_is_there_after_another_start(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.accept(KEY, "wk_1")
        await journal.write([Entry(KEY, (event(1), event(2)), 0, over=False)])
        await journal.write([Entry(KEY, (event(3), Event(4, MOMENT, HandedBack("bye"))), 1, over=False)])
    async with opened(tmp_path) as journal:
        expected = kept(KEY, 1, event(2), event(3), Event(4, MOMENT, HandedBack("bye")))
        assert await journal.load() == [expected]


async def test_an_attempt_that_is_over_leaves_its_number_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.accept(KEY, "wk_1")
        await journal.write([Entry(KEY, (event(1),), 0, over=False)])
        await journal.write([Entry(KEY, (event(2),), 2, over=True)])
        assert await journal.load() == [kept(KEY, 2, over=True)]
        await journal.write([Entry(AttemptKey("of nobody", 1), (), 0, over=True)])


async def test_a_step_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    other = AttemptKey("other", 1)
    async with opened(tmp_path) as journal:
        for key in (KEY, other):
            await journal.accept(key, "wk_1")
        await journal.write([Entry(other, (event(1),), 0, over=False)])
        with pytest.raises(sqlite3.IntegrityError):
            await journal.write([Entry(KEY, (event(1),), 0, over=False), Entry(other, (event(1),), 0, over=False)])
        assert await journal.load() == [kept(), kept(other, 0, event(1))]


async def test_a_process_that_is_killed_loses_nothing_that_was_written(tmp_path: Path) -> None:
    """The file as a kill leaves it: with its log beside it, and never closed."""
    async with opened(tmp_path) as journal:
        await journal.accept(KEY, "wk_1")
        await journal.write([Entry(KEY, (event(1),), 0, over=False)])
        copy = tmp_path / "copy"
        copy.mkdir()
        for name in ("attempts.db", "attempts.db-wal"):
            (copy / name).write_bytes((tmp_path / name).read_bytes())
    async with opened(copy) as journal:
        assert await journal.load() == [kept(KEY, 0, event(1))]


async def test_time_is_counted_from_the_last_change(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.accept(KEY, "wk_1")
        await journal.grow_older(60)
        await journal.grow_older(5)
        assert [attempt.waited_seconds for attempt in await journal.load()] == [65]
        await journal.write([Entry(KEY, (), 0, over=False)])
        assert [attempt.waited_seconds for attempt in await journal.load()] == [0]


async def test_forgetting_a_job_takes_its_lower_attempts_along(tmp_path: Path) -> None:
    keys = [AttemptKey("job", 1), AttemptKey("job", 2), AttemptKey("job", 3), AttemptKey("other", 1)]
    async with opened(tmp_path) as journal:
        for key in keys:
            await journal.accept(key, "wk_1")
        await journal.forget([AttemptKey("job", 2)])
        assert [attempt.key for attempt in await journal.load()] == [AttemptKey("job", 3), AttemptKey("other", 1)]
        await journal.forget([])


async def test_results_that_nobody_fetches_keep_new_jobs_out_until_they_are_fetched(tmp_path: Path) -> None:
    async with opened(tmp_path, quota_bytes=100) as journal:
        await journal.accept(KEY, "wk_1")
        many = tuple(Event(number, MOMENT, Progress(float(number))) for number in range(1, 50))
        await journal.write([Entry(KEY, many, 0, over=False)])
        with pytest.raises(ServiceError) as refusal:
            await journal.accept(AttemptKey("other", 1), "wk_2")
        assert refusal.value.reason is Reason.STORAGE_FULL
        assert "WORKER_JOURNAL_QUOTA_MB" in refusal.value.message
        await journal.write([Entry(KEY, (), 49, over=False)])
        await journal.accept(AttemptKey("other", 1), "wk_2")


async def test_a_full_disk_refuses_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.worker.journal.RESERVED_BYTES", 1 << 60)
    async with opened(tmp_path) as journal:
        with pytest.raises(ServiceError) as refusal:
            await journal.accept(KEY, "wk_1")
        assert refusal.value.reason is Reason.STORAGE_FULL
        assert await journal.load() == []


@contextmanager
def locked(journal: SqliteJournal) -> Iterator[None]:
    """As by somebody who looks into the file."""
    journal._connection.execute("PRAGMA busy_timeout=0")
    with closing(sqlite3.connect(journal._path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def read_only(journal: SqliteJournal) -> Iterator[None]:
    journal._connection.execute("PRAGMA query_only=1")
    yield
    journal._connection.execute("PRAGMA query_only=0")


@contextmanager
def broken(journal: SqliteJournal) -> Iterator[None]:
    def fail(_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "statvfs", fail)
        yield


@pytest.mark.parametrize("hindered", [locked, read_only, broken])
async def test_what_hinders_it_for_a_while_refuses_what_is_new(
    tmp_path: Path, hindered: Callable[[SqliteJournal], AbstractContextManager[None]]
) -> None:
    async with opened(tmp_path) as journal:
        with hindered(journal), pytest.raises(ServiceError) as refusal:
            await journal.accept(KEY, "wk_1")
        assert refusal.value.reason is Reason.STORAGE_FAILED
        await journal.accept(KEY, "wk_1")


@pytest.mark.parametrize("hindered", [locked, read_only])
async def test_what_hinders_it_for_a_while_keeps_nothing_from_being_written_later(
    tmp_path: Path, hindered: Callable[[SqliteJournal], AbstractContextManager[None]]
) -> None:
    async with opened(tmp_path) as journal:
        await journal.accept(KEY, "wk_1")
        with hindered(journal):
            for step in (
                lambda: journal.write([Entry(KEY, (event(1),), 0, over=False)]),
                lambda: journal.grow_older(1),
                lambda: journal.forget([KEY]),
            ):
                with pytest.raises(JournalFullError, match=r"locked|readonly") as refusal:
                    await step()
                assert refusal.value.reason is Reason.STORAGE_FAILED
        await journal.write([Entry(KEY, (event(1),), 0, over=False)])
        assert await journal.load() == [kept(KEY, 0, event(1))]


def events_in(folder: Path) -> list[tuple[str, int, int]]:
    with closing(sqlite3.connect(folder / "attempts.db")) as database:
        return database.execute("SELECT job_id, attempt, number FROM events").fetchall()


async def test_no_event_is_kept_without_its_attempt(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.write([Entry(KEY, (event(1),), 0, over=False)])
        assert events_in(tmp_path) == []
        await journal.accept(AttemptKey("other", 1), "wk_2")
        await journal.write([Entry(AttemptKey("other", 1), (event(1),), 0, over=False)])
        with closing(sqlite3.connect(tmp_path / "attempts.db", isolation_level=None)) as database:
            database.execute("INSERT INTO events VALUES ('job', 1, 1, 'left by an older version')")
    async with opened(tmp_path):
        assert events_in(tmp_path) == [("other", 1, 1)]


async def test_a_file_that_is_no_journal_stops_the_start_and_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "attempts.db").write_bytes(b"this is no database at all, and long enough to be looked at" * 20)
    journal = SqliteJournal(tmp_path / "attempts.db", 1)
    with pytest.raises(StartupError, match=r"WORKER_DATA_DIR: .*attempts\.db.*move the file away"):
        await journal.open()
    await journal.close()


async def test_a_journal_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    database = sqlite3.connect(tmp_path / "attempts.db")
    database.execute(f"PRAGMA user_version = {FORMAT + 1}")
    database.close()
    journal = SqliteJournal(tmp_path / "attempts.db", 1)
    with pytest.raises(StartupError, match="newer version"):
        await journal.open()
    await journal.close()


async def test_an_attempt_whose_number_was_forgotten_begins_anew(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.accept(KEY, "wk_0")
        await journal.write([Entry(KEY, (event(1),), 0, over=False)])
        await journal.accept(KEY, "wk_1")
        assert await journal.load() == [kept()]

"""How transactions run, on a SQLite file and by an asynchronous driver."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine

from services.controller.store import database as databases
from services.controller.store.database import AsyncDatabase, Database, SqliteFile, database


def insert(number: int) -> Callable[[Connection], int]:
    def work(connection: Connection) -> int:
        connection.execute(text(f"INSERT INTO numbers VALUES ({number})"))
        return number

    return work


def numbers(connection: Connection) -> list[int]:
    return list(connection.execute(text("SELECT n FROM numbers ORDER BY n")).scalars())


def failing(connection: Connection) -> None:
    insert(77)(connection)
    raise KeyError("its own reasons")


def make_table(connection: Connection) -> None:
    connection.execute(text("CREATE TABLE numbers (n INTEGER PRIMARY KEY)"))


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[SqliteFile]:
    made = SqliteFile(make_url(f"sqlite:///{tmp_path / 'some.db'}"))
    await made.write(make_table)
    yield made
    await made.close()


@pytest.fixture(params=["file", "driver"])
async def either(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """The driver's levels of isolation are SQLite's here."""
    if request.param == "file":
        made: Database = SqliteFile(make_url(f"sqlite:///{tmp_path / 'some.db'}"))
    else:
        made = AsyncDatabase(create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'some.db'}"), "SERIALIZABLE")
    await made.write(make_table)
    yield made
    await made.close()


class Gate:
    """A write that stands on the writing thread until it is let through."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, _connection: Connection) -> None:
        self.entered.set()
        assert self.open.wait(10)


async def behind(file: SqliteFile, *writes: Callable[[Connection], Any]) -> list[Any]:
    """What became of writes that came while another was under way."""
    gate = Gate()
    first = asyncio.ensure_future(file.write(gate))
    await asyncio.to_thread(gate.entered.wait, 10)
    waiting = [asyncio.ensure_future(file.write(write)) for write in writes]
    await asyncio.sleep(0)
    gate.open.set()
    await first
    return await asyncio.gather(*waiting, return_exceptions=True)


@pytest.fixture
def commits(file: SqliteFile) -> list[None]:
    seen: list[None] = []
    event.listen(file.engine, "commit", lambda _connection: seen.append(None))
    return seen


async def test_what_is_written_is_read(either: Database) -> None:
    assert await either.write(insert(3)) == 3
    assert await either.read(numbers) == [3]


async def test_what_fails_is_not_written_and_raises_what_it_raised(either: Database) -> None:
    with pytest.raises(KeyError):
        await either.write(failing)
    await either.write(insert(1))
    with pytest.raises(IntegrityError):
        await either.write(insert(1))
    assert await either.read(numbers) == [1]


async def test_many_write_at_once(either: Database) -> None:
    assert await asyncio.gather(*(either.write(insert(number)) for number in range(50))) == list(range(50))
    assert await either.read(numbers) == list(range(50))


async def test_writes_that_wait_share_a_transaction(file: SqliteFile, commits: list[None]) -> None:
    assert await behind(file, *(insert(number) for number in range(20))) == list(range(20))
    assert len(commits) == 2
    assert await file.read(numbers) == list(range(20))


async def test_no_more_share_one_than_a_caller_should_wait_for(
    file: SqliteFile, commits: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "MOST_TOGETHER", 8)
    await behind(file, *(insert(number) for number in range(20)))
    assert len(commits) == 1 + 3


async def test_one_that_fails_among_others_is_the_only_one(file: SqliteFile) -> None:
    known, refused, last = await behind(file, insert(1), failing, insert(2))
    assert (known, last) == (1, 2)
    assert isinstance(refused, KeyError)
    assert await file.read(numbers) == [1, 2]


async def test_a_database_that_is_full_refuses_all_that_do_not_fit(file: SqliteFile) -> None:
    """SQLite itself rolls the whole transaction back then, not the one statement."""

    def large(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE large AS SELECT zeroblob(1000000)"))

    def limit(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count = 20")

    event.listen(file.engine, "begin", limit)
    small, refused, last = await behind(file, insert(1), large, insert(2))
    assert (small, last) == (1, 2)
    assert isinstance(refused, DBAPIError)
    assert "full" in str(refused)
    assert await file.read(numbers) == [1, 2]


async def test_a_commit_that_fails_is_told_to_all(file: SqliteFile) -> None:
    def broken(_connection: Connection) -> None:
        raise OSError("the disk is gone")

    event.listen(file.engine, "commit", broken)
    found = await behind_broken(file)
    assert [type(one) for one in found] == [OSError, OSError]
    event.remove(file.engine, "commit", broken)
    assert await file.read(numbers) == []


async def behind_broken(file: SqliteFile) -> list[Any]:
    return await asyncio.gather(file.write(insert(1)), file.write(insert(2)), return_exceptions=True)


async def test_a_caller_that_is_canceled_in_line_leaves_nothing(file: SqliteFile) -> None:
    gate = Gate()
    first = asyncio.ensure_future(file.write(gate))
    await asyncio.to_thread(gate.entered.wait, 10)
    canceled = asyncio.ensure_future(file.write(insert(1)))
    kept = asyncio.ensure_future(file.write(insert(2)))
    await asyncio.sleep(0)
    canceled.cancel()
    await asyncio.wait({canceled})
    gate.open.set()
    assert await kept == 2
    await first
    assert await file.read(numbers) == [2]


async def test_a_caller_that_is_canceled_under_way_knows_when_it_is_over(file: SqliteFile) -> None:
    gate = Gate()

    def slow(connection: Connection) -> None:
        gate(connection)
        insert(1)(connection)

    writing = asyncio.ensure_future(file.write(slow))
    await asyncio.to_thread(gate.entered.wait, 10)
    writing.cancel()
    done, _ = await asyncio.wait({writing}, timeout=0.05)
    assert not done
    gate.open.set()
    await asyncio.wait({writing})
    assert writing.cancelled()
    assert await file.read(numbers) == [1]


async def test_close_waits_for_what_is_under_way(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    made = SqliteFile(make_url(f"sqlite:///{tmp_path / 'some.db'}"))
    await made.write(make_table)
    writing = asyncio.ensure_future(made.write(insert(1)))
    await asyncio.sleep(0)
    await made.close()
    assert await writing == 1
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("driver", ["sqlite", "sqlite+aiosqlite"])
async def test_a_file_may_be_named_with_any_driver(tmp_path: Path, driver: str) -> None:
    made = database(make_url(f"{driver}:///{tmp_path / 'some.db'}"))
    await made.write(make_table)
    assert await made.read(numbers) == []
    await made.close()


def test_a_database_in_memory_is_refused() -> None:
    with pytest.raises(ArgumentError, match="gone at the end"):
        database(make_url("sqlite://"))

"""The stores: what they keep and refuse, over a real SQLite file and, where that is not looked into, over the store in
memory that simulations run on; and what is asked of the database."""

from __future__ import annotations

import asyncio
import inspect
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import IntegrityError

from services.controller.jobs import (
    ATTEMPT_TRANSITIONS,
    AttemptState,
    Change,
    ExecutionMode,
    FinalSegment,
    FinishedWork,
    Job,
    JobError,
    JobId,
    JobState,
    JobUpdate,
    Options,
    Owner,
    Plan,
    Recording,
    Segment,
    Stretch,
    UploadId,
    Word,
    WorkerRef,
    changed,
    with_segments,
)
from services.controller.store import database, rows, schema, sql
from services.controller.store.protocol import ConflictError, Dispatch, Store, StoreError, StoreFullError, Upload
from services.controller.store.sql import SqlStore
from tests.fakes.store import MemoryStore
from tests.worker import eventually

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LATER = NOW + timedelta(minutes=7)
ALICE, BOB = Owner("alice"), Owner("bob")
WORKER = WorkerRef("http://gpu:8477", "wk_1", True, LATER)
ERROR = JobError("REMOTE_FAILED", "Check worker logs.")
PLAIN, DIARIZED = Options(), Options(diarization=True)
PLAN = Plan("f1", "en", 59.5, b"\x00plan\xff")
WORDS = (Word(" Olá 🎧", 0.1, 0.30000000000000004, 0.987654321, "SPEAKER_00"), Word("!", 0.7, 0.7, 0.0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bulkscribe.db"


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the newest schema and nothing in it: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("store") / "migrated.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        sql.migrate(connection)
    engine.dispose()
    return path


def store_at(path: Path) -> SqlStore:
    return SqlStore(f"sqlite:///{path}")


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """Those that stores made, to look at what they do."""
    made: list[Engine] = []

    def noted(*given: Any, **more: Any) -> Engine:
        made.append(create_engine(*given, **more))
        return made[-1]

    monkeypatch.setattr(database, "create_engine", noted)
    return made


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for nothing of SQLite's runs over every store. "sqlite" reads every row from its file, "known" what
    it wrote from its memory where it can."""
    if "store" in metafunc.fixturenames:
        of_sqlite = {"path", "engines"} & inspect.signature(metafunc.function).parameters.keys()
        metafunc.parametrize("store", ["sqlite"] if of_sqlite else ["sqlite", "known", "memory"], indirect=True)


@pytest.fixture
async def store(
    request: pytest.FixtureRequest, path: Path, migrated: Path, engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Store]:
    if request.param == "sqlite":
        monkeypatch.setattr(sql, "MOST_KNOWN", 0)
    if request.param == "memory":
        memory = MemoryStore()
        await memory.create_upload(upload())
        yield memory
        return
    shutil.copyfile(migrated, path)
    made = store_at(path)
    await made.open()
    await made.create_upload(upload())
    yield made
    await made.close()


def upload(name: str = "u1", owner: Owner = ALICE, request_id: str = "", **more: Any) -> Upload:
    return Upload(UploadId(name), owner, "a.mp3", NOW, request_id=request_id, **more)


def new_job(
    name: str = "j1", owner: Owner = ALICE, upload_id: str = "u1", options: Options = PLAIN, **more: Any
) -> Job:
    """A job as it is created: its first event is numbered."""
    recording = Recording(UploadId(upload_id), "interview 🎧.mp3", "ab" * 32, 5_000_000_000, 86399.999999)
    job = Job(JobId(name), owner, recording, options, ExecutionMode.REMOTE, NOW, **more)
    return changed(job, NOW).job


def creation(job: Job) -> JobUpdate:
    """What creates the job, with the one event that tells of it."""
    return JobUpdate(job, changed(replace(job, last_event=0), NOW).changes)


def new(name: str, owner: Owner = ALICE, upload_id: str = "u1") -> JobUpdate:
    return creation(new_job(name, owner, upload_id))


async def create(store: Store, *names: str, owner: Owner = ALICE) -> list[Job]:
    return [job for name in names for job in await store.create_jobs([new(name, owner)], "")]


async def running(store: Store, name: str = "j1", options: Options = PLAIN) -> Job:
    (job,) = await store.create_jobs([creation(new_job(name, options=options))], "")
    return await store.save(changed(job.start(LATER, 1, WORKER), LATER))


def query(path: Path, statement: str, *parameters: Any) -> list[Any]:
    """Past the store, as another program would."""
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, parameters).fetchall()


def counts(path: Path, job_id: str) -> dict[str, int]:
    """How many rows of a job each table has."""
    tables = [table for table in schema.metadata.tables.values() if "job_id" in table.c and table.foreign_keys]
    assert len(tables) == 7
    found = {table.name: f"SELECT count(*) FROM {table.name} WHERE job_id = ?" for table in tables}
    found["jobs"] = "SELECT count(*) FROM jobs WHERE id = ?"
    return {name: query(path, statement, job_id)[0][0] for name, statement in found.items()}


def said(*texts: str) -> tuple[Segment, ...]:
    return tuple(Segment(float(i), i + 1.0, one) for i, one in enumerate(texts))


# --- uploads


async def test_an_upload_is_kept_with_everything_in_it(store: Store) -> None:
    first = upload("u2", request_id="r1")
    assert await store.create_upload(first) == first
    whole = replace(first, sha256="ab" * 32, size_bytes=5_000_000_000, duration_seconds=12.345678, complete=True)
    await store.save_upload(whole)
    assert await store.get_upload(UploadId("u2")) == whole
    assert await store.get_upload(UploadId("other")) is None


async def test_the_same_request_id_is_the_same_upload_of_the_same_owner(store: Store) -> None:
    first = await store.create_upload(upload("a", request_id="r"))
    assert await store.create_upload(upload("b", request_id="r")) == first
    assert await store.get_upload(UploadId("b")) is None
    other = upload("c", BOB, request_id="r")
    assert await store.create_upload(other) == other


async def test_uploads_without_a_request_id_are_all_their_own(store: Store) -> None:
    made = [await store.create_upload(upload(name)) for name in ("a", "b")]
    assert [one.id for one in made] == ["a", "b"]


async def test_the_same_request_at_the_same_moment_makes_one_upload(store: Store) -> None:
    made = await asyncio.gather(*(store.create_upload(upload(f"u{i}", request_id="r")) for i in range(10, 20)))
    assert len({one.id for one in made}) == 1


async def test_an_upload_goes_only_when_no_job_uses_it(store: Store) -> None:
    await create(store, "j1", "j2")
    assert not await store.delete_upload(UploadId("u1"))
    await store.delete_job(JobId("j1"))
    assert not await store.delete_upload(UploadId("u1"))
    assert await store.get_upload(UploadId("u1")) is not None
    await store.delete_job(JobId("j2"))
    assert await store.delete_upload(UploadId("u1"))
    assert await store.get_upload(UploadId("u1")) is None
    assert not await store.delete_upload(UploadId("u1"))


async def test_a_blob_is_in_use_as_long_as_an_upload_has_its_digest(store: Store) -> None:
    assert not await store.blob_in_use("ab" * 32)
    for name in ("a", "b"):
        await store.create_upload(upload(name, sha256="ab" * 32))
    await store.delete_upload(UploadId("a"))
    assert await store.blob_in_use("ab" * 32)
    await store.delete_upload(UploadId("b"))
    assert not await store.blob_in_use("ab" * 32)


# --- jobs


async def test_a_new_job_is_kept_and_its_creation_is_its_first_event(store: Store) -> None:
    options = Options("turbo", "de", True, True, 90.25, True, True, 1, 4, True, "a prompt", "hot words 🎧", False)
    job = replace(new_job(), options=options, wait_mark=12.5)
    assert await store.create_jobs([creation(job)], "r") == (job,)
    assert await store.get_job(JobId("j1")) == job
    assert await store.get_job(JobId("other")) is None
    assert await store.events(JobId("j1"), 0, 10) == [
        Change(1, NOW, JobState.QUEUED, "waiting", 0.0, "", 0, None),
    ]


async def test_every_field_of_a_job_comes_back_equal(store: Store) -> None:
    (job,) = await create(store, "j1")
    full = replace(
        job,
        state=JobState.FAILED,
        stage="transcribing",
        percent=45.600000000000001,
        message="half 🎧",
        attempt=3,
        worker=WORKER,
        error=ERROR,
        started_at=LATER,
        finished_at=LATER.astimezone(timezone(timedelta(hours=9))),
        language="de",
        wait_mark=1e6 + 0.1,
        run_seconds=0.1,
        segment_count=4,
        last_event=2**40,
        worker_event=2**41,
        seconds_left=0.30000000000000004,
        silent_stretches=(Stretch(30.0, 58.123456), Stretch(90.5, 119.0)),
    )
    saved = await store.save(JobUpdate(full))
    assert saved == replace(full, version=job.version + 1)
    assert await store.get_job(JobId("j1")) == saved
    assert saved.finished_at == LATER


async def test_a_silent_window_is_kept_with_its_finishing_or_not_at_all(store: Store) -> None:
    stale = await running(store)
    job = await store.save(with_segments(stale, 0, (), Stretch(0.0, 28.5)))
    with pytest.raises(ConflictError):
        await store.save(with_segments(stale, 1, (), Stretch(30.0, 58.0)))
    job = await store.save(changed(job.requeue("lost", 0.0), LATER))
    job = await store.save(changed(job.start(LATER, 2, WORKER), LATER))
    await store.save(with_segments(job, 2, (), Stretch(60.0, 88.0)))
    found = await store.get_job(job.id)
    assert found is not None
    assert found.silent_stretches == (Stretch(0.0, 28.5), Stretch(60.0, 88.0))


async def test_what_was_written_is_there_after_the_process_began_anew(store: Store, path: Path) -> None:
    job = await running(store)
    await store.write_wait_clock(123.5)
    await store.close()
    again = store_at(path)
    await again.open()
    assert await again.get_job(JobId("j1")) == job
    assert await again.read_wait_clock() == 123.5
    assert len(await again.events(JobId("j1"), 0, 10)) == 2
    await again.close()


async def test_the_same_request_id_is_the_same_jobs_of_the_same_owner(store: Store) -> None:
    first = await store.create_jobs([new("a"), new("b"), new("c")], "r")
    assert [job.id for job in first] == ["a", "b", "c"]
    assert await store.create_jobs([new("x"), new("y")], "r") == first
    moved = await store.save(changed(first[1].await_remote(), LATER))
    assert await store.create_jobs([new("z")], "r") == (first[0], moved, first[2])
    await store.create_upload(upload("u2", BOB))
    assert [job.id for job in await store.create_jobs([new("d", BOB, "u2")], "r")] == ["d"]
    page = await store.list_jobs(ALICE, None, 10, "")
    assert [job.id for job in page.jobs] == ["c", "b", "a"]


async def test_jobs_without_a_request_id_are_all_their_own(store: Store) -> None:
    await create(store, "a", "b")
    assert [job.id for job in (await store.list_jobs(ALICE, None, 10, "")).jobs] == ["b", "a"]


async def test_the_same_request_at_the_same_moment_makes_its_jobs_once(store: Store) -> None:
    made = await asyncio.gather(
        *(store.create_jobs([new(f"{i}-a"), new(f"{i}-b")], "r") for i in range(10)),
    )
    assert len(set(made)) == 1
    assert len((await store.list_jobs(ALICE, None, 100, "")).jobs) == 2


async def test_jobs_of_one_request_are_created_all_or_none(store: Store, path: Path) -> None:
    with pytest.raises(IntegrityError, match="FOREIGN KEY"):
        await store.create_jobs([new("a"), new("b", upload_id="nowhere")], "r")
    assert await store.get_job(JobId("a")) is None
    assert query(path, "SELECT count(*) FROM events") == [(0,)]


# --- lists


async def ids(store: Store, limit: int, state: JobState | None = None, owner: Owner = ALICE) -> list[list[str]]:
    """All pages."""
    pages, token = [], ""
    while True:
        page = await store.list_jobs(owner, state, limit, token)
        pages.append([str(job.id) for job in page.jobs])
        token = page.next_token
        if not token:
            return pages


async def test_jobs_are_listed_newest_first_in_pages(store: Store) -> None:
    await create(store, *"abcdef")
    assert await ids(store, 10) == [["f", "e", "d", "c", "b", "a"]]
    assert await ids(store, 6) == [["f", "e", "d", "c", "b", "a"]]
    assert await ids(store, 4) == [["f", "e", "d", "c"], ["b", "a"]]
    assert await ids(store, 3) == [["f", "e", "d"], ["c", "b", "a"]]
    assert await ids(store, 1) == [["f"], ["e"], ["d"], ["c"], ["b"], ["a"]]


async def test_pages_stay_right_while_jobs_come_and_go(store: Store) -> None:
    await create(store, *"abcd")
    first = await store.list_jobs(ALICE, None, 2, "")
    await create(store, "e")
    await store.delete_job(JobId("c"))
    second = await store.list_jobs(ALICE, None, 2, first.next_token)
    assert [job.id for job in first.jobs + second.jobs] == ["d", "c", "b", "a"]
    assert second.next_token == ""


async def test_an_owner_sees_its_own_jobs_only(store: Store) -> None:
    await create(store, "a", "b")
    assert await ids(store, 10, owner=BOB) == [[]]
    await create(store, "c", owner=BOB)
    assert await ids(store, 10, owner=BOB) == [["c"]]
    token = (await store.list_jobs(ALICE, None, 1, "")).next_token
    assert (await store.list_jobs(BOB, None, 10, token)).jobs == ()


async def test_jobs_are_listed_by_state(store: Store) -> None:
    jobs = await create(store, *"abcdefg")
    for job in jobs[::2]:
        await store.save(changed(job.cancel(LATER, ERROR), LATER))
    assert await ids(store, 2, JobState.CANCELED) == [["g", "e"], ["c", "a"]]
    assert await ids(store, 2, JobState.QUEUED) == [["f", "d"], ["b"]]
    assert await ids(store, 2, JobState.COMPLETE) == [[]]


@pytest.mark.parametrize("token", ["abc", "1.5", "0x10", "12;", "j1", "-1", " 5 ", "1_0", "٣", "9" * 30])
async def test_a_token_that_was_not_given_is_refused(store: Store, token: str) -> None:
    with pytest.raises(ValueError, match="no page token"):
        await store.list_jobs(ALICE, None, 10, token)


async def test_unfinished_jobs_come_oldest_first(store: Store) -> None:
    jobs = await create(store, *"abcdef")
    waiting = await store.save(changed(jobs[0].await_remote(), LATER))
    runs = await store.save(changed(jobs[3].start(LATER, 1, WORKER), LATER))
    await store.save(changed(jobs[1].cancel(LATER, ERROR), LATER))
    await store.save(changed(jobs[4].fail(LATER, ERROR), LATER))
    ended = await store.save(changed(jobs[5].start(LATER, 1, WORKER), LATER))
    await store.save(changed(ended.complete(LATER), LATER))
    assert await store.unfinished_jobs() == (waiting, jobs[2], runs)


# --- compare and set


async def test_saving_counts_the_version_up(store: Store) -> None:
    (job,) = await create(store, "j1")
    for number in range(1, 4):
        job = await store.save(changed(replace(job, percent=float(number)), LATER))
        assert job.version == number
        assert await store.get_job(JobId("j1")) == job


async def test_a_stale_version_writes_nothing_at_all(store: Store, path: Path) -> None:
    stale = await running(store)
    current = await store.save(replace(with_segments(stale, 0, said("one")), plan=PLAN, turns=b"turns"))
    before, events = counts(path, "j1"), await store.events(JobId("j1"), 0, 100)
    late = [
        changed(stale.complete(LATER), LATER),
        with_segments(stale, 1, said("late", "er")),
        JobUpdate(stale, plan=PLAN, turns=b"other", forget_finished_work=True),
        JobUpdate(replace(stale, version=current.version + 1)),
    ]
    for update in late:
        with pytest.raises(ConflictError, match="j1"):
            await store.save(update)
    assert counts(path, "j1") == before
    assert await store.events(JobId("j1"), 0, 100) == events
    assert await store.get_job(JobId("j1")) == current
    assert (await store.finished_work(JobId("j1"))).turns == b"turns"


async def test_a_job_that_was_deleted_cannot_be_saved(store: Store, path: Path) -> None:
    job = await running(store)
    await store.delete_job(job.id)
    with pytest.raises(ConflictError):
        await store.save(with_segments(job, 0, said("late")))
    assert set(counts(path, "j1").values()) == {0}


async def test_of_many_at_the_same_moment_one_wins(store: Store, path: Path) -> None:
    job = await running(store)
    updates = [changed(job.complete(LATER), LATER), changed(job.cancel(LATER, ERROR), LATER)] * 5
    results = await asyncio.gather(*(store.save(update) for update in updates), return_exceptions=True)
    won = [result for result in results if isinstance(result, Job)]
    assert len(won) == 1
    assert all(isinstance(result, ConflictError) for result in results if result is not won[0])
    assert await store.get_job(JobId("j1")) == won[0]
    assert counts(path, "j1")["events"] == 3


async def test_an_update_whose_details_cannot_be_written_changes_nothing(store: Store, path: Path) -> None:
    job = await running(store)
    before = counts(path, "j1")
    twice = replace(changed(replace(job, percent=50.0), LATER), segments=(FinalSegment(9, 0, said("a")[0]),) * 2)
    with pytest.raises(IntegrityError):
        await store.save(twice)
    assert await store.get_job(JobId("j1")) == job
    assert counts(path, "j1") == before
    assert (await store.save(changed(job.complete(LATER), LATER))).state is JobState.COMPLETE


# --- events and segments


async def told(store: Store) -> tuple[Job, list[Change | FinalSegment]]:
    """A job with changes and segments in turns, and its events as they were made."""
    job = await running(store)
    events: list[Change | FinalSegment] = [
        *changed(replace(new_job(), last_event=0), NOW).changes,
        Change(2, LATER, JobState.RUNNING, "preparing", 0.0, "", 1, None),
    ]
    for window, texts in enumerate([("a", "b"), (), ("c",), ("d", "e", "f")]):
        for update in (with_segments(job, window, said(*texts)), None):
            update = update or changed(replace(job, percent=window * 25.0), LATER)
            job = await store.save(update)
            events += [*update.changes, *update.segments]
    update = changed(job.fail(LATER, ERROR), LATER)
    return await store.save(update), [*events, *update.changes]


async def test_events_are_changes_and_segments_in_one_order_after_any_number(store: Store) -> None:
    job, made = await told(store)
    assert [one.number for one in made] == list(range(1, job.last_event + 1))
    for after in range(job.last_event + 2):
        assert await store.events(job.id, after, 1000) == made[after:]


async def test_a_change_keeps_the_time_left_and_one_of_an_earlier_version_has_none(store: Store, path: Path) -> None:
    job = await running(store)
    update = changed(replace(job, seconds_left=181.5), LATER)
    job = await store.save(update)
    assert await store.events(job.id, 2, 10) == list(update.changes)
    query(path, "UPDATE events SET payload = json_remove(payload, '$.seconds_left')")
    assert await store.events(job.id, 2, 10) == [replace(update.changes[0], seconds_left=None)]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_events_that_are_read_in_pieces_are_the_same(store: Store, limit: int) -> None:
    job, made = await told(store)
    read: list[Change | FinalSegment] = []
    while piece := await store.events(job.id, read[-1].number if read else 0, limit):
        assert len(piece) <= limit
        read += piece
    assert read == made


async def test_one_jobs_events_are_not_anothers(store: Store) -> None:
    await told(store)
    await create(store, "j2")
    assert len(await store.events(JobId("j2"), 0, 100)) == 1
    assert await store.events(JobId("other"), 0, 100) == []


async def test_a_change_and_segments_may_be_one_step(store: Store) -> None:
    job = await running(store)
    update = changed(job, LATER)
    both = replace(update, segments=(FinalSegment(4, 0, said("a")[0]),), job=replace(update.job, last_event=4))
    await store.save(both)
    assert await store.events(job.id, 2, 10) == [*both.changes, *both.segments]


async def test_a_segment_comes_back_equal_with_its_words(store: Store) -> None:
    job = await running(store)
    segment = Segment(0.1, 0.30000000000000004, " Olá 🎧!\n", "SPEAKER_00", WORDS)
    await store.save(with_segments(job, 0, (segment, Segment(1.0, 2.0, ""))))
    assert [final.segment async for final in store.segments(job.id)] == [segment, Segment(1.0, 2.0, "")]


@pytest.mark.parametrize("count", [0, 1, 3, 6, 10])
async def test_a_transcript_is_read_in_pieces_without_a_gap(
    store: Store, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(sql, "SEGMENTS_A_READ", 3)
    job = await running(store)
    for index in range(count):
        job = await store.save(with_segments(job, index, said(str(index))))
        if index % 4 == 0:
            job = await store.save(changed(job, LATER))
    found = [final async for final in store.segments(job.id)]
    assert [(final.ordinal, final.segment.text) for final in found] == [(i, str(i)) for i in range(count)]


# --- what attempts made


async def test_a_plan_windows_and_turns_are_kept_for_the_next_attempt(store: Store) -> None:
    job = await running(store)
    assert await store.finished_work(job.id) == FinishedWork()
    job = await store.save(JobUpdate(job, plan=PLAN))
    assert await store.finished_work(job.id) == FinishedWork(PLAN)
    for window in (0, 2):
        job = await store.save(with_segments(job, window, said("x")))
    job = await store.save(JobUpdate(job, turns=b"\x00turns"))
    assert await store.finished_work(job.id) == FinishedWork(PLAN, frozenset({0, 2}), b"\x00turns")


async def test_chunks_of_speakers_are_kept_until_all_speakers_are_known(store: Store) -> None:
    job = await store.save(JobUpdate(await running(store), plan=PLAN))
    job = await store.save(JobUpdate(job, speaker_chunks=((1, b"one"), (0, b"\x00nil"))))
    job = await store.save(JobUpdate(job, speaker_chunks=((1, b"one again"), (2, b"two"))))
    assert await store.finished_work(job.id) == FinishedWork(PLAN, speaker_chunks=(b"\x00nil", b"one again", b"two"))
    await store.save(JobUpdate(job, speaker_chunks=((3, b"three"),), turns=b"turns"))
    assert await store.finished_work(job.id) == FinishedWork(PLAN, turns=b"turns")


async def test_chunks_of_speakers_are_forgotten_with_the_plan_and_with_the_job(store: Store) -> None:
    job = await store.save(JobUpdate(await running(store), plan=PLAN))
    job = await store.save(JobUpdate(job, speaker_chunks=((0, b"nil"),)))
    other = replace(PLAN, fingerprint="f2")
    job = await store.save(JobUpdate(job, plan=other, forget_finished_work=True))
    assert await store.finished_work(job.id) == FinishedWork(other)
    await store.save(JobUpdate(job, speaker_chunks=((0, b"nil"),)))
    await store.delete_job(job.id)
    assert await store.finished_work(job.id) == FinishedWork()


async def test_decoded_windows_are_kept_until_they_are_finished(store: Store) -> None:
    job = await store.save(JobUpdate(await running(store, options=DIARIZED), plan=PLAN))
    job = await store.save(JobUpdate(job, decoded_windows=((1, b"one"), (0, b"\x00nil"))))
    job = await store.save(JobUpdate(job, decoded_windows=((1, b"one again"), (2, b"two")), turns=b"turns"))
    kept = FinishedWork(PLAN, turns=b"turns", decoded_windows=(b"\x00nil", b"one again", b"two"))
    assert await store.finished_work(job.id) == kept
    job = await store.save(with_segments(job, 0, said("x")))
    both = replace(with_segments(job, 1, said("x")), decoded_windows=((1, b"late"), (3, b"three")))
    job = await store.save(both)
    kept = FinishedWork(PLAN, frozenset({0, 1}), b"turns", decoded_windows=(b"two", b"three"))
    assert await store.finished_work(job.id) == kept
    other = replace(PLAN, fingerprint="f2")
    job = await store.save(JobUpdate(job, plan=other, forget_finished_work=True))
    assert await store.finished_work(job.id) == FinishedWork(other)


async def test_an_ended_job_keeps_nothing_to_go_on_from(store: Store, path: Path) -> None:
    job = await store.save(JobUpdate(await running(store, options=DIARIZED), plan=PLAN))
    job = await store.save(JobUpdate(job, decoded_windows=((0, b"nil"),), speaker_chunks=((0, b"nil"),)))
    await store.save(changed(job.cancel(LATER, ERROR), LATER))
    rows = counts(path, job.id)
    assert (rows["decoded_windows"], rows["speaker_chunks"]) == (0, 0)


async def test_speakers_that_were_not_found_are_not_speakers_that_were_not_looked_for(store: Store) -> None:
    job = await store.save(JobUpdate(await running(store), plan=PLAN))
    assert (await store.finished_work(job.id)).turns is None
    await store.save(JobUpdate(job, turns=b""))
    assert (await store.finished_work(job.id)).turns == b""


async def test_a_window_is_finished_once(store: Store) -> None:
    job = await store.save(with_segments(await running(store), 0, said("a")))
    with pytest.raises(IntegrityError):
        await store.save(with_segments(job, 0, said("a")))
    assert [final.segment.text async for final in store.segments(job.id)] == ["a"]


async def test_finished_work_is_forgotten_for_another_plan_and_the_changes_stay(store: Store) -> None:
    job = await store.save(JobUpdate(await running(store), plan=PLAN))
    job = await store.save(replace(with_segments(job, 0, said("a", "b")), turns=b"turns"))
    other = replace(PLAN, fingerprint="f2")
    job = await store.save(JobUpdate(replace(job, segment_count=0), plan=other, forget_finished_work=True))
    assert await store.finished_work(job.id) == FinishedWork(other)
    assert [final async for final in store.segments(job.id)] == []
    assert [one.number for one in await store.events(job.id, 0, 100)] == [1, 2]
    job = await store.save(with_segments(job, 0, said("c")))
    (final,) = [final async for final in store.segments(job.id)]
    assert (final.number, final.ordinal, final.segment.text) == (5, 0, "c")


async def test_who_was_asked_to_run_which_attempt(store: Store) -> None:
    (job,) = await create(store, "j1")
    assert await store.last_dispatch(job.id) is None
    await store.note_dispatch(job, 1, WorkerRef("http://a"), NOW)
    assert await store.last_dispatch(job.id) == Dispatch(1, "http://a", AttemptState.ASKED)
    await store.end_attempt(job.id, 1, AttemptState.REFUSED, LATER)
    assert await store.last_dispatch(job.id) == Dispatch(1, "http://a", AttemptState.REFUSED)
    await store.note_dispatch(job, 1, WorkerRef("http://b"), LATER)
    assert await store.last_dispatch(job.id) == Dispatch(1, "http://b", AttemptState.ASKED)
    await store.note_dispatch(job, 2, WorkerRef("http://c"), LATER)
    await store.end_attempt(job.id, 1, AttemptState.LOST, LATER)
    assert await store.last_dispatch(job.id) == Dispatch(2, "http://c", AttemptState.ASKED)


@pytest.mark.parametrize("to", AttemptState)
@pytest.mark.parametrize("start", AttemptState)
async def test_attempts_move_in_the_store_as_the_table_says(
    store: Store, start: AttemptState, to: AttemptState
) -> None:
    job = await running(store)
    await store.note_dispatch(job, job.attempt, WORKER, NOW)
    await store.end_attempt(job.id, job.attempt, start, NOW)
    allowed = to in ATTEMPT_TRANSITIONS[start]
    if to is AttemptState.ASKED and not allowed:
        with pytest.raises(ConflictError):
            await store.note_dispatch(job, job.attempt, WORKER, LATER)
    elif to is AttemptState.ASKED:
        await store.note_dispatch(job, job.attempt, WORKER, LATER)
    else:
        await store.end_attempt(job.id, job.attempt, to, LATER)
    assert await store.last_dispatch(job.id) == Dispatch(job.attempt, WORKER.url, to if allowed else start)


async def test_jobs_that_a_worker_may_have_accepted_are_known(store: Store) -> None:
    asked, refused, waits = await create(store, "asked", "refused", "waits")
    for job in (asked, refused, ran := await running(store, "ran")):
        await store.note_dispatch(job, job.attempt + 1, WORKER, NOW)
    await store.end_attempt(refused.id, 1, AttemptState.REFUSED, NOW)
    assert await store.asked_jobs() == {asked.id}
    waiting = await store.save(changed(ran.requeue("lost", 0.0), LATER))
    assert await store.asked_jobs() == {asked.id, waiting.id}
    await store.save(changed(waiting.start(LATER, waiting.attempt + 1, WORKER), LATER))
    assert await store.asked_jobs() == {asked.id}
    assert waits.id not in await store.asked_jobs()


async def test_jobs_whose_attempts_crashed_are_known_until_they_end(store: Store) -> None:
    crashed, lost = await running(store, "crashed"), await running(store, "lost")
    for job, state in ((crashed, AttemptState.CRASHED), (lost, AttemptState.LOST)):
        await store.note_dispatch(job, job.attempt, WORKER, NOW)
        await store.end_attempt(job.id, job.attempt, state, NOW)
    assert await store.crashed_jobs() == {crashed.id}
    await store.save(changed(crashed.complete(LATER), LATER))
    assert await store.crashed_jobs() == frozenset()


async def test_an_attempt_that_may_still_run_outlives_its_deleted_job(store: Store) -> None:
    job = await running(store)
    await store.note_dispatch(job, 1, WORKER, NOW)
    await store.end_attempt(job.id, 1, AttemptState.LOST, NOW)
    await store.note_dispatch(job, 2, WORKER, NOW)
    await store.delete_job(job.id)
    assert [await store.was_left_behind(job.id, number) for number in (1, 2)] == [False, True]
    await store.forget_left_behind(job.id, 2)
    await store.forget_left_behind(job.id, 2)
    assert not await store.was_left_behind(job.id, 2)


async def test_a_job_and_its_attempt_end_in_one_step(store: Store) -> None:
    job = await running(store)
    await store.note_dispatch(job, job.attempt, WORKER, NOW)
    waiting = replace(changed(job.requeue("lost", 0.0), LATER), attempt_ended=AttemptState.CRASHED)
    await store.save(waiting)
    assert await store.last_dispatch(job.id) == Dispatch(job.attempt, WORKER.url, AttemptState.CRASHED)
    assert await store.crashes(job.id) == 1
    with pytest.raises(ConflictError):
        await store.save(replace(waiting, attempt_ended=AttemptState.ENDED))
    assert await store.crashes(job.id) == 1


async def test_a_deleted_job_leaves_no_row_and_takes_no_others(store: Store, path: Path) -> None:
    for name in ("j1", "j2"):
        job = await running(store, name, options=DIARIZED)
        made: dict[str, Any] = {"speaker_chunks": ((0, b"chunk"),), "decoded_windows": ((7, b"window"),)}
        job = await store.save(JobUpdate(job, plan=PLAN, **made))
        await store.save(with_segments(job, 0, said("a", "b")))
        await store.note_dispatch(job, 1, WORKER, LATER)
    before = counts(path, "j2")
    assert set(before.values()) == {1, 2}
    await store.delete_job(JobId("j1"))
    assert set(counts(path, "j1").values()) == {0}
    assert counts(path, "j2") == before
    await store.delete_job(JobId("j1"))


async def test_the_wait_clock_is_one_number(store: Store, path: Path) -> None:
    assert await store.read_wait_clock() == 0.0
    for seconds in (1.5, 1e7 + 0.125):
        await store.write_wait_clock(seconds)
        assert await store.read_wait_clock() == seconds
    assert query(path, "SELECT count(*) FROM wait_clock") == [(1,)]


# --- the database itself


async def test_every_connection_writes_ahead_and_syncs_in_full(store: Store, engines: list[Engine]) -> None:
    def pragma(connection: Connection, name: str) -> Any:
        return connection.execute(text(f"PRAGMA {name}")).scalar()

    (engine,) = engines
    with engine.connect() as one, engine.connect() as other:
        for connection in (one, other):
            assert pragma(connection, "journal_mode") == "wal"
            assert pragma(connection, "synchronous") == 2
            assert pragma(connection, "foreign_keys") == 1
            assert pragma(connection, "busy_timeout") > 1000


async def test_who_reads_sees_what_is_committed_and_waits_for_no_writer(store: Store, engines: list[Engine]) -> None:
    job = await running(store)
    with engines[0].begin() as writer:
        writer.execute(schema.jobs.update().values(percent=99.0))
        async with asyncio.timeout(5):
            assert await store.get_job(job.id) == job
    found = await store.get_job(job.id)
    assert found is not None
    assert found.percent == 99.0


async def test_many_writers_at_once_see_no_lock(store: Store) -> None:
    jobs = await create(store, *(f"j{i}" for i in range(30)))
    saved = await asyncio.gather(*(store.save(changed(job.await_remote(), LATER)) for job in jobs))
    assert {job.state for job in saved} == {JobState.QUEUED_REMOTE}


async def test_a_database_that_cannot_grow_says_so_and_keeps_what_it_had(
    store: Store, engines: list[Engine], path: Path
) -> None:
    job = await running(store)
    before = counts(path, "j1")
    large = with_segments(job, 0, said("x" * 1_000_000))

    @event.listens_for(engines[0], "begin")
    def allow(connection: Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    pages = 1  # as many as it has already, and no more
    with pytest.raises(StoreFullError):
        await store.save(large)
    assert await store.get_job(job.id) == job
    assert counts(path, "j1") == before
    pages = 1_000_000
    assert (await store.save(large)).segment_count == 1


def differences(path: Path) -> list[Any]:
    engine = create_engine(f"sqlite:///{path}")
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_server_default": True})
            return list(compare_metadata(context, schema.metadata))
    finally:
        engine.dispose()


async def test_the_migrations_lead_to_the_schema(store: Store, path: Path) -> None:
    assert differences(path) == []
    query(path, "DROP INDEX ix_jobs_owner_sequence")
    query(path, "ALTER TABLE jobs DROP COLUMN language")
    assert {difference[0] for difference in differences(path)} == {"add_index", "add_column"}


async def test_a_migration_that_is_cut_is_done_whole_at_the_next_start(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_table = Operations.create_table
    made: list[str] = []

    def cut(self: Operations, name: str, *given: Any, **more: Any) -> Any:
        made.append(name)
        if len(made) == 4:
            raise OSError("the power went")
        return create_table(self, name, *given, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Operations, "create_table", cut)
        first = store_at(path)
        with pytest.raises(StoreError, match="the power went"):
            await first.open()
        await first.close()
    again = store_at(path)
    await again.open()
    await again.close()
    assert differences(path) == []


async def test_a_database_of_the_first_version_keeps_its_uploads(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        sql.migrate(connection, "0001")
    engine.dispose()
    query(
        path,
        "INSERT INTO uploads (id, owner, request_id, filename, size_bytes, sha256, duration_seconds, complete, created_at)"
        " VALUES ('u1', 'alice', NULL, 'a.mp3', 7, ?, 1.5, 1, '2026-01-02 03:04:05.678901'),"
        " ('u2', 'alice', 'r', 'b.mp3', 0, '', 0, 0, '2026-01-02 03:04:05.678901')",
        "ab" * 32,
    )
    store = store_at(path)
    await store.open()
    old = upload("u1", size_bytes=7, sha256="ab" * 32, duration_seconds=1.5, complete=True)
    assert await store.get_upload(UploadId("u1")) == old
    assert [one.id for one in await store.incomplete_uploads()] == ["u2"]
    assert list(await store.unused_uploads(LATER)) == [old]
    await store.close()
    assert differences(path) == []


async def test_a_database_of_the_fourth_version_keeps_its_jobs(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        sql.migrate(connection, "0004")
    engine.dispose()
    row = rows.job_row(new_job()) | {"options": "{}", "created_at": "2026-01-02 03:04:05.678901", "request_index": 0}
    del row["seconds_left"], row["silent_stretches"]
    query(
        path,
        "INSERT INTO uploads (id, owner, filename, size_bytes, sha256, duration_seconds, complete, created_at)"
        " VALUES ('u1', 'alice', 'a.mp3', 7, '', 1.5, 1, '2026-01-02 03:04:05.678901')",
    )
    query(path, f"INSERT INTO jobs ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", *row.values())
    store = store_at(path)
    await store.open()
    assert await store.get_job(JobId("j1")) == new_job()
    await store.close()
    assert differences(path) == []


async def test_complete_uploads_are_found_by_their_content(store: SqlStore) -> None:
    whole = {"sha256": "ab" * 32, "complete": True}
    kept = [
        await store.create_upload(replace(upload(name, **whole), created_at=NOW + timedelta(seconds=late)))
        for late, name in ((2, "late"), (1, "early"))
    ]
    await store.create_upload(upload("bobs", BOB, **whole))
    await store.create_upload(upload("sealed", sha256="ab" * 32))
    await store.create_upload(upload("other", sha256="cd" * 32, complete=True))
    assert list(await store.uploads_of_content(ALICE, "ab" * 32)) == kept[::-1]
    assert await store.blobs_in_use() == {"ab" * 32, "cd" * 32}


async def test_uploads_are_unused_while_no_job_has_them(store: SqlStore) -> None:
    await store.create_upload(upload("used", sha256="ab" * 32, complete=True))
    await store.create_upload(upload("idle", sha256="ab" * 32, complete=True))
    await store.create_upload(upload("late", sha256="ab" * 32, complete=True, completed_at=LATER))
    await store.create_jobs([new("j1", upload_id="used")], "")
    assert [one.id for one in await store.unused_uploads(LATER)] == ["idle"]
    assert await store.unused_uploads(NOW) == []


async def test_events_are_read_from_one_state_of_the_database(store: Store, engines: list[Engine]) -> None:
    """What is written between reading the changes and reading the segments is all there the next time."""
    job = await running(store)
    loop, written = asyncio.get_running_loop(), threading.Event()

    async def write() -> None:
        told = await store.save(changed(job, LATER))
        await store.save(with_segments(told, 0, (Segment(0.0, 1.0, " hello"),)))
        written.set()

    @event.listens_for(engines[0], "before_cursor_execute")
    def interrupt(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "FROM segments" in statement and not written.is_set():
            asyncio.run_coroutine_threadsafe(write(), loop)
            assert written.wait(10)

    seen = [event.number for event in await store.events(job.id, 0, 100)]
    assert written.is_set()
    seen += [event.number for event in await store.events(job.id, seen[-1], 100)]
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) == job.last_event + 2


async def test_opening_a_database_that_is_already_there_changes_nothing(store: Store, path: Path) -> None:
    await running(store)
    before = query(path, "SELECT type, name, sql FROM sqlite_master ORDER BY name")
    await store.open()
    assert query(path, "SELECT type, name, sql FROM sqlite_master ORDER BY name") == before
    assert counts(path, "j1")["events"] == 2


async def trouble(path: Path) -> str:
    """What a store says that cannot be opened; none of its threads is left behind."""
    before, made = set(threading.enumerate()), store_at(path)
    with pytest.raises(StoreError) as caught:
        await made.open()
    await made.close()
    await eventually(lambda: set(threading.enumerate()) <= before)
    return str(caught.value)


async def test_a_database_of_a_newer_version_is_refused_in_words(store: Store, path: Path) -> None:
    await store.close()
    query(path, "UPDATE alembic_version SET version_num = '9999'")
    said_of_it = await trouble(path)
    assert said_of_it.startswith("DATABASE_URL: the database is of a newer version than this program ")
    assert "9999" in said_of_it
    assert "\n" not in said_of_it
    assert query(path, "SELECT version_num FROM alembic_version") == [("9999",)]


def written(folder: Path, content: bytes) -> Path:
    path = folder / "some.file"
    path.write_bytes(content)
    return path


def read(path: Path) -> bytes:
    return path.read_bytes()


@pytest.mark.parametrize("content", [b"This is a text and no database. " * 100, b"SQLite format 3\0" + b"\xff" * 4096])
async def test_a_file_that_is_no_database_is_refused_in_words_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, content)
    said_of_it = await trouble(path)
    assert said_of_it.startswith("DATABASE_URL: the database cannot be used: ")
    assert "\n" not in said_of_it
    assert read(path) == content


async def test_a_place_where_no_file_can_be_is_refused_in_words(tmp_path: Path) -> None:
    assert "unable to open database file" in await trouble(tmp_path)
    assert "unable to open database file" in await trouble(tmp_path / "nowhere" / "x.db")


# --- what is asked of the database


Ask = Callable[[Store], Any]

ASKED: dict[str, Ask] = {
    "list": lambda store: store.list_jobs(ALICE, None, 50, ""),
    "list from a page on": lambda store: store.list_jobs(ALICE, None, 50, "1000"),
    "list by state": lambda store: store.list_jobs(ALICE, JobState.COMPLETE, 50, "1000"),
    "get": lambda store: store.get_job(JobId("j1")),
    "the same request": lambda store: store.create_jobs([new("other")], "r"),
    "events": lambda store: store.events(JobId("j1"), 1, 200),
    "finished work": lambda store: store.finished_work(JobId("j1")),
    "last dispatch": lambda store: store.last_dispatch(JobId("j1")),
    "save": lambda store: store.save(with_segments(new_job("j1"), 0, said("a"))),
    "end an attempt": lambda store: store.end_attempt(JobId("j1"), 1, AttemptState.LOST, NOW),
    "delete a job": lambda store: store.delete_job(JobId("j1")),
    "delete an upload": lambda store: store.delete_upload(UploadId("u1")),
    "blob in use": lambda store: store.blob_in_use("ab" * 32),
}


def plans(path: Path, statements: Sequence[tuple[str, Any]]) -> list[str]:
    """How the database goes about the statements."""
    with closing(sqlite3.connect(path)) as connection:
        return [
            row[3]
            for statement, parameters in statements
            for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]


@pytest.mark.parametrize("name", ASKED)
async def test_no_question_walks_through_a_whole_table(
    store: Store, engines: list[Engine], path: Path, name: str
) -> None:
    await store.create_jobs([new("j1")], "r")
    asked: list[tuple[str, Any]] = []

    @event.listens_for(engines[0], "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    await ASKED[name](store)
    told_of = plans(path, [one for one in asked if isinstance(one[1], tuple)])
    assert any(step.startswith("SEARCH") for step in told_of)
    assert [step for step in told_of if step.startswith("SCAN") or "TEMP B-TREE" in step] == []


async def test_a_walk_through_a_whole_table_would_be_seen(store: Store, path: Path) -> None:
    assert plans(path, [("SELECT * FROM jobs WHERE message = ?", ("x",))]) == ["SCAN jobs"]

"""The attempts' book-keeping, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.contract.errors import Reason, ServiceError
from services.worker.attempts import KEPT_SECONDS, Attempt, Attempts, HandedBack
from services.worker.metrics import Metrics
from services.worker.status import Offer, WorkerStatus
from services.worker.work import AttemptKey, Canceled, Completed, Failed, Options, Progress, Work
from tests.fakes.engine import STATE, FakeEngine, whole_run
from tests.worker import eventually


def work(job: str = "job", attempt: int = 1) -> Work:
    return Work(AttemptKey(job, attempt), Path("folder", job), Options())


@dataclass
class Book:
    attempts: Attempts
    engine: FakeEngine
    status: WorkerStatus
    metrics: Metrics
    tasks: list[asyncio.Task[None]]
    now: float = 0.0

    async def finish(self) -> None:
        """Until all runs ended."""
        await asyncio.wait_for(asyncio.gather(*self.tasks), 10)


@asynccontextmanager
async def book(slots: int = 1) -> AsyncIterator[Book]:
    engine, status = FakeEngine(), WorkerStatus(Offer("demo", 1), slots, STATE)
    metrics = Metrics(status)
    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[None]] = []
        made = Book(None, engine, status, metrics, tasks)  # type: ignore[arg-type]
        spawn = lambda name, run: tasks.append(group.create_task(run, name=name))  # noqa: E731
        made.attempts = Attempts(engine, status, metrics, spawn, lambda: made.now)
        yield made
        for task in tasks:
            task.cancel()


def refused(call: Callable[[], object]) -> Reason:
    with pytest.raises(ServiceError) as caught:
        call()
    return caught.value.reason


def test_events_are_numbered_and_kept_until_acknowledged() -> None:
    attempt = Attempt(work())
    for percent in (1.0, 2.0, 3.0):
        attempt.record(Progress(percent))
    attempt.acknowledge(2)
    attempt.acknowledge(1)
    assert attempt.acknowledged == 2
    event = attempt.event_after(2)
    assert event is not None
    assert (event.number, event.report) == (3, Progress(3.0))
    assert attempt.event_after(3) is None
    assert refused(lambda: attempt.acknowledge(4)) is Reason.INVALID_REQUEST


def test_nothing_follows_the_outcome_and_the_first_outcome_counts() -> None:
    attempt = Attempt(work())
    attempt.record(Completed(1.0, 1.0))
    attempt.record(Canceled())
    attempt.record(Progress(100.0))
    assert attempt.last_event == 1
    assert attempt.outcome is not None
    assert attempt.outcome.report == Completed(1.0, 1.0)
    assert not attempt.settled
    attempt.acknowledge(1)
    assert attempt.settled


def test_a_newer_stream_owns_the_attempt_and_an_older_one_cannot_take_it_back() -> None:
    attempt = Attempt(work())
    old = attempt.attach(0)
    new = attempt.attach(0)
    assert (attempt.owned_by(old), attempt.owned_by(new)) == (False, True)
    attempt.detach(old)
    assert attempt.attached
    attempt.detach(new)
    assert not attempt.attached


def test_attaching_acknowledges_what_is_durable_and_cannot_go_back() -> None:
    attempt = Attempt(work())
    attempt.record(Progress(1.0))
    attempt.record(Progress(2.0))
    assert refused(lambda: attempt.attach(3)) is Reason.INVALID_REQUEST
    attempt.attach(2)
    assert attempt.acknowledged == 2
    assert refused(lambda: attempt.attach(1)) is Reason.ATTEMPT_UNKNOWN


async def test_a_run_takes_a_slot_and_gives_it_back_before_anybody_acknowledged() -> None:
    async with book() as b:
        attempt = b.attempts.accept(work())
        assert b.status.slots.free == 0
        assert refused(lambda: b.attempts.accept(work("other"))) is Reason.WORKER_FULL
        await b.finish()
        assert b.status.slots.free == 1
        assert attempt.last_event == len(whole_run())
        assert b.attempts.held() == [attempt.key]
        b.attempts.acknowledge(attempt, attempt.last_event)
        assert b.attempts.held() == []
        assert refused(lambda: b.attempts.find(attempt.key)) is Reason.ATTEMPT_UNKNOWN
        assert b.metrics.registry.get_sample_value("worker_attempts_total", {"outcome": "completed"}) == 1


async def test_an_outcome_that_nobody_comes_for_is_forgotten_after_a_day() -> None:
    async with book() as b:
        attempt = b.attempts.accept(work())
        await b.finish()
        b.now = KEPT_SECONDS - 1
        b.attempts.forget_old()
        assert b.attempts.held() == [attempt.key]
        b.now = KEPT_SECONDS + 1
        b.attempts.forget_old()
        assert b.attempts.held() == []


async def test_a_run_is_never_forgotten_however_long_it_takes() -> None:
    async with book() as b:
        b.engine.hold("job")
        attempt = b.attempts.accept(work())
        b.now = 10 * KEPT_SECONDS
        b.attempts.forget_old()
        assert b.attempts.held() == [attempt.key]
        assert refused(lambda: b.attempts.find(AttemptKey("job", 0))) is Reason.ATTEMPT_STALE


async def test_a_cancel_before_the_first_step_is_not_lost() -> None:
    async with book() as b:
        attempt = b.attempts.accept(work())
        b.attempts.cancel(attempt)
        await b.finish()
        assert attempt.outcome is not None
        assert attempt.outcome.report == Canceled()


async def test_a_higher_attempt_supersedes_a_running_one_and_a_finished_one() -> None:
    async with book(2) as b:
        b.engine.hold("job")
        lower = b.attempts.accept(work("job", 1))
        assert b.attempts.find_or_supersede(AttemptKey("job", 2)) is None
        assert lower.superseded
        await b.finish()
        assert b.status.slots.taken == 0
        assert refused(lambda: b.attempts.find_or_supersede(AttemptKey("job", 1))) is Reason.ATTEMPT_STALE
        assert b.attempts.find_or_supersede(AttemptKey("job", 2)) is None, "it was not accepted yet"
        b.engine.let_all("job")
        b.attempts.accept(work("job", 2))
        await b.finish()
        assert b.attempts.find_or_supersede(AttemptKey("job", 3)) is None
        assert b.attempts.held() == []


async def test_recordings_are_in_use_as_long_as_runs_read_them() -> None:
    async with book() as b:
        attempt = b.attempts.accept(work())
        assert b.attempts.recordings_in_use() == {"job"}
        await b.finish()
        assert b.attempts.recordings_in_use() == set()
        assert b.attempts.held() == [attempt.key]


async def test_handing_back_is_the_outcome_whatever_the_engine_says_later() -> None:
    async with book(2) as b:
        b.engine.obedient = False
        b.engine.hold("job")
        attempt = b.attempts.accept(work())
        done = b.attempts.accept(work("done"))
        await eventually(lambda: not done.running)
        b.attempts.hand_back_all("bye")
        b.engine.let_all("job")
        await b.finish()
        assert attempt.outcome is not None
        assert attempt.outcome.report == HandedBack("bye")
        assert done.outcome is not None
        assert isinstance(done.outcome.report, Completed)


async def test_waiting_for_acknowledgements_waits_for_those_who_listen_only() -> None:
    async with book(2) as b:
        heard, alone = b.attempts.accept(work("heard")), b.attempts.accept(work("alone"))
        stream = heard.attach(0)
        await b.finish()
        waiting = asyncio.ensure_future(b.attempts.wait_acknowledged())
        await asyncio.sleep(0)
        assert not waiting.done()
        b.attempts.detach(heard, stream)
        await asyncio.wait_for(waiting, 10)
        assert b.attempts.held() == [heard.key, alone.key]


async def test_an_engine_that_breaks_its_word_costs_the_attempt_only() -> None:
    async with book() as b:
        b.engine.hold("job", []).fault = RuntimeError("a bug")
        attempt = b.attempts.accept(work())
        await b.finish()
        assert attempt.outcome is not None
        assert isinstance(attempt.outcome.report, Failed)
        assert b.status.slots.free == 1

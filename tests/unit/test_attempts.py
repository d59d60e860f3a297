"""The attempts' book-keeping, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.contract.errors import Reason, ServiceError
from services.worker.attempt import OVER, TRANSITIONS, Attempt, AttemptState, HandedBack
from services.worker.attempts import KEPT_SECONDS, RESTARTED, Attempts, Entry, JournalFullError
from services.worker.metrics import Metrics
from services.worker.status import Offer, WorkerStatus
from services.worker.work import (
    AttemptKey,
    Canceled,
    Completed,
    Failed,
    Options,
    Progress,
    Report,
    StageChanged,
    Work,
)
from tests.fakes.engine import STATE, FakeEngine, whole_run
from tests.fakes.journal import MemoryJournal
from tests.worker import eventually


def work(job: str = "job", attempt: int = 1) -> Work:
    return Work(AttemptKey(job, attempt), Path("folder", job), Options())


@dataclass
class Book:
    attempts: Attempts
    engine: FakeEngine
    status: WorkerStatus
    metrics: Metrics
    journal: MemoryJournal
    tasks: list[asyncio.Task[None]]
    now: float = 0.0

    async def finish(self) -> None:
        """Until all runs ended and all is written."""
        await asyncio.wait_for(asyncio.gather(*self.tasks), 10)
        await eventually(lambda: all(not attempt.unwritten() for attempt in self.attempts._held.values()))


@asynccontextmanager
async def book(slots: int = 1, journal: MemoryJournal | None = None) -> AsyncIterator[Book]:
    engine, status = FakeEngine(), WorkerStatus(Offer("demo", 1), slots, STATE)
    metrics, journal = Metrics(status), journal or MemoryJournal()
    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[None]] = []
        made = Book(None, engine, status, metrics, journal, tasks)  # type: ignore[arg-type]
        spawn = lambda name, run: tasks.append(group.create_task(run, name=name))  # noqa: E731
        made.attempts = Attempts(engine, status, metrics, journal, spawn, lambda: made.now)
        await made.attempts.restore()
        writing = group.create_task(made.attempts.write())
        yield made
        for task in [*tasks, writing]:
            task.cancel()


def running() -> Attempt:
    """One that the journal holds, with what it says written at once."""
    attempt = Attempt(AttemptKey("job", 1))
    attempt.move(AttemptState.RUNNING)
    return attempt


def record(attempt: Attempt, *reports: Report) -> None:
    for report in reports:
        attempt.record(report)
    attempt.written(attempt.last_event)


@pytest.mark.parametrize("to", AttemptState)
@pytest.mark.parametrize("start", AttemptState)
def test_attempts_move_as_the_table_says_and_in_no_other_way(start: AttemptState, to: AttemptState) -> None:
    attempt = Attempt(AttemptKey("job", 1))
    attempt.state = start
    allowed = {
        AttemptState.ACCEPTING: {AttemptState.REFUSED, AttemptState.RUNNING, AttemptState.SUPERSEDED},
        AttemptState.RUNNING: {AttemptState.ENDED, AttemptState.SUPERSEDED},
        AttemptState.ENDED: {AttemptState.SETTLED, AttemptState.SUPERSEDED},
    }
    if to in allowed.get(start, set()):
        attempt.move(to)
        assert attempt.state is to
    else:
        with pytest.raises(ValueError, match=f"cannot become {to.value}"):
            attempt.move(to)
        assert attempt.state is start


def test_what_is_over_goes_nowhere() -> None:
    assert {state for state, further in TRANSITIONS.items() if not further} == OVER


def refused(call: Callable[[], object]) -> Reason:
    with pytest.raises(ServiceError) as caught:
        call()
    return caught.value.reason


def test_events_are_numbered_and_kept_until_acknowledged() -> None:
    attempt = running()
    record(attempt, Progress(1.0), Progress(2.0), Progress(3.0))
    attempt.acknowledge(2)
    attempt.acknowledge(1)
    assert attempt.acknowledged == 2
    event = attempt.event_after(2)
    assert event is not None
    assert (event.number, event.report) == (3, Progress(3.0))
    assert attempt.event_after(3) is None
    assert refused(lambda: attempt.acknowledge(4)) is Reason.INVALID_REQUEST


def test_a_stage_in_which_it_is_already_is_not_told() -> None:
    attempt = running()
    loading, preparing = StageChanged("loading"), StageChanged("preparing")
    other = StageChanged("preparing", "in two parts")
    reports = [preparing, loading, loading, Progress(1.0), loading, preparing, other, other]
    recorded = [report for report in reports if attempt.record(report)]
    assert recorded == [loading, Progress(1.0), preparing, other]
    assert [event.report for event in attempt.unwritten()] == recorded


def test_nothing_follows_the_outcome_and_the_first_outcome_counts() -> None:
    attempt = running()
    record(attempt, Completed(1.0, 1.0), Canceled(), Progress(100.0))
    assert attempt.last_event == 1
    assert attempt.outcome is not None
    assert attempt.outcome.report == Completed(1.0, 1.0)
    assert attempt.state is AttemptState.ENDED
    attempt.acknowledge(1)
    assert attempt.state is AttemptState.SETTLED


def test_a_newer_stream_owns_the_attempt_and_an_older_one_cannot_take_it_back() -> None:
    attempt = running()
    old = attempt.attach(0)
    new = attempt.attach(0)
    assert (attempt.owned_by(old), attempt.owned_by(new)) == (False, True)
    attempt.detach(old)
    assert attempt.attached
    attempt.detach(new)
    assert not attempt.attached


def test_nobody_is_told_what_the_journal_does_not_hold() -> None:
    attempt = running()
    attempt.record(Progress(1.0))
    assert attempt.event_after(0) is None
    assert refused(lambda: attempt.acknowledge(1)) is Reason.INVALID_REQUEST
    assert [event.number for event in attempt.unwritten()] == [1]
    attempt.written(1)
    assert attempt.event_after(0) is not None
    assert attempt.unwritten() == ()


def test_attaching_acknowledges_what_is_durable_and_cannot_go_back() -> None:
    attempt = running()
    record(attempt, Progress(1.0), Progress(2.0))
    assert refused(lambda: attempt.attach(3)) is Reason.ATTEMPT_UNKNOWN
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
        await b.attempts.forget_old()
        assert b.attempts.held() == [attempt.key]
        b.now = KEPT_SECONDS + 1
        await b.attempts.forget_old()
        assert b.attempts.held() == []


async def test_what_the_journal_cannot_forget_now_is_forgotten_the_next_time() -> None:
    async with book() as b:
        attempt = b.attempts.accept(work())
        await b.finish()
        b.now = KEPT_SECONDS + 1
        forget = b.journal.forget

        async def full(keys: Sequence[AttemptKey]) -> None:
            raise JournalFullError("as the test says")

        b.journal.forget = full  # type: ignore[method-assign]
        with pytest.raises(JournalFullError):
            await b.attempts.forget_old()
        assert b.attempts.held() == [attempt.key]
        b.journal.forget = forget  # type: ignore[method-assign]
        await b.attempts.forget_old()
        assert (b.attempts.held(), b.journal.kept) == ([], {})


async def test_nothing_is_written_any_more_of_what_was_forgotten() -> None:
    async with book() as b:
        attempt = b.attempts.accept(work())
        await attempt.decided()
        b.journal.full = True
        await asyncio.wait_for(asyncio.gather(*b.tasks), 10)
        await eventually(lambda: attempt.key in b.attempts._unwritten)
        written = b.journal.write

        async def full(entries: Sequence[Entry]) -> None:
            raise JournalFullError("as the test says")

        b.journal.full, b.journal.write = False, full  # type: ignore[method-assign]
        b.now = KEPT_SECONDS + 1
        await b.attempts.forget_old()
        b.journal.write = written  # type: ignore[method-assign]
        assert attempt.key not in b.attempts._unwritten


async def test_a_job_that_is_heard_of_while_it_is_being_forgotten_is_remembered() -> None:
    async with book() as b:
        attempt = b.attempts.accept(work("job", 2))
        await b.finish()
        b.attempts.acknowledge(attempt, attempt.last_event)
        await b.finish()
        b.now = KEPT_SECONDS + 1
        forgetting = asyncio.Event()

        async def slow(keys: Sequence[AttemptKey]) -> None:
            await forgetting.wait()

        b.journal.forget = slow  # type: ignore[method-assign]
        going = asyncio.ensure_future(b.attempts.forget_old())
        await asyncio.sleep(0.01)
        assert refused(lambda: b.attempts.find_or_supersede(AttemptKey("job", 2))) is Reason.ATTEMPT_STALE
        forgetting.set()
        await asyncio.wait_for(going, 10)
        assert refused(lambda: b.attempts.find_or_supersede(AttemptKey("job", 1))) is Reason.ATTEMPT_STALE


async def test_a_run_is_never_forgotten_however_long_it_takes() -> None:
    async with book() as b:
        b.engine.hold("job")
        attempt = b.attempts.accept(work())
        b.now = 10 * KEPT_SECONDS
        await b.attempts.forget_old()
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
        assert lower.state is AttemptState.SUPERSEDED
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
        await eventually(lambda: attempt.state is AttemptState.RUNNING)
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


async def test_an_attempt_is_accepted_only_once_the_journal_holds_it() -> None:
    async with book() as b:
        attempt = b.attempts.accept(work())
        assert attempt.state is AttemptState.ACCEPTING
        assert b.journal.kept == {}
        await attempt.decided()
        assert attempt.key in b.journal.kept


async def test_a_full_journal_refuses_and_takes_no_slot() -> None:
    async with book() as b:
        b.journal.full = True
        attempt = b.attempts.accept(work())
        with pytest.raises(ServiceError) as refusal:
            await attempt.decided()
        assert refusal.value.reason is Reason.STORAGE_FULL
        await b.finish()
        assert (b.status.slots.free, b.attempts.held(), b.engine.works) == (1, [], [])
        b.journal.full = False
        assert b.attempts.find_or_supersede(work().key) is None, "the same attempt may come again"
        await b.attempts.accept(work()).decided()


async def test_what_finds_no_room_in_the_middle_of_a_run_waits_and_is_told_later() -> None:
    async with book() as b:
        b.engine.hold("job")
        attempt = b.attempts.accept(work())
        await attempt.decided()
        b.journal.full = True
        b.engine.let_all("job")
        await asyncio.wait_for(asyncio.gather(*b.tasks), 10)
        assert attempt.last_event == len(whole_run())
        assert attempt.event_after(0) is None
        b.journal.full = False
        await b.finish()
        assert attempt.durable == len(whole_run())


async def test_a_worker_that_was_restarted_still_has_outcomes_that_nobody_acknowledged() -> None:
    async with book() as b:
        attempt = b.attempts.accept(work())
        await b.finish()
        b.attempts.acknowledge(attempt, 2)
        await b.finish()
    async with book(journal=b.journal) as again:
        assert again.attempts.held() == [attempt.key]
        found = again.attempts.find(attempt.key)
        assert (found.worker_job_id, found.acknowledged) == (attempt.worker_job_id, 2)
        assert (found.event_after(2), again.status.slots.free) == (attempt.event_after(2), 1)
        assert refused(lambda: again.attempts.find(AttemptKey("job", 0))) is Reason.ATTEMPT_STALE
        again.attempts.acknowledge(found, found.last_event)
        await again.finish()
    async with book(journal=b.journal) as last:
        assert last.attempts.held() == []
        assert refused(lambda: last.attempts.find_or_supersede(attempt.key)) is Reason.ATTEMPT_STALE


async def test_what_ran_when_the_worker_was_killed_is_handed_back_after_its_last_window() -> None:
    async with book() as b:
        b.engine.hold("job")
        attempt = b.attempts.accept(work())
        b.engine.let("job", 5)
        await eventually(lambda: attempt.durable == 5)
        kept = {key: entry for key, entry in b.journal.kept.items()}
    b.journal.kept = kept  # what it would do on its way out is not done
    async with book(journal=b.journal) as again:
        found = again.attempts.find(attempt.key)
        await again.finish()
        assert found.event_after(4) == attempt.event_after(4)
        outcome = found.event_after(5)
        assert outcome is not None
        assert (outcome.number, outcome.report) == (6, HandedBack(RESTARTED))
        assert again.engine.works == []


async def test_waiting_a_day_counts_over_restarts_and_by_no_clock_on_the_wall() -> None:
    async with book() as b:
        attempt = b.attempts.accept(work())
        await b.finish()
        b.now = KEPT_SECONDS - 1
        await b.attempts.forget_old()
    async with book(journal=b.journal) as again:
        assert again.attempts.held() == [attempt.key]
        again.now = 2
        await again.attempts.forget_old()
        assert again.attempts.held() == []
        assert again.journal.kept == {}


async def test_stopping_lets_the_window_finish_and_hands_back() -> None:
    async with book() as b:
        b.engine.hold("job")
        attempt = b.attempts.accept(work())
        b.engine.let("job", 4)
        await eventually(lambda: attempt.durable == 4)
        b.attempts.stop_all("bye")
        await asyncio.wait_for(b.attempts.wait_stopped(), 10)
        assert attempt.outcome is not None
        assert (attempt.outcome.number, attempt.outcome.report) == (5, HandedBack("bye"))

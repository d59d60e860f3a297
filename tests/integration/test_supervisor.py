"""The engine's front over a child process that misbehaves."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.contract.errors import Reason, ServiceError
from services.worker.engine import supervisor
from services.worker.engine.protocol import EngineSettings
from services.worker.engine.supervisor import Supervision, Supervisor
from services.worker.http import ping_answer
from services.worker.status import Offer, WorkerStatus
from services.worker.work import AttemptKey, Canceled, Completed, Failed, Options, Report, StageChanged, Work
from tests.worker import eventually

DEADLINE = 20.0
SOON = Supervision(ping_interval=0.1, cancel_timeout=0.3, first_pause=0.05, longest_pause=0.1)
STARTING = StageChanged("loading", "the engine is starting")

attempts = itertools.count(1)


@asynccontextmanager
async def engine(how: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Supervisor]:
    command = (sys.executable, "-m", "tests.fakes.engine_process", how, str(file))
    monkeypatch.setattr(supervisor, "_COMMAND", command)
    made = Supervisor(EngineSettings("demo", file.parent), SOON)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "well"


def work() -> Work:
    return Work(AttemptKey("job", next(attempts)), Path("sound"), Options())


async def finish(reports: AsyncIterator[Report]) -> list[Report]:
    async with asyncio.timeout(DEADLINE):
        return [report async for report in reports]


async def test_an_engine_that_cannot_start_costs_no_run_and_offers_no_slot(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine("dies", file, monkeypatch) as made, asyncio.TaskGroup() as group:
        status = WorkerStatus(Offer("demo", 1), 2, made.state)
        following = group.create_task(status.follow(made))
        status.reserve()
        running = group.create_task(finish(made.run(work())))
        await eventually(lambda: status.slots.paused)
        assert not running.done()
        assert (status.slots.free, status.slots.taken) == (0, 1)
        assert "exit status 3" in status.engine.trouble
        assert ping_answer(status)["engineError"] == status.engine.trouble
        with pytest.raises(ServiceError) as refusal:
            status.reserve()
        assert (refusal.value.reason, refusal.value.message) == (Reason.WORKER_FULL, status.engine.trouble)

        file.touch()
        assert await running == [STARTING, Completed(1.0, 1.0)]
        await eventually(lambda: status.slots.free == 1)
        assert ping_answer(status)["engineError"] is None
        following.cancel()


async def test_one_start_that_fails_is_no_trouble_yet(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    note_end = Supervisor._note_end

    def noted(self: Supervisor, how: str) -> None:
        note_end(self, how)
        seen.append(self.state.trouble)

    monkeypatch.setattr(Supervisor, "_note_end", noted)
    async with engine("dies", file, monkeypatch):
        await eventually(lambda: len(seen) >= 2)
    assert [bool(trouble) for trouble in seen[:2]] == [False, True]


async def test_a_run_that_waits_for_the_engine_can_be_canceled(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine("dies", file, monkeypatch) as made:
        given = work()
        reports = made.run(given)
        made.cancel(given.key)
        assert await finish(reports) == [STARTING, Canceled()]


async def test_a_run_that_waits_when_the_engine_is_stopped_fails(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine("dies", file, monkeypatch) as made:
        reports = made.run(work())
        await made.stop()
        outcome = (await finish(reports))[-1]
        assert isinstance(outcome, Failed)
        assert outcome.reason == "ENGINE_CRASHED"


async def test_a_run_that_does_not_heed_its_cancel_costs_the_child(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with capture_logs() as logs:
        async with engine("stuck", file, monkeypatch) as made:
            given, other = work(), work()
            canceled, crashed = made.run(given), made.run(other)
            for reports in (canceled, crashed):
                while await anext(reports) != StageChanged("transcribing"):
                    pass
            first = made.pid
            made.cancel(given.key)
            assert await finish(canceled) == [Canceled()]
            (outcome,) = await finish(crashed)
            assert isinstance(outcome, Failed)
            assert (await finish(made.run(work())))[-1] == Completed(1.0, 1.0)
            assert made.pid != first
            assert made._settings.halvings == 0  # killed by the worker itself, which says nothing of memory
    assert [log["log_level"] for log in logs if log["event"] == "engine_stuck"] == ["error"]


async def test_a_run_that_its_reader_left_costs_the_child_too_where_it_goes_on(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine("stuck", file, monkeypatch) as made:
        reports = made.run(work())
        while await anext(reports) != StageChanged("transcribing"):
            pass
        first = made.pid
        await reports.aclose()  # type: ignore[attr-defined]
        await eventually(lambda: made.pid not in (None, first))


async def test_a_run_that_is_canceled_while_a_model_is_loaded_costs_no_child(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine("loading", file, monkeypatch) as made:
        given = work()
        reports = made.run(given)
        while await anext(reports) != StageChanged("transcribing"):
            pass
        first = made.pid
        made.cancel(given.key)
        assert await finish(reports) == [Canceled()]
        assert made.pid == first


async def test_a_cancel_that_comes_after_the_outcome_costs_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.touch()
    async with engine("dies", file, monkeypatch) as made:
        given = work()
        unread = made.run(given)
        await finish(made.run(work()))
        first = made.pid
        made.cancel(given.key)
        await asyncio.sleep(2 * (SOON.cancel_timeout + SOON.ping_interval))
        assert made.pid == first
        assert await finish(unread) == [STARTING, Completed(1.0, 1.0)]


async def test_a_cancel_that_comes_after_a_crash_does_not_end_the_next_child(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine("stuck", file, monkeypatch) as made:
        given = work()
        unread = made.run(given)
        while await anext(unread) != StageChanged("transcribing"):
            pass
        killed = made.pid
        assert killed is not None
        file.touch()
        os.kill(killed, signal.SIGKILL)
        await eventually(lambda: made.state.ready and made.pid not in (None, killed))
        following = made.pid
        made.cancel(given.key)
        await asyncio.sleep(2 * (SOON.cancel_timeout + SOON.ping_interval))
        assert made.pid == following
        (outcome,) = await finish(unread)
        assert isinstance(outcome, Failed)


async def test_a_child_that_somebody_killed_is_followed_by_one_with_smaller_batches(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that is short of memory kills, and says nothing."""
    async with engine("", file, monkeypatch) as made:
        for times in (1, 2):
            await eventually(lambda: made.state.ready)
            assert made.pid is not None
            os.kill(made.pid, signal.SIGKILL)
            await eventually(lambda times=times: made._settings.halvings == times)


async def test_a_child_that_says_nonsense_is_followed_by_another(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with capture_logs() as logs:
        async with engine("nonsense", file, monkeypatch) as made:
            assert await finish(made.run(work())) == [STARTING, Completed(1.0, 1.0)]
    assert [log["log_level"] for log in logs if log["event"] == "engine_supervision_failed"] == ["error"]

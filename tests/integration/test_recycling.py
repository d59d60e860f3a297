"""The engine's front over children that ask to be replaced: no run notices but by the time it takes."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.worker.engine import supervisor
from services.worker.engine.protocol import EngineSettings
from services.worker.engine.supervisor import RECYCLES_ALLOWED, Supervision, Supervisor
from services.worker.work import (
    AttemptKey,
    Canceled,
    Completed,
    Failed,
    FinishedWork,
    Options,
    Planned,
    Report,
    SpeakersFound,
    StageChanged,
    WindowFinished,
    Work,
)
from tests.fakes.engine import plan, window_finished
from tests.fakes.recycling_engine import LATE, REASON, TURNS, WINDOWS, without
from tests.worker import eventually

DEADLINE = 20.0
SOON = Supervision(ping_interval=0.1, first_pause=0.05, longest_pause=0.1)
STARTING = StageChanged("loading", "the engine is starting")
PREPARING = StageChanged("preparing")
DONE = Completed(90.0, 1.0)

attempts = itertools.count(1)


@asynccontextmanager
async def engine(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supervision: Supervision = SOON, batch_size: int = 0
) -> AsyncIterator[Supervisor]:
    command = (sys.executable, "-m", "tests.fakes.recycling_engine", how, str(tmp_path / "last"))
    monkeypatch.setattr(supervisor, "_COMMAND", command)
    made = Supervisor(EngineSettings("demo", tmp_path, batch_size=batch_size), supervision)
    await made.start()
    await eventually(lambda: made.state.ready)
    try:
        yield made
    finally:
        await made.stop()


def work(finished: FinishedWork | None = None) -> Work:
    return Work(AttemptKey("job", next(attempts)), Path("sound"), Options(), finished)


async def finish(reports: AsyncIterator[Report]) -> list[Report]:
    async with asyncio.timeout(DEADLINE):
        return [report async for report in reports]


async def test_a_run_goes_on_in_the_next_child_and_nothing_is_told_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs:
        async with engine("once", tmp_path, monkeypatch) as made:
            first = made.pid
            reports = await finish(made.run(work()))
            assert made.pid not in (None, first)
    assert reports == [
        PREPARING,
        Planned(plan(WINDOWS)),
        SpeakersFound(TURNS),
        window_finished(0),
        STARTING,
        StageChanged("preparing", without({0})),
        window_finished(1),
        window_finished(2),
        DONE,
    ]
    (recycled,) = [log for log in logs if log["event"] == "engine_recycled"]
    assert (recycled["reason"], recycled["restart_seconds"]) == (REASON, 0.0)
    assert not [log for log in logs if log["event"] == "engine_died"]


async def test_all_runs_of_the_child_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine("once", tmp_path, monkeypatch) as made:
        both = await asyncio.gather(finish(made.run(work())), finish(made.run(work())))
    for reports in both:
        assert reports[-1] == DONE
        windows = [report.index for report in reports if isinstance(report, WindowFinished)]
        assert windows == list(range(WINDOWS))


async def test_what_the_work_came_with_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine("once", tmp_path, monkeypatch) as made:
        reports = await finish(made.run(work(FinishedWork(plan(WINDOWS), frozenset({2})))))
    assert reports[-3:] == [StageChanged("preparing", without({0, 2})), window_finished(1), DONE]


async def test_all_is_told_again_where_the_next_child_plans_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine("anew", tmp_path, monkeypatch) as made:
        reports = await finish(made.run(work()))
    assert reports[reports.index(STARTING) + 1 :] == [
        StageChanged("preparing", without(())),
        Planned(replace(plan(WINDOWS), fingerprint="another")),
        SpeakersFound(TURNS),
        *map(window_finished, range(WINDOWS)),
        DONE,
    ]


async def test_later_children_begin_with_the_batch_that_was_asked_for_and_may_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine("silent", tmp_path, monkeypatch, batch_size=16) as made:
        assert made.state.device_name == "16 of 16"
        assert (await finish(made.run(work())))[-1] == DONE
        assert made.state.device_name == "4 of 16"


async def test_a_run_under_which_every_child_is_replaced_fails_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine("always", tmp_path, monkeypatch, batch_size=4) as made:
        reports = await finish(made.run(work()))
    assert reports[:-1] == [STARTING] * RECYCLES_ALLOWED
    outcome = reports[-1]
    assert isinstance(outcome, Failed)
    assert (outcome.reason, REASON in outcome.message) == ("ENGINE_CRASHED", True)


async def test_less_at_once_is_no_fault_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine("halving", tmp_path, monkeypatch, batch_size=16) as made:
        reports = await finish(made.run(work()))
    assert isinstance(reports[-1], Failed)
    assert reports[:-1] == [STARTING] * (4 + RECYCLES_ALLOWED)


async def test_only_one_that_asks_again_soon_is_followed_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pauses:
        def __init__(self, *_: float) -> None:
            self.taken = 0

        def succeeded(self) -> None:
            self.taken = 0

        def failed(self) -> float:
            self.taken += 1
            return self.taken / 100

    monkeypatch.setattr(supervisor, "Backoff", Pauses)
    for interval, expected in ((60.0, [0.0, 0.01, 0.02, 0.03]), (0.0, [0.0] * 4)):
        with capture_logs() as logs:
            supervision = replace(SOON, recycle_interval=interval, longest_pause=60.0)
            async with engine("always", tmp_path, monkeypatch, supervision, batch_size=4) as made:
                await finish(made.run(work()))
                await eventually(lambda: made.state.ready)
        pauses = [log["restart_seconds"] for log in logs if log["event"] == "engine_recycled"]
        assert pauses == expected


async def test_a_run_that_is_canceled_when_its_child_is_replaced_is_canceled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine("once", tmp_path, monkeypatch) as made:
        given = work()
        reports = made.run(given)
        note_recycle = made._note_recycle

        def canceled_first(message: supervisor.Recycle) -> None:
            made.cancel(given.key)
            note_recycle(message)

        monkeypatch.setattr(made, "_note_recycle", canceled_first)
        assert (await finish(reports))[-1] == Canceled()


async def test_a_run_ends_where_the_engine_is_stopped_before_the_next_child_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine("once", tmp_path, monkeypatch) as made:
        reports = made.run(work())
        async with asyncio.timeout(DEADLINE):
            while await anext(reports) != STARTING:
                pass
        await made.stop()
        (outcome,) = await finish(reports)
    assert isinstance(outcome, Failed)
    assert outcome.reason == "ENGINE_CRASHED"
    assert outcome != LATE

"""Jobs that share the device: what each says does not depend on the others, and none waits for them. Real models."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.worker.engine.supervisor import Supervisor
from services.worker.pipeline.sentences import LONGEST_CHARACTERS, LONGEST_SECONDS
from services.worker.work import Canceled, Completed, FinishedWork, Report, WindowFinished
from tests import recordings
from tests.engine import (
    BUNDLED,
    DEADLINE,
    MOST_WORD_ERRORS,
    Long,
    Run,
    finish,
    make_long,
    ready,
    run,
    started,
    word_errors,
    work,
)
from tests.recordings import Example


@pytest.fixture
async def engine() -> AsyncIterator[Supervisor]:
    async with started(slots=8, batch_size=8) as made:
        await ready(made)
        yield made


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Long:
    return make_long(tmp_path_factory.mktemp("sounds"))


async def alone(path: Path, batch_size: int) -> Run:
    async with started(slots=1, batch_size=batch_size) as made:
        return await run(made, path, word_timestamps=True)


async def test_a_transcript_is_the_same_alone_in_company_and_at_any_batch_size(engine: Supervisor, long: Long) -> None:
    """To the last digit of every word's probability."""
    one_by_one = await alone(long.path, batch_size=1)
    others = [run(engine, example.path, word_timestamps=True) for example in recordings.examples()[:6]]
    together, *_ = await asyncio.gather(run(engine, long.path, word_timestamps=True), *others)
    assert together.plan == one_by_one.plan
    assert together.windows == one_by_one.windows
    assert word_errors(long.text, together.text) <= MOST_WORD_ERRORS


async def test_a_short_job_does_not_wait_for_long_ones(tmp_path: Path) -> None:
    """Small batches, so that what is in the lanes' hands when it comes is little; and so much to do that a loaded machine
    prepares the short one long before it is done."""
    long = make_long(tmp_path, seconds=1800)
    short = min(recordings.examples(), key=lambda example: example.duration)
    done: list[str] = []

    async def follow(engine: Supervisor, going: asyncio.Event) -> None:
        async for report in engine.run(work(long.path)):
            if isinstance(report, WindowFinished):
                going.set()
        done.append("long")

    async with started(slots=4, batch_size=2) as engine, asyncio.TaskGroup() as group:
        going = asyncio.Event()
        for _ in range(3):  # one after the other is prepared, and the first is far from done when the last is
            group.create_task(follow(engine, going))
        async with asyncio.timeout(2 * DEADLINE):
            await going.wait()
        found = await run(engine, short.path)
        done.append("short")
    assert word_errors(short.text, found.text) <= MOST_WORD_ERRORS
    assert done[0] == "short"


async def test_windows_that_a_lane_has_in_hand_are_told_before_a_cancel_is_carried_out(
    engine: Supervisor, long: Long
) -> None:
    given = work(long.path)
    reports: list[Report] = []
    async with asyncio.timeout(DEADLINE):
        async for report in engine.run(given):
            reports.append(report)
            if isinstance(report, WindowFinished) and report.index == 0:
                engine.cancel(given.key)
    stopped = Run(reports)
    assert isinstance(stopped.outcome, Canceled | Completed)
    told = sorted(stopped.windows)
    assert told == list(range(len(told)))
    rest = await finish(engine, work(long.path, FinishedWork(stopped.plan, frozenset(told))))
    assert sorted(rest.windows) == list(range(len(told), len(stopped.plan.windows)))


async def test_a_canceled_job_takes_nothing_from_the_others(engine: Supervisor, long: Long) -> None:
    given = work(long.path)
    other = asyncio.ensure_future(run(engine, long.path))
    async with asyncio.timeout(DEADLINE):
        async for report in engine.run(given):
            if isinstance(report, WindowFinished):
                engine.cancel(given.key)
    assert word_errors(long.text, (await other).text) <= MOST_WORD_ERRORS


async def test_segments_are_of_a_length_that_people_read(engine: Supervisor, long: Long) -> None:
    found = await run(engine, long.path)
    assert len(found.segments) > 2 * len(found.plan.windows)
    for segment in found.segments:
        assert segment.end - segment.start <= LONGEST_SECONDS + 0.01
        assert len(segment.text) <= LONGEST_CHARACTERS


async def test_segments_begin_and_end_where_people_speak(engine: Supervisor) -> None:
    """Within what word times are good for; never in the middle of nowhere."""
    example: Example = recordings.example(speakers=1)
    found = await run(engine, example.path)
    for segment in found.segments:
        assert any(turn.start - 1.0 <= segment.start <= turn.end for turn in example.turns)
        assert any(turn.start <= segment.end <= turn.end + 0.5 for turn in example.turns)


async def test_a_model_that_cannot_time_words_transcribes_and_says_what_it_cannot(tmp_path: Path) -> None:
    """As converted by an early CTranslate2."""
    shutil.copytree(BUNDLED / "whisper-demo", tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    del config["alignment_heads"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    example = recordings.example(speakers=1)
    async with started(default_model="old", model_dir=tmp_path) as made:
        found = await run(made, example.path)
        assert word_errors(example.text, found.text) <= MOST_WORD_ERRORS
        refused = await run(made, example.path, word_timestamps=True)
        assert refused.failure.reason == "MODEL_UNAVAILABLE"
        assert "alignment_heads" in refused.failure.message

"""What goes on in another child is told once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from services.worker.engine.told import Told
from services.worker.work import (
    AttemptKey,
    ChunkSpeakers,
    FinishedWork,
    Options,
    Planned,
    Progress,
    SpeakerChunkFound,
    SpeakersFound,
    SpeakerTurn,
    StageChanged,
    WindowDecoded,
    WindowFinished,
    Work,
)
from tests.fakes.engine import plan

PLAN = plan(4)
OTHER = replace(PLAN, fingerprint="another")
TURNS = (SpeakerTurn(0.0, 1.0, "SPEAKER_00"),)
CHUNKS = [ChunkSpeakers(index, 0.0, 60.0, (), (), ()) for index in range(3)]
DECODED = tuple(WindowDecoded(index, ()) for index in range(3))
WORK = Work(AttemptKey("job", 1), Path("sound"), Options())


def test_what_comes_before_the_plan_leaves_the_work_as_it_is() -> None:
    told = Told()
    assert told.is_news(StageChanged("preparing"))
    given = replace(WORK, finished=FinishedWork(PLAN, frozenset({1}), TURNS))
    assert told.rest_of(given) is given
    assert told.rest_of(WORK) is WORK


def test_what_was_told_is_not_told_again_and_goes_with_the_work() -> None:
    told = Told()
    reports = [Planned(PLAN), SpeakersFound(TURNS), WindowFinished(0, ()), Progress(25.0), WindowFinished(1, ())]
    assert all(told.is_news(report) for report in reports)
    assert not any(told.is_news(report) for report in reports)
    assert told.rest_of(WORK).finished == FinishedWork(PLAN, frozenset({0, 1}), TURNS)
    assert told.is_news(StageChanged("transcribing"))
    assert told.is_news(StageChanged("transcribing"))
    assert told.is_news(WindowFinished(2, ()))
    assert told.is_news(Progress(75.0))
    assert not told.is_news(Progress(50.0))


def test_chunks_of_speakers_go_with_the_work_and_with_what_it_came_with() -> None:
    given = replace(WORK, finished=FinishedWork(PLAN, speaker_chunks=(CHUNKS[0],)))
    told = Told()
    told.is_news(Planned(PLAN))
    assert told.is_news(SpeakerChunkFound(CHUNKS[1]))
    assert not told.is_news(SpeakerChunkFound(CHUNKS[1]))
    assert told.rest_of(given).finished == FinishedWork(PLAN, speaker_chunks=(CHUNKS[0], CHUNKS[1]))
    told.is_news(SpeakersFound(TURNS, TURNS))
    assert told.rest_of(given).finished == FinishedWork(PLAN, frozenset(), TURNS, TURNS, (CHUNKS[0], CHUNKS[1]))
    told.is_news(Planned(OTHER))
    assert told.rest_of(given).finished == FinishedWork(OTHER)


def test_decoded_windows_go_with_the_work_until_they_are_finished() -> None:
    given = replace(WORK, finished=FinishedWork(PLAN, decoded_windows=(DECODED[0], DECODED[2])))
    told = Told()
    told.is_news(Planned(PLAN))
    assert told.is_news(DECODED[1])
    assert not told.is_news(DECODED[1])
    assert told.rest_of(given).finished == FinishedWork(PLAN, decoded_windows=DECODED)
    assert told.is_news(WindowFinished(0, ()))
    assert told.rest_of(given).finished == FinishedWork(PLAN, frozenset({0}), decoded_windows=DECODED[1:])
    told.is_news(Planned(OTHER))
    assert told.rest_of(given).finished == FinishedWork(OTHER)


def test_what_the_work_came_with_stays_with_it() -> None:
    given = replace(WORK, finished=FinishedWork(PLAN, frozenset({0}), TURNS))
    told = Told()
    told.is_news(Planned(PLAN))
    told.is_news(WindowFinished(1, ()))
    assert told.rest_of(given).finished == FinishedWork(PLAN, frozenset({0, 1}), TURNS)
    assert told.is_news(SpeakersFound(TURNS))


def test_what_the_work_came_with_is_dropped_where_the_plan_is_another() -> None:
    given = replace(WORK, finished=FinishedWork(PLAN, frozenset({0}), TURNS))
    told = Told()
    told.is_news(Planned(OTHER))
    told.is_news(WindowFinished(1, ()))
    assert told.rest_of(given).finished == FinishedWork(OTHER, frozenset({1}))


def test_another_plan_begins_anew() -> None:
    told = Told()
    after = [SpeakersFound(TURNS), WindowFinished(0, ()), Progress(25.0)]
    for report in (Planned(PLAN), *after):
        told.is_news(report)
    assert told.is_news(Planned(OTHER))
    assert told.rest_of(WORK).finished == FinishedWork(OTHER)
    assert all(told.is_news(report) for report in after)

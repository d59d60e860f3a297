"""Progress is of speech, never falls, comes twice a second at most, and tells what is left at the latest speed."""

from __future__ import annotations

import pytest

from services.worker.pipeline.progress import INTERVAL_SECONDS, SpeechProgress
from services.worker.pipeline.windows import SAMPLE_RATE, Span, SpeechWindow
from services.worker.work import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def windows(*seconds: float) -> list[SpeechWindow]:
    return [
        SpeechWindow(index, (Span(index * 10**7, index * 10**7 + int(length * SAMPLE_RATE)),))
        for index, length in enumerate(seconds)
    ]


def test_percent_is_of_speech_and_what_was_finished_before_counts() -> None:
    clock = Clock()
    plan = windows(30, 30, 20, 20)
    progress = SpeechProgress(plan, frozenset({0}), clock)
    found = progress.add(plan[1])
    assert found is not None
    assert found.percent == 60.0


def test_what_is_decoded_is_not_finished_before_it_is_known_who_speaks() -> None:
    clock = Clock()
    plan = windows(*[25.0] * 4)
    progress = SpeechProgress(plan, frozenset(), clock)

    def told(found: Progress | None) -> float:
        clock.now += 1.0
        assert found is not None
        return found.percent

    assert told(progress.bound(0.0)) == 0.0
    assert [told(progress.add(window)) for window in plan[:2]] == [0.0, 0.0]
    assert progress.seconds_left() is None
    assert told(progress.bound(0.25)) == 25.0
    assert told(progress.bound(0.9)) == 50.0
    assert [told(progress.add(window)) for window in plan[2:]] == [75.0, 90.0]
    assert told(progress.bound(0.5)) == 90.0  # it never falls
    assert told(progress.bound(1.0)) == 100.0
    assert progress.seconds_left() == 0.0


def test_a_recording_without_speech_has_no_share() -> None:
    assert SpeechProgress([], frozenset(), Clock()).bound(0.5) is None


def test_at_most_two_a_second() -> None:
    clock = Clock()
    plan = windows(*[30.0] * 100)
    progress = SpeechProgress(plan, frozenset(), clock)
    told = []
    for window in plan:
        clock.now += 0.01
        if (found := progress.add(window)) is not None:
            told.append(found.percent)
    assert len(told) == 1 + int(0.99 / INTERVAL_SECONDS)
    assert told == sorted(told)


def test_the_time_left_follows_the_speed_of_the_last_minute() -> None:
    clock = Clock()
    plan = windows(*[30.0] * 400)
    progress = SpeechProgress(plan, frozenset(), clock)
    assert progress.seconds_left() is None
    for window in plan[:100]:
        clock.now += 1.0
        progress.add(window)
    assert progress.seconds_left() == pytest.approx(300, rel=0.02)
    for window in plan[100:200]:  # others came: half as fast
        clock.now += 2.0
        progress.add(window)
    assert progress.seconds_left() == pytest.approx(400, rel=0.02)


def test_a_recording_without_speech_has_no_time_left_to_tell() -> None:
    assert SpeechProgress([], frozenset(), Clock()).seconds_left() is None

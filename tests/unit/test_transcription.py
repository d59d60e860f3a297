"""A job's windows through a line that the test plays: what is decoded again and when, and what is given out in which order."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from services.worker.engine.decoding import Request
from services.worker.engine.transcription import Transcription
from services.worker.pipeline.faults import WorkCanceled, WorkError
from services.worker.pipeline.windows import SAMPLE_RATE, Span, SpeechWindow
from services.worker.work import AttemptKey, Segment, Word

SECONDS = 20


def window(index: int, seconds: float = SECONDS) -> SpeechWindow:
    start = index * 30 * SAMPLE_RATE
    return SpeechWindow(index, (Span(start, start + int(seconds * SAMPLE_RATE)),))


def said(request: Request, text: str = "word", *, timed: bool = True) -> tuple[Segment, ...]:
    """A word a second."""
    words = tuple(Word(f" {text}", float(second), second + 0.5, 1.0) for second in range(int(request.seconds)))
    return (Segment(0.0, request.seconds, f" {text}" * len(words), words=words if timed else ()),)


@dataclass
class PlayedLine:
    """Answers what is put when the test says so; ``put_in`` has all that was put."""

    answers: Callable[[Request], tuple[Segment, ...] | None] = said
    put_in: list[Request] = field(default_factory=list)
    closed: bool = False
    rests: bool = False

    def put(self, request: Request) -> None:
        if self.closed:
            raise ValueError("the line is closed")
        self.put_in.append(request)
        found = self.answers(request)
        if found is not None:
            request.done.set_result(found)

    def expect(self, windows: int, holds_back: bool) -> None: ...

    def rest(self, rests: bool) -> None:
        self.rests = rests

    def close(self) -> None:
        self.closed = True
        for request in self.put_in:
            if request.done.cancel():
                request.done.set_running_or_notify_cancel()


def transcription(line: PlayedLine, canceled: Callable[[], bool] = lambda: False, ahead: int = 4) -> Transcription:
    model = SimpleNamespace(times_words=True, name="played")
    voice: Any = SimpleNamespace(model=model, features=SimpleNamespace(of=lambda samples: samples))
    recording: Any = SimpleNamespace(cut_out=lambda window: window, voiced=lambda window: float)
    played: Any = line
    return Transcription(AttemptKey("job", 1), voice, played, recording, canceled, lambda: ahead)


def known() -> Future[None]:
    done: Future[None] = Future()
    done.set_result(None)
    return done


def given_out(made: Transcription, windows: Iterable[SpeechWindow]) -> list[tuple[int, str]]:
    found = made.windows(list(windows), known())
    return [(one.index, "".join(segment.text for segment in segments)) for one, segments in found]


def parts(line: PlayedLine) -> list[int]:
    return [request.index for request in line.put_in if request.part]


def test_windows_are_given_out_in_their_order_and_in_the_recordings_time() -> None:
    made = transcription(PlayedLine())
    found = list(made.windows([window(index) for index in range(9)], known()))
    assert [one.index for one, _ in found] == list(range(9))
    assert all(segments[0].start == 30.0 * one.index for one, segments in found)


def test_no_more_are_in_line_than_may_be() -> None:
    line = PlayedLine(lambda request: None)
    made = transcription(line, lambda: len(line.put_in) >= 4 and line.closed, ahead=4)
    lines = made.windows([window(index) for index in range(9)], known())
    thread = threading.Thread(target=lambda: next(lines, None))
    thread.start()
    for answered in range(3):
        wait_for(lambda expected=answered + 4: len(line.put_in) == expected)  # type: ignore[misc]
        line.put_in[answered + 1].done.set_result(
            said(line.put_in[answered + 1])
        )  # the first is not, and keeps none back
    line.put_in[0].done.set_result(said(line.put_in[0]))
    thread.join(10)
    assert not thread.is_alive()


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came")


def test_windows_without_words_are_decoded_again_at_once_and_not_one_after_the_other() -> None:
    line = PlayedLine(lambda request: None if request.part else ())
    made = transcription(line, ahead=4)
    lines = made.windows([window(index) for index in range(4)], known())
    thread = threading.Thread(target=lambda: next(lines, None))
    thread.start()
    wait_for(lambda: len(parts(line)) == 8)
    assert parts(line) == [0, 0, 1, 1, 2, 2, 3, 3]
    for request in line.put_in[4:]:
        request.done.set_result(said(request))
    thread.join(10)
    assert [one.index for one, _ in lines] == [1, 2, 3]


def test_the_halves_are_taken_where_they_have_more_words() -> None:
    line = PlayedLine(lambda request: said(request, "half") if request.part else ())
    assert given_out(transcription(line), [window(0)]) == [(0, " half" * SECONDS)]


def test_what_has_no_words_in_halves_either_has_none() -> None:
    assert given_out(transcription(PlayedLine(lambda request: ())), [window(0)]) == [(0, "")]


@pytest.mark.parametrize(("in_halves", "expected"), [("half", " half" * SECONDS), ("", " so" * SECONDS)])
def test_a_loop_is_believed_only_where_its_halves_have_no_words(in_halves: str, expected: str) -> None:
    def answers(request: Request) -> tuple[Segment, ...]:
        request.is_doubtful = not request.part
        if request.part:
            return said(request, in_halves) if in_halves else ()
        return said(request, "so")

    assert given_out(transcription(PlayedLine(answers)), [window(0)]) == [(0, expected)]


def test_what_is_too_short_for_halves_is_searched_otherwise() -> None:
    line = PlayedLine(lambda request: said(request) if request.search else ())
    found = given_out(transcription(line), [window(0, 0.9)])
    assert [request.search for request in line.put_in] == [0, 1]
    assert found == [(0, "")]  # of 0.9 s the test's voice says no word


def test_a_text_without_word_times_is_cut_into_sentences() -> None:
    text = " This is a sentence that is said. And here is another one. " + "It goes on and on without any end " * 8
    line = PlayedLine(lambda request: (Segment(0.0, request.seconds, text),))
    ((_, segments),) = transcription(line).windows([window(0)], known())
    assert len(segments) > 3
    assert "".join(segment.text for segment in segments).split() == text.split()
    assert segments[0].text == " This is a sentence that is said."
    assert all(not segment.words for segment in segments)
    assert all(one.end <= other.start for one, other in itertools.pairwise(segments))


def test_windows_do_not_wait_for_what_goes_on_beside_them() -> None:
    line = PlayedLine()
    never: Future[None] = Future()
    made = transcription(line, ahead=4)
    assert [one.index for one, _ in made.windows([window(index) for index in range(9)], never)] == list(range(9))
    assert line.rests  # and others have the device to themselves
    assert all(request.features is None for request in line.put_in)  # nor is their sound kept


def test_what_fails_beside_it_is_raised() -> None:
    speakers: Future[None] = Future()
    made = transcription(PlayedLine(lambda request: None))
    threading.Timer(0.05, lambda: speakers.set_exception(WorkError("DIARIZATION_UNAVAILABLE", "none"))).start()
    with pytest.raises(WorkError, match="none"):
        next(made.windows([window(0)], speakers))


def test_a_canceled_job_gives_out_what_is_in_hand_and_ends() -> None:
    canceled = threading.Event()
    line = PlayedLine(lambda request: said(request) if request.index == 0 else None)
    made = transcription(line, canceled.is_set)
    lines = made.windows([window(index) for index in range(3)], known())
    assert next(lines)[0].index == 0
    canceled.set()
    with pytest.raises(WorkCanceled):
        next(lines)
    assert line.closed


def test_a_canceled_job_gives_out_what_is_in_hand_though_what_is_beside_it_ended_first() -> None:
    canceled = threading.Event()
    line = PlayedLine(lambda request: None)
    beside: Future[None] = Future()
    lines = transcription(line, canceled.is_set).windows([window(0)], beside)

    def end() -> None:
        wait_for(lambda: bool(line.put_in))
        canceled.set()
        beside.set_exception(WorkCanceled())
        line.put_in[0].done.set_result(said(line.put_in[0]))

    thread = threading.Thread(target=end)
    thread.start()
    assert next(lines)[0].index == 0
    thread.join(10)


def test_a_job_that_wants_nothing_leaves_the_device_to_others() -> None:
    line = PlayedLine()
    assert list(transcription(line).windows([], Future())) == []
    assert line.rests


def test_what_the_device_raises_is_raised_at_its_windows_turn() -> None:
    def answers(request: Request) -> tuple[Segment, ...] | None:
        if request.index < 2:
            return said(request)
        request.done.set_exception(ValueError("odd"))
        return None

    lines = transcription(PlayedLine(answers)).windows([window(index) for index in range(3)], known())
    assert [next(lines)[0].index for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="odd"):
        next(lines)

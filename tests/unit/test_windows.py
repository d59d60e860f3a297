"""Windows hold all speech and no more than the model can hear at once; their words find back into the recording."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from faster_whisper.vad import collect_chunks

from services.worker.pipeline.windows import (
    SAMPLE_RATE,
    Span,
    SpeechWindow,
    fingerprint,
    halves,
    plan_everything,
    plan_speech,
    to_recording_time,
    voice_clock,
)
from services.worker.work import Segment, Window, Word

DECISIVE: dict[str, object] = {"model": "abc", "language": "", "beam_size": 5, "speakers": [None, None]}


def span(start: float, end: float) -> Span:
    """From second to second."""
    return Span(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE))


def grouped(windows: tuple[SpeechWindow, ...]) -> list[list[tuple[float, float]]]:
    return [[(span.start / SAMPLE_RATE, span.end / SAMPLE_RATE) for span in window.spans] for window in windows]


def random_spans(seed: int, longest: float = 40.0) -> list[Span]:
    """Ordered and apart; some longer than a window, many shorter than a word."""
    rng = random.Random(seed)
    spans, now = [], 0
    for _ in range(rng.randrange(60)):
        start = now + rng.randrange(1, 5 * SAMPLE_RATE)
        now = start + rng.randrange(1, int(rng.choice([0.5, 5.0, longest]) * SAMPLE_RATE))
        spans.append(Span(start, now))
    return spans


def placed(words: list[tuple[float, float]], spans: list[Span]) -> list[tuple[float, float]]:
    segment = Segment(0.0, 0.0, "", words=tuple(Word(" so", start, end, 1.0) for start, end in words))
    (moved,) = to_recording_time([segment], spans)
    assert (moved.start, moved.end) == (moved.words[0].start, moved.words[-1].end)
    return [(word.start, word.end) for word in moved.words]


def test_spans_are_joined_up_to_exactly_the_limit() -> None:
    spans = [span(0, 10), span(12, 22), span(23, 33), span(40, 41)]
    assert grouped(plan_speech(spans, 30)) == [[(0, 10), (12, 22), (23, 33)], [(40, 41)]]


def test_one_sample_over_the_limit_begins_a_window() -> None:
    spans = [span(0, 10), span(12, 22), Span(23 * SAMPLE_RATE, 33 * SAMPLE_RATE + 1)]
    assert [len(window.spans) for window in plan_speech(spans, 30)] == [2, 1]


def test_a_span_that_is_too_long_is_cut_and_its_rest_joined_with_what_follows() -> None:
    assert grouped(plan_speech([span(5, 75), span(80, 95)], 30)) == [[(5, 35)], [(35, 65)], [(65, 75), (80, 95)]]


def test_a_span_of_exactly_the_limit_is_not_cut() -> None:
    assert grouped(plan_speech([span(5, 35)], 30)) == [[(5, 35)]]


def test_windows_are_numbered_and_stretch_from_their_first_word_to_their_last() -> None:
    windows = plan_speech([span(1, 11), span(20, 30), span(50, 70)], 30)
    assert [window.stretch() for window in windows] == [Window(0, 1.0, 30.0), Window(1, 50.0, 70.0)]
    assert [window.seconds for window in windows] == [20.0, 20.0]


def test_everything_is_windows_without_gaps() -> None:
    windows = plan_everything(65 * SAMPLE_RATE + 7, 30)
    assert grouped(windows) == [[(0, 30)], [(30, 60)], [(60, 65 + 7 / SAMPLE_RATE)]]
    assert [window.index for window in windows] == [0, 1, 2]


def test_nothing_makes_no_window() -> None:
    assert plan_speech([], 30) == ()
    assert plan_everything(0, 30) == ()
    assert to_recording_time([], [span(0, 1)]) == ()


@pytest.mark.parametrize("seed", range(20))
def test_any_plan_holds_each_sample_of_speech_once_in_order_and_fills_each_window(seed: int) -> None:
    spans = random_spans(seed)
    windows = plan_speech(spans, 30)
    assert [window.index for window in windows] == list(range(len(windows)))
    assert samples_of([part for window in windows for part in window.spans]) == samples_of(spans)
    for window, following in pairwise(windows):
        assert window.seconds <= 30
        assert window.seconds + following.spans[0].length / SAMPLE_RATE > 30, "it would have had room"


def samples_of(spans: list[Span]) -> list[tuple[int, int]]:
    """The stretches that the spans cover, however they are cut."""
    covered: list[tuple[int, int]] = []
    for part in spans:
        start = covered.pop()[0] if covered and covered[-1][1] == part.start else part.start
        covered.append((start, part.end))
    return covered


@pytest.mark.parametrize("seed", range(20))
def test_the_grouping_is_that_of_faster_whisper(seed: int) -> None:
    spans = random_spans(seed, longest=29.9)  # its voice detector gives no longer ones
    # Samples that say where they are, every tenth, or it would take seconds.
    tenth = [Span(part.start // 10, max(part.end // 10, part.start // 10 + 1)) for part in spans]
    samples = np.arange(tenth[-1].end if tenth else 0, dtype=np.float32)
    chunks = [{"start": part.start, "end": part.end} for part in tenth]
    theirs, _ = collect_chunks(samples, chunks, sampling_rate=SAMPLE_RATE, max_duration=3.0)
    ours = [np.concatenate([samples[p.start : p.end] for p in window.spans]) for window in plan_speech(tenth, 3.0)]
    assert [list(chunk) for chunk in theirs if len(chunk)] == [list(chunk) for chunk in ours]


def test_words_are_moved_by_the_silence_before_them() -> None:
    spans = [span(10, 14), span(20, 25)]
    assert placed([(0.5, 1.0), (3.5, 4.0), (4.0, 4.5), (8.5, 9.0)], spans) == [
        (10.5, 11.0),
        (13.5, 14.0),
        (20.0, 20.5),
        (24.5, 25.0),
    ]


def test_a_word_over_a_silence_goes_where_its_middle_is() -> None:
    spans = [span(10, 14), span(20, 25)]
    assert placed([(3.0, 4.9)], spans) == [(13.0, 14.0)]
    assert placed([(3.0, 5.1)], spans) == [(20.0, 21.1)]


def test_a_word_past_the_end_of_speech_is_kept_inside() -> None:
    assert placed([(4.8, 5.6)], [span(10, 15)]) == [(14.8, 15.0)]
    assert placed([(5.5, 5.9)], [span(10, 15)]) == [(15.0, 15.0)]


@pytest.mark.parametrize("seed", range(20))
def test_any_word_lies_in_one_span_no_longer_than_it_was_spoken(seed: int) -> None:
    for window in plan_speech(random_spans(seed), 30):
        spoken = list(random_words(seed, window.seconds))
        moved = placed(spoken, list(window.spans))
        for (start, end), (was_start, was_end) in zip(moved, spoken, strict=True):
            assert start <= end
            assert end - start <= was_end - was_start + 0.0101, "a silence stretches the word"
            assert any(within(start, end, part) for part in window.spans), "the word lies in a silence"
        assert moved == sorted(moved)


def random_words(seed: int, until: float) -> Iterator[tuple[float, float]]:
    """One after the other, in hundredths as the model gives them; the last ones end too late."""
    rng, now = random.Random(seed), 0.0
    while now <= until:
        end = round(now + rng.uniform(0.0, 1.2), 2)
        yield now, end
        now = round(end + rng.choice([0.0, 0.2]), 2)


def within(start: float, end: float, part: Span) -> bool:
    """But for times being rounded to hundredths."""
    return start >= part.start / SAMPLE_RATE - 0.0051 and end <= part.end / SAMPLE_RATE + 0.0051


def test_a_segment_without_words_reaches_from_its_first_span_to_its_last() -> None:
    spans = [span(10, 14), span(20, 25), span(30, 31)]
    whole, first, second = Segment(0.0, 10.0, " all"), Segment(0.0, 4.0, " one"), Segment(4.0, 9.0, " two")
    moved = to_recording_time([whole, first, second], spans)
    assert [(segment.start, segment.end, segment.text) for segment in moved] == [
        (10.0, 31.0, " all"),
        (10.0, 14.0, " one"),
        (20.0, 25.0, " two"),
    ]


def test_only_times_change() -> None:
    words = (Word(" so", 0.0, 0.3, 0.25, "A"), Word(" what", 0.3, 0.5, 0.75))
    before = Segment(0.0, 0.5, " so what", "A", words)
    (after,) = to_recording_time([before], [span(10, 14)])
    assert after == replace(
        before, start=10.0, end=10.5, words=(replace(words[0], start=10.0, end=10.3), replace(words[1], start=10.3, end=10.5))
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"), [("model", "abd"), ("language", "en"), ("beam_size", 1), ("speakers", [None, 2]), ("new", 0)]
)
def test_the_fingerprint_changes_with_whatever_is_decisive(name: str, value: object) -> None:
    windows = plan_everything(100, 30)
    assert fingerprint(windows, DECISIVE | {name: value}) != fingerprint(windows, DECISIVE)


def test_the_fingerprint_changes_with_the_plan() -> None:
    first, second = span(0, 10), span(12, 22)
    plans = [
        (),
        plan_speech([first, second], 30),
        plan_speech([first, second], 15),  # the same spans in windows of their own
        plan_speech([first, replace(second, end=second.end + 1)], 30),
        plan_speech([replace(first, start=1), second], 30),
    ]
    assert len({fingerprint(plan, DECISIVE) for plan in plans}) == len(plans)


def test_the_fingerprint_changes_with_nothing_else() -> None:
    plan = plan_speech([span(0, 10), span(12, 22)], 30)
    again = fingerprint(list(plan), dict(reversed(DECISIVE.items())))
    assert again == fingerprint(plan, DECISIVE)
    assert len(again) == 64
    assert int(again, 16) >= 0


def test_halves_are_cut_at_the_pause_nearest_to_the_middle() -> None:
    whole = SpeechWindow(7, (span(0, 4), span(10, 15), span(20, 21)))
    first, second = halves(whole)
    assert (first.index, second.index) == (7, 7)
    assert grouped((first, second)) == [[(0.0, 4.0)], [(10.0, 15.0), (20.0, 21.0)]]


def test_a_single_span_is_halved_in_its_middle() -> None:
    assert grouped(halves(SpeechWindow(0, (span(3, 9),)))) == [[(3.0, 6.0)], [(6.0, 9.0)]]
    assert grouped(halves(SpeechWindow(0, (span(3, 3.1), span(5, 9))))) == [[(3.0, 3.1), (5.0, 6.95)], [(6.95, 9.0)]]


def test_too_little_is_not_halved() -> None:
    assert halves(SpeechWindow(0, (span(0, 0.9),))) == ()


@pytest.mark.parametrize("seed", range(20))
def test_halves_hold_all_speech_in_order(seed: int) -> None:
    for window in plan_speech(random_spans(seed), 30.0):
        parts = halves(window)
        if parts:
            samples = [sample for part in parts for one in part.spans for sample in (one.start, one.end)]
            assert samples == sorted(samples)
            assert sum(part.seconds for part in parts) == pytest.approx(window.seconds)
            assert all(part.seconds >= 0.5 for part in parts)


def test_of_a_time_in_a_window_it_is_known_how_much_voice_is_before_it() -> None:
    window = SpeechWindow(0, (Span(0, 10 * SAMPLE_RATE), Span(20 * SAMPLE_RATE, 30 * SAMPLE_RATE)))
    voice = [Span(start * SAMPLE_RATE, end * SAMPLE_RATE) for start, end in ((2, 4), (8, 22), (29, 40))]
    voiced = voice_clock(window, voice)
    assert [voiced(seconds) for seconds in (0, 3, 5, 9, 10, 11, 12, 15, 20)] == [0, 1, 2, 3, 4, 5, 6, 6, 7]
    assert voice_clock(window, [])(20) == 0

"""Which texts are trusted, and which of several tries is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from services.worker.pipeline.quality import Try, Verdict, best, compression_ratio, has_dropout, judge, loops
from services.worker.work import Segment, Word

GOOD = Try(tuple(range(12)), " answer yes good work because no meeting today", -0.2, 0.01)
LOOP = Try((7, 8, 9) * 20, " thank you so" * 20, -0.1, 0.01)
REPEATED = Try(
    (1, 2, 3, 4, 5, 6, 7, 1, 9, 2, 3, 4, 5, 6, 7, 8) * 2, " so he said well and she said well then and" * 6, -0.2, 0.01
)


@pytest.mark.parametrize(
    ("tried", "verdict"),
    [
        (GOOD, Verdict.GOOD),
        (LOOP, Verdict.LOOPS),
        (REPEATED, Verdict.REPEATS),
        (replace(GOOD, ended=False), Verdict.LOOPS),
        (replace(GOOD, log_prob=-1.2), Verdict.UNSURE),
        (replace(GOOD, log_prob=-1.2, no_speech_prob=0.7), Verdict.SILENT),
        (replace(GOOD, no_speech_prob=0.7), Verdict.GOOD),
        (replace(GOOD, text="  "), Verdict.EMPTY),
        (replace(GOOD, text=" ..."), Verdict.EMPTY),
        (replace(GOOD, text=" ♪ ♪"), Verdict.EMPTY),
        (replace(GOOD, text=" 1984"), Verdict.GOOD),
        (replace(GOOD, text="好的"), Verdict.GOOD),
    ],
)
def test_verdicts(tried: Try, verdict: Verdict) -> None:
    assert judge(tried) is verdict


@pytest.mark.parametrize(
    ("tokens", "loop"),
    [
        ([5] * 5, True),
        ([1, 2] * 5, True),
        ([1, 2] * 4, False),
        ([*range(100, 130), *[1, 2, 3] * 6], True),
        ([*range(100, 160), *[1] * 5], False),  # five of sixty-five: somebody said no five times
        ([*range(30), *range(30)], False),
        ([], False),
        ([3], False),
    ],
)
def test_loops(tokens: list[int], loop: bool) -> None:
    assert loops(tokens) is loop


def test_a_good_try_takes_the_place_of_a_loop() -> None:
    assert best([LOOP, GOOD]) is GOOD


def test_a_good_try_takes_the_place_of_an_unsure_one() -> None:
    assert best([replace(GOOD, log_prob=-1.3, text=" mumble"), GOOD]) is GOOD


def test_somebody_who_repeats_himself_is_not_corrected_by_what_is_less_sure() -> None:
    assert best([REPEATED, replace(GOOD, log_prob=-0.6)]) is REPEATED
    assert best([REPEATED, replace(GOOD, log_prob=-0.15)]).text == GOOD.text


def test_of_bad_tries_the_surest_that_is_no_loop() -> None:
    unsure, worse = replace(GOOD, log_prob=-1.1), replace(GOOD, log_prob=-1.5)
    assert best([LOOP, worse, unsure]) is unsure
    assert best([replace(GOOD, text=""), LOOP]) is LOOP


def test_what_the_model_takes_for_no_speech_has_no_text() -> None:
    silent = replace(GOOD, log_prob=-1.2, no_speech_prob=0.7)
    found = best([silent])
    assert (found.text, found.tokens) == ("", ())
    unsure = replace(GOOD, log_prob=-1.4, text=" mumble")
    assert best([unsure, silent]) is unsure


@pytest.mark.parametrize("tried", [replace(GOOD, text=" ..."), replace(LOOP, ended=False)])
def test_what_has_no_word_or_found_no_end_has_no_text(tried: Try) -> None:
    assert (best([tried]).text, best([tried]).tokens) == ("", ())


def test_compression_ratio_is_whispers() -> None:
    assert compression_ratio("") < 1
    assert compression_ratio("la " * 100) > 2.4
    assert compression_ratio("every word of this is said once only") < 1.3


def heard(*starts: float) -> tuple[Segment, ...]:
    return (Segment(0.0, 30.0, " so", words=tuple(Word(" so", start, start + 0.3, 0.9) for start in starts)),)


@pytest.mark.parametrize(
    ("segments", "seconds", "dropout"),
    [
        ((), 2.0, True),
        (heard(*range(30)), 30.0, False),
        (heard(0, 1, 2), 5.0, False),
        (heard(0, 1, 2), 30.0, True),  # nothing after the second second
        (heard(20, 21, 22, 23, 24, 25), 30.0, True),
        (heard(0, 5, 10, 15, 22, 25), 30.0, True),
        ((Segment(0.0, 30.0, " not timed"),), 30.0, False),
    ],
)
def test_dropouts(segments: tuple[Segment, ...], seconds: float, dropout: bool) -> None:
    assert has_dropout(segments, seconds) is dropout


@pytest.mark.parametrize(
    ("segments", "voiced", "dropout"),
    [
        ((), lambda _: 0.0, False),
        ((), lambda seconds: min(seconds, 1.0), True),
        (heard(0, 1, 2), lambda seconds: min(seconds, 3.0), False),  # then it is silent
        (heard(0, 1, 2), lambda seconds: seconds / 2, True),
    ],
)
def test_in_silence_no_words_are_missing(
    segments: tuple[Segment, ...], voiced: Callable[[float], float], dropout: bool
) -> None:
    assert has_dropout(segments, 30.0, voiced) is dropout

"""What benchmarks say of transcripts: which words have the right speaker, and what is wrong with who speaks when."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.diarization_accuracy import ENGINE, STOCK, SYSTEM, Found, figures
from benchmarks.held_conversations import KNOWN_WORDS, HeldConversation
from benchmarks.report import Figure
from benchmarks.scoring import (
    NO_SPEAKER_ERRORS,
    NO_WORD_SPEAKERS,
    SpeakerErrors,
    WordSpeakers,
    speaker_error_kinds,
    word_speakers,
)

SAID = (("good", "0"), ("morning", "0"), ("hello", "1"), ("thanks", "1"), ("yes", "0"))


def by(*texts: tuple[str, str]) -> WordSpeakers:
    return word_speakers(SAID, texts)


def test_speakers_names_do_not_matter() -> None:
    assert by(("Good morning.", "B"), ("Hello, thanks!", "A"), ("yes", "B")) == WordSpeakers(5, 5, 5)


def test_a_word_of_another_speaker_is_wrong() -> None:
    assert by(("good morning hello", "A"), ("thanks", "B"), ("yes", "A")) == WordSpeakers(4, 5, 5)


def test_two_speakers_are_not_both_taken_for_one() -> None:
    """Else whoever finds a speaker for every turn would be right."""
    assert by(("good morning", "A"), ("hello thanks", "B"), ("yes", "C")) == WordSpeakers(4, 5, 5)
    assert by(("good morning hello thanks yes", "A")) == WordSpeakers(3, 5, 5)


def test_only_words_that_are_matched_count() -> None:
    assert by(("good", "A"), ("evening", "B"), ("hello there thanks", "B")) == WordSpeakers(3, 3, 5)
    assert by() == WordSpeakers(0, 0, 5)
    assert word_speakers((), (("yes", "A"),)) == WordSpeakers(0, 0, 0)


def test_a_word_that_has_no_speaker_is_wrong() -> None:
    assert by(("good morning", "A"), ("hello thanks", ""), ("yes", "A")) == WordSpeakers(3, 5, 5)


def test_word_speakers_are_pooled() -> None:
    pooled = sum((WordSpeakers(9, 10, 20), WordSpeakers(0, 10, 10)), NO_WORD_SPEAKERS)
    assert (pooled, pooled.share) == (WordSpeakers(9, 20, 30), 0.45)
    assert NO_WORD_SPEAKERS.share == 0


def turn(start: float, end: float, speaker: str) -> dict[str, Any]:
    return {"start": start, "end": end, "speaker": speaker}


REFERENCE = (turn(0, 10, "0"), turn(10, 20, "1"))
"""Behind the beginning and each boundary, and before each and the end, an eighth of a second is not looked at: 19.5 s are."""


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ((turn(0.1, 9.9, "B"), turn(10.1, 20.1, "A")), SpeakerErrors(0, 0, 0, 19.5)),
        ((turn(0, 10, "A"), turn(12.125, 20, "B")), SpeakerErrors(2, 0, 0, 19.5)),
        ((turn(0, 10, "A"), turn(10, 20, "B"), turn(20, 21.125, "B")), SpeakerErrors(0, 1, 0, 19.5)),
        ((turn(0, 10, "A"), turn(4, 5, "B"), turn(10, 20, "B")), SpeakerErrors(0, 1, 0, 19.5)),
        ((turn(0, 12.125, "A"), turn(12.125, 20, "B")), SpeakerErrors(0, 0, 2, 19.5)),
        ((), SpeakerErrors(19.5, 0, 0, 19.5)),
    ],
    ids=["at the boundary", "missed", "false", "two where one is", "confused", "nothing found"],
)
def test_errors_are_told_by_their_kind(found: tuple[dict[str, Any], ...], expected: SpeakerErrors) -> None:
    errors = speaker_error_kinds(REFERENCE, found)
    for kind in ("missed", "false", "confused", "total"):
        assert getattr(errors, kind) == pytest.approx(getattr(expected, kind), abs=1e-6), kind


def test_overlap_is_scored() -> None:
    reference = (turn(0, 10, "0"), turn(4, 6.25, "1"))
    assert speaker_error_kinds(reference, (turn(0, 10, "A"),)).missed == pytest.approx(2.0)


def test_speaker_errors_are_pooled() -> None:
    pooled = sum((SpeakerErrors(1, 2, 3, 60), SpeakerErrors(0, 1, 1, 20)), NO_SPEAKER_ERRORS)
    assert pooled == SpeakerErrors(1, 3, 4, 80)
    assert pooled.all.rate == 0.1


# --- the benchmark's figures


RIGHT = Found((turn(0, 10, "A"), turn(10, 20, "B")))
HALF = Found((turn(0, 20, "A"),))
TWO, WORDS = Path("two.wav"), Path("words.wav")
TALKS = (
    HeldConversation("two speakers", TWO, REFERENCE),
    HeldConversation("two speakers", Path("other.wav"), REFERENCE),
    HeldConversation(KNOWN_WORDS, WORDS, REFERENCE, SAID),
)


def made(system: Found, words: tuple[tuple[str, str], ...]) -> Mapping[str, Figure]:
    right = {talk.path: RIGHT for talk in TALKS[:2]}
    by_system = right | {TWO: system, WORDS: Found((), words)}
    return {figure.name: figure for figure in figures(TALKS, {STOCK: right, ENGINE: right, SYSTEM: by_system})}


def test_all_that_was_promised_can_be_reached() -> None:
    reached = made(RIGHT, (("good morning", "A"), ("hello thanks", "B"), ("yes", "A")))
    assert all(figure.reached for figure in reached.values())
    assert reached["two speakers: error rate, system"].at_most == 3.0
    assert reached["known words: those with the right speaker, system"].at_least == 97.0
    assert reached["two speakers: right number of speakers, system"].value == 2


def test_a_system_that_does_worse_than_its_engine_is_told() -> None:
    missed = made(HALF, (("good morning hello thanks yes", "A"),))
    rate = missed["two speakers: error rate, system"]
    assert (rate.value, rate.least, rate.most) == pytest.approx((25.0, 0.0, 50.0))
    assert missed["two speakers: confused, system"].value == pytest.approx(25.0)
    assert missed["two speakers: error rate, pyannote"].value == 0
    assert missed["two speakers: right number of speakers, system"].value == 1
    assert {name for name, figure in missed.items() if not figure.reached} == {
        "two speakers: error rate, system",
        "two speakers: between system and engine alone",
        "known words: those with the right speaker, system",
    }

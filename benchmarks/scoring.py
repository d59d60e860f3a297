"""How right a transcript is: word error rate (jiwer), diarization error rate (pyannote.metrics), and who says which word."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer

COLLAR_SECONDS = 0.25
"""Left out around each reference boundary, in all (half before, half after): what pyannote.metrics calls `collar`, as its
published figures. NIST's scorer leaves out as much on either side for the same number, which is twice this."""


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Errors of a total, in words or in seconds; adding two pools them."""

    errors: float
    total: float

    @property
    def rate(self) -> float:
        """May be above 1; 0 where there is nothing to get wrong."""
        return self.errors / self.total if self.total else float(self.errors > 0)

    def __add__(self, other: ErrorRate) -> ErrorRate:
        return ErrorRate(self.errors + other.errors, self.total + other.total)


NONE = ErrorRate(0, 0)


def word_errors(reference: str, text: str) -> ErrorRate:
    """Substitutions, deletions and insertions over the reference's words; case and punctuation do not count."""
    said, heard = normalized(reference), normalized(text)
    if not said:
        return ErrorRate(len(heard.split()), 0)
    found = jiwer.process_words(said, heard)
    words = found.hits + found.substitutions + found.deletions
    return ErrorRate(found.substitutions + found.deletions + found.insertions, words)


def normalized(text: str) -> str:
    """Lower case, words apart by one space, no punctuation but apostrophes inside words."""
    return " ".join(re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower()))  # noqa: RUF001 - as people write it


@dataclass(frozen=True, slots=True)
class SpeakerErrors:
    """Seconds of what is wrong of ``total``, which is the reference's speech; adding two pools them."""

    missed: float
    false: float
    confused: float
    total: float

    @property
    def all(self) -> ErrorRate:
        """The diarization error rate."""
        return ErrorRate(self.missed + self.false + self.confused, self.total)

    def __add__(self, other: SpeakerErrors) -> SpeakerErrors:
        return SpeakerErrors(
            self.missed + other.missed,
            self.false + other.false,
            self.confused + other.confused,
            self.total + other.total,
        )


NO_SPEAKER_ERRORS = SpeakerErrors(0, 0, 0, 0)


def speaker_errors(reference: Iterable[Mapping[str, Any]], found: Iterable[Mapping[str, Any]]) -> ErrorRate:
    """As `speaker_error_kinds`, all of them together."""
    return speaker_error_kinds(reference, found).all


def speaker_error_kinds(reference: Iterable[Mapping[str, Any]], found: Iterable[Mapping[str, Any]]) -> SpeakerErrors:
    """Missed, false and confused speech, in seconds; overlap counts.

    Both are mappings with ``start``, ``end`` and ``speaker``; speakers are matched as they fit best.
    """
    from pyannote.core import Segment, Timeline  # these take seconds to import
    from pyannote.metrics.diarization import DiarizationErrorRate

    said, heard = _annotation(reference), _annotation(found)
    end = max(annotation.get_timeline().extent().end for annotation in (said, heard))
    details = DiarizationErrorRate(collar=COLLAR_SECONDS)(said, heard, uem=Timeline([Segment(0, end)]), detailed=True)
    return SpeakerErrors(*(float(details[kind]) for kind in ("missed detection", "false alarm", "confusion", "total")))


def _annotation(turns: Iterable[Mapping[str, Any]]) -> Any:
    from pyannote.core import Annotation, Segment

    annotation = Annotation()
    for number, turn in enumerate(turns):
        annotation[Segment(turn["start"], turn["end"]), number] = turn["speaker"]
    return annotation


@dataclass(frozen=True, slots=True)
class WordSpeakers:
    """How many of the reference's words were ``said``, of those ``matched``, and of those with the ``right`` speaker; adding
    two pools them."""

    right: int
    matched: int
    said: int

    @property
    def share(self) -> float:
        """Of the matched words, from 0 to 1; 0 where no word was matched."""
        return self.right / self.matched if self.matched else 0.0

    def __add__(self, other: WordSpeakers) -> WordSpeakers:
        return WordSpeakers(self.right + other.right, self.matched + other.matched, self.said + other.said)


NO_WORD_SPEAKERS = WordSpeakers(0, 0, 0)


def word_speakers(reference: Sequence[tuple[str, str]], found: Sequence[tuple[str, str]]) -> WordSpeakers:
    """Who says which word. Both are (text, speaker) in the order of time; a text may hold several words, or none.

    Only words that are in both are looked at, as they match in order with the fewest errors (as `word_errors` matches them).
    Each found speaker is taken for another one of the reference, so that as many words as possible are right; a word that was
    found without a speaker is wrong.
    """
    from scipy.optimize import linear_sum_assignment

    said, heard = _single_words(reference), _single_words(found)
    if not said or not heard:
        return WordSpeakers(0, 0, len(said))
    aligned = jiwer.process_words(" ".join(word for word, _ in said), " ".join(word for word, _ in heard)).alignments[0]
    together: Counter[tuple[str, str]] = Counter(
        (said[chunk.ref_start_idx + place][1], heard[chunk.hyp_start_idx + place][1])
        for chunk in aligned
        if chunk.type == "equal"
        for place in range(chunk.ref_end_idx - chunk.ref_start_idx)
    )
    speakers = sorted({speaker for _, speaker in said})
    labels = sorted({speaker for _, speaker in heard if speaker})
    counts = [[together[speaker, label] for label in labels] for speaker in speakers]
    right = sum(counts[row][column] for row, column in zip(*linear_sum_assignment(counts, maximize=True), strict=True))
    return WordSpeakers(right, together.total(), len(said))


def _single_words(texts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(word, speaker) for text, speaker in texts for word in normalized(text).split()]

"""How right a transcript is: word error rate (jiwer) and diarization error rate (pyannote.metrics)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jiwer

COLLAR_SECONDS = 0.25
"""Left out around each reference boundary, in all: what pyannote.metrics calls `collar`, as its published figures."""


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


def speaker_errors(reference: Iterable[Mapping[str, Any]], found: Iterable[Mapping[str, Any]]) -> ErrorRate:
    """Missed, false and confused speech over the reference's speech, in seconds; overlap counts.

    Both are mappings with ``start``, ``end`` and ``speaker``; speakers are matched as they fit best.
    """
    from pyannote.core import Segment, Timeline  # these take seconds to import
    from pyannote.metrics.diarization import DiarizationErrorRate

    said, heard = _annotation(reference), _annotation(found)
    end = max(annotation.get_timeline().extent().end for annotation in (said, heard))
    details = DiarizationErrorRate(collar=COLLAR_SECONDS)(said, heard, uem=Timeline([Segment(0, end)]), detailed=True)
    wrong = details["missed detection"] + details["false alarm"] + details["confusion"]
    return ErrorRate(float(wrong), float(details["total"]))


def _annotation(turns: Iterable[Mapping[str, Any]]) -> Any:
    from pyannote.core import Annotation, Segment

    annotation = Annotation()
    for number, turn in enumerate(turns):
        annotation[Segment(turn["start"], turn["end"]), number] = turn["speaker"]
    return annotation

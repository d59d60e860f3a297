"""Who said what: words get speakers, segments are cut where the speaker changes. Pure.

Speakers are named SPEAKER_00, SPEAKER_01, … in the order in which they are first heard.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate, groupby

from services.worker.work import Segment, SpeakerTurn, Word

MOMENT_SECONDS = 0.01
"""What a word takes at least: alignment gives some words no length, and nobody speaks for no time."""


def name_speakers(turns: Iterable[SpeakerTurn]) -> tuple[SpeakerTurn, ...]:
    """The turns in order of time, with speakers named in order of appearance."""
    names: dict[str, str] = {}
    ordered = sorted(turns, key=lambda turn: (turn.start, turn.end))
    return tuple(replace(turn, speaker=names.setdefault(turn.speaker, f"SPEAKER_{len(names):02d}")) for turn in ordered)


def assign_speakers(segments: Iterable[Segment], turns: Sequence[SpeakerTurn]) -> tuple[Segment, ...]:
    """Cuts the segments at speaker changes. ``turns`` are ordered by start; without any, nothing changes.

    A segment without words cannot be cut, and goes to the speaker who is heard most in it.
    """
    if not turns:
        return tuple(segments)
    voices = _Voices(turns)
    pieces: list[Segment] = []
    for segment in segments:
        pieces.extend(_cut(segment, voices) if segment.words else [_whole(segment, voices)])
    return tuple(pieces)


def without_words(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    return tuple(replace(segment, words=()) for segment in segments)


def _whole(segment: Segment, voices: _Voices) -> Segment:
    return replace(segment, speaker=voices.during(segment.start, segment.end, ""))


def _cut(segment: Segment, voices: _Voices) -> list[Segment]:
    words: list[Word] = []
    speaker = ""
    for word in segment.words:
        speaker = voices.during(word.start, max(word.end, word.start + MOMENT_SECONDS), speaker)
        words.append(replace(word, speaker=speaker))
    return [_piece(speaker, tuple(run)) for speaker, run in groupby(words, key=lambda word: word.speaker)]


def _piece(speaker: str, words: tuple[Word, ...]) -> Segment:
    return Segment(words[0].start, words[-1].end, "".join(word.text for word in words), speaker, words)


class _Voices:
    """Turns that can be asked who speaks; ``turns`` is not empty and ordered by start."""

    def __init__(self, turns: Sequence[SpeakerTurn]) -> None:
        self._turns = turns
        self._starts = [turn.start for turn in turns]
        # Of the turns up to each one, the one that ends last: lets a question skip all that is long over.
        self._last: list[SpeakerTurn] = list(accumulate(turns, _later))

    def during(self, start: float, end: float, before: str) -> str:
        """Who is heard longest from ``start`` to ``end``; where nobody is, whoever is nearest.

        ``before`` spoke last, and goes on where two are heard equally long.
        """
        begun = bisect_left(self._starts, end)
        over = bisect_right(self._last, start, hi=begun, key=lambda turn: turn.end)
        heard: dict[str, float] = {}
        for turn in self._turns[over:begun]:
            overlap = min(end, turn.end) - max(start, turn.start)
            if overlap > 0:
                heard[turn.speaker] = heard.get(turn.speaker, 0.0) + overlap
        if not heard:
            return self._nearest(start, end, begun)
        return max(heard, key=lambda speaker: (round(heard[speaker], 3), speaker == before))

    def _nearest(self, start: float, end: float, begun: int) -> str:
        around = [*self._last[max(0, begun - 1) : begun], *self._turns[begun : begun + 1]]
        return min(around, key=lambda turn: max(turn.start - end, start - turn.end)).speaker


def _later(last: SpeakerTurn, turn: SpeakerTurn) -> SpeakerTurn:
    return turn if turn.end > last.end else last

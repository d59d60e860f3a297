"""Who said what: words get speakers, segments are cut where the speaker changes. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, chain, groupby

from services.worker.pipeline.sentences import spread_words
from services.worker.work import Segment, SpeakerTurn, Word

MOMENT_SECONDS = 0.01
"""What a word takes at least: alignment gives some words no length, and nobody speaks for no time."""

SHORTEST_PIECE_SECONDS = 0.5
"""Of a text whose words have no times: it is not known that well who says what of it. Less stays with a neighbor."""


def assign_speakers(segments: Iterable[Segment], turns: Sequence[SpeakerTurn]) -> tuple[Segment, ...]:
    """Cuts the segments at speaker changes. ``turns`` are ordered by start; without any, nothing changes.

    Where there are words, by their later halves: alignment gives a word the pause before it, and with it the end of whoever
    spoke before. Where there are none, each speaker gets as much of the text as he has of the
    time, in whole words; a text that cannot be cut goes to the speaker who is heard most in it.
    """
    if not turns:
        return tuple(segments)
    voices = _Voices(turns)
    pieces: list[Segment] = []
    for segment in segments:
        pieces.extend(_cut(segment, voices) if segment.words else _cut_by_turns(segment, voices))
    return tuple(pieces)


def without_words(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    return tuple(replace(segment, words=()) for segment in segments)


def _cut_by_turns(segment: Segment, voices: _Voices) -> list[Segment]:
    """As if every letter took the same time, for the times of words are not known."""
    runs = [list(run) for _, run in groupby(_spread(segment, voices), key=lambda word: word.speaker)]
    while len(runs) > 1 and _seconds(shortest := min(runs, key=_seconds)) < SHORTEST_PIECE_SECONDS:
        place = runs.index(shortest)
        around = [runs[near] for near in (place - 1, place + 1) if 0 <= near < len(runs)]
        speaker = max(around, key=_seconds)[0].speaker
        runs[place] = [replace(word, speaker=speaker) for word in shortest]
        runs = [list(run) for _, run in groupby(chain(*runs), key=lambda word: word.speaker)]
    if len(runs) < 2:
        return [replace(segment, speaker=voices.during(segment.start, segment.end, ""))]
    return [replace(_piece(run[0].speaker, tuple(run)), words=()) for run in runs]


def _seconds(run: Sequence[Word]) -> float:
    return run[-1].end - run[0].start


def _spread(segment: Segment, voices: _Voices) -> Iterator[Word]:
    """The text's words, and who is heard when they may be said."""
    speaker = ""
    for word in spread_words(segment):
        speaker = voices.during(word.start, max(word.end, word.start + MOMENT_SECONDS), speaker)
        yield replace(word, speaker=speaker)


def _cut(segment: Segment, voices: _Voices) -> list[Segment]:
    words: list[Word] = []
    speaker = ""
    for word in segment.words:
        heard_from = (word.start + word.end) / 2
        speaker = voices.during(heard_from, max(word.end, heard_from + MOMENT_SECONDS), speaker)
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

"""Planning: which stretches of speech are decoded together, and where their words lie in the recording.

A window is a run of speech spans whose silences are cut out, at most the model's chunk length of speech. Spans are
grouped as faster-whisper's ``collect_chunks`` does, so text equals that of its batched pipeline. Windows are
independent: nothing is carried from one to the next, so any of them may be decoded again alone. Pure.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from services.worker.work import Segment, Window, Word

SAMPLE_RATE = 16_000

# Part of every fingerprint: raise it when the same recording and options would be cut into other windows, or would give
# another text, by another version of this program.
PLANNER_VERSION = 5

SHORTEST_HALF = SAMPLE_RATE // 2
"""Samples. Less than half a second is not decoded alone."""

HELD_AT = 0.5
"""Where in a word the span is that holds it, 0 its start, 1 its end; faster-whisper's. Alignment lets some first words begin too
early, in the pause before, and some last ones end too late, in the pause behind. Of 1,086 words of two speakers, the words of
models that claim pauses for the word before, 0.75 puts 34 into the wrong speaker's turn, 0.5 puts 25, and 0.25 puts 37; of the examples' 453
words 9 with 0.75 and 7 with 0.5."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the recording without a pause, in samples at 16 kHz; ``end`` is exclusive."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class SpeechWindow:
    """The spans that are decoded together, in the order of the recording."""

    index: int
    spans: tuple[Span, ...]

    @property
    def seconds(self) -> float:
        """Speech in the window; its silences do not count."""
        return sum(span.length for span in self.spans) / SAMPLE_RATE

    def stretch(self) -> Window:
        return Window(self.index, self.spans[0].start / SAMPLE_RATE, self.spans[-1].end / SAMPLE_RATE)


def plan_speech(spans: Iterable[Span], max_seconds: float) -> tuple[SpeechWindow, ...]:
    """Joins spans while their sum stays within ``max_seconds``; a span that is longer itself is cut."""
    limit = int(max_seconds * SAMPLE_RATE)
    groups: list[list[Span]] = []
    filled = limit
    for span in _cut(spans, limit):
        if filled + span.length > limit:
            groups.append([])
            filled = 0
        groups[-1].append(span)
        filled += span.length
    return tuple(SpeechWindow(index, tuple(group)) for index, group in enumerate(groups))


def plan_everything(samples: int, max_seconds: float) -> tuple[SpeechWindow, ...]:
    """Windows over the whole recording, for work that must not leave out what sounds like silence."""
    return plan_speech([Span(0, samples)] if samples else [], max_seconds)


def voice_clock(window: SpeechWindow, voice: Sequence[Span]) -> Callable[[float], float]:
    """Of a time in the window, in seconds, how much voice there is before it. ``voice``: in the recording, in order."""
    heard: list[tuple[float, float]] = []
    before = 0
    for span in window.spans:
        first = bisect_right(voice, span.start, key=lambda piece: piece.end)
        for piece in voice[first : bisect_left(voice, span.end, key=lambda piece: piece.start)]:
            start, end = max(piece.start, span.start), min(piece.end, span.end)
            if start < end:
                heard.append(((before + start - span.start) / SAMPLE_RATE, (before + end - span.start) / SAMPLE_RATE))
        before += span.length
    return lambda seconds: sum(max(0.0, min(end, seconds) - start) for start, end in heard)


def halves(window: SpeechWindow) -> tuple[SpeechWindow, ...]:
    """The window's speech in two parts, cut at the pause nearest to its middle, or in the middle of a single span; nothing
    where there is too little to cut. Both have the window's index."""
    length = sum(span.length for span in window.spans)
    if length < 2 * SHORTEST_HALF:
        return ()
    ends = list(accumulate(span.length for span in window.spans))[:-1]
    cut = min(ends, key=lambda end: abs(2 * end - length), default=0)
    if min(cut, length - cut) < SHORTEST_HALF:
        cut = length // 2
    first, second = _split_spans(window.spans, cut)
    return SpeechWindow(window.index, first), SpeechWindow(window.index, second)


def _split_spans(spans: Sequence[Span], cut: int) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    first: list[Span] = []
    second: list[Span] = []
    for span in spans:
        part = min(max(cut, 0), span.length)
        if part:
            first.append(Span(span.start, span.start + part))
        if part < span.length:
            second.append(Span(span.start + part, span.end))
        cut -= span.length
    return tuple(first), tuple(second)


def _cut(spans: Iterable[Span], limit: int) -> Iterable[Span]:
    for span in spans:
        for start in range(span.start, span.end, limit):
            yield Span(start, min(start + limit, span.end))


def fingerprint(windows: Sequence[SpeechWindow], decisive: Mapping[str, object]) -> str:
    """SHA-256 over the plan and everything else the text depends on; ``decisive`` must be JSON."""
    plan = [[[span.start, span.end] for span in window.spans] for window in windows]
    content = {"planner": PLANNER_VERSION, "plan": plan, **decisive}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def to_recording_time(segments: Iterable[Segment], spans: Sequence[Span]) -> tuple[Segment, ...]:
    """Segments timed from the window's own beginning, silences cut out, become times of the recording.

    A word lies wholly in the span that holds it, so that a cut-out silence never stretches it.
    """
    clock = _SpanClock(spans)
    return tuple(clock.segment(segment) for segment in segments)


class _SpanClock:
    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = spans
        self._ends = list(accumulate(span.length / SAMPLE_RATE for span in spans))

    def segment(self, segment: Segment) -> Segment:
        if not segment.words:
            end = self._place(segment.end, self._span_ending_at(segment.end))
            return replace(segment, start=self._place(segment.start, self._span_at(segment.start)), end=end)
        words = tuple(self._word(word) for word in segment.words)
        return replace(segment, start=words[0].start, end=words[-1].end, words=words)

    def _word(self, word: Word) -> Word:
        span = self._span_at(word.start + HELD_AT * (word.end - word.start))
        return replace(word, start=self._place(word.start, span), end=self._place(word.end, span))

    def _span_at(self, seconds: float) -> int:
        return min(bisect_right(self._ends, seconds), len(self._ends) - 1)

    def _span_ending_at(self, seconds: float) -> int:
        """The end of a span belongs to it, not to the next one; half a hundredth forgives rounding."""
        return self._span_at(seconds - 0.005)

    def _place(self, seconds: float, index: int) -> float:
        """Kept inside the span: the model's word times may be off by more than the silence beside it."""
        span = self._spans[index]
        before = self._ends[index] - span.length / SAMPLE_RATE
        placed = span.start / SAMPLE_RATE + seconds - before
        return round(min(max(placed, span.start / SAMPLE_RATE), span.end / SAMPLE_RATE), 2)

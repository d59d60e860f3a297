"""What the decoder is given and what it is to predict for a window, and where it is to look meanwhile. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.train.recognizer import vocabulary
from models.train.recognizer.mixing import STEPS_PER_SECOND, Segment, Window
from models.train.recognizer.vocabulary import (
    END_OF_TEXT,
    FIRST_TIMESTAMP,
    NO_SPEECH,
    NO_TIMESTAMPS,
    PREVIOUS,
    START,
    TIMESTAMPS,
    UNKNOWN,
)

IGNORED = -100
LONGEST = 448
"""Places of a row: as many as Whisper's decoder has."""
_ROUNDED_TO = 32

_NEAR = 3
_ONE_SECOND = 50

Span = tuple[int, int, int]
"""Steps of the encoder: where a word begins, where it ends, where the pause behind it ends."""
NOWHERE: Span = (-1, -1, -1)


@dataclass(frozen=True, slots=True)
class TextOptions:
    """``with_timestamps``; ``jitter``: see RecognizerRecipe.timestamp_jitter; ``leaves_cut``: a cut segment's text is left
    to the next window, as Whisper's training does."""

    with_timestamps: bool
    jitter: float
    leaves_cut: bool


@dataclass(slots=True)
class Text:
    """One row. ``given[i]`` is the token at place i, ``wanted[i]`` the one that must follow; ``heard[i]`` is where the given
    token is in the sound, ``next_heard[i]`` where the wanted one is."""

    given: list[int] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    heard: list[Span] = field(default_factory=list)
    next_heard: list[Span] = field(default_factory=list)

    def add(self, wanted: int, span: Span, given: int | None = None, heard: Span | None = None) -> None:
        """One more token; ``given`` and ``heard`` where what is given is another than what is wanted."""
        self.given.append(wanted if given is None else given)
        self.wanted.append(wanted)
        self.heard.append(span if heard is None else heard)
        self.next_heard.append(span)


def text_of(window: Window, options: TextOptions, numbers: np.random.Generator) -> Text:
    """The row from the start token on; its last wanted token is the end of text."""
    text = Text()
    if not window.segments:
        first = (
            FIRST_TIMESTAMP + int(numbers.integers(0, _ONE_SECOND + 1)) if options.with_timestamps else NO_TIMESTAMPS
        )
        text.add(NO_SPEECH, NOWHERE, given=first)
    elif options.with_timestamps:
        _add_timestamped(text, window.segments, options, numbers)
    else:
        text.add(NO_TIMESTAMPS, NOWHERE)
        for segment, until in _with_pauses(window.segments):
            _add_words(text, segment, until)
    # what is given comes one place before what is wanted
    end = _end_of(window) if not options.with_timestamps and window.segments else NOWHERE
    return Text([START, *text.given], [*text.wanted, END_OF_TEXT], [NOWHERE, *text.heard], [*text.next_heard, end])


def _add_timestamped(
    text: Text, segments: Sequence[Segment], options: TextOptions, numbers: np.random.Generator
) -> None:
    earliest = 0
    for place, (segment, until) in enumerate(_with_pauses(segments)):
        start, end = vocabulary.timestamp(segment.start), vocabulary.timestamp(segment.end)
        given, heard = _jittered(start, earliest, options.jitter, numbers), _near(segment.start)
        if place == 0 and segment.start > 1.0 and numbers.random() < 0.5:
            # decoders allow no first timestamp beyond one second
            given, heard = FIRST_TIMESTAMP + int(numbers.integers(0, _ONE_SECOND + 1)), NOWHERE
        text.add(start, _near(segment.start), given, heard)
        if segment.is_cut and options.leaves_cut and place > 0:
            return
        _add_words(text, segment, until)
        earliest = _jittered(end, given, options.jitter, numbers)
        text.add(end, _near(segment.end), earliest)


def _jittered(token: int, earliest: int, deviation: float, numbers: np.random.Generator) -> int:
    """Never before the one given last: timestamps do not fall."""
    moved = token + round(numbers.normal(0, deviation)) if deviation else token
    return min(max(moved, earliest, FIRST_TIMESTAMP), FIRST_TIMESTAMP + TIMESTAMPS - 1)


def _with_pauses(segments: Sequence[Segment]) -> list[tuple[Segment, float]]:
    """Every segment with the second at which the pause behind it ends; that behind the last is nobody's."""
    untils = [*(segment.start for segment in segments[1:]), segments[-1].end]
    return list(zip(segments, untils, strict=True))


def _add_words(text: Text, segment: Segment, until: float) -> None:
    pauses = [*(word.start for word in segment.words[1:]), until]
    for word, pause in zip(segment.words, pauses, strict=True):
        start = int(word.start * STEPS_PER_SECOND)
        end = max(int(word.end * STEPS_PER_SECOND), start + 1)
        text.add(word.word, (start, end, max(int(pause * STEPS_PER_SECOND), end)))


def _near(seconds: float) -> Span:
    step = int(seconds * STEPS_PER_SECOND)
    return max(0, step - _NEAR), step + _NEAR, step + _NEAR


def _end_of(window: Window) -> Span:
    step = int(window.segments[-1].words[-1].end * STEPS_PER_SECOND)
    return step, step + _NEAR + 1, step + _NEAR + 1


def draw_prompt(length: int, window_steps: int, numbers: np.random.Generator) -> list[int]:
    """A text before, of any words, half of them with timestamps: so the decoder learns to pass it over."""
    prompt = numbers.integers(0, UNKNOWN, length)
    if numbers.random() < 0.5:
        at = 0
        while at < length:
            prompt[at : at + 2] = FIRST_TIMESTAMP + numbers.integers(0, window_steps + 1, len(prompt[at : at + 2]))
            at += int(numbers.integers(4, 9))
    prompt[0] = PREVIOUS
    return [int(token) for token in prompt]


@dataclass(frozen=True, slots=True)
class Rows:
    """Texts of one batch, behind prompts of one length: (rows, places), and (rows, places, 3) for the spans."""

    given: NDArray[np.int64]
    wanted: NDArray[np.int64]
    heard: NDArray[np.int64]
    next_heard: NDArray[np.int64]


def pad(texts: Sequence[Text], prompts: Sequence[Sequence[int]]) -> Rows:
    before = len(prompts[0])
    longest = before + max(len(text.given) for text in texts)
    # of few lengths, for each is prepared for (and its preparations kept) by the libraries below torch
    places = min(-(-longest // _ROUNDED_TO) * _ROUNDED_TO, LONGEST)
    given = np.full((len(texts), places), END_OF_TEXT, np.int64)
    wanted = np.full((len(texts), places), IGNORED, np.int64)
    heard = np.full((len(texts), places, 3), -1, np.int64)
    next_heard = heard.copy()
    for row, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
        end = min(before + len(text.given), places)
        kept = slice(before, end)
        count = end - before
        given[row, :before] = prompt
        given[row, kept], wanted[row, kept] = text.given[:count], text.wanted[:count]
        heard[row, kept], next_heard[row, kept] = text.heard[:count], text.next_heard[:count]
    return Rows(given, wanted, heard, next_heard)

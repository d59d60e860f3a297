"""Windows of sound mixed on the fly from phrases: levels, tilts, gaps, noise, ends that are cut, and nothing at all.

All is mixed in mel power, which adds up as the sounds do, near enough. Pure but for the phrases; seeded by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.train.recognizer.phrases import BAND_HERTZ, BANDS, FRAMES_PER_SECOND, Phrase, Phrases
from models.train.recognizer.vocabulary import UNKNOWN

STEPS_PER_SECOND = 50
"""Of the encoder: it halves the features' frames."""

_EMPTY_SHARE = 0.05
_WHOLE_SHARE = 0.55
_NOISE_SHARE = 0.75
_DENSE_GAP, _WIDE_GAP = (15, 60), (20, 260)
_WEAK_LOW_SHARE, _LOW_HERTZ = 0.15, (100.0, 450.0)
_FLOOR = 1e-10

Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PlacedWord:
    """Seconds from the window's beginning."""

    word: int
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Segment:
    """Words without a pause between that would make two of them. ``is_cut``: the window ends before the last phrase does."""

    start: float
    end: float
    words: tuple[PlacedWord, ...]
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """``features``: (80, frames), as Whisper's; ``said``: the word of every step of the encoder, UNKNOWN where there is none;
    ``seconds``: what of the window is recording, the rest is padding."""

    features: Features
    segments: tuple[Segment, ...]
    said: NDArray[np.int64]
    seconds: float


@dataclass(frozen=True, slots=True)
class Mix:
    """The shares and the gap of the recipe that mixing needs."""

    joined_gap_seconds: float
    narrow_share: float
    repeated_share: float


class _Canvas:
    """Power of a window while phrases are laid into it."""

    def __init__(self, frames: int, numbers: np.random.Generator) -> None:
        self.frames = frames
        self.power = np.full((frames, BANDS), _FLOOR, np.float32)
        self._gain = numbers.uniform(-2.2, 0.6)
        self._numbers = numbers
        # Of what would be a recording's last window the end is padding.
        self.length = frames
        if numbers.random() >= _WHOLE_SHARE:
            self.length = int(numbers.uniform(0.15 * frames, frames))

    def lay(self, phrase: Phrase, start: int, length: int) -> None:
        numbers = self._numbers
        gain = self._gain + numbers.uniform(-0.5, 0.5)
        bands = np.arange(BANDS, dtype=np.float32)
        tilt = np.linspace(-1, 1, BANDS) * numbers.uniform(-0.35, 0.35)
        wave = numbers.uniform(-0.3, 0.3) * np.cos(bands / BANDS * numbers.uniform(2, 9) + numbers.uniform(0, 6))
        shaped = phrase.power[:length].astype(np.float32) + (gain + tilt + wave).astype(np.float32)
        self.power[start : start + length] += 10.0**shaped

    def spoil(self, narrow_share: float) -> None:
        numbers = self._numbers
        if numbers.random() < _NOISE_SHARE:
            loudness = numbers.uniform(-7.5, -1.6) + min(self._gain, 0)
            slope = np.linspace(1, -1, BANDS) * numbers.uniform(-0.3, 1.0)
            grain = numbers.gamma(1.5, 1 / 1.5, (self.frames, BANDS))
            self.power += (10.0 ** (loudness + slope) * grain).astype(np.float32)
        is_narrow = numbers.random() < narrow_share
        if is_narrow:  # from 3.4 to 4.5 kHz on
            self.power[:, int(numbers.integers(56, 65)) :] *= 10.0 ** numbers.uniform(-7, -3)
        if is_narrow or numbers.random() < _WEAK_LOW_SHARE:
            self.power *= _without_lows(numbers.uniform(*_LOW_HERTZ), int(numbers.integers(1, 3)))

    def features(self) -> Features:
        """(80, frames). Leveled by the loudest of the recording, which may lie outside of this window."""
        logarithm = np.log10(np.maximum(self.power, _FLOOR))
        loudest = float(logarithm[: self.length].max())
        if self._numbers.random() < 0.5:
            loudest += self._numbers.uniform(0, 0.8)
        features = (np.maximum(logarithm, loudest - 8) + 4) / 4
        features[self.length :] = 0
        return np.ascontiguousarray(features.T, np.float32)


def _without_lows(hertz: float, order: int) -> NDArray[np.float32]:
    """(80,): what a high-pass (Butterworth) with this edge leaves of the power."""
    return (1 / (1 + (hertz / BAND_HERTZ) ** (2 * order))).astype(np.float32)


def mix_window(phrases: Phrases, frames: int, numbers: np.random.Generator, mix: Mix, short: bool) -> Window:
    """``short``: of phrases of at most 2.2 s, for windows in which others would not end."""
    canvas = _Canvas(frames, numbers)
    placed = [] if numbers.random() < _EMPTY_SHARE else _lay_phrases(canvas, phrases, numbers, mix, short)
    canvas.spoil(mix.narrow_share)
    said = np.full(frames // 2, UNKNOWN, np.int64)
    for _, _, words, _ in placed:
        for word in words:
            said[int(word.start * STEPS_PER_SECOND) : int(word.end * STEPS_PER_SECOND)] = word.word
    seconds = canvas.length / FRAMES_PER_SECOND
    return Window(canvas.features(), join(placed, seconds, mix.joined_gap_seconds), said, seconds)


_Placed = tuple[float, float, tuple[PlacedWord, ...], bool]
"""Start, end, words, whether it is cut."""


def _lay_phrases(
    canvas: _Canvas, phrases: Phrases, numbers: np.random.Generator, mix: Mix, short: bool
) -> list[_Placed]:
    placed: list[_Placed] = []
    phrase: Phrase | None = None
    gap = _DENSE_GAP if numbers.random() < 0.5 else _WIDE_GAP
    at = 0 if numbers.random() < 0.25 else int(numbers.exponential(60))
    while at < canvas.length - 4:
        is_repeated = phrase is not None and numbers.random() < mix.repeated_share
        phrase = phrases.draw_alike(phrase, numbers) if phrase and is_repeated else phrases.draw(numbers, short)
        if (
            at + phrase.frames > canvas.length
            and canvas.length < canvas.frames
            and not _make_room(canvas, at, phrase, bool(placed), numbers)
        ):
            break
        length = min(phrase.frames, canvas.length - at)
        canvas.lay(phrase, at, length)
        placed.append(_placed(phrase, at, length))
        at += phrase.frames + int(numbers.uniform(*gap))
    return placed


def _make_room(canvas: _Canvas, at: int, phrase: Phrase, is_later: bool, numbers: np.random.Generator) -> bool:
    """A recording's end cuts no phrase: it comes before, or the recording is longer. False where nothing is to be laid."""
    if is_later:
        canvas.length = min(canvas.frames, at - 2) if numbers.random() < 0.5 else canvas.length
        return False
    if phrase.frames > canvas.frames - at:
        return False
    canvas.length = min(canvas.frames, at + phrase.frames + int(numbers.integers(0, 30)))
    return True


def _placed(phrase: Phrase, at: int, length: int) -> _Placed:
    start = at / FRAMES_PER_SECOND
    ends = (*phrase.starts[1:], phrase.seconds)
    words = [
        PlacedWord(word, start + begin, start + end)
        for word, begin, end in zip(phrase.words, phrase.starts, ends, strict=True)
    ]
    is_cut = length < phrase.frames
    limit = (at + length) / FRAMES_PER_SECOND
    heard = tuple(word for word in words if not is_cut or word.end <= limit + 0.03)
    return start, limit if is_cut else start + phrase.seconds, heard, is_cut


def join(placed: Sequence[_Placed], seconds: float, gap: float) -> tuple[Segment, ...]:
    """Segments of phrases that are nearer to each other than ``gap``; phrases of which no word is whole are left out."""
    segments: list[Segment] = []
    for start, end, words, is_cut in placed:
        if not words:
            continue
        end = min(end, seconds)
        if segments and start - segments[-1].end < gap:
            before = segments.pop()
            segments.append(Segment(before.start, end, before.words + words, is_cut))
        else:
            segments.append(Segment(start, end, words, is_cut))
    return tuple(segments)

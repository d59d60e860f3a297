"""Turns of several speakers laid over each other: the chunks of training and the conversations of measuring alike.

Never do more than two speak at once, and nobody speaks over himself. Pure; seeded by the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.train.diarization.utterances import Utterance
from models.train.speech import RATE, Samples

ACTIVITY_SAMPLES = RATE // 100
"""Of one column of an activity."""

_OVERLAP_SECONDS = (0.2, 2.5)
_SHORT_SECONDS = (0.5, 2.5)
_TOUCHING, _APART, _LONG = (0.0, 0.4), (0.2, 1.3), (1.0, 4.0)
_LEAST_APART = RATE // 5

Speak = Callable[[int], Utterance]
"""The next utterance of a speaker, by his place."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How people talk with each other. Shares from 0 to 1.

    - overlapped: of the time in which anybody speaks, that in which two do; it is steered towards.
    - short: turns of 0.5 to 2.5 s; again: turns after which the same speaker goes on.
    """

    overlapped: float
    short: float = 0.3
    again: float = 0.2


@dataclass(frozen=True, slots=True)
class Conversation:
    """``activity``: who speaks, (speakers, hundredths of a second). ``starts``: where each utterance begins, in samples, in the
    order in which they were asked for; empty where nobody kept it."""

    samples: Samples
    activity: NDArray[np.bool_]
    starts: tuple[int, ...] = ()

    @property
    def overlapped_share(self) -> float:
        """Of the time in which anybody speaks."""
        at_once = self.activity.sum(0)
        return float((at_once > 1).sum() / max(1, (at_once > 0).sum()))


class _Sheet:
    """What is laid down so far. ``first_end`` is when the first of the two that spoke last ends, ``last_end`` the other."""

    def __init__(self, length: int, speakers: int) -> None:
        self.samples = np.zeros(length, np.float32)
        self.activity = np.zeros((speakers, length // ACTIVITY_SAMPLES), np.bool_)
        self.first_end = self.last_end = self.last_start = -10 * RATE
        self.last_speaker = -1
        self._spoken = self._overlapped = 0

    @property
    def overlapped(self) -> float:
        return self._overlapped / max(1, self._spoken)

    def lay(self, speaker: int, at: int, utterance: Utterance) -> None:
        length, end = len(self.samples), at + len(utterance.samples)
        first, last = max(0, at), min(length, end)
        if last > first:
            self.samples[first:last] += utterance.samples[first - at : last - at]
        for start, stop in utterance.spans:
            begins, ends = (round(max(0, place + at) / ACTIVITY_SAMPLES) for place in (start, stop))
            self.activity[speaker, begins:ends] = True
        over = max(0, min(end, self.last_end) - at)
        self._overlapped += over
        self._spoken += end - at - over
        self.first_end = min(end, self.last_end)
        if end > self.last_end:
            self.last_end, self.last_speaker = end, speaker
        self.last_start = at


def converse(
    length: int, speakers: int, speak: Speak, manner: Manner, numbers: np.random.Generator, start: int
) -> Conversation:
    """``length`` in samples; the first turn begins at ``start``, which may lie before the beginning."""
    sheet = _Sheet(length, speakers)
    speaker, at = int(numbers.integers(speakers)), start
    starts: list[int] = []
    while at < length:
        utterance = speak(speaker)
        if numbers.random() < manner.short:
            utterance = _shortened(utterance, numbers)
        sheet.lay(speaker, at, utterance)
        starts.append(at)
        speaker = _next_speaker(speaker, speakers, manner, numbers)
        at = _next_start(sheet, speaker, manner, numbers)
    return Conversation(sheet.samples, sheet.activity, tuple(starts))


def _shortened(utterance: Utterance, numbers: np.random.Generator) -> Utterance:
    wanted = int(numbers.uniform(*_SHORT_SECONDS) * RATE)
    if len(utterance.samples) <= wanted:
        return utterance
    return utterance.cut(int(numbers.integers(len(utterance.samples) - wanted)), wanted)


def _next_speaker(speaker: int, speakers: int, manner: Manner, numbers: np.random.Generator) -> int:
    if speakers == 1 or numbers.random() < manner.again:
        return speaker
    return int((speaker + 1 + numbers.integers(speakers - 1)) % speakers)


def _next_start(sheet: _Sheet, speaker: int, manner: Manner, numbers: np.random.Generator) -> int:
    wanted = manner.overlapped * numbers.uniform(0.5, 1.5)
    if speaker != sheet.last_speaker and sheet.overlapped < wanted:
        over = int(numbers.uniform(*_OVERLAP_SECONDS) * RATE)
        return max(sheet.last_end - over, sheet.first_end, sheet.last_start + _LEAST_APART)
    kind = numbers.random()
    pause = _TOUCHING if kind < 0.4 else _APART if kind < 0.93 else _LONG
    return sheet.last_end + int(numbers.uniform(*pause) * RATE)

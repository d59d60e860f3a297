"""Recordings with one speaker a channel, as of telephone systems: who speaks when is read off the channels' levels. Pure.

Nothing has to be guessed from voices there, so it costs nothing and makes no speaker of two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.worker.pipeline.windows import SAMPLE_RATE
from services.worker.work import Options, Speakers, SpeakerTurn

_CHANNELS = 2
FRAME_SECONDS = 0.02
_FRAME = round(FRAME_SECONDS * SAMPLE_RATE)

Levels = NDArray[np.int8]
"""(frames, channels), in whole dB over full scale, -100 to 0: of two channels 360 kB an hour."""

SILENT_DB = -55.0
"""Below it nobody speaks, and neither where a channel is not ABOVE_NOISE_DB over its own noise."""

ABOVE_NOISE_DB = 12.0

CROSSTALK_DB = 12.0
"""What is so much quieter than in the other channel is heard from there."""

LEAST_APART = 0.8
"""Of the time in which anybody speaks, the share in which it is one channel only. Of two people who have a channel each and
interrupt each other much, it is over 0.85; of a room that two microphones hear, near 0."""

LEAST_SHARE = 0.03
"""Of that time, what each channel must have: a channel of noise is no speaker."""

LONGEST_GAP_SECONDS = 0.4
SHORTEST_TURN_SECONDS = 0.2

_LONGEST_GAP = round(LONGEST_GAP_SECONDS / FRAME_SECONDS)
_SHORTEST_TURN = round(SHORTEST_TURN_SECONDS / FRAME_SECONDS)

BY_CHANNEL = "by channel"
OFFERED = (
    "nearly always only one of the two channels is heard: where each holds one person, submit again with speakerPerChannel "
    "to tell them apart exactly"
)
NOT_TWO = "by voice, for the recording does not have two channels"
NOT_APART = "by voice, for the two channels do not hold one speaker each"
NOT_ENOUGH = "by voice, for there are more speakers than channels"


class ChannelLevels:
    """The levels of a recording that comes in piece by piece."""

    def __init__(self, channels: int) -> None:
        self._rest = np.zeros((0, channels), np.float32)
        self._levels: list[Levels] = []

    def feed(self, samples: NDArray[np.int16]) -> None:
        """(samples, channels) at 16 kHz."""
        joined = np.concatenate([self._rest, samples.astype(np.float32) / 32768])
        whole = len(joined) // _FRAME * _FRAME
        frames = joined[:whole].reshape(-1, _FRAME, joined.shape[1])
        power = np.mean(frames**2, axis=1)
        self._levels.append(np.rint(10 * np.log10(power + 1e-10)).astype(np.int8))
        self._rest = joined[whole:]

    def finish(self) -> Levels:
        return np.concatenate(self._levels) if self._levels else np.zeros((0, self._rest.shape[1]), np.int8)


@dataclass(frozen=True, slots=True)
class Decision:
    """How a recording's speakers are told apart. ``speakers``: as its channels tell; None where that is left to voices.
    ``detail`` is for people: which of the two where it is not what one would expect, or what they could ask for."""

    speakers: Speakers | None
    detail: str = ""

    @property
    def note(self) -> str:
        """The same of a job that is done, as a sentence."""
        if not self.detail:
            return ""
        said = self.detail if self.detail == OFFERED else f"speakers were told apart {self.detail}"
        return f"{said[0].upper()}{said[1:]}."


def decide(levels: Levels | None, options: Options) -> Decision:
    """``levels``: of a recording with two channels.

    That two channels are asked for is not enough: of music, of a room with two microphones, or of a sound that is in both
    alike, each voice would become two speakers, and of one that is in one channel alone all voices one. Folders are
    submitted with the same options for all recordings in them.
    """
    asked = options.speaker_per_channel
    if asked and (options.min_speakers or 0) > _CHANNELS:
        return Decision(None, NOT_ENOUGH)
    if levels is None:
        return Decision(None, NOT_TWO if asked else "")
    if not has_a_speaker_a_channel(levels):
        return Decision(None, NOT_APART if asked else "")
    return Decision(speakers_of_channels(levels), BY_CHANNEL) if asked else Decision(None, OFFERED)


def has_a_speaker_a_channel(levels: Levels) -> bool:
    """Whether it is worth offering that speakers are told apart by channel."""
    spoken = _spoken(levels)
    anybody = spoken.any(axis=1).sum()
    if levels.shape[1] != _CHANNELS or not anybody:
        return False
    alone = spoken & ~spoken[:, ::-1]
    return bool(alone.sum() >= LEAST_APART * anybody and (alone.sum(axis=0) >= LEAST_SHARE * anybody).all())


def speakers_of_channels(levels: Levels) -> Speakers:
    """Each channel is one speaker, named in the order in which they are first heard."""
    if not len(levels):
        return Speakers()
    spoken = _spoken(levels)
    turns = sorted(
        (start, end, channel) for channel in range(spoken.shape[1]) for start, end in _runs(spoken[:, channel])
    )
    names: dict[int, str] = {}
    for _, _, channel in turns:
        names.setdefault(channel, f"SPEAKER_{len(names):02d}")
    loudest = np.where(spoken.any(axis=1), np.where(spoken, levels, np.int8(-128)).argmax(axis=1), -1)
    return Speakers(
        tuple(_turn(start, end, names[channel]) for start, end, channel in turns),
        tuple(_turn(start, end, names[channel]) for start, end, channel in _one_at_a_time(loudest, spoken.shape[1])),
    )


def _turn(start: int, end: int, speaker: str) -> SpeakerTurn:
    """From frames."""
    return SpeakerTurn(round(start * FRAME_SECONDS, 3), round(end * FRAME_SECONDS, 3), speaker)


def _spoken(levels: Levels) -> NDArray[np.bool_]:
    """(frames, channels): whether somebody speaks into that channel."""
    if not len(levels):
        return np.zeros(levels.shape, bool)
    noise = np.percentile(levels, 10, axis=0)
    loud = levels > np.maximum(SILENT_DB, np.minimum(noise + ABOVE_NOISE_DB, -ABOVE_NOISE_DB))
    found: NDArray[np.bool_] = loud & (levels > levels.max(axis=1, keepdims=True) - CROSSTALK_DB)
    return found


def _runs(spoken: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Frames of what is said without a longer pause; the end is exclusive."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], spoken, [False]]).astype(np.int8))).tolist()
    start, end = -1, 0
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        if start >= 0 and first - end > _LONGEST_GAP:
            if end - start >= _SHORTEST_TURN:
                yield start, end
            start = -1
        start, end = first if start < 0 else start, last
    if start >= 0 and end - start >= _SHORTEST_TURN:
        yield start, end


def _one_at_a_time(loudest: NDArray[np.integer[Any]], channels: int) -> Iterator[tuple[int, int, int]]:
    """Runs of the channel that is ``loudest`` (frames; -1 for none), no two at the same time: where pauses were closed over
    another's words, those are his, as a "yes" is in the middle of a long turn, which goes on behind it."""
    runs = [(start, end, channel) for channel in range(channels) for start, end in _runs(loudest == channel)]
    whose = np.full(len(loudest), -1, np.int8)
    for start, end, channel in sorted(runs, key=lambda run: run[0] - run[1]):  # the longest first
        whose[start:end] = channel
    changes = (np.flatnonzero(np.diff(whose)) + 1).tolist()
    for start, end in pairwise([0, *changes, len(whose)]):
        if whose[start] >= 0:
            yield start, end, int(whose[start])

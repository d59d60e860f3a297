"""Recordings with one speaker a channel, as of telephone systems: who speaks when is read off the channels' levels. Pure.

Nothing has to be guessed from voices there, so it costs nothing and makes no speaker of two.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from services.worker.pipeline.windows import SAMPLE_RATE
from services.worker.work import Speakers, SpeakerTurn

FRAME_SECONDS = 0.02
_FRAME = round(FRAME_SECONDS * SAMPLE_RATE)

Levels = NDArray[np.float32]
"""(frames, channels), in dB below full scale."""

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
        self._levels.append((10 * np.log10(power + 1e-10)).astype(np.float32))
        self._rest = joined[whole:]

    def finish(self) -> Levels:
        return np.concatenate(self._levels) if self._levels else np.zeros((0, self._rest.shape[1]), np.float32)


def has_a_speaker_a_channel(levels: Levels) -> bool:
    """Whether it is worth offering that speakers are told apart by channel."""
    spoken = _spoken(levels)
    anybody = spoken.any(axis=1).sum()
    if levels.shape[1] != 2 or not anybody:
        return False
    alone = spoken & ~spoken[:, ::-1]
    return bool(alone.sum() >= LEAST_APART * anybody and (alone.sum(axis=0) >= LEAST_SHARE * anybody).all())


def speakers_of_channels(levels: Levels) -> Speakers:
    """Each channel is one speaker, named in the order in which they are first heard."""
    spoken = _spoken(levels)
    turns = sorted(
        (start, end, channel) for channel in range(spoken.shape[1]) for start, end in _runs(spoken[:, channel])
    )
    loudest = np.where(spoken.any(axis=1), np.where(spoken, levels, -np.inf).argmax(axis=1), -1)
    alone = sorted(
        (start, end, channel) for channel in range(spoken.shape[1]) for start, end in _runs(loudest == channel)
    )
    names: dict[int, str] = {}
    for _, _, channel in turns:
        names.setdefault(channel, f"SPEAKER_{len(names):02d}")
    return Speakers(
        tuple(SpeakerTurn(start, end, names[channel]) for start, end, channel in turns),
        tuple(SpeakerTurn(start, end, names[channel]) for start, end, channel in _apart(alone) if channel in names),
    )


def _spoken(levels: Levels) -> NDArray[np.bool_]:
    """(frames, channels): whether somebody speaks into that channel."""
    if not len(levels):
        return np.zeros(levels.shape, bool)
    noise = np.percentile(levels, 10, axis=0)
    loud = levels > np.maximum(SILENT_DB, np.minimum(noise + ABOVE_NOISE_DB, -ABOVE_NOISE_DB))
    found: NDArray[np.bool_] = loud & (levels > levels.max(axis=1, keepdims=True) - CROSSTALK_DB)
    return found


def _runs(spoken: NDArray[np.bool_]) -> Iterator[tuple[float, float]]:
    """Seconds of what is said without a longer pause."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], spoken, [False]]).astype(np.int8)))
    start, end = None, 0.0
    for first, last in zip(edges[::2] * FRAME_SECONDS, edges[1::2] * FRAME_SECONDS, strict=True):
        if start is not None and first - end > LONGEST_GAP_SECONDS:
            if end - start >= SHORTEST_TURN_SECONDS:
                yield round(start, 3), round(end, 3)
            start = None
        start, end = float(first) if start is None else start, float(last)
    if start is not None and end - start >= SHORTEST_TURN_SECONDS:
        yield round(start, 3), round(end, 3)


def _apart(turns: list[tuple[float, float, int]]) -> Iterator[tuple[float, float, int]]:
    """Closing gaps may have made two overlap again: whoever speaks first ends first."""
    for place, (start, end, channel) in enumerate(turns):
        until = min([end, *(later for later, _, _ in turns[place + 1 : place + 2])])
        if start < until:
            yield start, until, channel

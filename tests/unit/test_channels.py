"""Recordings with one speaker a channel."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from services.worker.pipeline.channels import ChannelLevels, Levels, has_a_speaker_a_channel, speakers_of_channels
from services.worker.pipeline.windows import SAMPLE_RATE
from services.worker.work import Speakers, SpeakerTurn

SAYS = [(0, 1.0, 3.0), (1, 3.5, 6.0), (0, 5.6, 8.0), (1, 8.2, 8.28), (1, 9.0, 9.9)]
"""(channel, start, end): 0.4 s of both, and a click."""


def _sound(crosstalk: float = 0.0, noise: float = 10.0) -> NDArray[np.int16]:
    """Ten seconds in two channels; each hears ``crosstalk`` of the other."""
    rng = np.random.default_rng(1)
    sound = rng.normal(scale=noise, size=(10 * SAMPLE_RATE, 2))
    for channel, start, end in SAYS:
        first, last = round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)
        voice = rng.normal(scale=3000, size=last - first)
        sound[first:last, channel] += voice
        sound[first:last, 1 - channel] += crosstalk * voice
    return np.clip(sound, -32768, 32767).astype(np.int16)


def _levels(sound: NDArray[np.int16], piece: int = 12345) -> Levels:
    levels = ChannelLevels(sound.shape[1])
    for first in range(0, len(sound), piece):
        levels.feed(sound[first : first + piece])
    return levels.finish()


def test_levels_do_not_depend_on_the_pieces() -> None:
    sound = _sound()
    assert np.allclose(_levels(sound, 100), _levels(sound, len(sound)), atol=1e-3)


@pytest.mark.parametrize("crosstalk", [0.0, 0.1])
@pytest.mark.parametrize("noise", [0.0, 10.0, 60.0])
def test_two_channels_with_a_speaker_each(crosstalk: float, noise: float) -> None:
    levels = _levels(_sound(crosstalk, noise))
    assert has_a_speaker_a_channel(levels)
    found = speakers_of_channels(levels)
    assert [(turn.start, turn.end, turn.speaker) for turn in found.turns] == [
        (pytest.approx(1.0, abs=0.03), pytest.approx(3.0, abs=0.03), "SPEAKER_00"),
        (pytest.approx(3.5, abs=0.03), pytest.approx(6.0, abs=0.03), "SPEAKER_01"),
        (pytest.approx(5.6, abs=0.03), pytest.approx(8.0, abs=0.03), "SPEAKER_00"),
        (pytest.approx(9.0, abs=0.03), pytest.approx(9.9, abs=0.03), "SPEAKER_01"),
    ]
    assert all(one.end <= other.start for one, other in zip(found.exclusive, found.exclusive[1:], strict=False))


@pytest.mark.parametrize("crosstalk", [0.5, 1.0])
def test_two_microphones_in_one_room_are_no_channels_of_speakers(crosstalk: float) -> None:
    assert not has_a_speaker_a_channel(_levels(_sound(crosstalk)))


def test_one_empty_channel_is_no_speaker() -> None:
    sound = _sound()
    sound[:, 1] = 0
    assert not has_a_speaker_a_channel(_levels(sound))


@pytest.mark.parametrize("samples", [0, 100, 5 * SAMPLE_RATE])
def test_silence_is_nobody(samples: int) -> None:
    levels = _levels(np.zeros((samples, 2), np.int16))
    assert not has_a_speaker_a_channel(levels)
    assert speakers_of_channels(levels) == Speakers()


def test_mono_is_never_split() -> None:
    assert not has_a_speaker_a_channel(_levels(_sound()[:, :1]))


def test_the_first_to_be_heard_is_the_first_speaker() -> None:
    found = speakers_of_channels(_levels(_sound()[:, ::-1]))
    assert found.turns[0] == SpeakerTurn(found.turns[0].start, found.turns[0].end, "SPEAKER_00")

"""Recordings with one speaker a channel."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from services.worker.pipeline.channels import (
    BY_CHANNEL,
    FRAME_SECONDS,
    NOT_APART,
    NOT_ENOUGH,
    NOT_TWO,
    OFFERED,
    ChannelLevels,
    Decision,
    Levels,
    decide,
    has_a_speaker_a_channel,
    speakers_of_channels,
)
from services.worker.pipeline.windows import SAMPLE_RATE
from services.worker.work import Options, Speakers, SpeakerTurn

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
    assert _levels(sound, 100).dtype == np.int8
    assert np.array_equal(_levels(sound, 100), _levels(sound, len(sound)))


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


def test_who_speaks_behind_anothers_word_is_whoever_spoke_before_it() -> None:
    """A "yes" in a pause that is too short to end the turn."""
    said = [(0, 1.0, 3.0), (1, 3.0, 3.3), (0, 3.3, 9.0)]
    found = speakers_of_channels(_levels_of(said, seconds=10))
    assert [(turn.start, turn.end, turn.speaker) for turn in found.exclusive] == [
        (1.0, 3.0, "SPEAKER_00"),
        (3.0, 3.3, "SPEAKER_01"),
        (3.3, 9.0, "SPEAKER_00"),
    ]
    assert [(turn.start, turn.end) for turn in found.turns] == [(1.0, 9.0), (3.0, 3.3)]


@pytest.mark.parametrize("seed", range(20))
def test_of_exclusive_turns_no_two_are_at_once_and_none_is_lost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    starts = rng.uniform(0, 118, 60)
    said = [(int(rng.integers(2)), start, start + rng.uniform(0.05, 2)) for start in starts]
    found = speakers_of_channels(_levels_of(said, seconds=120))
    assert all(one.end <= other.start for one, other in zip(found.exclusive, found.exclusive[1:], strict=False))
    for turn in found.exclusive:
        assert any(
            each.speaker == turn.speaker and each.start <= turn.start and turn.end <= each.end for each in found.turns
        )
    turns = [(round(turn.start / FRAME_SECONDS), round(turn.end / FRAME_SECONDS)) for turn in found.exclusive]
    for _, start, end in said:
        others = [each for each in said if each[1] != start and each[1] < end and start < each[2]]
        if not others and end - start >= 0.3:
            first, last = round(start / FRAME_SECONDS), round(end / FRAME_SECONDS)
            assert sum(max(0, min(last, end) - max(first, begin)) for begin, end in turns) == last - first


def _levels_of(said: list[tuple[int, float, float]], seconds: float) -> Levels:
    levels: Levels = np.full((round(seconds / FRAME_SECONDS), 2), -100, np.int8)
    for channel, start, end in said:
        levels[round(start / FRAME_SECONDS) : round(end / FRAME_SECONDS), channel] = -20
    return levels


APART, TOGETHER = _levels(_sound()), _levels(_sound(crosstalk=1.0))


@pytest.mark.parametrize(
    ("levels", "asked", "decision"),
    [
        (None, False, Decision(None)),
        (None, True, Decision(None, NOT_TWO)),
        (TOGETHER, False, Decision(None)),
        (TOGETHER, True, Decision(None, NOT_APART)),
        (APART, False, Decision(None, OFFERED)),
        (APART, True, Decision(speakers_of_channels(APART), BY_CHANNEL)),
    ],
)
def test_channels_decide_where_they_are_asked_and_can(levels: Levels | None, asked: bool, decision: Decision) -> None:
    assert decide(levels, Options(speaker_per_channel=asked)) == decision


@pytest.mark.parametrize(
    ("detail", "note"),
    [
        ("", ""),
        (OFFERED, "Nearly always only one of the two channels is heard: "),
        (NOT_APART, "Speakers were told apart by voice, for the two channels do not hold one speaker each."),
        (BY_CHANNEL, "Speakers were told apart by channel."),
    ],
)
def test_what_is_said_when_all_is_done_is_a_sentence(detail: str, note: str) -> None:
    said = Decision(None, detail).note
    assert said.startswith(note)
    assert said.endswith("." if note else "")


def test_more_people_than_channels_are_told_apart_by_voice() -> None:
    assert decide(APART, Options(speaker_per_channel=True, min_speakers=3)) == Decision(None, NOT_ENOUGH)
    assert decide(APART, Options(speaker_per_channel=True, min_speakers=2)).speakers is not None


def test_mono_is_never_split() -> None:
    assert not has_a_speaker_a_channel(_levels(_sound()[:, :1]))


def test_the_first_to_be_heard_is_the_first_speaker() -> None:
    found = speakers_of_channels(_levels(_sound()[:, ::-1]))
    assert found.turns[0] == SpeakerTurn(found.turns[0].start, found.turns[0].end, "SPEAKER_00")

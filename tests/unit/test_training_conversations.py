"""Synthetic conversations: who speaks when is what is heard, and overlap is what was asked for."""

from __future__ import annotations

import random

import numpy as np
import pytest

from benchmarks.degraded import coded
from models.train.diarization.conversations import ACTIVITY_SAMPLES, Conversation, Manner, converse
from models.train.diarization.sentences import RealSentences, made_sentence
from models.train.diarization.utterances import Utterance
from models.train.sound import SPEECH_LEVEL, Noises, recorded, spoken, telephoned
from models.train.speech import RATE

MINUTE = 60 * RATE


def talk(seed: int, speakers: int, manner: Manner, length: int = MINUTE, start: int = 0) -> Conversation:
    """Every speaker's samples are his own power of ten, so that a sum says who is in it."""
    numbers = np.random.default_rng(seed)

    def speak(speaker: int) -> Utterance:
        samples = np.full(int(numbers.uniform(0.5, 6) * RATE), 10.0**speaker, np.float32)
        return Utterance(samples, ((0, len(samples)),))

    return converse(length, speakers, speak, manner, numbers, start)


@pytest.mark.parametrize("seed", range(20))
def test_the_activity_is_what_is_heard_and_never_more_than_two_at_once(seed: int) -> None:
    speakers = 1 + seed % 4
    made = talk(seed, speakers, Manner(0.05 * (seed % 10)), start=-2 * RATE)
    expected = (10.0 ** np.arange(speakers)) @ made.activity
    middles = made.samples[ACTIVITY_SAMPLES // 2 :: ACTIVITY_SAMPLES]
    different = np.flatnonzero(np.abs(middles - expected) > 0.5)
    assert len(different) <= 2 * np.abs(np.diff(made.activity.astype(int), axis=1)).sum(), "only at edges, by rounding"
    assert made.activity.sum(0).max() <= 2
    assert made.samples.max() < 2 * 10.0 ** (speakers - 1), "nobody speaks over himself"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2])
def test_two_speak_at_once_for_the_share_of_the_time_that_was_asked_for(share: float) -> None:
    shares = [talk(seed, 2, Manner(share), 3 * MINUTE).overlapped_share for seed in range(5)]
    assert np.mean(shares) == pytest.approx(share, abs=0.04)


def test_where_each_utterance_begins_is_kept() -> None:
    made = talk(3, 2, Manner(0.0), start=RATE)
    assert made.starts[0] == RATE
    assert len(made.starts) > 5
    begins = {int(place) for active in made.activity for place in np.flatnonzero(np.diff(active.astype(int)) == 1) + 1}
    assert {round(start / ACTIVITY_SAMPLES) for start in made.starts} >= begins


def test_all_speak() -> None:
    assert talk(1, 4, Manner(0.1), 3 * MINUTE).activity.any(1).all()


def test_a_telephone_leaves_nothing_above_its_band() -> None:
    for seed in range(8):
        numbers = np.random.default_rng(seed)
        power = np.square(np.abs(np.fft.rfft(telephoned(numbers.normal(0, 0.1, RATE).astype(np.float32), numbers))))
        assert power[4001:].mean() < 1e-3 * power[1000:3000].mean(), "but for the grain of its eight bits"
        assert power[:80].mean() < 0.3 * power[1000:3000].mean()


def test_eight_bits_are_fine_where_it_is_soft_and_coarse_where_it_is_loud() -> None:
    soft, loud = np.linspace(0, 0.01, 1000), np.linspace(0.5, 1.0, 1000)
    assert np.abs(coded(soft) - soft).max() < 4e-4
    assert 3e-3 < np.abs(coded(loud) - loud).max() < 3e-2
    assert len(np.unique(coded(np.linspace(-2, 2, 100_000)))) == 255


def test_of_what_is_recorded_over_a_telephone_most_noise_went_over_it_too() -> None:
    numbers, noises = np.random.default_rng(1), Noises(1)
    sound = numbers.normal(0, SPEECH_LEVEL, RATE).astype(np.float32)
    wide = [
        np.square(np.abs(np.fft.rfft(recorded(sound, noises, (10.0, 10.0), share, numbers))))[5000:].mean()
        for share in (0.0, *[1.0] * 20)
    ]
    narrow = [power < 1e-3 * wide[0] for power in wide[1:]]
    assert 0.4 < np.mean(narrow) < 1


def test_speech_is_found_where_it_is_and_short_gaps_belong_to_it() -> None:
    sound = np.random.default_rng(1).normal(0, 0.1, 3 * RATE).astype(np.float32)
    sound[: RATE // 2] = 0
    sound[RATE : RATE + RATE // 5] = 0  # a gap of 0.2 s
    sound[2 * RATE : 2 * RATE + RATE // 2] = 0  # and one of 0.5 s
    found = [(start / RATE, end / RATE) for start, end in spoken(sound)]
    assert found == [pytest.approx((0.5, 2.0), abs=0.02), pytest.approx((2.5, 3.0), abs=0.02)]
    assert spoken(np.zeros(RATE, np.float32)) == []


def test_sentences_of_training_are_not_those_that_are_measured() -> None:
    drawn = random.Random(1)
    made = {made_sentence(drawn) for _ in range(300)}
    assert len(made) > 250
    real = RealSentences()
    assert not made & {real.draw(drawn) for _ in range(300)}
    assert all(sentence.isascii() for sentence in made)

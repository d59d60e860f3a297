"""Sound made harder to understand: noise, a telephone's band, tones and silences between turns. Pure; seeded by the caller.

Samples are mono int16 at 16 kHz, as `corpus` has them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpus import RATE, Samples

LOW_HERTZ, HIGH_HERTZ = 300.0, 4000.0
"""A telephone's: sound below the first is weakened (first order), nothing above the second passes."""
_MU, _STEPS = 255.0, 127.0
FULL_SCALE = 32767
_CHORD_HERTZ = (220.0, 277.2, 329.6, 440.0)
_BEAT_SECONDS = 0.5


def with_noise(samples: Samples, decibels: float, numbers: np.random.Generator) -> Samples:
    """White noise is added so that the whole has this ratio of signal to noise. Silence stays what it is."""
    sound = samples.astype(np.float64)
    power = float(np.mean(sound**2))
    noise = numbers.normal(0.0, np.sqrt(power / 10 ** (decibels / 10)), len(sound))
    return _as_samples(sound + noise)


def telephone(samples: Samples) -> Samples:
    """As if sampled at 8 kHz by a telephone: nothing above 4 kHz, less and less below 300 Hz, and µ-law's 8 bits (G.711)."""
    spectrum = np.fft.rfft(samples.astype(np.float64))
    hertz = np.fft.rfftfreq(len(samples), 1 / RATE)
    spectrum *= 1 / np.sqrt(1 + (LOW_HERTZ / np.maximum(hertz, 1.0)) ** 2)
    spectrum[hertz >= HIGH_HERTZ] = 0
    return _as_samples(FULL_SCALE * coded(np.fft.irfft(spectrum, len(samples)) / FULL_SCALE))


def coded(sound: NDArray[np.float64]) -> NDArray[np.float64]:
    """What µ-law's 8 bits leave of sound in [-1, 1]; louder than that is cut."""
    sound = np.clip(sound, -1, 1)
    code = np.round(_STEPS * np.sign(sound) * np.log1p(_MU * np.abs(sound)) / np.log1p(_MU)) / _STEPS
    decoded: NDArray[np.float64] = np.sign(code) * np.expm1(np.abs(code) * np.log1p(_MU)) / _MU
    return decoded


def tones(seconds: float, level: float, numbers: np.random.Generator) -> Samples:
    """Music of a kind: a beat of two notes of a chord, each fading; ``level`` is its root mean square, 1 is full scale."""
    beat = round(_BEAT_SECONDS * RATE)
    time = np.arange(beat) / RATE
    fading = np.exp(-3 * time / _BEAT_SECONDS)
    beats = []
    for _ in range(max(1, round(seconds / _BEAT_SECONDS))):
        notes = numbers.choice(_CHORD_HERTZ, 2, replace=False)
        beats.append(fading * sum(np.sin(2 * np.pi * hertz * time) for hertz in notes))
    whole = np.concatenate(beats)
    return _as_samples(whole * (level * FULL_SCALE / np.sqrt(np.mean(whole**2))))


def between(turns: Sequence[Samples], fillers: Sequence[Samples]) -> Samples:
    """The turns in their order, each followed by its filler."""
    return np.concatenate([part for pair in zip(turns, fillers, strict=True) for part in pair])


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), np.int16)


def _as_samples(sound: NDArray[np.float64]) -> Samples:
    return np.clip(np.round(sound), -FULL_SCALE - 1, FULL_SCALE).astype(np.int16)

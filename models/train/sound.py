"""What happens to speech on its way: level, rooms, noise, a telephone. Pure; every function draws from the given numbers.

Samples are mono at 16 kHz, floating, 1 is full scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from benchmarks.degraded import coded
from models.train.speech import RATE, Samples

SPEECH_LEVEL = 0.05
"""Root mean square."""

_NOISES, _NOISE_SECONDS = 16, 20
_FRAME = RATE // 100
_QUIET_DECIBELS, _SILENT_DECIBELS = 42.0, -75.0
_LONGEST_GAP, _SHORTEST = 0.3, 0.08
_NOISE_OVER_SHARE, _CODED_SHARE = 0.7, 0.7
_CODED_DECIBELS = (-20.0, 6.0)


def level(samples: Samples) -> float:
    """Root mean square; a trifle for silence."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)) + 1e-12))


def leveled(samples: Samples) -> Samples:
    return samples * np.float32(SPEECH_LEVEL / level(samples))


def spoken(samples: Samples) -> list[tuple[int, int]]:
    """Stretches of speech in a clean recording, in samples: less than 42 dB below its peak; gaps under 0.3 s are speech."""
    count = len(samples) // _FRAME
    if count < 10:
        return []
    energy = np.square(samples[: count * _FRAME].reshape(count, _FRAME)).mean(1)
    decibels = 10 * np.log10(np.convolve(energy, np.ones(3) / 3, "same") + 1e-12)
    frames = np.flatnonzero(decibels > max(float(np.percentile(decibels, 97)) - _QUIET_DECIBELS, _SILENT_DECIBELS))
    if len(frames) == 0:
        return []
    breaks = np.flatnonzero(np.diff(frames) > _LONGEST_GAP * 100)
    firsts = frames[np.concatenate([[0], breaks + 1])]
    ends = frames[np.concatenate([breaks, [len(frames) - 1]])] + 1
    return [
        (int(first) * _FRAME, int(end) * _FRAME)
        for first, end in zip(firsts, ends, strict=True)
        if end - first >= _SHORTEST * 100
    ]


class Noises:
    """Stretches of colored, sometimes swelling noise of level 1."""

    def __init__(self, seed: int) -> None:
        numbers = np.random.default_rng(seed)
        self._noises = [_colored(number, numbers) for number in range(_NOISES)]

    def add(self, samples: Samples, numbers: np.random.Generator, decibels: tuple[float, float]) -> Samples:
        """With noise so many decibels below the speech, evenly drawn; as far below it in silence."""
        loudness = max(level(samples), 0.02)
        return samples + self.stretch(len(samples), numbers) * np.float32(
            loudness * 10 ** (-numbers.uniform(*decibels) / 20)
        )

    def stretch(self, length: int, numbers: np.random.Generator) -> Samples:
        noise = self._noises[numbers.integers(len(self._noises))]
        repeats = -(-length // len(noise)) + 1
        start = int(numbers.integers(repeats * len(noise) - length))
        return noise.take(np.arange(start, start + length), mode="wrap")


def _colored(number: int, numbers: np.random.Generator) -> Samples:
    length = _NOISE_SECONDS * RATE
    spectrum = np.fft.rfft(numbers.normal(size=length))
    place = np.arange(len(spectrum)) + 50.0
    spectrum *= (place / place[-1]) ** -numbers.uniform(0, 1)
    if number % 3 == 0:
        bends = np.sort(numbers.uniform(0, len(spectrum), 6))
        spectrum *= np.interp(place, bends, numbers.uniform(0.1, 1, 6))
    noise = np.fft.irfft(spectrum, length)
    if number % 4 == 0:
        noise *= np.interp(np.arange(length), np.linspace(0, length, 80), numbers.uniform(0.2, 1.5, 80))
    return (noise / level(noise.astype(np.float32))).astype(np.float32)


def room(numbers: np.random.Generator) -> Samples:
    """An impulse response: the sound itself, then noise that dies away in 0.08 to 0.35 s."""
    decay = numbers.uniform(0.08, 0.35)
    time = np.arange(int(decay * RATE)) / RATE
    response = numbers.normal(size=len(time)) * np.exp(-6.9 * time / decay)
    response *= numbers.uniform(0.1, 0.5) / np.sqrt(np.sum(response**2))
    response[: int(0.002 * RATE)] = 0
    response[0] = 1
    return response.astype(np.float32)


def in_room(samples: Samples, response: Samples) -> Samples:
    """Cut at the length that it had."""
    heard: Samples = fftconvolve(samples, response)[: len(samples)].astype(np.float32)
    return heard


def recorded(
    samples: Samples,
    noises: Noises,
    decibels: tuple[float, float],
    narrow_share: float,
    numbers: np.random.Generator,
) -> Samples:
    """With noise, see ``Noises.add``, and ``narrow_share`` of them as over a telephone, which most of the noise went over, too."""
    is_narrow = numbers.random() < narrow_share
    is_noise_there = is_narrow and numbers.random() < _NOISE_OVER_SHARE
    if is_narrow and not is_noise_there:
        samples = telephoned(samples, numbers)
    samples = noises.add(samples, numbers, decibels)
    return telephoned(samples, numbers) if is_noise_there else samples


def telephoned(samples: Samples, numbers: np.random.Generator) -> Samples:
    """A telephone's band, its edges and slope drawn: nothing above 3.3 to 4 kHz, less and less below 150 to 400 Hz; and
    most with µ-law's 8 bits, in which what is very soft disappears and what is not gets grainy."""
    spectrum = np.fft.rfft(samples)
    hertz = np.fft.rfftfreq(len(samples), 1 / RATE)
    low, high = numbers.uniform(150, 400), numbers.uniform(3300, 4000)
    slope = 2 * int(numbers.integers(1, 3))
    spectrum *= 1 / np.sqrt(1 + (low / np.maximum(hertz, 1.0)) ** slope)
    spectrum[hertz >= high] = 0
    narrow = np.fft.irfft(spectrum, len(samples))
    if numbers.random() < _CODED_SHARE:
        gain = 10 ** (numbers.uniform(*_CODED_DECIBELS) / 20)
        narrow = coded(narrow * gain) / gain
    return narrow.astype(np.float32)


def to_integers(samples: Samples) -> NDArray[np.int16]:
    return np.clip(np.round(samples * 32767), -32768, 32767).astype(np.int16)


def to_floats(samples: NDArray[np.int16]) -> Samples:
    return samples.astype(np.float32) / np.float32(32768)

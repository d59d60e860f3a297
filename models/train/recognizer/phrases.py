"""Phrases of the fifty words as many voices say them: mel power with the time of every word, on disk."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from faster_whisper.feature_extractor import FeatureExtractor
from numpy.typing import NDArray

from models.train.recognizer.vocabulary import DIGITS, WORD_IDS, WORDS
from models.train.speech import RATE, Espeak, Samples, Voice
from models.train.voices import ACCENTS, HEARD, voice_name

BANDS = 80
BAND_HERTZ = 1000 * np.where(
    (_mels := np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), BANDS + 2)[1:-1]) < 15,
    _mels / 15,
    np.exp((_mels - 15) * np.log(6.4) / 27),
)
"""Middles of the mel bands (80,), by Slaney's scale as Whisper's features: straight up to 1 kHz, then by ratios."""
FRAMES_PER_SECOND = 100
_WINDOW = 400
_PEAK = 0.6
_SHORT_FRAMES = 220
_LONGEST_SECONDS = 6.0
_LENGTHS = (1, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8)
_DIGITS_SHARE, _COMMA_SHARE = 0.2, 0.06
# What is softer than this share of a phrase's peak at its ends is espeak-ng's own silence; a hundredth stays.
_SILENT, _KEPT = 0.004, 160

Power = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Phrase:
    """``power``: log10 of the mel power, (frames, 80); ``words``: their ids; ``starts``, ``seconds``: s from its beginning."""

    power: Power
    words: tuple[int, ...]
    starts: tuple[float, ...]
    seconds: float

    @property
    def frames(self) -> int:
        return len(self.power)

    @property
    def is_short(self) -> bool:
        return self.frames <= _SHORT_FRAMES


class Phrases:
    """All of a folder that ``synthesize`` wrote."""

    def __init__(self, folder: Path) -> None:
        power = np.load(folder / "power.npy", mmap_mode="r")
        with np.load(folder / "phrases.npz") as index:
            ends, counts = np.cumsum(index["frames"]), np.cumsum(index["counts"])
            self.all = [
                Phrase(
                    power[end - frames : end],
                    tuple(index["words"][count - words : count].tolist()),
                    tuple(index["starts"][count - words : count].tolist()),
                    float(seconds),
                )
                for end, frames, count, words, seconds in zip(
                    ends.tolist(),
                    index["frames"].tolist(),
                    counts.tolist(),
                    index["counts"].tolist(),
                    index["seconds"].tolist(),
                    strict=True,
                )
            ]
        self._short = [phrase for phrase in self.all if phrase.is_short] or self.all
        self._alike: defaultdict[tuple[int, ...], list[Phrase]] = defaultdict(list)
        for phrase in self.all:
            self._alike[phrase.words].append(phrase)

    def draw(self, numbers: np.random.Generator, short: bool) -> Phrase:
        """Any one; with ``short`` one of at most 2.2 s."""
        phrases = self._short if short else self.all
        return phrases[numbers.integers(len(phrases))]

    def draw_alike(self, phrase: Phrase, numbers: np.random.Generator) -> Phrase:
        """One of the same words, the phrase itself among them; a short one for a short one."""
        alike = [other for other in self._alike[phrase.words] if other.is_short or not phrase.is_short]
        return alike[numbers.integers(len(alike))]


def synthesize(folder: Path, count: int, twin_share: float, seed: int, say: Callable[[str], None]) -> None:
    """Writes ``power.npy`` and ``phrases.npz``; ``twin_share`` as in RecognizerRecipe. Raises SpeechError."""
    torch.set_num_threads(1)
    drawn, espeak, mel = random.Random(seed), Espeak(), MelPower()
    phrases: list[Phrase] = []
    words = draw_words(drawn)
    while len(phrases) < count:
        accent = drawn.choices(list(ACCENTS), list(ACCENTS.values()))[0]
        voice = Voice(
            voice_name(accent, drawn.choice(HEARD)),
            drawn.randint(100, 260),
            drawn.randint(5, 95),
            drawn.randint(20, 80),
        )
        words = words if drawn.random() < twin_share else draw_words(drawn)
        spoken = speak(espeak, words, voice, drawn)
        if spoken is None or len(spoken.samples) > _LONGEST_SECONDS * RATE:
            continue
        phrases.append(spoken.with_power(mel))
        if len(phrases) % 2000 == 0:
            say(f"{len(phrases)} of {count} phrases")
    folder.mkdir()
    np.save(folder / "power.npy", np.concatenate([phrase.power for phrase in phrases]))
    np.savez(
        folder / "phrases.npz",
        frames=np.array([phrase.frames for phrase in phrases]),
        counts=np.array([len(phrase.words) for phrase in phrases]),
        words=np.concatenate([phrase.words for phrase in phrases]),
        starts=np.concatenate([phrase.starts for phrase in phrases]),
        seconds=np.array([phrase.seconds for phrase in phrases]),
    )


@dataclass(frozen=True, slots=True)
class SpokenPhrase:
    """A phrase as it sounds; ``starts`` of the words in seconds."""

    samples: Samples
    words: tuple[str, ...]
    starts: tuple[float, ...]

    def with_power(self, mel: MelPower) -> Phrase:
        samples = self.samples * np.float32(_PEAK / np.abs(self.samples).max())
        ids = tuple(WORD_IDS[word] for word in self.words)
        return Phrase(mel(samples), ids, self.starts, len(samples) / RATE)


class MelPower:
    """Log10 of the mel power as Whisper's features have it, before they are leveled: (samples,) to (frames, 80)."""

    def __init__(self) -> None:
        filters = FeatureExtractor.get_mel_filters(RATE, _WINDOW, BANDS).astype(np.float32)
        self._filters = torch.from_numpy(filters)
        self._window = torch.from_numpy(np.hanning(_WINDOW + 1)[:-1].astype(np.float32))

    def __call__(self, samples: Samples) -> Power:
        spectrum = torch.stft(
            torch.from_numpy(samples),
            _WINDOW,
            RATE // FRAMES_PER_SECOND,
            window=self._window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        power = (self._filters @ spectrum.abs().square()).T
        logarithm: Power = torch.log10(power.clamp(min=1e-10)).half().numpy()
        return logarithm


def draw_words(drawn: random.Random, lengths: Sequence[int] = _LENGTHS) -> tuple[str, ...]:
    words = DIGITS if drawn.random() < _DIGITS_SHARE else WORDS
    return tuple(drawn.choice(words) for _ in range(drawn.choice(lengths)))


def speak(espeak: Espeak, words: Sequence[str], voice: Voice, drawn: random.Random) -> SpokenPhrase | None:
    """Without the silence around; None where espeak-ng does not tell the time of every word."""
    text, places = "", []
    for word in words:
        if text:
            text += ", " if drawn.random() < _COMMA_SHARE else " "
        places.append(len(text))
        text += word
    said = espeak.say(text, voice)
    if len(said.samples) == 0 or not all(place in said.starts for place in places):
        return None
    loudness = np.abs(said.samples)
    loud = np.flatnonzero(loudness > max(float(loudness.max()) * _SILENT, 1e-4))
    if len(loud) == 0:
        return None
    first, end = max(0, int(loud[0]) - _KEPT), min(len(loudness), int(loud[-1]) + _KEPT)
    starts = tuple(max(0.0, said.starts[place] - first / RATE) for place in places)
    return SpokenPhrase(said.samples[first:end], tuple(words), starts)

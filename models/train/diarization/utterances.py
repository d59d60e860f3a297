"""Sentences of every synthetic person, with where in them is speech, on disk."""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.train.diarization.identities import Identity, draw_identity
from models.train.diarization.sentences import made_sentence
from models.train.recipe import VoicesRecipe
from models.train.sound import in_room, leveled, room, spoken, to_floats, to_integers
from models.train.speech import RATE, Espeak, Samples, Voice, private_data, resampled

_SHORTEST = RATE // 4


@dataclass(frozen=True, slots=True)
class Utterance:
    """Begins and ends with speech; ``spans`` are the stretches of it, in samples."""

    samples: Samples
    spans: tuple[tuple[int, int], ...]

    def cut(self, first: int, length: int) -> Utterance:
        spans = ((max(0, start - first), min(length, end - first)) for start, end in self.spans)
        kept = tuple((start, end) for start, end in spans if end > start)
        return Utterance(self.samples[first : first + length], kept)


class Utterances:
    """All of a folder that ``synthesize`` wrote, by the number of who says them."""

    def __init__(self, folder: Path) -> None:
        self._samples: NDArray[np.int16] = np.load(folder / "samples.npy", mmap_mode="r")
        with np.load(folder / "utterances.npz") as index:
            self._starts, self._lengths, self._spans = index["starts"], index["lengths"], index["spans"]
            self._span_ends = np.cumsum(index["span_counts"])
            self._by_identity: defaultdict[int, list[int]] = defaultdict(list)
            for place, identity in enumerate(index["identities"].tolist()):
                self._by_identity[identity].append(place)
        self.identities = sorted(self._by_identity)

    def draw(self, identity: int, numbers: np.random.Generator) -> Utterance:
        of_identity = self._by_identity[identity]
        place = of_identity[numbers.integers(len(of_identity))]
        start, length = int(self._starts[place]), int(self._lengths[place])
        first_span = int(self._span_ends[place - 1]) if place else 0
        spans = self._spans[first_span : int(self._span_ends[place])].tolist()
        return Utterance(to_floats(self._samples[start : start + length]), tuple((a, b) for a, b in spans))


def synthesize(folder: Path, recipe: VoicesRecipe, say: Callable[[str], None]) -> None:
    """Writes ``samples.npy`` and ``utterances.npz``. Raises SpeechError."""
    found: list[tuple[int, Utterance]] = []
    with tempfile.TemporaryDirectory(prefix="bulkscribe-voices-") as scratch:
        variants = private_data(Path(scratch))
        espeak = Espeak(Path(scratch))
        for number in range(recipe.identities):
            identity = draw_identity(number, recipe, variants)
            found += ((number, utterance) for utterance in _said_by(identity, number, espeak, recipe))
            if (number + 1) % 100 == 0:
                say(f"{number + 1} of {recipe.identities} voices")
    folder.mkdir()
    lengths = np.array([len(utterance.samples) for _, utterance in found])
    np.save(folder / "samples.npy", np.concatenate([to_integers(utterance.samples) for _, utterance in found]))
    np.savez(
        folder / "utterances.npz",
        identities=np.array([number for number, _ in found]),
        lengths=lengths,
        starts=np.concatenate([[0], np.cumsum(lengths)[:-1]]),
        spans=np.concatenate([np.array(utterance.spans) for _, utterance in found]),
        span_counts=np.array([len(utterance.spans) for _, utterance in found]),
    )


def _said_by(identity: Identity, number: int, espeak: Espeak, recipe: VoicesRecipe) -> list[Utterance]:
    drawn = random.Random(f"{recipe.seed}/said/{number}")
    numbers = np.random.default_rng([recipe.seed, number])
    made: list[Utterance] = []
    seconds = 0.0
    while seconds < recipe.seconds_each:
        utterance = speak(espeak, made_sentence(drawn), varied(identity.voice, drawn), identity.warp)
        seconds += 0.5 if utterance is None else len(utterance.samples) / RATE  # an end also for a voice that is silent
        if utterance is None:
            continue
        if drawn.random() < recipe.room_share:
            utterance = replace(utterance, samples=in_room(utterance.samples, room(numbers)))
        made.append(utterance)
    return made


def varied(voice: Voice, drawn: random.Random) -> Voice:
    """Nobody says two sentences at the same speed and pitch."""
    return replace(voice, rate=voice.rate + drawn.randint(-15, 15), pitch=voice.pitch + drawn.randint(-3, 3))


def speak(espeak: Espeak, text: str, voice: Voice, warp: int = 100) -> Utterance | None:
    """At the level of speech, from its first sound to its last; None where there is hardly any."""
    samples = espeak.say(text, voice).samples
    if warp != 100:
        samples = resampled(samples, warp, 100)
    spans = spoken(samples) if len(samples) >= _SHORTEST else []
    if not spans:
        return None
    first, end = spans[0][0], spans[-1][1]
    return Utterance(leveled(samples[first:end]), tuple((start - first, stop - first) for start, stop in spans))

"""Recordings of conversations between voices that no training of `models.train` hears, with who speaks when; and, of words that
the recognizer knows, who says which.

The generator is that of the training (`models.train.diarization`), its voices and sentences those that are held back there. Equal
arguments give equal recordings.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.corpus import write_recording

if TYPE_CHECKING:
    from models.train.diarization.conversations import Conversation
    from models.train.diarization.utterances import Utterance
    from models.train.recognizer.phrases import SpokenPhrase
    from models.train.speech import Espeak

SEED = 5
"""Another than that by which `make models` compares its models: nobody chooses models by what is measured here."""

KINDS = {
    "two speakers": "two speakers",
    "four speakers": "four speakers",
    "two speakers, a fifth of the time overlapped": "a fifth overlapped",
    "two speakers over the telephone": "telephone band",
    "two speakers with similar voices": "similar voices",
}
"""The training's name of each set, and ours."""
KNOWN_WORDS = "known words"
"""The set of two speakers who say nothing but words that the recognizer knows."""

_TURN_WORDS = (1, 2, 3, 4, 6, 8, 8, 10, 10, 12)
"""About as many as the turns of the other sets have."""
_OVERLAPPED = 0.02
_NOISE_SEED = 78
_NOISE_DECIBELS = (18.0, 40.0)


@dataclass(frozen=True, slots=True)
class HeldConversation:
    """A WAV file. ``kind``: the set that it is of; ``turns``: mappings with ``start``, ``end`` and ``speaker``; ``words``: (word,
    speaker) in the order in which they begin, of KNOWN_WORDS only."""

    kind: str
    path: Path
    turns: tuple[dict[str, Any], ...]
    words: tuple[tuple[str, str], ...] = ()


def make_conversations(folder: Path, count: int, seconds: float) -> list[HeldConversation]:
    """So many of each set, each so long, in a folder that is made. In a process of its own, for what espeak-ng says depends on what it said before, and it is
    to be the same each time. Raises SpeechError where espeak-ng is missing."""
    folder.mkdir()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_make, folder, count, seconds).result()


def _make(folder: Path, count: int, seconds: float) -> list[HeldConversation]:
    from models.train.diarization.evaluate import SETS, make_set  # brings torch, which takes seconds
    from models.train.recipe import EvaluationRecipe
    from models.train.speech import Espeak

    espeak = Espeak()
    recipe = replace(EvaluationRecipe(), seed=SEED, conversations=count, conversation_seconds=seconds)
    made: list[HeldConversation] = []
    for place, kind in enumerate(SETS):
        for number, talk in enumerate(make_set(kind, recipe, espeak), 1):
            made.append(_written(folder / f"set-{place + 1}-{number:02d}.wav", KINDS[kind.name], talk))
    for number, (talk, words) in enumerate(_of_known_words(count, seconds, espeak), 1):
        written = _written(folder / f"words-{number:02d}.wav", KNOWN_WORDS, talk)
        made.append(replace(written, words=words))
    return made


def _written(path: Path, kind: str, talk: Conversation) -> HeldConversation:
    from models.train.diarization.evaluate import turns_of
    from models.train.sound import to_integers

    write_recording(path, to_integers(talk.samples), "")
    return HeldConversation(kind, path, tuple(turns_of(talk)))


def _of_known_words(
    count: int, seconds: float, espeak: Espeak
) -> Iterator[tuple[Conversation, tuple[tuple[str, str], ...]]]:
    """Voices as in the set of two speakers, all turns whole."""
    from models.train.diarization.conversations import Conversation, Manner, converse
    from models.train.sound import Noises
    from models.train.speech import RATE

    noises = Noises(_NOISE_SEED)
    for number in range(count):
        drawn, numbers = random.Random(f"{SEED}/{KNOWN_WORDS}/{number}"), np.random.default_rng([SEED, number])
        people = _People(espeak, drawn)
        manner = Manner(_OVERLAPPED, short=0.0)
        talk = converse(int(seconds * RATE), 2, people.speak, manner, numbers, RATE // 2)
        samples = np.clip(noises.add(talk.samples, numbers, _NOISE_DECIBELS), -1, 1)
        begun = sorted(
            (begin / RATE + start, word, str(speaker))
            for begin, (speaker, phrase) in zip(talk.starts, people.said, strict=True)
            for word, start in zip(phrase.words, phrase.starts, strict=True)
        )
        words = tuple((word, speaker) for start, word, speaker in begun if start < seconds)
        yield Conversation(samples, talk.activity), words


class _People:
    """Two of them. ``said``: who said what, in the order in which they were asked."""

    def __init__(self, espeak: Espeak, drawn: random.Random) -> None:
        from models.train.diarization.evaluate import SETS, draw_voices

        self._espeak, self._drawn = espeak, drawn
        self._voices = draw_voices(SETS[0], drawn)
        self.said: list[tuple[int, SpokenPhrase]] = []

    def speak(self, speaker: int) -> Utterance:
        from models.train.diarization.utterances import Utterance, varied
        from models.train.recognizer import phrases
        from models.train.sound import leveled, spoken

        while True:
            words = phrases.draw_words(self._drawn, _TURN_WORDS)
            phrase = phrases.speak(self._espeak, words, varied(self._voices[speaker], self._drawn), self._drawn)
            spans = spoken(phrase.samples) if phrase else []
            if phrase and spans:
                self.said.append((speaker, phrase))
                return Utterance(leveled(phrase.samples), tuple(spans))

"""Diarization error rates on conversations of voices and sentences that no training heard (collar 0.25 s, overlap scored)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.degraded import telephone
from benchmarks.scoring import NONE, speaker_errors
from models.train.diarization.conversations import ACTIVITY_SAMPLES, Conversation, Manner, converse
from models.train.diarization.sentences import RealSentences
from models.train.diarization.utterances import Utterance, speak, varied
from models.train.recipe import EvaluationRecipe
from models.train.report import Figure
from models.train.sound import Noises, in_room, room, to_floats, to_integers
from models.train.speech import RATE, Espeak, Voice
from models.train.voices import UNHEARD, UNHEARD_ACCENTS, voice_name
from services.worker.engine.torchaudio_stub import import_torchaudio

_NOISE_SEED = 77
_NOISE_DECIBELS = (18.0, 40.0)
_LEVEL_DECIBELS = (-3.0, 3.0)
_ROOM_SHARE = 0.3

Turns = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ConversationSet:
    """``alike``: one variant for all, at pitches that differ by a quarter of what there is; ``over_telephone``: all of it."""

    name: str
    speakers: int
    manner: Manner
    alike: bool = False
    over_telephone: bool = False


SETS = (
    ConversationSet("two speakers", 2, Manner(0.02)),
    ConversationSet("four speakers", 4, Manner(0.02)),
    ConversationSet("two speakers, a fifth of the time overlapped", 2, Manner(0.2)),
    ConversationSet("two speakers over the telephone", 2, Manner(0.02), over_telephone=True),
    ConversationSet("two speakers with similar voices", 2, Manner(0.02), alike=True),
)


def evaluate(folders: Mapping[str, Path], recipe: EvaluationRecipe) -> list[Figure]:
    """Figures of each pipeline's folder, by its name."""
    torch.set_num_threads(1)
    pipelines = {name: loaded_pipeline(folder) for name, folder in folders.items()}
    figures = []
    espeak = Espeak()
    for kind in SETS:
        talks = list(make_set(kind, recipe, espeak))
        for name, pipeline in pipelines.items():
            found = [diarized(pipeline, talk) for talk in talks]
            errors = sum((speaker_errors(turns_of(t), f) for t, f in zip(talks, found, strict=True)), NONE)
            right = sum(len({turn["speaker"] for turn in turns}) == kind.speakers for turns in found)
            figures.append(Figure(kind.name, "diarization error rate, %", name, round(100 * errors.rate, 2)))
            figures.append(Figure(kind.name, "right number of speakers, %", name, round(100 * right / len(talks), 1)))
            figures.append(Figure(kind.name, "overlap found, %", name, _overlap_found(talks, found)))
        share = 100 * float(np.mean([talk.overlapped_share for talk in talks]))
        figures += [Figure(kind.name, "overlap there is, %", name, round(share, 1)) for name in pipelines]
    return figures


def make_set(kind: ConversationSet, recipe: EvaluationRecipe, espeak: Espeak) -> Iterator[Conversation]:
    """The same for the same recipe."""
    sentences, noises = RealSentences(), Noises(_NOISE_SEED)
    for number in range(recipe.conversations):
        drawn = random.Random(f"{recipe.seed}/{kind.name}/{number}")
        numbers = np.random.default_rng([recipe.seed, SETS.index(kind), number])
        speakers = _Speakers(kind, espeak, sentences, drawn, numbers)
        length = int(recipe.conversation_seconds * RATE)
        talk = converse(length, kind.speakers, speakers.speak, kind.manner, numbers, int(0.5 * RATE))
        samples = np.clip(noises.add(talk.samples, numbers, _NOISE_DECIBELS), -1, 1)
        if kind.over_telephone:
            samples = to_floats(telephone(to_integers(samples)))
        yield Conversation(samples, talk.activity)


class _Speakers:
    def __init__(
        self,
        kind: ConversationSet,
        espeak: Espeak,
        sentences: RealSentences,
        drawn: random.Random,
        numbers: np.random.Generator,
    ) -> None:
        self._espeak, self._sentences, self._drawn = espeak, sentences, drawn
        self._voices = draw_voices(kind, drawn)
        self._gains = [np.float32(10 ** (drawn.uniform(*_LEVEL_DECIBELS) / 20)) for _ in self._voices]
        self._rooms = [room(numbers) if drawn.random() < _ROOM_SHARE else None for _ in self._voices]

    def speak(self, speaker: int) -> Utterance:
        utterance = None
        while utterance is None:
            text = " ".join(self._sentences.draw(self._drawn) for _ in range(self._drawn.choice((1, 1, 2))))
            utterance = speak(self._espeak, text, varied(self._voices[speaker], self._drawn))
        samples, response = utterance.samples * self._gains[speaker], self._rooms[speaker]
        return Utterance(samples if response is None else in_room(samples, response), utterance.spans)


def draw_voices(kind: ConversationSet, drawn: random.Random) -> list[Voice]:
    """One for each speaker, of those that no training hears."""
    if kind.alike:
        name = voice_name(drawn.choice(UNHEARD_ACCENTS), drawn.choice(UNHEARD))
        lowest = drawn.randint(25, 50)
        return [Voice(name, drawn.randint(145, 190), lowest + 25 * place) for place in range(kind.speakers)]
    return [
        Voice(
            voice_name(drawn.choice(UNHEARD_ACCENTS), variant),
            drawn.randint(145, 190),
            drawn.randint(25, 75),
            drawn.randint(35, 65),
        )
        for variant in drawn.sample(UNHEARD, kind.speakers)
    ]


def loaded_pipeline(folder: Path) -> Any:
    import_torchaudio()
    from services.worker.engine.speaker_models import demo_pipeline

    return demo_pipeline(folder)


def diarized(pipeline: Any, talk: Conversation) -> Turns:
    return found_turns(
        pipeline({"waveform": torch.from_numpy(talk.samples)[None], "sample_rate": RATE, "uri": "conversation"})
    )


def found_turns(output: Any) -> Turns:
    tracks = output.speaker_diarization.itertracks(yield_label=True)
    return [{"start": turn.start, "end": turn.end, "speaker": str(label)} for turn, _, label in tracks]


def turns_of(talk: Conversation) -> Turns:
    """Who really speaks, from when to when."""
    turns: Turns = []
    for speaker, active in enumerate(talk.activity):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], active.astype(np.int8), [0]])))
        for start, end in pairwise(edges.tolist()):
            if active[start]:
                turns.append({"start": start / 100, "end": end / 100, "speaker": str(speaker)})
    return turns


def _overlap_found(talks: list[Conversation], found: list[Turns]) -> float:
    """Percent of the time with two at once in which two are found; 100 where there is none."""
    there = both = 0
    for talk, turns in zip(talks, found, strict=True):
        at_once = np.zeros(talk.activity.shape[1] + 1, int)
        for turn in turns:
            first, end = (round(turn[side] * RATE / ACTIVITY_SAMPLES) for side in ("start", "end"))
            at_once[first:end] += 1
        is_two = talk.activity.sum(0) > 1
        there += int(is_two.sum())
        both += int((is_two & (at_once[:-1] > 1)).sum())
    return round(100 * both / there, 1) if there else 100.0

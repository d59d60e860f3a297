"""Word error rates and word times through faster-whisper, of phrases of voices that no training heard."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from benchmarks.degraded import telephone
from benchmarks.scoring import NONE, normalized, word_errors
from models.train.recipe import EvaluationRecipe
from models.train.recognizer.phrases import SpokenPhrase, draw_words, speak
from models.train.report import Figure
from models.train.sound import to_floats, to_integers
from models.train.speech import RATE, Espeak, Samples, Voice
from models.train.voices import UNHEARD, UNHEARD_ACCENTS, voice_name

_LENGTHS = (3, 4, 5, 6, 7, 8, 9)
_RECORDED_LENGTHS = (2, 3, 4, 5, 6, 7, 8)
_BATCH = 8
_MARGIN_SECONDS = 0.4
_SHORT_PAUSE, _LONG_PAUSE, _SHORT_SHARE = (0.3, 1.2), (2.0, 5.0), 0.8
_NOISE = 0.0008


@dataclass(frozen=True, slots=True)
class Recorded:
    """``starts``: of the words of ``text``, in seconds."""

    samples: Samples
    text: str
    starts: tuple[float, ...]


def evaluate(folders: Mapping[str, Path], recipe: EvaluationRecipe) -> list[Figure]:
    """Figures of each CTranslate2 folder, by its name."""
    from faster_whisper import WhisperModel

    models = {
        name: WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1)
        for name, folder in folders.items()
    }
    espeak = Espeak()
    phrases = list(_phrases(recipe, espeak))
    recordings = list(_recordings(recipe, espeak))
    narrow = [Recorded(to_floats(telephone(to_integers(one.samples))), one.text, one.starts) for one in recordings]
    figures: list[Figure] = []
    for name, model in models.items():
        figures += _measured("phrases", phrases, name, model, {"": {"without_timestamps": True}})
        figures += _measured("recordings over the telephone", narrow, name, model, {"": {"without_timestamps": True}})
        ways = {"": {"without_timestamps": True}, ", with timestamp tokens": {"without_timestamps": False}}
        figures += _measured("recordings", recordings, name, model, ways)
        figures += _word_times(recordings, name, model)
    return figures


def _phrases(recipe: EvaluationRecipe, espeak: Espeak) -> Iterator[Recorded]:
    """One phrase each, with some silence and, half of them, noise."""
    numbers = np.random.default_rng(recipe.seed)
    for number in range(recipe.phrases):
        drawn = random.Random(f"{recipe.seed}/phrase/{number}")
        said = _say(espeak, drawn, _LENGTHS)
        before, after = drawn.uniform(0.1, 0.9), drawn.uniform(0.1, 0.8)
        samples = np.concatenate([_silence(before), said.samples * _gain(said, drawn), _silence(after)])
        if drawn.random() < 0.5:
            samples = samples + numbers.normal(0, 10 ** drawn.uniform(-4, -2.5), len(samples)).astype(np.float32)
        yield Recorded(samples, " ".join(said.words), tuple(before + start for start in said.starts))


def _recordings(recipe: EvaluationRecipe, espeak: Espeak) -> Iterator[Recorded]:
    """Phrases of ever other voices, with pauses, in a quiet room."""
    for number in range(recipe.recordings):
        numbers = np.random.default_rng([recipe.seed, number])
        drawn = random.Random(f"{recipe.seed}/recording/{number}")
        parts = [_silence(_MARGIN_SECONDS)]
        words: list[str] = []
        starts: list[float] = []
        length = len(parts[0])
        while length < recipe.recording_seconds * RATE:
            said = _say(espeak, drawn, _RECORDED_LENGTHS)
            words += said.words
            starts += [length / RATE + start for start in said.starts]
            pause = _silence(drawn.uniform(*(_SHORT_PAUSE if drawn.random() < _SHORT_SHARE else _LONG_PAUSE)))
            parts += [said.samples * _gain(said, drawn), pause]
            length += len(said.samples) + len(pause)
        samples = np.concatenate(parts)
        samples = samples + numbers.normal(0, _NOISE, len(samples)).astype(np.float32)
        yield Recorded(samples, " ".join(words), tuple(starts))


def _say(espeak: Espeak, drawn: random.Random, lengths: Sequence[int]) -> SpokenPhrase:
    while True:
        name = voice_name(drawn.choice(UNHEARD_ACCENTS), drawn.choice(UNHEARD))
        voice = Voice(name, drawn.randint(110, 250), drawn.randint(10, 90), drawn.randint(20, 80))
        said = speak(espeak, draw_words(drawn, lengths), voice, drawn)
        if said is not None:
            return said


def _silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), np.float32)


def _gain(said: SpokenPhrase, drawn: random.Random) -> np.float32:
    return np.float32(drawn.uniform(0.1, 0.7) / np.abs(said.samples).max())


def _measured(
    of: str, recorded: Sequence[Recorded], name: str, model: Any, ways: Mapping[str, Mapping[str, Any]]
) -> Iterator[Figure]:
    from faster_whisper import BatchedInferencePipeline

    for way, options in ways.items():
        batched = BatchedInferencePipeline(model)
        errors, dropped = NONE, 0
        for one in recorded:
            segments, _ = batched.transcribe(one.samples, language="en", batch_size=_BATCH, **options)
            heard = " ".join(segment.text for segment in segments)
            errors += word_errors(one.text, heard)
            dropped += _dropped(one.text, heard)
        yield Figure(of, f"word error rate{way}, %", name, round(100 * errors.rate, 2))
        yield Figure(of, f"words dropped{way}, %", name, round(100 * dropped / errors.total, 2))


def _dropped(said: str, heard: str) -> int:
    return int(jiwer.process_words(said, normalized(heard)).deletions)


def _word_times(recorded: Sequence[Recorded], name: str, model: Any) -> Iterator[Figure]:
    """How far the beginnings of words that were recognized are off."""
    from faster_whisper import BatchedInferencePipeline

    batched = BatchedInferencePipeline(model)
    off: list[float] = []
    for one in recorded:
        segments, _ = batched.transcribe(
            one.samples, language="en", batch_size=_BATCH, without_timestamps=True, word_timestamps=True
        )
        words = [word for segment in segments for word in segment.words or []]
        heard = [(normalized(word.word), word.start) for word in words if normalized(word.word)]
        off += _offsets(one, heard)
    for percent in (50, 90, 99):
        value = round(float(np.percentile(off, percent)), 3) if off else float("nan")
        yield Figure("recordings", f"word begins off by at most, for {percent} % of words, s", name, value)


def _offsets(one: Recorded, heard: Sequence[tuple[str, float]]) -> Iterator[float]:
    if not heard:
        return
    aligned = jiwer.process_words(one.text, " ".join(word for word, _ in heard)).alignments[0]
    for chunk in aligned:
        if chunk.type == "equal":
            for place in range(chunk.ref_end_idx - chunk.ref_start_idx):
                yield abs(heard[chunk.hyp_start_idx + place][1] - one.starts[chunk.ref_start_idx + place])

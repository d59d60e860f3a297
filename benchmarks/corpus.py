"""Recordings of any number and length, joined from the spoken turns of the examples, with their text."""

from __future__ import annotations

import json
import random
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.processes import ROOT

EXAMPLES = ROOT / "examples"
RATE = 16_000
MARGIN_SECONDS = 0.08
"""Kept around a turn, so that no sound of it is cut."""
PAUSE_SECONDS = (0.4, 1.4)

Samples = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Turn:
    """Mono samples at 16 kHz and what is said in them."""

    samples: Samples
    text: str


@dataclass(frozen=True, slots=True)
class Spoken:
    """One recording of a corpus."""

    name: str
    seconds: float
    text: str


def make_corpus(folder: Path, files: int, shortest: float, longest: float, seed: int = 1) -> list[Spoken]:
    """Writes so many WAV files whose lengths are spread evenly on a logarithmic scale, in seconds; shuffled."""
    random_numbers = random.Random(seed)
    turns = list(spoken_turns())
    lengths = [shortest * (longest / shortest) ** (number / max(1, files - 1)) for number in range(files)]
    random_numbers.shuffle(lengths)
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number, seconds in enumerate(lengths, 1):
        chosen = join_turns(turns, seconds, random_numbers)
        made.append(write_recording(folder / f"recording-{number:03d}.wav", samples_of(chosen), text_of(chosen)))
    return made


def spoken_turns() -> Iterator[Turn]:
    """Every turn of every example."""
    for name, reference in json.loads((EXAMPLES / "reference.json").read_text()).items():
        samples = decoded(EXAMPLES / name)
        for turn in reference["turns"]:
            first = max(0, round((turn["start"] - MARGIN_SECONDS) * RATE))
            yield Turn(samples[first : round((turn["end"] + MARGIN_SECONDS) * RATE)], turn["text"])


def decoded(path: Path) -> Samples:
    """Mono at 16 kHz."""
    import av

    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    with av.open(str(path)) as container:
        frames: list[Any] = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.int16)


def join_turns(turns: Sequence[Turn], seconds: float, random_numbers: random.Random) -> list[Turn]:
    """Turns, each with a pause behind it, until the recording is about so long; at least one."""
    chosen: list[Turn] = []
    length = 0.0
    while not chosen or length < seconds:
        turn = random_numbers.choice(turns)
        pause = np.zeros(round(random_numbers.uniform(*PAUSE_SECONDS) * RATE), np.int16)
        chosen.append(Turn(np.concatenate([turn.samples, pause]), turn.text))
        length += len(chosen[-1].samples) / RATE
    return chosen


def samples_of(turns: Sequence[Turn]) -> Samples:
    return np.concatenate([turn.samples for turn in turns])


def text_of(turns: Sequence[Turn]) -> str:
    return " ".join(turn.text for turn in turns)


def write_recording(path: Path, samples: Samples, text: str) -> Spoken:
    """A WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    return Spoken(path.name, len(samples) / RATE, text)

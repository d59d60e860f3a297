"""The recordings that are transcribed on a GPU: long ones, and ones of very different lengths."""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.corpus import (
    RATE,
    Samples,
    Spoken,
    Turn,
    join_turns,
    samples_of,
    spoken_turns,
    text_of,
    write_recording,
)
from benchmarks.engine.sets import Set, renew

LONG, RAGGED = "long", "ragged"

FIRST_COPY = 1_000_000
"""No recording that is renewed for a round has such a number."""


def ragged(files: int, shortest: float, longest: float) -> list[float]:
    """Lengths that are spread evenly on a logarithmic scale."""
    return [shortest * (longest / shortest) ** (number / max(1, files - 1)) for number in range(files)]


def make_set(folder: Path, name: str, seconds: Sequence[float]) -> Set:
    """A file of each length, shuffled, half of them MP3, half WAV; written by all cores into a folder of that name."""
    shuffled = random.Random(1).sample(seconds, len(seconds))
    (folder / name).mkdir()
    paths = [folder / name / f"{name}-{i:02d}.{'mp3' if i % 2 else 'wav'}" for i in range(len(shuffled))]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        spoken = tuple(pool.map(_write, paths, shuffled, range(len(shuffled))))
    return Set(name, folder / name, spoken)


def repeated(recordings: Set, folder: Path, files: int) -> Set:
    """So many copies, each with a content of its own and the sound of one of these."""
    folder.mkdir()
    made = []
    for number in range(files):
        spoken = recordings.recordings[number % len(recordings.recordings)]
        copy = Spoken(f"{number:04d}-{spoken.name}", spoken.seconds, spoken.text)
        shutil.copyfile(recordings.folder / spoken.name, folder / copy.name)
        renew(Set(copy.name, folder, (copy,)), FIRST_COPY + number)
        made.append(copy)
    return Set(folder.name, folder, tuple(made))


def _write(path: Path, seconds: float, seed: int) -> Spoken:
    turns = join_turns(_turns(), seconds, random.Random(seed))
    samples, text = samples_of(turns), text_of(turns)
    if path.suffix == ".wav":
        return write_recording(path, samples, text)
    _write_mp3(path, samples)
    return Spoken(path.name, len(samples) / RATE, text)


@functools.cache
def _turns() -> tuple[Turn, ...]:
    return tuple(spoken_turns())


def _write_mp3(path: Path, samples: Samples) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame", rate=RATE, layout="mono")
        stream.bit_rate = 64_000
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16p", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

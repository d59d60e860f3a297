"""Words got wrong by stock faster-whisper and by the system, of the same audio and weights: examples and harder sets."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.corpus import (
    EXAMPLES,
    Samples,
    Spoken,
    Turn,
    join_turns,
    samples_of,
    spoken_turns,
    text_of,
    write_recording,
)
from benchmarks.degraded import between, silence, telephone, tones, with_noise
from benchmarks.engine.arms import ModelArm, SystemArm, model_process
from benchmarks.engine.compare import BATCHED, SEQUENTIAL, SYSTEM, errors, progress
from benchmarks.engine.sets import Set
from benchmarks.report import Figure, Report
from benchmarks.running import running, scratch_root
from benchmarks.scoring import ErrorRate
from scripts.batch.recordings import find_recordings
from scripts.processes import ROOT

FILES, QUICK_FILES = 24, 3
"""Of each set. Six of 45 s (473 words) are too few: which arm is better then changes from seed to seed."""
SECONDS = (45.0, 45.0, 150.0)
"""Lengths of a set's recordings, in turn."""
TURNS_APART = 6
"""Turns of a recording in which something long lies between them."""
SILENCE_SECONDS, TONES_SECONDS = 60.0, 8.0
TONES_LEVEL = 0.05
"""As loud as the examples' speech."""
BATCH_SIZE = 8
COMPUTE_TYPE = "float32"
"""Of all arms. Products of int8 are inexact on CPUs without instructions for them, and then differ with a batch's shape: what
would be compared is how they are rounded."""


async def measure(quick: bool) -> Report:
    made: list[Figure] = []
    model = ROOT / "models" / "whisper-demo"
    with tempfile.TemporaryDirectory(prefix="bulkscribe-accuracy-", dir=scratch_root()) as scratch:
        sets = await asyncio.to_thread(make_sets, Path(scratch), QUICK_FILES if quick else FILES)
        async with (
            model_process(model, threads=2, compute_type=COMPUTE_TYPE) as stock,
            running(
                WORKER_MAX_CONCURRENT_JOBS="2", WORKER_DIARIZATION_MODEL="none", WORKER_COMPUTE_TYPE=COMPUTE_TYPE
            ) as up,
        ):
            arms = (
                ModelArm(SEQUENTIAL, stock, "sequential", 1),
                ModelArm(BATCHED, stock, "batched", BATCH_SIZE),
                SystemArm(SYSTEM, up, "demo", parallel=4),
            )
            for recordings in sets:
                rates = {arm.name: errors(recordings, await arm.run(recordings)) for arm in arms}
                progress(f"{recordings.name}: " + ", ".join(f"{arm} {rate.rate:.2%}" for arm, rate in rates.items()))
                made += figures(recordings.name, rates)
    return Report("accuracy-sets", tuple(made))


def figures(name: str, rates: Mapping[str, ErrorRate]) -> list[Figure]:
    """Of one set: each arm's word error rate and wrong words. The system's must be no more than those of the better of the
    stock ones."""
    best = min(rates[SEQUENTIAL].rate, rates[BATCHED].rate)
    made = []
    for arm, rate in rates.items():
        bound = 100 * best if arm == SYSTEM else None
        made.append(Figure(f"{name}, word error rate, {arm}", 100 * rate.rate, "%", at_most=bound))
        made.append(Figure(f"{name}, wrong words, {arm}", rate.errors, ""))
    return [*made, Figure(f"{name}, words", rates[SYSTEM].total, "")]


def make_sets(folder: Path, files: int, seed: int = 1) -> list[Set]:
    """Writes them; equal arguments give equal sets."""
    turns = list(spoken_turns())
    return [
        _examples(folder / "examples"),
        *(
            _set(name, folder / name, files, turns, seed, spoil)
            for name, spoil in (
                ("clean", lambda chosen, _numbers: samples_of(chosen)),
                ("noise-20-db", lambda chosen, numbers: with_noise(samples_of(chosen), 20.0, numbers)),
                ("noise-10-db", lambda chosen, numbers: with_noise(samples_of(chosen), 10.0, numbers)),
                ("telephone", lambda chosen, _numbers: telephone(samples_of(chosen))),
                ("silences", _with_silences),
                ("tones", _with_tones),
            )
        ),
    ]


Spoil = Callable[[Sequence[Turn], np.random.Generator], Samples]


def _set(name: str, folder: Path, files: int, turns: Sequence[Turn], seed: int, spoil: Spoil) -> Set:
    """The same words in every set, so that the sets can be compared; those with something between are cut short."""
    random_numbers, numbers = random.Random(seed), np.random.default_rng(seed)
    folder.mkdir(parents=True)
    written = []
    for number in range(1, files + 1):
        chosen = join_turns(turns, SECONDS[(number - 1) % len(SECONDS)], random_numbers)
        if name in ("silences", "tones"):
            chosen = chosen[:TURNS_APART]
        written.append(write_recording(folder / f"{name}-{number}.wav", spoil(chosen, numbers), text_of(chosen)))
    return Set(name, folder, tuple(written))


def _with_silences(chosen: Sequence[Turn], _numbers: np.random.Generator) -> Samples:
    return between([turn.samples for turn in chosen], [silence(SILENCE_SECONDS)] * len(chosen))


def _with_tones(chosen: Sequence[Turn], numbers: np.random.Generator) -> Samples:
    return between([turn.samples for turn in chosen], [tones(TONES_SECONDS, TONES_LEVEL, numbers) for _ in chosen])


def _examples(folder: Path) -> Set:
    references = json.loads((EXAMPLES / "reference.json").read_text())
    folder.mkdir(parents=True)
    spoken = []
    for recording in find_recordings(EXAMPLES):
        shutil.copy(recording.path, folder)
        reference = references[recording.name]
        spoken.append(Spoken(recording.name, reference["duration"], reference["text"]))
    return Set("examples", folder, tuple(spoken))

"""Who speaks when, against pyannote's own pipeline with the same weights: how fast, and whether it says the same; and what a
long recording costs in memory and in errors when it is diarized in chunks."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.conversations import Conversation, conversation
from benchmarks.corpus import RATE, Samples
from benchmarks.engine.process_tree import descendants, processes
from benchmarks.report import Figure, Report, of_spread
from benchmarks.running import scratch_root
from benchmarks.scoring import speaker_errors
from benchmarks.spread import ratios, spread
from scripts.processes import ROOT
from services.worker.engine import speaker_models
from services.worker.engine.diarization import Diarizer, Watch
from services.worker.engine.protocol import EngineSettings
from services.worker.pipeline.recording import PreparedRecording
from services.worker.work import Options, SpeakerTurn

SPEAKERS = 4
LEAST_SPEEDUP = 2.0
MOST_MORE_ERROR = 0.02
MOST_MORE_MEMORY = 1.3
SAME = 0.001
"""The share of the time in which the two may differ: numbers added in another order decide a frame otherwise now and then."""

SETTINGS = EngineSettings("demo", ROOT / "models", diarization_model="demo")

ALIKE = 0.002
"""Where embeddings of random weights are parted: they are all much alike."""


# --- speed


@dataclass(frozen=True, slots=True)
class Weights:
    """A pipeline to be measured. ``quick_seconds`` and ``seconds``: of the recording."""

    name: str
    make: Callable[[], Any]
    rounds: int
    seconds: float = 1200.0
    quick_seconds: float = 120.0


def _bundled() -> Any:
    return speaker_models.load("demo", SETTINGS, "cpu")


def _wespeaker() -> Any:
    """pyannote's clustering of 3.1 and the ResNet34 of all its pipelines, with random weights; segments are the bundled model's,
    every second as in pyannote's pipelines, so that there is something to embed."""
    import torch

    from services.worker.engine.torchaudio_stub import import_torchaudio

    import_torchaudio()
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.embedding import WeSpeakerResNet34
    from pyannote.audio.pipelines import SpeakerDiarization

    bundled = _bundled()
    torch.manual_seed(1)
    embedding = WeSpeakerResNet34()
    embedding.specifications = Specifications(problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=5.0)
    made = SpeakerDiarization(
        segmentation=bundled.segmentation_model,
        embedding=embedding.eval(),
        plda=bundled._plda,
        clustering="AgglomerativeClustering",
        segmentation_step=0.1,
        segmentation_batch_size=32,
        embedding_batch_size=32,
        embedding_exclude_overlap=True,
    )
    clustering = {"method": "centroid", "min_cluster_size": 12, "threshold": ALIKE}
    return made.instantiate({"segmentation": {"min_duration_off": 0.0}, "clustering": clustering})


WEIGHTS = {
    "diarization-speed": Weights("bundled models", _bundled, rounds=3),
    "diarization-speed-resnet": Weights(
        "WeSpeaker ResNet34 of random weights", _wespeaker, rounds=1, quick_seconds=60.0
    ),
}
"""By benchmark. The second was not done in ten minutes on two cores, of which the first takes three."""


async def measure_speed(name: str, quick: bool) -> Report:
    """In one process, in turn. pyannote has as many of torch's threads as it is fastest with: all cores, as by itself, or one."""
    return await asyncio.to_thread(_speed, name, quick)


def _speed(name: str, quick: bool) -> Report:
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
    warnings.filterwarnings("ignore")
    weights = WEIGHTS[name]
    talk = conversation(weights.quick_seconds if quick else weights.seconds, SPEAKERS)
    with tempfile.TemporaryDirectory(dir=scratch_root()) as folder:
        figures = _compared(weights, talk, Path(folder), 1 if quick else weights.rounds)
    cores = len(os.sched_getaffinity(0))
    return Report(name, tuple(figures), (f"{cores} cores; pyannote's batches are those of its pipelines.",))


def _compared(weights: Weights, talk: Conversation, folder: Path, rounds: int) -> list[Figure]:
    import torch

    pipeline = weights.make()
    diarizer = ready_diarizer(pipeline)
    recording = spooled(folder, talk.samples)
    samples = torch.from_numpy(talk.samples.astype(np.float32) / 32768)[None]
    file = {"waveform": samples, "sample_rate": RATE, "uri": "talk"}
    times: dict[str, list[float]] = {"ours": [], "stock": []}
    apart = 0.0
    # the first use of anything is slow: libraries are loaded, the clustering's process starts
    short = spooled(folder, conversation(15, 2).samples, "short")
    diarized(diarizer, short, Options())
    threads = _best_threads(pipeline, {**file, "waveform": torch.from_numpy(short.stretch(0, short.samples))[None]})
    try:
        for _ in range(rounds):
            torch.set_num_threads(1)  # as the engine child has it
            began = time.monotonic()
            ours = diarized(diarizer, recording, Options(diarization_max_duration_seconds=3600))
            times["ours"].append(time.monotonic() - began)
            torch.set_num_threads(threads)
            began = time.monotonic()
            stock = _stock(pipeline, file)
            times["stock"].append(time.monotonic() - began)
            apart = max(apart, speaker_errors(_mappings(stock), _mappings(ours)).rate)
            print(
                f"{weights.name}: {times['ours'][-1]:.1f} s, pyannote {times['stock'][-1]:.1f} s ({threads} threads)",
                file=sys.stderr,
            )
    finally:
        diarizer.close()
    speedup = ratios(times["stock"], times["ours"])
    minutes = len(talk.samples) / RATE / 60
    return [
        Figure(f"{weights.name}, {minutes:.0f} min: ours", spread(times["ours"]).median, "s"),
        Figure(f"{weights.name}, {minutes:.0f} min: pyannote", spread(times["stock"]).median, "s"),
        of_spread(f"{weights.name}: speedup", speedup, "times", at_least=LEAST_SPEEDUP),
        Figure(f"{weights.name}: difference of what is found", apart, "of the speech", at_most=SAME),
    ]


def _best_threads(pipeline: Any, file: Mapping[str, Any]) -> int:
    import torch

    times: dict[int, float] = {}
    for threads in (1, len(os.sched_getaffinity(0))):
        torch.set_num_threads(threads)
        _stock(pipeline, file)
        began = time.monotonic()
        _stock(pipeline, file)
        times[threads] = time.monotonic() - began
    return min(times, key=times.__getitem__)


def ready_diarizer(pipeline: Any, device: str = "cpu") -> Diarizer:
    """With a pipeline that is on the device."""
    diarizer = Diarizer(SETTINGS, device, lambda: None)
    diarizer._use(pipeline)
    diarizer._tried.set()
    return diarizer


def spooled(folder: Path, samples: Samples, name: str = "spool") -> PreparedRecording:
    """Sound as a worker has it, in a file."""
    spool = folder / name
    spool.write_bytes(samples.astype("<i2").tobytes())
    return PreparedRecording(spool, len(samples), ())


def diarized(diarizer: Diarizer, recording: PreparedRecording, options: Options) -> Sequence[SpeakerTurn]:
    return diarizer.speakers(recording, options, Watch()).turns


def _stock(pipeline: Any, file: Mapping[str, Any]) -> Sequence[SpeakerTurn]:
    found = pipeline(dict(file)).speaker_diarization
    return [SpeakerTurn(turn.start, turn.end, str(label)) for turn, _, label in found.itertracks(yield_label=True)]


def _mappings(turns: Sequence[SpeakerTurn]) -> list[dict[str, Any]]:
    return [asdict(turn) for turn in turns]


# --- long recordings


async def measure_long(quick: bool) -> Report:
    """Each run in a process of its own: what it takes at most, its clustering's process included."""
    short_seconds, long_seconds, chunk_seconds = (120.0, 600.0, 120.0) if quick else (1200.0, 7200.0, 1200.0)
    with tempfile.TemporaryDirectory(dir=scratch_root()) as scratch:
        short = await asyncio.to_thread(_written, Path(scratch, "short"), short_seconds)
        long = await asyncio.to_thread(_written, Path(scratch, "long"), long_seconds)
        reference = await _run(long, stock=True, longest=None)
        usual = await _run(long, stock=False, longest=None)
        chunked = await _run(long, stock=False, longest=chunk_seconds)
        whole = await _run(short, stock=False, longest=short_seconds + 60)
    minutes, of_short = long_seconds / 60, f"{short_seconds / 60:g} min"
    return Report(
        "diarization-long",
        (
            Figure(f"error, {minutes:g} min in one", 100 * reference.error, "%"),
            Figure(f"error, {minutes:g} min in chunks of {chunk_seconds / 60:g}", 100 * chunked.error, "%"),
            Figure(f"error, {minutes:g} min as usual", 100 * usual.error, "%"),
            Figure(
                "more error in chunks", 100 * (chunked.error - reference.error), "points", at_most=100 * MOST_MORE_ERROR
            ),
            Figure(
                "more error as usual", 100 * (usual.error - reference.error), "points", at_most=100 * MOST_MORE_ERROR
            ),
            Figure(f"memory, {of_short}", whole.mebibytes, "MiB"),
            Figure(f"memory, {minutes:g} min in one, by pyannote", reference.mebibytes, "MiB"),
            Figure(f"memory, {minutes:g} min in chunks", chunked.mebibytes, "MiB"),
            Figure(f"memory, {minutes:g} min as usual", usual.mebibytes, "MiB"),
            Figure(
                "memory, in chunks", chunked.mebibytes / whole.mebibytes, f"of {of_short}", at_most=MOST_MORE_MEMORY
            ),
            Figure("memory, as usual", usual.mebibytes / whole.mebibytes, f"of {of_short}", at_most=MOST_MORE_MEMORY),
            Figure(f"speakers found in chunks, of {SPEAKERS}", chunked.speakers, "speakers", SPEAKERS, SPEAKERS),
            Figure(f"time, {minutes:g} min in chunks", chunked.seconds, "s"),
            Figure(f"time, {minutes:g} min in one, by pyannote", reference.seconds, "s"),
        ),
    )


async def measure_hours(quick: bool) -> Report:
    """Ten hours as a job has them, beside twenty minutes."""
    short_seconds, long_seconds = (120.0, 3600.0) if quick else (1200.0, 36_000.0)
    with tempfile.TemporaryDirectory(dir=scratch_root()) as scratch:
        short = await asyncio.to_thread(_written, Path(scratch, "short"), short_seconds)
        long = await asyncio.to_thread(_written, Path(scratch, "long"), long_seconds)
        of_short = await _run(short, stock=False, longest=None)
        of_long = await _run(long, stock=False, longest=None)
    hours, minutes = f"{long_seconds / 3600:g} h", f"{short_seconds / 60:g} min"
    return Report(
        "diarization-hours",
        (
            Figure(f"error, {minutes}", 100 * of_short.error, "%"),
            Figure(f"error, {hours}", 100 * of_long.error, "%"),
            Figure(
                f"more error in {hours}",
                100 * (of_long.error - of_short.error),
                "points",
                at_most=100 * MOST_MORE_ERROR,
            ),
            Figure(f"speakers found in {hours}, of {SPEAKERS}", of_long.speakers, "speakers", SPEAKERS, SPEAKERS),
            Figure(f"memory, {minutes}", of_short.mebibytes, "MiB"),
            Figure(f"memory, {hours}", of_long.mebibytes, "MiB"),
            Figure("memory", of_long.mebibytes / of_short.mebibytes, f"of {minutes}", at_most=MOST_MORE_MEMORY),
            Figure(f"time, {hours}", of_long.seconds, "s"),
        ),
    )


@dataclass(frozen=True, slots=True)
class Run:
    """What one process says of its recording. ``error`` is of 1, ``mebibytes`` the peak."""

    error: float
    speakers: int
    mebibytes: float
    seconds: float


def _written(folder: Path, seconds: float) -> Path:
    folder.mkdir()
    talk = conversation(seconds, SPEAKERS)
    spooled(folder, talk.samples)
    (folder / "turns.json").write_text(json.dumps(_mappings(talk.turns)))
    return folder


async def _run(folder: Path, stock: bool, longest: float | None) -> Run:
    arguments = (str(folder), "stock" if stock else "ours", str(longest or 0))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.diarization", *arguments), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the process that diarizes ended with status {process.returncode}")
    run = Run(**json.loads(out.decode().splitlines()[-1]))
    print(f"{' '.join(arguments[1:])}: {run}", file=sys.stderr)
    return run


def main(folder: Path, arm: str, longest: float) -> None:
    """In the process: prints a `Run` as JSON."""
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
    warnings.filterwarnings("ignore")
    pipeline = _bundled()
    samples = (folder / "spool").stat().st_size // 2
    recording = PreparedRecording(folder / "spool", samples, ())
    diarizer = ready_diarizer(pipeline)
    began = time.monotonic()
    if arm == "stock":
        import torch

        waveform = torch.from_numpy(recording.stretch(0, samples))[None]
        turns = _stock(pipeline, {"waveform": waveform, "sample_rate": RATE, "uri": "talk"})
    else:
        turns = diarized(diarizer, recording, Options(diarization_max_duration_seconds=longest or None))
    seconds = time.monotonic() - began
    everything = {process.pid: process for process in processes()}
    peak = sum(process.peak for process in descendants(os.getpid(), everything))
    diarizer.close()
    error = speaker_errors(json.loads((folder / "turns.json").read_text()), _mappings(turns))
    print(json.dumps(asdict(Run(error.rate, len({turn.speaker for turn in turns}), peak, seconds))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))

"""What memory each process takes for long recordings, and whether the engine's grows with what it has decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpus import RATE, Turn, make_corpus, spoken_turns
from benchmarks.engine.arms import decoded
from benchmarks.engine.compare import progress
from benchmarks.engine.process_tree import Peaks, descendants, peaks_of, processes
from benchmarks.report import Figure, Report
from benchmarks.running import Running, client, running, send, until
from scripts.batch.client import Gateway
from scripts.batch.state import Status

HOUR = 3600
TURN_EVERY_SECONDS = 60.0
"""A long recording is silence with one turn so often."""
END_SECONDS = 900.0

ENGINE = "services.worker.engine"
WINDOWS_SECONDS = 330.0
"""Of the one recording that is decoded again and again to see memory grow: about 10 windows."""

MOST_GROWTH = 1.10
"""From the last count but one to the last: what grows for as long as the engine runs. The first windows are no measure for
that, for some of what decoding needs is kept only after a while."""

MOST_TIMES_AN_HOUR = 1.3

OPTIONS = {"model": "demo", "useRemoteWorker": True, "language": "en"}
SLOTS = 2
SETTINGS = {"WORKER_MAX_CONCURRENT_JOBS": str(SLOTS), "WORKER_DIARIZATION_MODEL": "none"}


async def measure_recordings(quick: bool) -> Report:
    """Peaks of all processes for one long recording each, in a system of its own."""
    made: list[Figure] = []
    together: list[float] = []
    for seconds in (180.0, 1800.0) if quick else (HOUR, 10 * HOUR):
        name = f"{seconds / 60:g} min" if seconds < HOUR else f"{seconds / HOUR:g} h"
        async with running(**SETTINGS) as up:
            recording = up.folder / "long.flac"
            progress(f"writing a recording of {name}")
            await asyncio.to_thread(write_sparse, recording, seconds)
            async with client(up.system.url) as gateway, peaks_of(up.launch.pids) as peaks:
                progress(f"transcribing it ({recording.stat().st_size / 2**20:.0f} MiB)")
                job = await gateway.create_job(await send(gateway, recording), OPTIONS, "")
                await until(gateway, job.job_id, Status.COMPLETE, END_SECONDS)
            made += _peaks(name, peaks)
            together.append(peaks.together)
    made.append(
        Figure("all together, ten times the length", together[1] / together[0], "ratio", at_most=MOST_TIMES_AN_HOUR)
    )
    return Report("memory", tuple(made))


async def measure_windows(counts: Sequence[int], quick: bool) -> Report:
    """The engine child's resident memory after so many windows, ascending."""
    counts = [10, 60] if quick else counts
    made: list[Figure] = []
    async with running(**SETTINGS) as up, client(up.system.url) as gateway:
        folder = up.folder / "recordings"
        corpus = await asyncio.to_thread(make_corpus, folder, 1, WINDOWS_SECONDS, WINDOWS_SECONDS)
        upload = await send(gateway, folder / corpus[0].name)
        resident: list[float] = []
        for count in counts:
            while (so_far := sum(share.windows for share in decoded(up.log))) < count:
                await _transcribed(gateway, upload, SLOTS)
                if sum(share.windows for share in decoded(up.log)) == so_far:
                    raise RuntimeError("the engine's log tells of no windows")
            resident.append(_engine_resident(up))
            progress(f"after {so_far} windows: {resident[-1]:.0f} MiB")
            made.append(Figure(f"engine child after at least {count} windows", resident[-1], "MiB"))
    bound = MOST_GROWTH if len(counts) > 2 else None
    growth = Figure("growth, at last", resident[-1] / resident[-2], "ratio", at_most=bound)
    return Report("memory-windows" if len(counts) < 3 else "memory-windows-10000", (*made, growth))


async def _transcribed(gateway: Gateway, upload: str, times: int) -> None:
    """So many times at once."""
    jobs = [await gateway.create_job(upload, OPTIONS, "") for _ in range(times)]
    for job in jobs:
        await until(gateway, job.job_id, Status.COMPLETE, END_SECONDS)


def write_sparse(path: Path, seconds: float) -> None:
    """A FLAC file of so many seconds: silence, and one spoken turn every `TURN_EVERY_SECONDS`. Written piece by piece."""
    import av

    turns = list(spoken_turns())
    piece = int(TURN_EVERY_SECONDS * RATE)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=RATE, layout="mono")
        for number in range(max(1, round(seconds / TURN_EVERY_SECONDS))):
            frame = av.AudioFrame.from_ndarray(_piece(turns[number % len(turns)], piece), format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, number * piece
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _piece(turn: Turn, samples: int) -> NDArray[np.int16]:
    whole = np.zeros((1, samples), np.int16)
    whole[0, : len(turn.samples)] = turn.samples[:samples]
    return whole


def _peaks(name: str, peaks: Peaks) -> list[Figure]:
    figures = [Figure(f"{name}, {label}, peak", peak, "MiB") for label, peak in sorted(peaks.by_label.items())]
    return [*figures, Figure(f"{name}, all together at one time", peaks.together, "MiB")]


def _engine_resident(up: Running) -> float:
    everything = {process.pid: process for process in processes()}
    engines = [one for one in descendants(up.launch.pids["worker"], everything) if one.label == ENGINE]
    if not engines:
        raise RuntimeError("the worker has no engine child")
    return engines[0].resident

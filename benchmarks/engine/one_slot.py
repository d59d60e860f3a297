"""Whether a worker with one slot, which is the default, is as fast as one with two: over recordings of ten minutes, whose
preparation is no small part of the work."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.engine.arms import SystemArm
from benchmarks.engine.compare import QUICK_ROUNDS, ROUNDS, Results, differing, progress, rounds
from benchmarks.engine.sets import Kind
from benchmarks.report import Figure, Report, of_spread
from benchmarks.running import running, scratch_root
from benchmarks.spread import ratios, spread

TEN_MINUTES = Kind("ten minutes", 8, 600.0, 600.0, quick=3)
ONE, TWO = "one slot", "two slots"
PARALLEL = 4
"""Recordings that the batch runner has under way: none waits for an upload."""

MOST_TIMES_TWO = 1.10


async def measure(quick: bool) -> Report:
    with tempfile.TemporaryDirectory(prefix="bulkscribe-slots-", dir=scratch_root()) as scratch:
        recordings = await asyncio.to_thread(TEN_MINUTES.make, Path(scratch), quick=quick)
        progress(f"{len(recordings.recordings)} recordings, {recordings.seconds:.0f} s of audio")
        async with AsyncExitStack() as stack:
            arms = []
            for name, slots in ((ONE, 1), (TWO, 2)):
                settings = {"WORKER_MAX_CONCURRENT_JOBS": str(slots), "WORKER_DIARIZATION_MODEL": "none"}
                arms.append(SystemArm(name, await stack.enter_async_context(running(**settings)), "demo", PARALLEL))
            results = await rounds(arms, recordings, QUICK_ROUNDS if quick else ROUNDS)
    return Report("one-slot", tuple(figures(results, recordings.seconds)))


def figures(results: Results, audio_seconds: float) -> list[Figure]:
    one, two = results.seconds(ONE), results.seconds(TWO)
    changed = differing(results.rounds[ONE][-1].texts, results.rounds[TWO][-1].texts)
    return [
        Figure("audio", audio_seconds, "s"),
        of_spread(ONE, spread(one), "s"),
        of_spread(TWO, spread(two), "s"),
        of_spread("wall time, one slot over two", ratios(one, two), "ratio", at_most=MOST_TIMES_TWO),
        Figure("texts that differ", changed, "files", at_most=0),
    ]

"""How long a small job takes on an idle system, and how long beside huge ones on the same worker."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.corpus import make_corpus
from benchmarks.engine.compare import progress
from benchmarks.report import Figure, Report, of_spread
from benchmarks.running import client, running, send, until
from benchmarks.spread import percentile, spread
from scripts.batch.client import Gateway, Refused
from scripts.batch.state import Status

SMALL, SMALL_SECONDS = 20, 10.0
HUGE, HUGE_SECONDS = 10, 1200.0
QUICK_SMALL, QUICK_HUGE, QUICK_HUGE_SECONDS = 4, 2, 300.0
SLOTS = 16
"""More than there are huge jobs: what is measured is the engine's fairness, not the queue for a slot."""

ENOUGH = 3
"""Huge jobs at once: more than a small machine has lanes."""

SHARE = 0.95
MOST_TIMES_IDLE = 2.0
END_SECONDS = 600.0
OPTIONS = {"model": "demo", "useRemoteWorker": True, "language": "en"}


async def measure(quick: bool) -> Report:
    """Uploads are not counted. The small jobs come one after the other; huge ones that are left are canceled at the end."""
    small, huge, huge_seconds = (QUICK_SMALL, QUICK_HUGE, QUICK_HUGE_SECONDS) if quick else (SMALL, HUGE, HUGE_SECONDS)
    enough = min(huge, ENOUGH)
    slots = {"WORKER_MAX_CONCURRENT_JOBS": str(SLOTS), "WORKER_DIARIZATION_MODEL": "none"}
    async with running(**slots) as up, client(up.system.url) as gateway:
        short = await _uploaded(gateway, up.folder / "small", 2 * small + 1, SMALL_SECONDS, seed=1)
        long = await _uploaded(gateway, up.folder / "huge", huge, huge_seconds, seed=2)
        await _latency(gateway, short.pop())  # warms every connection
        idle = [await _latency(gateway, upload) for upload in short[:small]]
        progress(f"idle: {percentile(idle, SHARE):.2f} s")
        jobs = [(await gateway.create_job(upload, OPTIONS, "")).job_id for upload in long]
        await _transcribing(gateway, jobs, enough)
        beside: list[float] = []
        fewest = huge
        for number, upload in enumerate(short[small:], 1):
            beside.append(await _latency(gateway, upload))
            left = await _running(gateway, jobs)
            fewest = min(fewest, left)
            progress(f"small job {number} took {beside[-1]:.2f} s, {left} huge ones still run")
        for job in jobs:
            with contextlib.suppress(Refused):  # it has ended
                await gateway.cancel(job)
        for job in jobs:
            await _ended(gateway, job)
    return Report("beside", tuple(figures(idle, beside, fewest, enough)))


def figures(idle: Sequence[float], beside: Sequence[float], fewest: int, enough: int) -> list[Figure]:
    """Of latencies in seconds; ``fewest`` huge jobs were still there at the end of one beside, where there must be ``enough``."""
    alone, together = percentile(idle, SHARE), percentile(beside, SHARE)
    return [
        *(
            of_spread(f"small job {where}, median", of, "s")
            for where, of in (("alone", spread(idle)), ("beside huge ones", spread(beside)))
        ),
        Figure("small job alone, 95th percentile", alone, "s"),
        Figure("small job beside huge ones, 95th percentile", together, "s"),
        Figure("95th percentile, beside over alone", together / alone, "ratio", at_most=MOST_TIMES_IDLE),
        Figure("huge jobs still at their side, fewest", fewest, "", at_least=enough),
    ]


async def _uploaded(gateway: Gateway, folder: Path, count: int, seconds: float, seed: int) -> list[str]:
    corpus = await asyncio.to_thread(make_corpus, folder, count, seconds, seconds, seed)
    return [await send(gateway, folder / spoken.name) for spoken in corpus]


async def _latency(gateway: Gateway, upload_id: str) -> float:
    began = time.monotonic()
    job = await gateway.create_job(upload_id, OPTIONS, "")
    await until(gateway, job.job_id, Status.COMPLETE, END_SECONDS)
    return time.monotonic() - began


async def _running(gateway: Gateway, jobs: Sequence[str]) -> int:
    return sum([(await gateway.job(job)).status is Status.RUNNING for job in jobs])


async def _transcribing(gateway: Gateway, jobs: Sequence[str], enough: int) -> None:
    """Until so many of them have their windows in the queue: the device is contended for, and others are being prepared."""
    async with asyncio.timeout(END_SECONDS):
        while sum([(await gateway.job(job)).percent > 0 for job in jobs]) < enough:  # noqa: ASYNC110 - another process tells no event here
            await asyncio.sleep(0.2)


async def _ended(gateway: Gateway, job_id: str) -> None:
    """Canceled or complete, so that nothing runs when the system is stopped."""
    async with asyncio.timeout(END_SECONDS):
        while not (await gateway.job(job_id)).status.ended:  # noqa: ASYNC110 - another process tells no event here
            await asyncio.sleep(0.2)

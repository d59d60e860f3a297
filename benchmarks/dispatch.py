"""How long it takes from creating a job to its first `running`, on a worker that is free; as a client sees it."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from benchmarks.corpus import make_corpus
from benchmarks.report import Figure, Report
from benchmarks.running import client, running, send, until
from scripts.batch.client import Gateway
from scripts.batch.state import Status

JOBS = 40
SECONDS = 3.0
MOST_MEDIAN_MILLISECONDS = 100.0
END_SECONDS = 60.0


async def measure() -> Report:
    """Each job has a recording of its own, so the worker has to be given it first; the next one waits for its end."""
    async with running(WORKER_DIARIZATION_MODEL="none") as up:
        folder = up.folder / "recordings"
        corpus = make_corpus(folder, JOBS, SECONDS, SECONDS)
        async with client(up.system.url) as gateway:
            await _measured(gateway, folder / corpus[0].name)  # warms every connection
            waits = sorted([await _measured(gateway, folder / spoken.name) for spoken in corpus[1:]])
    return Report(
        "dispatch",
        (
            Figure("create to running, median", statistics.median(waits), "ms", at_most=MOST_MEDIAN_MILLISECONDS),
            Figure("create to running, 90th percentile", waits[int(len(waits) * 0.9)], "ms"),
            Figure("create to running, longest", waits[-1], "ms"),
            Figure("jobs", len(waits), ""),
        ),
    )


async def _measured(gateway: Gateway, recording: Path) -> float:
    """Milliseconds; the events are asked for once the job exists, so that is in it, too."""
    upload_id = await send(gateway, recording)
    began = time.monotonic()
    job = await gateway.create_job(upload_id, {"model": "demo", "useRemoteWorker": True}, "")
    await until(gateway, job.job_id, Status.RUNNING, END_SECONDS)
    waited = time.monotonic() - began
    await until(gateway, job.job_id, Status.COMPLETE, END_SECONDS)
    return 1000 * waited

"""What a job costs the controller while ten wait, and while ten thousand do. The worker's engine is a fake one."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bulkscribe.jobs.v1 import jobs_pb2, jobs_pb2_grpc, uploads_pb2, uploads_pb2_grpc

from benchmarks.corpus import make_corpus
from benchmarks.report import Figure, Report
from benchmarks.running import Running, scratch_root
from scripts.processes import launched
from scripts.system import scratch_system
from services.runtime.channel import call_metadata, open_channel

FEW, MANY = 10, 10_000
A_CALL = 500
TIMED_JOBS = 400
IDLE_SECONDS = 10.0
MOST_TIMES = 1.25
MOST_IDLE_PERCENT = 2.0
END_SECONDS = 300.0
OWNER = "benchmark"


async def measure() -> Report:
    few, many = await _few(), await _many()
    return Report(
        "queue",
        (
            Figure("controller's CPU a job, ten waiting", 1000 * few.job_seconds, "ms"),
            Figure("controller's CPU a job, ten thousand waiting", 1000 * many.job_seconds, "ms"),
            Figure("a job, ten thousand over ten", many.job_seconds / few.job_seconds, "ratio", at_most=MOST_TIMES),
            Figure("controller's CPU, ten waiting for nothing", 100 * few.idle_share, "% of a core"),
            Figure(
                "controller's CPU, ten thousand waiting for nothing",
                100 * many.idle_share,
                "% of a core",
                at_most=MOST_IDLE_PERCENT,
            ),
        ),
    )


@dataclass(frozen=True, slots=True)
class Cost:
    """``job_seconds``: CPU from dispatch to the end of a job; ``idle_share``: of a core, while nothing happens."""

    job_seconds: float
    idle_share: float


async def _few() -> Cost:
    """Ten wait at a time, again and again."""
    async with _controller() as queue:
        await queue.create(FEW)
        idle = await queue.idle_share()
        async with queue.worker():
            await queue.wait_below(1)
            spent = 0.0
            for _ in range(TIMED_JOBS // FEW):
                await queue.create(FEW)
                began = queue.cpu_seconds()
                await queue.wait_below(1)
                spent += queue.cpu_seconds() - began
    return Cost(spent / TIMED_JOBS, idle)


async def _many() -> Cost:
    """The first few hundred of ten thousand."""
    async with _controller() as queue:
        for _ in range(MANY // A_CALL):
            await queue.create(A_CALL)
        idle = await queue.idle_share()
        async with queue.worker():
            left = await queue.wait_below(MANY)
            began = queue.cpu_seconds()
            done = left - await queue.wait_below(left - TIMED_JOBS + 1)
            return Cost((queue.cpu_seconds() - began) / done, idle)


class _Queue:
    """One controller as a client sees it; all jobs are of one recording."""

    def __init__(self, up: Running, channel: Any, upload_id: str) -> None:
        self._up = up
        self._jobs: Any = jobs_pb2_grpc.JobServiceStub(channel)  # type: ignore[no-untyped-call]  # as generated
        self._metadata = call_metadata(up.system.environment["CONTROLLER_TOKEN"])
        self._upload_id = upload_id

    def cpu_seconds(self) -> float:
        return self._up.cpu_seconds("controller")

    async def create(self, jobs: int) -> None:
        request = jobs_pb2.CreateJobsRequest(owner=OWNER, upload_ids=[self._upload_id] * jobs)
        await self._jobs.CreateJobs(request, metadata=self._metadata)

    async def idle_share(self) -> float:
        began, at = self.cpu_seconds(), time.monotonic()
        await asyncio.sleep(IDLE_SECONDS)
        return (self.cpu_seconds() - began) / (time.monotonic() - at)

    async def wait_below(self, jobs: int) -> int:
        """Until fewer wait and run; returns how many."""
        async with asyncio.timeout(END_SECONDS):
            while True:
                answer = await self._jobs.GetRuntime(jobs_pb2.GetRuntimeRequest(), metadata=self._metadata)
                left: int = answer.queue.queued_remote + answer.queue.running
                if left < jobs:
                    return left
                await asyncio.sleep(0.1)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        service = replace(self._up.system.services[0], module="tests.fakes.worker_process")
        async with launched([service], self._up.folder / "logs"):
            yield


@asynccontextmanager
async def _controller() -> AsyncIterator[_Queue]:
    with tempfile.TemporaryDirectory(prefix="bulkscribe-bench-", dir=scratch_root()) as scratch:
        folder = Path(scratch)
        system = scratch_system(folder, folder / "logs", REMOTE_WORKER_POLL_SECONDS="5")
        async with (
            launched([system.services[1]], folder / "logs") as launch,
            open_channel(system.controller_address) as channel,
        ):
            up = Running(system, launch, folder)
            yield _Queue(up, channel, await _upload(up, channel))


async def _upload(up: Running, channel: Any) -> str:
    uploads: Any = uploads_pb2_grpc.UploadServiceStub(channel)  # type: ignore[no-untyped-call]  # as generated
    metadata = call_metadata(up.system.environment["CONTROLLER_TOKEN"])
    (spoken,) = make_corpus(up.folder / "recordings", 1, 3.0, 3.0)
    content = (up.folder / "recordings" / spoken.name).read_bytes()
    created = await uploads.CreateUpload(
        uploads_pb2.CreateUploadRequest(owner=OWNER, filename=spoken.name), metadata=metadata
    )
    upload_id: str = created.upload.upload_id
    header = uploads_pb2.WriteUploadHeader(owner=OWNER, upload_id=upload_id, offset=0)
    await uploads.WriteUpload(
        iter(
            [
                uploads_pb2.WriteUploadRequest(header=header),
                uploads_pb2.WriteUploadRequest(data=content),
                uploads_pb2.WriteUploadRequest(finish=uploads_pb2.FinishUpload()),
            ]
        ),
        metadata=metadata,
    )
    return upload_id

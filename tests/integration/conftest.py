"""A controller in this process, on a free port, with a fake worker beside it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from bulkscribe.jobs.v1 import jobs_pb2, jobs_pb2_grpc, uploads_pb2, uploads_pb2_grpc

from services.controller.__main__ import _serve
from services.controller.settings import ControllerSettings
from services.runtime.channel import open_channel
from tests.fakes.worker import FakeWorker
from tests.ports import free_port

DEADLINE = 20.0


def wav(seconds: float = 1.0, rate: int = 8000, seed: int = 0) -> bytes:
    """A sound file; different seeds give different content."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes((seed * 7 + i) % 251 for i in range(int(seconds * rate) * 2)))
    return out.getvalue()


@dataclass
class Client:
    """Calls the controller as an owner."""

    channel: grpc.aio.Channel
    owner: str = "alice"

    def __post_init__(self) -> None:
        self.jobs: Any = jobs_pb2_grpc.JobServiceStub(self.channel)
        self.uploads: Any = uploads_pb2_grpc.UploadServiceStub(self.channel)

    async def upload(self, content: bytes | None = None, filename: str = "a.wav") -> str:
        created = await self.uploads.CreateUpload(uploads_pb2.CreateUploadRequest(owner=self.owner, filename=filename))
        await self.write(created.upload.upload_id, wav() if content is None else content)
        return str(created.upload.upload_id)

    async def write(self, upload_id: str, content: bytes, offset: int = 0, finish: bool = True) -> Any:
        header = uploads_pb2.WriteUploadHeader(owner=self.owner, upload_id=upload_id, offset=offset)

        async def requests() -> AsyncIterator[uploads_pb2.WriteUploadRequest]:
            yield uploads_pb2.WriteUploadRequest(header=header)
            for start in range(0, len(content), 1 << 20):
                yield uploads_pb2.WriteUploadRequest(data=content[start : start + (1 << 20)])
            if finish:
                digest = hashlib.sha256(content).hexdigest() if offset == 0 else ""
                yield uploads_pb2.WriteUploadRequest(finish=uploads_pb2.FinishUpload(sha256=digest))

        return (await self.uploads.WriteUpload(requests())).upload

    async def create(self, *uploads: str, request_id: str = "", **options: Any) -> list[Any]:
        options.setdefault("use_remote_worker", True)
        response = await self.jobs.CreateJobs(
            jobs_pb2.CreateJobsRequest(
                owner=self.owner,
                upload_ids=uploads,
                options=jobs_pb2.JobOptions(**options),
                request_id=request_id,
            )
        )
        return list(response.jobs)

    async def submit(self, seed: int = 0, **options: Any) -> str:
        return str((await self.create(await self.upload(wav(seed=seed)), **options))[0].job_id)

    async def job(self, job_id: str) -> Any:
        return (await self.jobs.GetJob(jobs_pb2.GetJobRequest(owner=self.owner, job_id=job_id))).job

    async def cancel(self, job_id: str) -> Any:
        return (await self.jobs.CancelJob(jobs_pb2.CancelJobRequest(owner=self.owner, job_id=job_id))).job

    async def delete(self, job_id: str) -> None:
        await self.jobs.DeleteJob(jobs_pb2.DeleteJobRequest(owner=self.owner, job_id=job_id))

    async def runtime(self) -> Any:
        return await self.jobs.GetRuntime(jobs_pb2.GetRuntimeRequest())

    async def events(self, job_id: str, after: int = 0) -> list[Any]:
        request = jobs_pb2.WatchJobRequest(owner=self.owner, job_id=job_id, after_event=after)
        return [event async for event in self.jobs.WatchJob(request)]

    async def transcript(self, job_id: str) -> list[Any]:
        request = jobs_pb2.GetTranscriptRequest(owner=self.owner, job_id=job_id)
        return [part async for part in self.jobs.GetTranscript(request)]

    async def wait(self, job_id: str, status: str, condition: Callable[[Any], bool] = lambda job: True) -> Any:
        """The job, once it has the status and meets the condition; fails loudly after the deadline."""
        job: Any = None
        try:
            async with asyncio.timeout(DEADLINE):
                while True:
                    job = await self.job(job_id)
                    if job.status == jobs_pb2.JobStatus.Value(f"JOB_STATUS_{status.upper()}") and condition(job):
                        return job
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"the job did not become {status}; it is: {job}") from None

    async def wait_ended(self, job_id: str) -> Any:
        async with asyncio.timeout(3 * DEADLINE):
            while not (job := await self.job(job_id)).HasField("finished_at"):  # noqa: ASYNC110 - as a client sees it
                await asyncio.sleep(0.02)
        return job

    async def submit_refused(self, worker: Any, refuse: Callable[[Any], Any]) -> str:
        """A job that the fake refuses from its first dispatch on."""
        worker.refuse = refuse
        return await self.submit()

    async def wait_connected(self) -> None:
        async with asyncio.timeout(DEADLINE):
            while not all(worker.connected for worker in (await self.runtime()).workers):  # noqa: ASYNC110 - as a client sees it
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running_controller(folder: Path, **settings: Any) -> AsyncIterator[Client]:
    """A controller that serves until the block ends; ``settings`` override the defaults."""
    port = free_port()
    given = {
        "controller_listen": f"127.0.0.1:{port}",
        "data_dir": folder / "data",
        "log_dir": folder / "logs",
        "remote_worker_poll_seconds": 0.2,
        "remote_worker_token": "worker-token",
        "remote_worker_mode": "optional",
    }
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_serve(ControllerSettings(**(given | settings)), stopping))
        channel = open_channel(f"127.0.0.1:{port}")
        try:
            async with asyncio.timeout(DEADLINE):
                await channel.channel_ready()
            yield Client(channel)
        finally:
            await channel.close()
            stopping.set()


@pytest.fixture(autouse=True)
async def _no_worker_left_over() -> AsyncIterator[None]:
    """A test that fails does not come to stop its workers; what is left of them would fail others."""
    yield
    for left_over in [*FakeWorker.serving]:
        await left_over.stop()


@pytest.fixture
async def worker() -> AsyncIterator[FakeWorker]:
    fake = FakeWorker()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def client(tmp_path: Path, worker: FakeWorker) -> AsyncIterator[Client]:
    async with running_controller(tmp_path, remote_worker_url=f"http://127.0.0.1:{worker.port}") as made:
        await made.wait_connected()
        yield made

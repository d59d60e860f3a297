"""A 2 GB recording whose every hop is cut 50 times: what is sent again, how long it takes, what memory it needs."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.corpus import make_corpus
from benchmarks.proxy import Proxy
from benchmarks.report import Figure, Report
from benchmarks.running import Running, client, running, send, until
from benchmarks.upload import MOST_MEGABYTES, SIZE_BYTES, make_recording
from scripts.batch.client import Gateway
from scripts.batch.state import Status
from scripts.processes import free_ports

CUTS = 50
MOST_TIMES_SENT = 1.15
"""A cut loses what the buffers on the way hold, up to 6 MB here, where nothing slows the sender down."""
RUNNING_SECONDS = 1800.0
SEED = 11


@dataclass(frozen=True, slots=True)
class Hops:
    """client ─ ``front`` ─ gateway ─ ``back`` ─ controller ─ ``onward`` ─ worker"""

    front: Proxy
    back: Proxy
    onward: Proxy
    up: Running

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.front.port}"


async def measure() -> Report:
    async with _hops() as hops:
        recording = hops.up.folder / "long.wav"
        await asyncio.to_thread(make_recording, recording)
        digest = await asyncio.to_thread(_digest, recording)
        (warm,) = make_corpus(hops.up.folder / "warm", 1, 3.0, 3.0)
        async with client(hops.url) as gateway:
            await send(gateway, hops.up.folder / "warm" / warm.name)  # starts what the first upload starts
            upload_id, figures = await _upload(gateway, recording, hops)
            figures += await _dispatch(gateway, upload_id, hops)
        peaks = hops.up.peak_megabytes()
        copies = [hops.up.folder / "controller" / "blobs", hops.up.folder / "worker" / "audio"]
        equal = [await asyncio.to_thread(_holds, folder, digest) for folder in copies]
    memory = [
        Figure(f"peak memory, {name}", peaks[name], "MB", at_most=MOST_MEGABYTES)
        for name in ("gateway", "controller", "worker")
    ]
    same = Figure("digests equal, controller and worker", float(sum(equal)), "of 2", at_least=2)
    return Report("resume", (Figure("size", SIZE_BYTES / 1e6, "MB"), *figures, same, *memory))


async def _upload(gateway: Gateway, recording: Path, hops: Hops) -> tuple[str, list[Figure]]:
    hops.front.cut_at(random.Random(SEED).sample(range(SIZE_BYTES), CUTS))
    before, began = (hops.front.sent, hops.back.sent), time.monotonic()
    upload_id = await send(gateway, recording)
    seconds = time.monotonic() - began
    return upload_id, [
        Figure("client to gateway, cuts", hops.front.cut, "times", at_least=CUTS),
        Figure("client to gateway, sent over size", (hops.front.sent - before[0]) / SIZE_BYTES, "ratio", MOST_TIMES_SENT),
        Figure("gateway to controller, sent over size", (hops.back.sent - before[1]) / SIZE_BYTES, "ratio", MOST_TIMES_SENT),
        Figure("client to controller, until complete", seconds, "s"),
    ]  # fmt: skip


async def _dispatch(gateway: Gateway, upload_id: str, hops: Hops) -> list[Figure]:
    """From creating the job until it runs: the recording is at the worker then. Cancels it."""
    hops.onward.cut_at(random.Random(SEED + 1).sample(range(SIZE_BYTES), CUTS))
    before, began = hops.onward.sent, time.monotonic()
    job = await gateway.create_job(upload_id, {"model": "demo", "useRemoteWorker": True}, "")
    await until(gateway, job.job_id, Status.RUNNING, RUNNING_SECONDS)
    seconds, sent = time.monotonic() - began, hops.onward.sent - before
    await gateway.cancel(job.job_id)
    return [
        Figure("controller to worker, cuts", hops.onward.cut, "times", at_least=CUTS),
        Figure("controller to worker, sent over size", sent / SIZE_BYTES, "ratio", MOST_TIMES_SENT),
        Figure("controller to worker, until running", seconds, "s"),
    ]


@asynccontextmanager
async def _hops() -> AsyncIterator[Hops]:
    """A system whose processes know each other by the proxies' ports."""
    controller, worker, back_port, onward_port = free_ports(4)
    async with AsyncExitStack() as stack:
        back = await stack.enter_async_context(Proxy(controller).serving(back_port))
        onward = await stack.enter_async_context(Proxy(worker).serving(onward_port))
        up = await stack.enter_async_context(
            running(
                CONTROLLER_LISTEN=f"127.0.0.1:{controller}",
                CONTROLLER_ADDRESS=f"127.0.0.1:{back_port}",
                WORKER_PORT=str(worker),
                REMOTE_WORKER_URL=f"http://127.0.0.1:{onward_port}",
                WORKER_DIARIZATION_MODEL="none",
            )
        )
        gateway = int(up.system.environment["GATEWAY_PORT"])
        front = await stack.enter_async_context(Proxy(gateway).serving())
        yield Hops(front, back, onward, up)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _holds(folder: Path, digest: str) -> bool:
    """Whether the blob of that name is of that content."""
    path = folder / digest[:2] / digest
    return path.exists() and _digest(path) == digest

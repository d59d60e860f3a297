"""A 2 GB recording through gateway, controller and worker: memory of each, speed against bare aiohttp."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import aiohttp

from benchmarks.corpus import make_corpus
from benchmarks.multipart import recording_body
from benchmarks.report import Figure, Report
from benchmarks.running import Running, client, running, send, until
from scripts.batch.client import Gateway
from scripts.batch.content import Content, read_content
from scripts.batch.state import Status
from scripts.processes import ROOT, free_ports

SIZE_BYTES = 2000 * 1024 * 1024 - 4096
"""Just below the 2000 MB that the gateway, the controller and the worker take by default."""
RATE, CHANNELS = 48_000, 2
BLOCK_BYTES = 8 * 1024 * 1024
ROUNDS = 3
MOST_MEGABYTES = 200.0
LEAST_TIMES_BARE = 0.5
RUNNING_SECONDS = 120.0


async def measure() -> Report:
    """Bare aiohttp and the system in turns, the disk at rest before each; medians."""
    async with running(WORKER_DIARIZATION_MODEL="none") as up:
        recording = up.folder / "long.wav"
        await asyncio.to_thread(make_recording, recording)
        (warm,) = make_corpus(up.folder / "warm", 1, 3.0, 3.0)
        content = await read_content(recording, lambda _done, _size: None)
        bares, systems = [], []
        for number in range(ROUNDS):
            async with client(up.system.url) as gateway:  # a session of its own: it must not have the recording yet
                await send(gateway, up.folder / "warm" / warm.name)  # starts what the first upload starts
                await asyncio.to_thread(os.sync)
                bares.append(await bare(recording, up.folder))
                await asyncio.to_thread(os.sync)
                upload_id, seconds = await _upload(gateway, recording, content)
                systems.append(seconds)
                await asyncio.to_thread(os.sync)
                if number == ROUNDS - 1:
                    dispatched = await _dispatch(gateway, upload_id)
        peaks = up.peak_megabytes()
        digest_seconds = await _digest_seconds(up)
    megabytes = SIZE_BYTES / 1e6
    bare_speed, speed = megabytes / median(bares), megabytes / median(systems)
    memory = [
        Figure(f"peak memory, {name}", peaks[name], "MB", at_most=MOST_MEGABYTES)
        for name in ("gateway", "controller", "worker")
    ]
    return Report(
        "upload",
        (
            Figure("size", megabytes, "MB"),
            Figure("bare aiohttp, median", bare_speed, "MB/s"),
            Figure("bare aiohttp, slowest", megabytes / max(bares), "MB/s"),
            Figure("client to gateway to controller, median", speed, "MB/s"),
            Figure("client to gateway to controller, slowest", megabytes / max(systems), "MB/s"),
            Figure("throughput over bare aiohttp", speed / bare_speed, "ratio", at_least=LEAST_TIMES_BARE),
            Figure("controller to worker, until running", megabytes / dispatched, "MB/s"),
            Figure("SHA-256 alone", megabytes / digest_seconds, "MB/s"),
            *memory,
        ),
    )


def make_recording(path: Path) -> None:
    """Noise, which no file system stores in less than its size."""
    block = os.urandom(BLOCK_BYTES)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(CHANNELS)
        file.setsampwidth(2)
        file.setframerate(RATE)
        left = SIZE_BYTES - 44
        file.setnframes(left // (2 * CHANNELS))
        while left:
            piece = block[:left]
            file.writeframesraw(piece)
            left -= len(piece)


async def bare(recording: Path, folder: Path) -> float:
    """Seconds that one upload takes."""
    async with _bare_server(folder) as url, aiohttp.ClientSession() as http:
        body = recording_body(recording.name, SIZE_BYTES)
        headers = {"Content-Type": body.content_type, "Content-Length": str(body.length)}
        with recording.open("rb") as file:
            began = time.monotonic()
            async with http.post(f"{url}/api/uploads", data=body.pieces(file), headers=headers) as response:
                assert (await response.json())["sizeBytes"] == SIZE_BYTES
            return time.monotonic() - began


@asynccontextmanager
async def _bare_server(folder: Path) -> AsyncIterator[str]:
    (port,) = free_ports(1)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.bare_upload", folder, str(port)), cwd=ROOT
    )
    try:
        await _wait_listening(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()
        (folder / "bare").unlink(missing_ok=True)


async def _wait_listening(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


async def _upload(gateway: Gateway, recording: Path, content: Content) -> tuple[str, float]:
    """The upload's id, and seconds from asking for it until it is complete."""
    began = time.monotonic()
    upload_id = await gateway.upload(recording, recording.name, content, lambda _size: None)
    return upload_id, time.monotonic() - began


async def _dispatch(gateway: Gateway, upload_id: str) -> float:
    """Seconds from creating the job until it runs: the recording is at the worker then. Cancels it."""
    began = time.monotonic()
    job = await gateway.create_job(upload_id, {"model": "demo", "useRemoteWorker": True}, "")
    await until(gateway, job.job_id, Status.RUNNING, RUNNING_SECONDS)
    seconds = time.monotonic() - began
    await gateway.cancel(job.job_id)
    return seconds


async def _digest_seconds(up: Running) -> float:
    """What hashing alone costs: both hops do it."""
    command = "import hashlib,sys; hashlib.file_digest(open(sys.argv[1], 'rb'), 'sha256')"
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", command, up.folder / "long.wav")
    await process.wait()
    return time.monotonic() - began

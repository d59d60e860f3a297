"""A whole system for a benchmark: three processes, the bundled models, a folder that goes away."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.engine.process_tree import cpu_seconds
from scripts.batch.answers import read_report
from scripts.batch.client import Gateway
from scripts.batch.content import read_content
from scripts.batch.outages import Outages
from scripts.batch.state import Session, Status
from scripts.processes import ROOT, Launch, launched
from scripts.system import ScratchSystem, scratch_system

READY_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Running:
    """``folder`` is scratch space on the disk that the processes write to."""

    system: ScratchSystem
    launch: Launch
    folder: Path

    @property
    def log(self) -> Path:
        """Where all processes write what they do, a JSON object a line."""
        return self.folder / "logs" / "app.log"

    def peak_megabytes(self) -> Mapping[str, float]:
        """The highest resident memory of each process so far, as the kernel counts it (VmHWM)."""
        return {name: _peak_megabytes(pid) for name, pid in self.launch.pids.items()}

    def cpu_seconds(self, name: str) -> float:
        """User and system time of one process so far."""
        return cpu_seconds(self.launch.pids[name])


@asynccontextmanager
async def running(**settings: str) -> AsyncIterator[Running]:
    """Once the worker has loaded its models."""
    with tempfile.TemporaryDirectory(prefix="bulkscribe-bench-", dir=scratch_root()) as scratch:
        folder = Path(scratch)
        system = scratch_system(folder, folder / "logs", **settings)
        async with launched(system.services, folder / "logs") as launch:
            await _wait_ready(system)
            yield Running(system, launch, folder)


def scratch_root() -> Path:
    """On the repository's disk: a temporary folder may be memory."""
    root = ROOT / ".build" / "bench"
    root.mkdir(parents=True, exist_ok=True)
    return root


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Gateway]:
    """The batch runner's own client, in a session of its own."""

    def renewed(_session: Session) -> None:
        return None

    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        gateway = Gateway(http, url, None, renewed, Outages(print))
        await gateway.connect()
        yield gateway


async def send(gateway: Gateway, recording: Path) -> str:
    """Uploads a recording; returns the upload's id."""
    content = await read_content(recording, lambda _done, _size: None)
    return await gateway.upload(recording, recording.name, content, lambda _size: None)


async def until(gateway: Gateway, job_id: str, status: Status, seconds: float) -> None:
    """Follows a job's events to a status. Raises RuntimeError when it ends otherwise, TimeoutError."""
    async with asyncio.timeout(seconds), aclosing(gateway.events(job_id, "")) as events:
        async for event in events:
            report = read_report(json.loads(event.data))
            if report is not None and report.status is status:
                return
    raise RuntimeError(f"the job {job_id} ended without becoming {status.value}")


async def run_batch(
    folder: Path, url: str, output: Path, *options: str, model: str = "demo", sessions: Path | None = None
) -> None:
    """`scripts/run_batch.sh` over a folder, quietly. Raises RuntimeError with its output unless all is complete.

    ``sessions``: where it remembers its sessions, for runs that are to know of none before.
    """
    process = await asyncio.create_subprocess_exec(
        ROOT / "scripts" / "run_batch.sh",
        *("--input", str(folder), "--controller", url, "--remote", "--model", model, "--output", str(output)),
        *options,
        env=os.environ | {"XDG_STATE_HOME": str(sessions or folder / ".state")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"run_batch.sh ended with {process.returncode}:\n{out.decode()}")


async def _wait_ready(system: ScratchSystem) -> None:
    """Until the default model is loaded and diarization is there, or known not to be."""
    headers = {"Authorization": f"Bearer {system.environment['WORKER_TOKEN']}"}
    async with asyncio.timeout(READY_SECONDS), aiohttp.ClientSession(headers=headers) as http:
        while True:
            async with http.get(f"{system.worker_url}/v1/ping") as response:
                answer = await response.json()
            states = {model["name"]: model["state"] for model in answer["models"]}
            if states[answer["model"]] == "loaded" and (answer["diarization"] or answer["diarizationError"]):
                return
            await asyncio.sleep(0.2)


def _peak_megabytes(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"the kernel does not tell the peak memory of process {pid}")

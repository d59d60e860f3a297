"""A whole system whose processes a test may kill, stop and start again, one by one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

from scripts.processes import ROOT, Service
from scripts.system import ScratchSystem, scratch_system
from tests.gateway import Browser

READY_SECONDS = 60.0


class Processes:
    """By the services' names (worker, controller and gateway, unless others are given); output goes to files
    beside the logs."""

    def __init__(self, system: ScratchSystem, folder: Path, services: Sequence[Service] = ()) -> None:
        self.system = system
        self.folder = folder
        self._services: dict[str, Service] = {service.name: service for service in services or system.services}
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, name: str) -> None:
        """Returns when it answers."""
        service = self._services[name]
        with (self.folder / f"{name}.out").open("ab") as output:
            self._running[name] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", service.module),
                cwd=ROOT,
                env=dict(service.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        async with asyncio.timeout(READY_SECONDS):
            while not await service.ready():
                assert self._running[name].returncode is None, self.output(name)
                await asyncio.sleep(0.05)

    def send(self, name: str, number: signal.Signals) -> None:
        self._running[name].send_signal(number)

    async def ended(self, name: str) -> int:
        async with asyncio.timeout(READY_SECONDS):
            return await self._running[name].wait()

    async def kill(self, name: str) -> None:
        """At once, with all that it started, as a machine that loses its power."""
        process = self._running[name]
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def strike(self, name: str) -> None:
        """Kills the process alone: what it started has to notice by itself."""
        self.send(name, signal.SIGKILL)
        await self.ended(name)

    async def kill_all(self) -> None:
        for name in self._running:
            await self.kill(name)

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def lives(self, name: str) -> bool:
        return self._running[name].returncode is None

    def children(self, name: str) -> list[int]:
        """The processes that it started and that live."""
        pid = self._running[name].pid
        with suppress(OSError):
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    def output(self, name: str) -> str:
        return (self.folder / f"{name}.out").read_text()


@asynccontextmanager
async def processes(folder: Path, **settings: str) -> AsyncIterator[Processes]:
    """All three, started; what still lives at the end is killed."""
    made = Processes(scratch_system(folder, folder / "logs", **({"WORKER_DEVICE": "cpu"} | settings)), folder)
    try:
        for name in ("worker", "controller", "gateway"):
            await made.start(name)
        yield made
    finally:
        await made.kill_all()


@asynccontextmanager
async def browsing(url: str) -> AsyncIterator[Browser]:
    """A session with the gateway."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        browser = Browser(url, http)
        await browser.begin()
        yield browser

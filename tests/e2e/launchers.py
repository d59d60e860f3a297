"""Starts a launcher as people do, and finds every process that came of it by a mark in its environment."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from scripts.processes import ROOT
from scripts.system import foreign_environment

MARK = "BULKSCRIBE_TEST_MARK"


@dataclass
class Launcher:
    """``python -m`` with only those settings that a test gives."""

    mark: str = field(default_factory=lambda: secrets.token_hex(8))

    async def start(self, module: str, **settings: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, cwd=ROOT, env=foreign_environment() | {"WORKER_DEVICE": "cpu"} | settings | {MARK: self.mark},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip

    def processes(self) -> list[int]:
        """The launcher and all that came of it, for as long as they live."""
        return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and self._is_ours(path)]

    async def gone(self, deadline: float = 30.0) -> None:
        """Waits until none lives."""
        async with asyncio.timeout(deadline):
            while self.processes():  # noqa: ASYNC110 - nobody's children any more: there is nothing to wait for
                await asyncio.sleep(0.05)

    def command(self, pid: int) -> str:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()

    def kill_all(self) -> None:
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)

    def _is_ours(self, path: Path) -> bool:
        try:
            return f"{MARK}={self.mark}".encode() in (path / "environ").read_bytes()
        except OSError:
            return False


async def read_until(process: asyncio.subprocess.Process, text: str, deadline: float = 60.0) -> str:
    """The output up to the line with the text; fails when the output ends before."""
    assert process.stdout is not None
    seen = ""
    async with asyncio.timeout(deadline):
        while text not in seen:
            line = (await process.stdout.readline()).decode()
            assert line, f"the output ended without {text!r}:\n{seen}"
            seen += line
    return seen


async def rest(process: asyncio.subprocess.Process, deadline: float = 60.0) -> tuple[int, str]:
    """(exit status, what was still put out)"""
    async with asyncio.timeout(deadline):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()

"""The worker process that the controller itself starts, on a Unix socket: the same contract, the same code.

It ends with the controller: its standard input is a pipe that the controller holds.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import structlog

from services.runtime.backoff import Backoff
from services.runtime.server import unix_address

log = structlog.get_logger()

STOP_SECONDS = 90.0
"""How long it may take to drain before it is killed: longer than WORKER_DRAIN_SECONDS unless that was raised."""


class LocalWorker:
    """Starts the process and starts it again when it ends; ``run`` for as long as it is wanted."""

    def __init__(self, data_dir: Path, log_dir: Path, retry_seconds: float) -> None:
        # A short path: a socket's address holds 107 bytes.
        self._folder = tempfile.TemporaryDirectory(prefix="bulkscribe-")
        self._socket = Path(self._folder.name, "worker")
        self._data_dir = data_dir
        self._log_dir = log_dir
        self._backoff = Backoff(retry_seconds / 8, retry_seconds * 6)
        self._wanted = asyncio.Event()
        self._process: Process | None = None
        self._trouble = ""

    @property
    def trouble(self) -> str:
        """Why it is not there, for people; empty while it is only starting."""
        return self._trouble

    @property
    def url(self) -> str:
        return unix_address(self._socket)

    def want(self) -> None:
        """A job asks for it: from now on it runs."""
        self._wanted.set()

    async def wait_wanted(self) -> None:
        await self._wanted.wait()

    async def run(self) -> None:
        await self._wanted.wait()
        while True:
            try:
                self._process = await self._start()
                status = await self._process.wait()
            finally:
                await self._stop()
            self._trouble = (
                f"The local worker ended by itself ({_how(status)}) and is started again. What it printed among the"
                " controller's output says why."
            )
            log.warning("local_worker_ended", status=status)
            await asyncio.sleep(self._backoff.failed())

    def close(self) -> None:
        self._folder.cleanup()

    async def _start(self) -> Process:
        self._socket.unlink(missing_ok=True)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.worker",
            "--socket",
            str(self._socket),
            stdin=PIPE,
            env=self._environment(),
            start_new_session=True,  # a terminal's Ctrl-C is for the controller, which has it drained
        )
        log.info("local_worker_started", pid=process.pid)
        return process

    def _environment(self) -> dict[str, str]:
        """The controller's own, less the secrets that are not the worker's."""
        kept = {
            name: value
            for name, value in os.environ.items()  # noqa: TID251 - handed on, not read
            if name not in ("WORKER_TOKEN", "CONTROLLER_TOKEN", "REMOTE_WORKER_TOKEN", "GATEWAY_SECRET_KEY")
        }
        kept.setdefault("WORKER_DATA_DIR", str(self._data_dir))
        return kept | {"LOG_DIR": str(self._log_dir)}

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _how(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"

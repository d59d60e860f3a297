"""The front's side of the engine: starts the child, talks to it, starts another when it dies.

Invariant: every run that began ends in exactly one outcome, also when the child is killed in the middle of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import structlog

from services.runtime.backoff import Backoff
from services.worker.engine import catalog
from services.worker.engine.messages import (
    CancelWork,
    Configure,
    FromEngine,
    Ping,
    Pong,
    RunWork,
    StateReported,
    ToEngine,
    WorkReported,
    encode,
    receive_async,
)
from services.worker.engine.protocol import EngineSettings
from services.worker.work import (
    AttemptKey,
    Canceled,
    Completed,
    EngineState,
    Failed,
    Report,
    Work,
)

log = structlog.get_logger()

_CRASHED = "The engine process ended in the middle of the job ({how}). The worker starts it again; try the job again."
_STOPPED = "The worker stopped while the job was running. Try the job again."


@dataclass(frozen=True, slots=True)
class Supervision:
    """Seconds. A child that does not answer a ping for ``ping_timeout`` hangs, and is killed.

    The timeout is long, since loading a library may keep the interpreter busy. The bound of the pause before a
    restart doubles from ``first_pause`` to ``longest_pause``, and starts anew once a child has lived for that long.
    """

    ping_interval: float = 10.0
    ping_timeout: float = 60.0
    stop_timeout: float = 5.0
    first_pause: float = 0.5
    longest_pause: float = 30.0


@dataclass(slots=True, eq=False)
class _Run:
    number: int
    work: Work
    reports: asyncio.Queue[Report] = field(default_factory=asyncio.Queue)
    sent: bool = False
    canceled: bool = False


class Supervisor:
    """An ``Engine`` whose work is done by a child process."""

    def __init__(self, settings: EngineSettings, supervision: Supervision | None = None) -> None:
        self._settings = settings
        self._supervision = supervision or Supervision()
        self._state = EngineState(models=catalog.initial_states(settings))
        self._state_changed = asyncio.Event()
        self._runs: dict[int, _Run] = {}
        self._last_run = 0
        self._writer: asyncio.StreamWriter | None = None
        self._pong = asyncio.Event()
        self._child: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> EngineState:
        return self._state

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        return self._child.pid if self._child is not None else None

    async def changed(self, seen: EngineState) -> EngineState:
        while self._state == seen:
            await self._state_changed.wait()
        return self._state

    async def start(self) -> None:
        if self._task is not None:
            raise RuntimeError("the engine is started already")
        # Not in a task group: start() and stop() bracket it, and stop() passes its fault on.
        self._task = asyncio.create_task(self._supervise(), name="engine supervisor")  # noqa: TID251

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        finally:
            self._end_runs(_STOPPED, list(self._runs.values()))

    def run(self, work: Work) -> AsyncIterator[Report]:
        if any(run.work.key == work.key for run in self._runs.values()):
            raise ValueError(f"the attempt {work.key} is running")
        self._last_run += 1
        run = self._runs[self._last_run] = _Run(self._last_run, work)
        self._dispatch(run)
        return self._reports(run)

    def cancel(self, key: AttemptKey) -> None:
        for run in self._runs.values():
            if run.work.key == key and run.sent:
                self._send(CancelWork(run.number))
            elif run.work.key == key:
                run.canceled = True
                run.reports.put_nowait(Canceled())

    async def _reports(self, run: _Run) -> AsyncIterator[Report]:
        ended = False
        try:
            while not ended:
                report = await run.reports.get()
                ended = isinstance(report, Completed | Failed | Canceled)
                yield report
        finally:
            self._runs.pop(run.number, None)
            if run.sent and not ended:
                self._send(CancelWork(run.number))

    # --- the life of a child

    async def _supervise(self) -> None:
        backoff = Backoff(self._supervision.first_pause, self._supervision.longest_pause)
        while True:
            born = time.monotonic()
            how = await self._live()
            if time.monotonic() - born > self._supervision.longest_pause:
                backoff.succeeded()
            pause = backoff.failed()
            log.error("engine_died", how=how, restart_seconds=round(pause, 2))
            await asyncio.sleep(pause)

    async def _live(self) -> str:
        """Starts a child and serves it to its end; says how it ended."""
        message = _STOPPED
        try:
            child, reader = await self._spawn()
            async with asyncio.TaskGroup() as group:
                pings = group.create_task(self._watch(child), name="engine pings")
                await self._read(reader)
                pings.cancel()
            how = _how_ended(await self._ended(child))
            message = _CRASHED.format(how=how)
        except OSError as error:
            return f"it cannot be started: {error}"
        finally:
            await self._bury(message)
        return how

    async def _spawn(self) -> tuple[asyncio.subprocess.Process, asyncio.StreamReader]:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "services.worker.engine", "--fd", str(theirs.fileno())]
            try:
                self._child = await asyncio.create_subprocess_exec(
                    *command, pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL
                )
            except BaseException:
                ours.close()
                raise
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self._send(Configure(self._settings))
        for run in self._runs.values():
            self._dispatch(run)
        return self._child, reader

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while (message := await receive_async(reader)) is not None:
            self._handle(message)

    def _handle(self, message: FromEngine) -> None:
        match message:
            case WorkReported(number, report):
                run = self._runs.get(number)
                if run is not None:
                    run.reports.put_nowait(report)
            case StateReported(state):
                self._set_state(state)
            case Pong():
                self._pong.set()

    async def _watch(self, child: asyncio.subprocess.Process) -> None:
        while True:
            await asyncio.sleep(self._supervision.ping_interval)
            self._pong.clear()
            self._send(Ping())
            try:
                async with asyncio.timeout(self._supervision.ping_timeout):
                    await self._pong.wait()
            except TimeoutError:
                log.error("engine_hangs", seconds=self._supervision.ping_timeout)  # noqa: TRY400 - no fault of this code
                child.kill()
                return

    async def _ended(self, child: asyncio.subprocess.Process) -> int:
        """Its exit status; a child that closed its pipe without ending is killed."""
        try:
            async with asyncio.timeout(self._supervision.stop_timeout):
                return await child.wait()
        except TimeoutError:
            child.kill()
            return await child.wait()

    async def _bury(self, message: str) -> None:
        """Leaves no process behind, also when this task is canceled: closing the pipe ends the child."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        child, self._child = self._child, None
        self._end_runs(message, [run for run in self._runs.values() if run.sent])
        self._set_state(replace(self._state, ready=False, models=catalog.initial_states(self._settings)))
        if child is not None and child.returncode is None:
            child.kill()
            await asyncio.shield(child.wait())

    # --- small things

    def _dispatch(self, run: _Run) -> None:
        if self._writer is not None and not run.sent and not run.canceled:
            run.sent = True
            self._send(RunWork(run.number, run.work))

    def _send(self, message: ToEngine) -> None:
        """Never waits; what a dying child no longer reads is answered for when its end is seen."""
        if self._writer is not None:
            self._writer.write(encode(message))

    def _end_runs(self, message: str, runs: list[_Run]) -> None:
        for run in runs:
            run.reports.put_nowait(Failed("ENGINE_CRASHED", message))

    def _set_state(self, state: EngineState) -> None:
        if state != self._state:
            self._state = state
            changed, self._state_changed = self._state_changed, asyncio.Event()
            changed.set()


def _how_ended(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"

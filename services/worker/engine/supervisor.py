"""The front's side of the engine: starts the child, talks to it, starts another when it dies or asks for it.

Invariants: every run that began ends in exactly one outcome, also when the child is killed in the middle of it; a child
gets no run before it is ready, so that one that cannot start costs nobody an attempt. A child that asks to be replaced
costs none either: its runs go on in the next one, and their readers notice nothing but the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from services.runtime.backoff import Backoff
from services.worker.engine import catalog
from services.worker.engine.messages import (
    CancelWork,
    Configure,
    Foresee,
    FromEngine,
    Ping,
    Pong,
    Recycle,
    RunWork,
    StateReported,
    ToEngine,
    WorkReported,
    encode,
    receive_async,
)
from services.worker.engine.protocol import EngineSettings
from services.worker.engine.told import Told
from services.worker.work import (
    AttemptKey,
    Canceled,
    Completed,
    EngineState,
    Failed,
    Report,
    SpeakerChunkFound,
    SpeakersFound,
    StageChanged,
    WindowFinished,
    Work,
)

log = structlog.get_logger()

_CRASHED = "The engine process ended in the middle of the job ({how}). The worker starts it again; try the job again."
_RECYCLED_TOO_OFTEN = (
    "The engine process had to be replaced {times} times without a window of the job being finished ({how}). Try the job"
    " again, and see the worker's log."
)
_STOPPED = "The worker stopped while the job was running. Try the job again."
_TROUBLE = (
    "The engine cannot be started ({how}). The worker goes on trying, and takes no jobs meanwhile: look for the cause in"
    " its log, and check WORKER_MODEL, WORKER_DEVICE and the memory that is free."
)
_SHORT_OF_MEMORY = ", as systems do that are short of memory"
_STARTING = StageChanged("loading", "the engine is starting")
_COMMAND = (sys.executable, "-m", "services.worker.engine")

STARTS_ALLOWED = 2
"""Children in a row that may end without having become ready before the engine is in trouble."""

MOST_HALVINGS = 6
"""Of the largest batch, to one."""

RECYCLES_ALLOWED = 3
"""Children that may ask to be replaced while a run gets no further: then it is the run that brings it about."""


@dataclass(frozen=True, slots=True)
class Supervision:
    """Seconds. A child that does not answer a ping for ``ping_timeout`` hangs, and is killed; so is one in which a run
    goes on ``cancel_timeout`` after it was canceled, since nothing else gives its slot back.

    The timeouts are long, since loading a library may keep the interpreter busy, and a batch takes its time. The bound of the pause before a
    restart doubles from ``first_pause`` to ``longest_pause``, and starts anew once a child has lived for that long. A
    child that asks to be replaced is, at once, unless another did so less than ``recycle_interval`` before.
    """

    ping_interval: float = 10.0
    ping_timeout: float = 60.0
    cancel_timeout: float = 300.0
    stop_timeout: float = 5.0
    first_pause: float = 0.5
    longest_pause: float = 30.0
    recycle_interval: float = 60.0


@dataclass(slots=True, eq=False)
class _Run:
    number: int
    work: Work
    reports: asyncio.Queue[Report] = field(default_factory=asyncio.Queue)
    sent: bool = False
    canceled: bool = False
    ended: bool = False
    """Whether its outcome is known, read or not."""
    told: Told = field(default_factory=Told)
    recycles: int = 0
    """Children in a row that were replaced under it before it got any further."""

    def report(self, report: Report) -> None:
        self.ended = self.ended or isinstance(report, Completed | Failed | Canceled)
        if self.told.is_news(report):
            self.reports.put_nowait(report)
            if isinstance(report, SpeakerChunkFound | SpeakersFound | WindowFinished):
                self.recycles = 0

    def send_again(self) -> None:
        """Another child is to go on with it."""
        self.sent = False
        self.report(_STARTING)


class Supervisor:
    """An ``Engine`` whose work is done by a child process."""

    def __init__(self, settings: EngineSettings, supervision: Supervision | None = None) -> None:
        self._settings = settings
        self._supervision = supervision or Supervision()
        self._state = EngineState(models=catalog.initial_states(settings))
        self._state_changed = asyncio.Event()
        self._runs: dict[int, _Run] = {}
        self._last_run = 0
        self._canceled_at: dict[int, float] = {}
        self._was_ready = False
        self._failed_starts = 0
        self._recycling: Recycle | None = None
        self._recycled_at = -math.inf
        self._is_killed_here = False
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
        if not run.sent:
            run.report(_STARTING)
        return self._reports(run)

    def foresee(self, audio_path: Path) -> None:
        if self._state.ready:
            self._send(Foresee(audio_path))

    def cancel(self, key: AttemptKey) -> None:
        for run in self._runs.values():
            if run.work.key == key:
                self._cancel(run)

    async def _reports(self, run: _Run) -> AsyncIterator[Report]:
        ended = False
        try:
            while not ended:
                report = await run.reports.get()
                ended = isinstance(report, Completed | Failed | Canceled)
                yield report
        finally:
            self._runs.pop(run.number, None)
            self._cancel(run)

    # --- the life of a child

    async def _supervise(self) -> None:
        backoff = Backoff(self._supervision.first_pause, self._supervision.longest_pause)
        while True:
            born = time.monotonic()
            self._was_ready = False
            try:
                how = await self._live()
            except Exception:  # a fault of one life is none of the next one's
                log.exception("engine_supervision_failed")
                how = "the worker could not follow it"
            self._note_end(how)
            if time.monotonic() - born > self._supervision.longest_pause:
                backoff.succeeded()
            recycled, self._recycling = self._recycling, None
            pause = 0.0 if recycled is not None and self._is_first_recycle() else backoff.failed()
            if recycled is None:
                log.error("engine_died", how=how, restart_seconds=round(pause, 2))
            else:
                log.warning("engine_recycled", reason=recycled.reason, restart_seconds=round(pause, 2))
            await asyncio.sleep(pause)

    def _is_first_recycle(self) -> bool:
        """Whether there was none for a while."""
        now = time.monotonic()
        before, self._recycled_at = self._recycled_at, now
        return now - before > self._supervision.recycle_interval

    def _note_end(self, how: str) -> None:
        self._failed_starts = 0 if self._was_ready else self._failed_starts + 1
        if self._failed_starts >= STARTS_ALLOWED:
            self._set_state(replace(self._state, trouble=_TROUBLE.format(how=how)))

    async def _live(self) -> str:
        """Starts a child and serves it to its end; says how it ended."""
        message = _CRASHED.format(how="the worker could not follow it")
        self._is_killed_here = False
        try:
            child, reader = await self._spawn()
            async with asyncio.TaskGroup() as group:
                pings = group.create_task(self._watch(child), name="engine pings")
                await self._read(reader)
                pings.cancel()
            if self._recycling is not None:
                self._kill(child)
            status = await self._ended(child)
            how = self._how_ended(status)
            self._note_kill(status)
            if self._recycling is not None:
                how = self._recycling.reason
            message = _CRASHED.format(how=how)
        except OSError as error:
            return f"no process: {error.strerror}"
        except asyncio.CancelledError:
            message = _STOPPED
            raise
        finally:
            await self._bury(message)
        return how

    async def _spawn(self) -> tuple[asyncio.subprocess.Process, asyncio.StreamReader]:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [*_COMMAND, "--fd", str(theirs.fileno())]
            try:
                self._child = await asyncio.create_subprocess_exec(
                    *command, pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL
                )
            except BaseException:
                ours.close()
                raise
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self._send(Configure(self._settings))
        return self._child, reader

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """What a child says after it asked to be replaced is of no worth."""
        while self._recycling is None and (message := await receive_async(reader)) is not None:
            self._handle(message)

    def _handle(self, message: FromEngine) -> None:
        match message:
            case WorkReported(number, report):
                if isinstance(report, Completed | Failed | Canceled):
                    self._canceled_at.pop(number, None)
                run = self._runs.get(number)
                if run is not None:
                    run.report(report)
            case StateReported(state):
                self._take_over(state)
            case Recycle():
                self._note_recycle(message)
            case Pong():
                self._pong.set()

    def _take_over(self, state: EngineState) -> None:
        """What waited for the child to be ready goes to it; until then the trouble that there was remains."""
        self._set_state(state if state.ready else replace(state, trouble=self._state.trouble))
        self._was_ready = self._was_ready or state.ready
        for run in self._runs.values():
            self._dispatch(run)

    async def _watch(self, child: asyncio.subprocess.Process) -> None:
        while True:
            await asyncio.sleep(self._supervision.ping_interval)
            if self._is_stuck():
                log.error("engine_stuck", seconds=self._supervision.cancel_timeout)
                self._kill(child)
                return
            self._pong.clear()
            self._send(Ping())
            try:
                async with asyncio.timeout(self._supervision.ping_timeout):
                    await self._pong.wait()
            except TimeoutError:
                log.error("engine_hangs", seconds=self._supervision.ping_timeout)  # noqa: TRY400 - no fault of this code
                self._kill(child)
                return

    def _is_stuck(self) -> bool:
        """Whether a run goes on long after it was canceled, while the child answers: in a kernel, in a decoder.

        No time counts while a model is loaded: a download may take long, and heeds no cancel.
        """
        now = time.monotonic()
        if any(model.state == "loading" for model in self._state.models):
            self._canceled_at = dict.fromkeys(self._canceled_at, now)
        return any(now - canceled_at > self._supervision.cancel_timeout for canceled_at in self._canceled_at.values())

    async def _ended(self, child: asyncio.subprocess.Process) -> int:
        """Its exit status; a child that closed its pipe without ending is killed."""
        try:
            async with asyncio.timeout(self._supervision.stop_timeout):
                return await child.wait()
        except TimeoutError:
            self._kill(child)
            return await child.wait()

    def _kill(self, child: asyncio.subprocess.Process) -> None:
        self._is_killed_here = True
        child.kill()

    def _how_ended(self, status: int) -> str:
        if status >= 0:
            return f"exit status {status}"
        return f"killed by signal {-status}" + (_SHORT_OF_MEMORY if self._is_killed_by_others(status) else "")

    def _is_killed_by_others(self, status: int) -> bool:
        return status == -signal.SIGKILL and not self._is_killed_here

    def _note_kill(self, status: int) -> None:
        """After a child that somebody else killed at its work the next one takes less: a system that is short of memory does so,
        and says nothing."""
        if self._is_killed_by_others(status) and self._was_ready:
            self._settings = replace(self._settings, halvings=min(MOST_HALVINGS, self._settings.halvings + 1))

    async def _bury(self, message: str) -> None:
        """Leaves no process behind, also when this task is canceled: closing the pipe ends the child.

        It is not killed before it had its time to end: a process that it is just starting would tell a traceback of that.
        """
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        child, self._child = self._child, None
        self._canceled_at.clear()
        self._end_runs(message, [run for run in self._runs.values() if run.sent and not self._goes_on(run)])
        self._set_state(replace(self._state, ready=False, models=catalog.initial_states(self._settings)))
        if child is not None and child.returncode is None:
            await asyncio.shield(self._ended(child))

    def _note_recycle(self, message: Recycle) -> None:
        """What runs without getting any further counts against it, but where less at once is to be tried."""
        self._recycling = message
        if message.batch_size:
            self._settings = replace(self._settings, first_batch_size=message.batch_size)
        if not message.is_less:
            for run in self._runs.values():
                run.recycles += run.sent

    def _goes_on(self, run: _Run) -> bool:
        """Hands a run whose child asked to be replaced to the next one, if that makes sense."""
        if self._recycling is None or run.ended or run.canceled:
            return False
        if run.recycles > RECYCLES_ALLOWED:
            run.report(
                Failed("ENGINE_CRASHED", _RECYCLED_TOO_OFTEN.format(times=run.recycles, how=self._recycling.reason))
            )
            return True
        run.send_again()
        return True

    # --- small things

    def _dispatch(self, run: _Run) -> None:
        if self._state.ready and not run.sent and not run.canceled:
            run.sent = True
            self._send(RunWork(run.number, run.told.rest_of(run.work)))

    def _cancel(self, run: _Run) -> None:
        """Nothing to do where the outcome is known: the child has no such run any more."""
        if run.ended:
            return
        run.canceled = True
        if run.sent:
            self._canceled_at.setdefault(run.number, time.monotonic())
            self._send(CancelWork(run.number))
        else:
            run.report(Canceled())

    def _send(self, message: ToEngine) -> None:
        """Never waits; what a dying child no longer reads is answered for when its end is seen."""
        if self._writer is not None:
            self._writer.write(encode(message))

    def _end_runs(self, message: str, runs: list[_Run]) -> None:
        for run in runs:
            if not run.ended:
                run.report(Canceled() if run.canceled else Failed("ENGINE_CRASHED", message))

    def _set_state(self, state: EngineState) -> None:
        if state != self._state:
            self._state = state
            changed, self._state_changed = self._state_changed, asyncio.Event()
            changed.set()

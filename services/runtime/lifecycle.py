"""How a process begins and ends: one root coroutine, SIGTERM and Ctrl-C drain it, a second signal is quick.

Exit status: 0 after a drain, 1 when something that must run could not go on, 2 for a wrong setting.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import structlog

log = structlog.get_logger()

Main = Callable[[asyncio.Event], Awaitable[None]]


class StartupError(Exception):
    """The process cannot start; the message is for people and names the setting to change."""


def run_process(name: str, main: Main) -> int:
    """Runs ``main(stopping)`` to its end; the first signal sets the event, the second ends the process at once."""
    try:
        asyncio.run(_run(name, main))
    except StartupError as error:
        print(error, file=sys.stderr)  # noqa: T201 - for people
        return 1
    except BaseExceptionGroup as group:
        startup, rest = group.split(StartupError)
        if rest is not None:
            log.critical("process_failed", process=name, exc_info=rest)
            return 1
        print(_first(startup), file=sys.stderr)  # noqa: T201 - for people
        return 1
    return 0


async def _run(name: str, main: Main) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stopping.is_set():
            log.warning("stopped_at_once", process=name, signal=number.name)
            os._exit(128 + number)
        log.info("stopping", process=name, signal=number.name)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await main(stopping)
    log.info("stopped", process=name)


@contextlib.asynccontextmanager
async def root_tasks(stopping: asyncio.Event) -> AsyncIterator[RootTasks]:
    """A task group for loops that must run until ``stopping``: leaving the block waits for it, then ends them.

    A loop that returns or raises before that is a fault, and stops the process with its error.
    """
    async with asyncio.TaskGroup() as group:
        roots = RootTasks(group, stopping)
        yield roots
        await stopping.wait()
        roots.cancel()


class RootTasks:
    """Named, guarded tasks of a process."""

    def __init__(self, group: asyncio.TaskGroup, stopping: asyncio.Event) -> None:
        self._group = group
        self._stopping = stopping
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, loop: Awaitable[None]) -> None:
        self.spawn(name, self._guarded(name, loop))

    async def _guarded(self, name: str, loop: Awaitable[None]) -> None:
        await loop
        if not self._stopping.is_set():
            raise RuntimeError(f"the loop {name} ended by itself")

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts a task that ends by itself; its error stops the process as a loop's does."""
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def cancel(self) -> None:
        for task in list(self._tasks):
            task.cancel()


def _first(error: BaseException | None) -> BaseException | None:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

"""Processes that the engine child starts: how they begin, are asked, and end."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import TypeVar

from pebble import ProcessFuture, ProcessPool

Result = TypeVar("Result")

LOOK_SECONDS = 0.1
"""How often whoever waits for a process is asked whether it goes on."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_starting = threading.Lock()
"""Held while a process is started: one whose parent ends before it was told all would say so by a traceback."""


class _Process(SpawnProcess):
    def start(self) -> None:
        with _starting:
            super().start()


class _Context(SpawnContext):
    Process = _Process


def new_pool(processes: int, initializer: Callable[[int], None]) -> ProcessPool:
    """Starts them when it is first asked for something. It ends the process of a task that is canceled, and starts another
    in the place of one that died at work. ``initializer`` is called with this process's id, and calls `begin`.
    """
    return ProcessPool(processes, initializer=initializer, initargs=(os.getpid(),), context=_Context())


def start_no_more() -> None:
    """For a process that is about to end at once, as its processes then do (`begin`): what starts one now waits forever."""
    _starting.acquire()


def begin(parent: int) -> None:
    """Ctrl-C reaches the whole group, and is not for this process; when the engine child dies, it goes with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        os._exit(1)


def result(
    pool: ProcessPool, function: Callable[..., Result], arguments: tuple[object, ...], check: Callable[[], None]
) -> Result:
    """What the function returns or raises in a process of the pool.

    ``check`` is called while it waits and may raise to give up. Raises ProcessExpired where the process dies, and
    BrokenProcessPool.
    """
    task: ProcessFuture[Result] = _scheduled(pool, function, arguments)
    try:
        while True:
            try:
                return task.result(LOOK_SECONDS)
            except TimeoutError:
                if task.done():  # then it may be its own error
                    return task.result()
                check()
                if not pool.active:  # it may have broken before it knew of the task
                    raise BrokenProcessPool("the pool is broken") from None
    finally:
        task.cancel()  # type: ignore[no-untyped-call]


def _scheduled(
    pool: ProcessPool, function: Callable[..., Result], arguments: tuple[object, ...]
) -> ProcessFuture[Result]:
    try:
        return pool.schedule(function, arguments)
    except RuntimeError as error:  # how it says that it is broken, or was stopped
        raise BrokenProcessPool(str(error)) from error


def end(pool: ProcessPool) -> None:
    """Ends its processes, whatever they do."""
    pool.stop()  # type: ignore[no-untyped-call]
    pool.join()

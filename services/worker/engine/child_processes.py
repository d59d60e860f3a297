"""Processes that the engine child starts: how they begin, are asked, and end."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from pebble import ProcessFuture, ProcessPool

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def begin(parent: int) -> None:
    """Ctrl-C reaches the whole group, and is not for this process; when the engine child dies, it goes with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        os._exit(1)


def scheduled(pool: ProcessPool, function: Callable[..., Any], arguments: tuple[Any, ...]) -> ProcessFuture[Any]:
    """Raises BrokenProcessPool, also where pebble says so in other words."""
    try:
        return pool.schedule(function, arguments)
    except RuntimeError as error:  # how it says that it is broken, or was stopped
        raise BrokenProcessPool(str(error)) from error


def end(pool: ProcessPool) -> None:
    """Ends its processes, whatever they do."""
    pool.stop()  # type: ignore[no-untyped-call]
    pool.join()

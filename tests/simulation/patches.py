"""What the services take from the machine and cannot be given: clocks, dates, identifiers, chance, logs, channels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest import mock
from uuid import UUID

import tenacity.wait

from services.controller import api_jobs, attempt, dispatch, journal, run_stream, workers
from services.worker import __main__ as worker_main
from services.worker import api, attempts, status
from services.worker import attempt as held
from tests.simulation.invariants import WatchedQueue
from tests.simulation.process import CURRENT

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)

CHUNK_BYTES = 4
"""Recordings are a few bytes long, and sent in more than one piece."""


class Log:
    """In place of the services' loggers. ``note`` gets every line, where it is there; ``error`` every exception."""

    note: Callable[..., None] | None = None
    error: Callable[[str, dict[str, Any]], None] | None = None

    def bind(self, **_: Any) -> Log:
        return self

    def info(self, event: str, **values: Any) -> None:
        if Log.note is not None:
            process = CURRENT.get()
            Log.note("log", process.name if process else "", event, *(f"{key}={values[key]}" for key in values))

    warning = debug = error_line = info

    def exception(self, event: str, **values: Any) -> None:
        self.info(event, **values)
        if Log.error is not None:
            Log.error(event, values)


class Dates:
    """In place of the class `datetime`."""

    @staticmethod
    def now(zone: Any = None) -> datetime:
        return BEGINNING + timedelta(seconds=asyncio.get_running_loop().time())


TIME = SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time())

LOGGING = (dispatch, attempt, workers, journal, api_jobs, api, held, attempts, status, worker_main)
DATING = (dispatch, attempt, workers, journal, api_jobs, api, held)
TIMING = (attempts, status)


@contextmanager
def machine_replaced() -> Iterator[Machine]:
    """For any number of worlds, one after the other."""
    machine, log = Machine(), Log()
    changes: list[tuple[Any, str, Any]] = [
        *((module, "log", log) for module in LOGGING),
        *((module, "datetime", Dates) for module in DATING),
        *((module, "time", TIME) for module in TIMING),
        (held, "uuid", SimpleNamespace(uuid4=machine.uuid4)),
        (status, "uuid", SimpleNamespace(uuid4=machine.uuid4)),
        (api_jobs, "uuid4", machine.uuid4),
        (tenacity.wait, "random", SimpleNamespace(uniform=lambda low, high: machine.random.uniform(low, high))),
        (workers, "open_channel", lambda url, authority=None: machine.open_channel(url)),
        (run_stream, "CHUNK_BYTES", CHUNK_BYTES),
        (dispatch, "ReadyQueue", WatchedQueue),
    ]
    undo = [mock.patch.object(module, name, new) for module, name, new in changes]
    for patch in undo:
        patch.start()
    try:
        yield machine
    finally:
        Log.note = Log.error = None
        for patch in reversed(undo):
            patch.stop()


class Machine:
    """What the world that runs now gives instead."""

    def __init__(self) -> None:
        self.random = Random(0)
        self.open_channel: Callable[[str], Any] = lambda url: None

    def uuid4(self) -> UUID:
        return UUID(int=self.random.getrandbits(128), version=4)

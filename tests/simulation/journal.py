"""The worker's journal of attempts on a disk that is a dictionary: what `services.worker.journal.SqliteJournal` answers.

Steps keep their order and are written whole; a crash falls before or after one. They are written also when whoever
asked no longer waits, as a thread does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from services.contract.errors import Reason, ServiceError
from services.worker.attempt import Event, HandedBack
from services.worker.attempts import Entry, JournalFullError, KeptAttempt
from services.worker.work import AttemptKey
from tests.simulation.engine import piece_of
from tests.simulation.process import Process


@dataclass
class Kept:
    worker_job_id: str
    acknowledged: int = 0
    events: dict[int, Event] = field(default_factory=dict)
    over: bool = False


@dataclass
class Pages:
    """What is durable. ``pieces``: those that were ever written, by job and number."""

    attempts: dict[AttemptKey, Kept] = field(default_factory=dict)
    pieces: set[tuple[str, int]] = field(default_factory=set)
    reserved: bool = False
    """Whether no more than the reserve is left: nothing new is accepted."""
    full: bool = False
    """Whether not even that is left."""


class MemoryJournal:
    """Implements services.worker.attempts.AttemptJournal, for one life of a worker."""

    def __init__(self, pages: Pages, process: Process, random: Random) -> None:
        self._pages = pages
        self._process = process
        self._random = random
        self._free_at = 0.0

    async def load(self) -> Sequence[KeptAttempt]:
        return await self._call(self._load)

    async def accept(self, key: AttemptKey, worker_job_id: str) -> None:
        def step() -> None:
            if self._pages.reserved or self._pages.full:
                raise ServiceError(Reason.STORAGE_FULL)
            if key in self._pages.attempts:
                raise AssertionError(f"{key} is accepted twice")
            self._pages.attempts[key] = Kept(worker_job_id)

        await self._call(step)

    async def write(self, entries: Sequence[Entry]) -> None:
        await self._call(lambda: self._write(entries))

    async def grow_older(self, seconds: float) -> None:
        pass

    async def forget(self, keys: Sequence[AttemptKey]) -> None:
        def step() -> None:
            for key in keys:
                for kept in [one for one in self._pages.attempts if one.job_id == key.job_id]:
                    if kept.attempt <= key.attempt:
                        del self._pages.attempts[kept]

        await self._call(step)

    def _load(self) -> Sequence[KeptAttempt]:
        return [
            KeptAttempt(key, kept.worker_job_id, kept.acknowledged, tuple(kept.events.values()), kept.over, 0.0)
            for key, kept in self._pages.attempts.items()
        ]

    def _write(self, entries: Sequence[Entry]) -> None:
        if self._pages.full:
            raise JournalFullError("the disk is full")
        for entry in entries:
            kept = self._pages.attempts.get(entry.key)
            for event in () if entry.over or kept is None else entry.events:
                if event.number in kept.events:
                    raise AssertionError(f"event {event.number} of {entry.key} is written twice")
                kept.events[event.number] = event
                if not isinstance(event.report, HandedBack) and (piece := piece_of(event.report)) is not None:
                    self._pages.pieces.add((entry.key.job_id, piece))
            if kept is not None:
                kept.acknowledged, kept.over = entry.acknowledged, entry.over
                gone = [number for number in kept.events if entry.over or number <= entry.acknowledged]
                for number in gone:
                    del kept.events[number]

    async def _call(self, step: Callable[[], Any]) -> Any:
        self._process.require_life()
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._free_at = max(self._free_at, loop.time()) + self._random.expovariate(500.0)
        loop.call_at(self._free_at, self._take, step, done)
        result = await done
        self._process.require_life()
        return result

    def _take(self, step: Callable[[], Any], done: asyncio.Future[Any]) -> None:
        if not self._process.alive:
            return
        try:
            result = step()
        except Exception as error:  # noqa: BLE001 - told to whoever waits
            if not done.done():
                done.set_exception(error)
            return
        wait = self._random.expovariate(500.0)
        asyncio.get_running_loop().call_later(wait, lambda: done.done() or done.set_result(result))

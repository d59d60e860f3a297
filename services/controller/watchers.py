"""Wakes those who watch a job when it has new events, and hands them over; nobody polls."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from services.controller.jobs import Change, FinalSegment, JobId

MOST_TOLD = 200
"""Events kept for one that is slow to take them; it reads what it missed from the store."""


class Watch:
    """One watcher of one job."""

    def __init__(self) -> None:
        self._told: deque[Change | FinalSegment] = deque(maxlen=MOST_TOLD)
        self._woken = asyncio.Event()

    def tell(self, events: Iterable[Change | FinalSegment]) -> None:
        self._told.extend(events)
        self._woken.set()

    def following(self, number: int) -> list[Change | FinalSegment]:
        """The events after ``number`` that were told since, as far as none is missing. Empty: the store knows."""
        self._woken.clear()
        self._pass_over(number)
        events = list[Change | FinalSegment]()
        while self._told and self._told[0].number == number + len(events) + 1:
            events.append(self._told.popleft())
        return events

    async def wait(self, number: int) -> None:
        """Until something may be new after ``number``, of what was told since `following` or is told from now on."""
        self._pass_over(number)
        if not self._told:
            await self._woken.wait()

    def _pass_over(self, number: int) -> None:
        while self._told and self._told[0].number <= number:
            self._told.popleft()


class Watchers:
    def __init__(self) -> None:
        self._watching: dict[JobId, set[Watch]] = {}

    def notify(self, job_id: JobId, events: Iterable[Change | FinalSegment] = ()) -> None:
        """Tells what is durable, in the order of their numbers; none, that the job is gone."""
        if watching := self._watching.get(job_id):
            told = list(events)
            for watch in watching:
                watch.tell(told)

    @contextmanager
    def watch(self, job_id: JobId) -> Iterator[Watch]:
        """Hears of each change from here on."""
        watch = Watch()
        self._watching.setdefault(job_id, set()).add(watch)
        try:
            yield watch
        finally:
            watching = self._watching[job_id]
            watching.discard(watch)
            if not watching:
                del self._watching[job_id]

"""Wakes those who watch a job when it has new events; nobody polls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from services.controller.jobs import JobId


class Watchers:
    def __init__(self) -> None:
        self._waiting: dict[JobId, set[asyncio.Event]] = {}

    def notify(self, job_id: JobId) -> None:
        for event in self._waiting.get(job_id, ()):
            event.set()

    @contextmanager
    def watch(self, job_id: JobId) -> Iterator[asyncio.Event]:
        """An event that is set at each change; whoever waits clears it before reading the store."""
        event = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(event)
        try:
            yield event
        finally:
            watching = self._waiting[job_id]
            watching.discard(event)
            if not watching:
                del self._waiting[job_id]

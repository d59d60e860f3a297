"""Attempts that nobody wants any more, and that workers still hold: each is stopped and forgotten by a task of its own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from services.contract.errors import ServiceError
from services.controller import wire
from services.controller.jobs import JobId
from services.controller.run_stream import LinkLostError, RunStream
from services.controller.store.protocol import Store
from services.controller.workers import WorkerLink

log = structlog.get_logger()

Spawn = Callable[[str, Coroutine[Any, Any, None]], None]


class Dismissals:
    """An engine may take its time to stop, and the job goes on without it. At most one task for each attempt."""

    def __init__(self, store: Store, spawn: Spawn) -> None:
        self._store = store
        self._spawn = spawn
        self._under_way: set[tuple[str, JobId, int]] = set()

    def begin(self, link: WorkerLink, job_id: JobId, number: int) -> None:
        key = (link.name, job_id, number)
        if key not in self._under_way:
            self._under_way.add(key)
            self._spawn(f"dismiss {job_id}/{number}", self._see_dismissed(key, link))

    async def _see_dismissed(self, key: tuple[str, JobId, int], link: WorkerLink) -> None:
        _, job_id, number = key
        try:
            if await _dismiss(link, job_id, number):
                await self._store.forget_left_behind(job_id, number)
        except Exception:  # a fault of the store: the worker names the attempt again
            log.exception("remote_attempt_not_dismissed", job_id=job_id, attempt=number, worker=link.name)
        finally:
            self._under_way.discard(key)


async def _dismiss(link: WorkerLink, job_id: JobId, number: int) -> bool:
    """Whether the worker stopped and forgot it. When the link is lost before that, the worker names it again once it is
    back."""
    stream = RunStream(link)
    try:
        await stream.send(wire.give_up_message(job_id, number))
        await stream.answer()
        while True:
            events = await stream.events(None)
            await stream.send(wire.acknowledge_message(events[-1].number))
            if events[-1].WhichOneof("kind") == "outcome":
                await stream.finish()
                break
    except (LinkLostError, ServiceError) as error:
        log.info("remote_attempt_not_dismissed", job_id=job_id, attempt=number, worker=link.name, error=str(error))
        return False
    else:
        log.info("remote_attempt_dismissed", job_id=job_id, attempt=number, worker=link.name)
        return True
    finally:
        stream.close()

"""Uploads that are being finished: one task each, which no stream or request that waits for it can end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from services.contract.errors import Reason, ServiceError
from services.controller.jobs import UploadId
from services.controller.store.protocol import Upload

log = structlog.get_logger()

Work = Callable[[], Coroutine[Any, Any, Upload]]


class Finishes:
    """Whoever waits may be canceled: the work goes on until it ends, or until `close`."""

    def __init__(self) -> None:
        self._tasks: dict[UploadId, asyncio.Task[Upload]] = {}
        self._closed = False

    def __contains__(self, upload_id: UploadId) -> bool:
        return upload_id in self._tasks

    def begin(self, upload_id: UploadId, work: Work) -> None:
        """Nothing where it is being finished already; nothing after `close` either: the next start goes on with it."""
        if upload_id in self._tasks or self._closed:
            return
        task = self._tasks[upload_id] = asyncio.ensure_future(work())
        task.add_done_callback(partial(self._ended, upload_id))

    async def result(self, upload_id: UploadId) -> Upload:
        """What the work returns or raises; CONTROLLER_UNREACHABLE where `close` left none."""
        task = self._tasks.get(upload_id)
        if task is None:
            raise ServiceError(Reason.CONTROLLER_UNREACHABLE)
        await asyncio.wait([task])
        return task.result()

    async def wait(self, upload_id: UploadId, seconds: float | None = None) -> None:
        """Until it has ended, well or not, or for so many seconds."""
        task = self._tasks.get(upload_id)
        if task is not None:
            await asyncio.wait([task], timeout=seconds)

    async def close(self) -> None:
        """Ends what still runs; it can be gone on with from any step."""
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, upload_id: UploadId, task: asyncio.Task[Upload]) -> None:
        del self._tasks[upload_id]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, ServiceError):
            log.info("upload_not_finished", upload_id=upload_id, reason=error.reason.value)
        elif error is not None:
            log.error("upload_not_finished", upload_id=upload_id, exc_info=error)

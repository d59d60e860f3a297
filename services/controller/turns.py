"""Who writes an upload: one stream at a time. A newer one may take over from one whose client is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.contract.errors import Reason, ServiceError
from services.controller.jobs import UploadId

TAKEN_OVER = "A newer request goes on with this upload."


class Turn:
    """A stream's turn, of the task that it was made in. ``over`` once the next one may begin, ``settled`` once no more
    is written and all that was is synced."""

    def __init__(self) -> None:
        self.settled = asyncio.Event()
        self.over = asyncio.Event()
        self.limit = asyncio.timeout(None)
        self._firm = True  # until its block is entered there is nothing to interrupt

    def begin(self) -> None:
        self._firm = False

    def hold(self) -> None:
        """From here on it goes on to its end whoever comes: what it took is being synced."""
        self._firm = True

    def give_way(self) -> None:
        """Interrupts the stream, unless it holds."""
        if not self._firm:
            self._firm = True
            self.limit.reschedule(asyncio.get_running_loop().time())


class Turns:
    def __init__(self) -> None:
        self._taken: dict[UploadId, Turn] = {}

    def __contains__(self, upload_id: UploadId) -> bool:
        return upload_id in self._taken

    @asynccontextmanager
    async def take(self, upload_id: UploadId, take_over: bool) -> AsyncIterator[Turn]:
        """The upload is this task's until the block ends, or until somebody takes over.

        Raises UPLOAD_BUSY where another has it and ``take_over`` is false; STREAM_TAKEN_OVER.
        """
        if upload_id in self._taken and not take_over:
            raise ServiceError(Reason.UPLOAD_BUSY)
        await self.clear(upload_id)
        turn = self._taken[upload_id] = Turn()
        try:
            async with turn.limit:
                turn.begin()
                try:
                    yield turn
                finally:
                    turn.hold()
        except TimeoutError as error:
            if not turn.limit.expired():
                raise
            raise ServiceError(Reason.STREAM_TAKEN_OVER, TAKEN_OVER) from error
        finally:
            del self._taken[upload_id]
            turn.settled.set()
            turn.over.set()

    async def clear(self, upload_id: UploadId) -> None:
        """Returns when nobody has the upload; whoever does is interrupted, or waited for while it holds."""
        while (turn := self._taken.get(upload_id)) is not None:
            turn.give_way()
            await turn.over.wait()

    async def settle(self, upload_id: UploadId) -> None:
        """As `clear`, but does not wait for what comes after the last byte."""
        turn = self._taken.get(upload_id)
        if turn is not None:
            turn.give_way()
            await turn.settled.wait()

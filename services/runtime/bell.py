"""Tells any number of waiting tasks that something changed; what it is they look up themselves."""

from __future__ import annotations

import asyncio


class Bell:
    """No change is missed where a task looks and then waits without an `await` between."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        rung, self._rung = self._rung, asyncio.Event()
        rung.set()

    async def wait(self) -> None:
        """Until the next ring."""
        await self._rung.wait()

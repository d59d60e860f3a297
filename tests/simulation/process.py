"""A process that can die between any two steps, and what belongs to it.

Invariant: once it is dead, nothing that it does has an effect: its handles only end the task that uses them, its
messages go nowhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

CURRENT: ContextVar[Process | None] = ContextVar("process", default=None)


class Process:
    """One life of a controller or a worker; its tasks are those that were made in its context."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.tasks: dict[Any, None] = {}
        self._context: Context = copy_context()
        self._context.run(CURRENT.set, self)
        self._on_death: list[Callable[[], None]] = []

    def spawn(self, name: str, run: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        if not self.alive:
            run.close()
            raise asyncio.CancelledError
        return asyncio.get_running_loop().create_task(run, name=name, context=self._context.copy())

    def call(self, function: Callable[[], Any]) -> Any:
        """Runs it as a part of this process."""
        return self._context.copy().run(function)

    def at_death(self, action: Callable[[], None]) -> None:
        self._on_death.append(action)

    def crash(self) -> None:
        """Dead at once; its tasks end where they stand, and what they do on the way is of no effect."""
        if not self.alive:
            return
        self.alive = False
        for action in self._on_death:
            action()
        for task in list(self.tasks):
            task.cancel()

    def require_life(self) -> None:
        """Ends whoever still runs in a dead process."""
        if not self.alive:
            raise asyncio.CancelledError


def adopt(task: Any, context: Context | None) -> None:
    """The task belongs to the process in whose context it runs."""
    process = context.get(CURRENT) if context is not None else CURRENT.get()
    if process is not None:
        process.tasks[task] = None
        task.add_done_callback(process.tasks.pop)

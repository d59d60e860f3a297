"""An asyncio loop on virtual time: nothing waits, and the same seed takes the same steps.

Invariant: time moves only when nothing is ready, to the next timer. Tasks hash by their number, not their address,
so that sets of them are walked in the same order in every run.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import base_events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from random import Random
from typing import Any


class StuckError(Exception):
    """Nothing is scheduled and the world has not ended, or it went on for too long."""


class NumberedTask(asyncio.Task[Any]):
    """A task whose hash is the same in every run."""

    _number = 0

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class Step:
    """As asyncio.Handle and TimerHandle, and no more than what loops and tasks ask of them."""

    __slots__ = ("_args", "_callback", "_cancelled", "_context", "_when")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context, when: float) -> None:
        self._callback = callback
        self._args = args
        self._context = context
        self._cancelled = False
        self._when = when

    def cancel(self) -> None:
        self._cancelled = True
        self._args = ()

    def cancelled(self) -> bool:
        return self._cancelled

    def when(self) -> float:
        return self._when


class VirtualLoop(base_events.BaseEventLoop):
    """``most_steps``: callbacks before the loop gives up; ``on_task`` is told of every task."""

    def __init__(
        self, random: Random, most_steps: int, on_task: Callable[[NumberedTask, Context | None], None]
    ) -> None:
        super().__init__()
        self._now = 0.0
        self._random = random
        self._most_steps = most_steps
        self._on_task = on_task
        self._tasks_made = 0
        self._steps: deque[Step] = deque()
        self._timers: list[tuple[float, int, Step]] = []
        self._timers_made = 0
        self.steps = 0
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Any:
        step = Step(callback, args, context if context is not None else copy_context(), 0.0)
        self._steps.append(step)
        return step

    call_soon_threadsafe = call_soon

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Any:
        step = Step(callback, args, context if context is not None else copy_context(), when)
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._timers_made, step))
        return step

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """In line, after a moment."""
        done = self.create_future()
        self.call_later(self._random.uniform(0, 0.01), _settle, done, func, args)
        return done

    def _make_task(self, loop: Any, coro: Coroutine[Any, Any, Any], **more: Any) -> NumberedTask:
        task = NumberedTask.__new__(NumberedTask)
        self._tasks_made += 1
        task._number = self._tasks_made
        task.__init__(coro, loop=self, **more)  # type: ignore[misc]  # the number must be there before it is registered
        task._log_destroy_pending = False
        self._on_task(task, more.get("context"))
        return task

    def _run_once(self) -> None:
        steps, timers = self._steps, self._timers
        while not steps:
            if not timers:
                raise StuckError("nothing is scheduled any more")
            self._now, _, step = heapq.heappop(timers)
            if not step._cancelled:
                steps.append(step)
        while timers and timers[0][0] <= self._now:
            steps.append(heapq.heappop(timers)[2])
        for _ in range(len(steps)):
            step = steps.popleft()
            if not step._cancelled:
                self.steps += 1
                self._take(step)
        if self.steps > self._most_steps:
            raise StuckError(f"{self.steps} steps, at {self._now:.3f} s")

    def _take(self, step: Step) -> None:
        try:
            step._context.run(step._callback, *step._args)
        except Exception as error:  # noqa: BLE001 - as asyncio's own handles
            self.call_exception_handler({"message": f"in {step._callback}", "exception": error})

    def _process_events(self, event_list: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def _settle(done: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if done.cancelled():
        return
    try:
        done.set_result(func(*args))
    except Exception as error:  # noqa: BLE001 - as an executor does
        done.set_exception(error)

"""The windows of all jobs that wait for the device: one queue, fair between jobs, taken in batches of one shape.

Fair queuing by start times: a job's clock advances by the speech it was given, and whoever's clock is behind goes first. A
job that comes, or comes back, starts at the time of the others, so a short one is in the next batch however many long
ones wait. Within a job windows of one shape keep their order. Invariant: a window is in the queue, in one lane's hand,
or its job is gone.

What was decoded and is to be searched otherwise comes in ones and twos, and a device takes about as long for two as for sixty.
It is gathered for some batches, unless there is nothing else to do.
"""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Generic, Protocol, TypeVar

GATHERED_BATCHES = 8
"""So many others go before a window whose time was spent already."""


class Waiting(Protocol):
    """``shape``: only windows whose shapes are equal share a batch; ``seconds`` of speech in it."""

    @property
    def shape(self) -> Hashable: ...

    @property
    def seconds(self) -> float: ...


W = TypeVar("W", bound=Waiting)


class Line(Generic[W]):
    """One job's place in the queue, which fills it. ``weight`` 2 is given twice the device's time of 1; a ``brief`` one has
    little to decode in all."""

    def __init__(self, weight: float = 1.0, *, brief: bool = False) -> None:
        self.weight = weight
        self.brief = brief
        self.clock = 0.0
        self.closed = False
        self.expected = 0
        """Windows that are about to be put: a batch that is not full waits a moment for them."""
        self.holds_back = False
        """Whether its job has others, which it puts once some of these are done."""
        self.rests = False
        """Whether its job waits for something else than the device."""
        self.windows: dict[Hashable, deque[tuple[int, W]]] = {}
        self.gathered: dict[int, int] = {}
        """Places of windows that come again, and up to which batch others go before them."""

    def __len__(self) -> int:
        return sum(len(windows) for windows in self.windows.values())

    def give(self, seconds: float) -> None:
        self.clock += seconds / self.weight

    def first(self, batch: int) -> tuple[bool, int, Hashable]:
        """(whether it may be passed over in that batch, place, shape) of the window that was put first, of those that may not
        be if there are any."""
        return min(
            (self.gathered.get(windows[0][0], 0) > batch, windows[0][0], shape)
            for shape, windows in self.windows.items()
        )


@dataclass(frozen=True, slots=True)
class Taken(Generic[W]):
    """A window in a lane's hand."""

    line: Line[W]
    place: int
    window: W


class WindowQueue(Generic[W]):
    """May be used from several threads. ``linger_seconds``: how long a batch waits for windows that are expected."""

    def __init__(
        self, lanes: int = 1, linger_seconds: float = 0.02, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lanes = lanes
        self._linger = linger_seconds
        self._now = clock
        self._lines: set[Line[W]] = set()
        self._places = count()
        self._clock = 0.0
        self._batches = 0
        self._shares: dict[Hashable, int] = {}
        """What each lane is to take of what is left at the end, until something comes after all."""
        self._coming = 0
        self._stopped = False
        self._changed = threading.Condition()

    @property
    def jobs(self) -> int:
        """Those that are there for the device's sake."""
        with self._changed:
            return sum(not line.rests for line in self._lines)

    def open(self, weight: float = 1.0, *, brief: bool = False) -> Line[W]:
        line: Line[W] = Line(weight, brief=brief)
        with self._changed:
            self._lines.add(line)
        return line

    @contextmanager
    def coming(self) -> Iterator[None]:
        """A job is being prepared, and will put windows soon: batches wait a moment for it as well."""
        with self._changed:
            self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1
                self._changed.notify_all()

    def expect(self, line: Line[W], windows: int, holds_back: bool) -> None:
        """So many are about to be put; and whether the job has others."""
        with self._changed:
            line.expected = windows
            line.holds_back = holds_back
            self._changed.notify_all()

    def put(self, line: Line[W], window: W) -> None:
        """Behind what the job has in line. Raises ValueError where the line was closed."""
        with self._changed:
            if line.closed:
                raise ValueError("the line is closed")
            if not line.windows:
                line.clock = max(line.clock, self._clock)
            line.windows.setdefault(window.shape, deque()).append((next(self._places), window))
            self._shares.clear()
            line.expected = max(0, line.expected - 1)
            self._changed.notify_all()

    def put_back(self, taken: Iterable[Taken[W]], *, spent: bool = False) -> list[W]:
        """At the places that they were taken from; ``spent``: the device's time was, and they are gathered. Returns those whose
        line was closed meanwhile."""
        dropped = []
        with self._changed:
            for one in taken:
                if one.line.closed:
                    dropped.append(one.window)
                    continue
                if not spent:
                    one.line.give(-one.window.seconds)
                elif not one.line.brief:
                    one.line.gathered[one.place] = self._batches + GATHERED_BATCHES
                # places are unique, so windows themselves are never compared
                insort(one.line.windows.setdefault(one.window.shape, deque()), (one.place, one.window))
                self._shares.clear()
            self._changed.notify_all()
        return dropped

    def close(self, line: Line[W]) -> list[W]:
        """Forgets the job and what it has in line, which is returned; what a lane has in hand goes on."""
        with self._changed:
            dropped = [window for windows in line.windows.values() for _, window in windows]
            line.closed = True
            line.windows.clear()
            line.gathered.clear()
            line.expected = 0
            line.holds_back = False
            self._lines.discard(line)
            self._changed.notify_all()
        return dropped

    def stop(self) -> None:
        """Every `take` returns nothing from now on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def take_brief(self) -> list[Taken[W]]:
        """One window of a brief job, while there are others that are not; waits for it. Empty once the queue was stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._next_brief() is not None)
            line = self._next_brief()
            return [] if self._stopped or line is None else [self._pop(line, line.first(self._batches)[2])]

    def take(self, most_of: Callable[[Hashable], int]) -> list[Taken[W]]:
        """The next batch, of at most ``most_of(shape)`` windows of one shape; waits for it. Empty once the queue was stopped."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._next() is not None)
                deadline = self._now() + self._linger
                while not self._stopped and self._expects_more(most_of) and (left := deadline - self._now()) > 0:
                    self._changed.wait(left)
                if self._stopped:
                    return []
                if batch := self._batch(most_of):  # else another lane was quicker, or the job is gone
                    return batch

    def _next_brief(self) -> Line[W] | None:
        if all(line.brief for line in self._lines):
            return None
        return self._first_of(line for line in self._lines if line.windows and line.brief)

    def _next(self) -> Line[W] | None:
        """Whose turn it is."""
        return self._first_of(line for line in self._lines if line.windows)

    def _first_of(self, waiting: Iterable[Line[W]]) -> Line[W] | None:
        def turn(line: Line[W]) -> tuple[bool, float, int]:
            may_be_passed, place, _ = line.first(self._batches)
            return may_be_passed, line.clock, place

        return min(waiting, key=turn, default=None)

    def _expects_more(self, most_of: Callable[[Hashable], int]) -> bool:
        first = self._next()
        if first is None or not self._more_comes():
            return False
        _, place, shape = first.first(self._batches)
        if place in first.gathered:  # there was time enough
            return False
        most = most_of(shape)
        return most > 1 and self._fitting(shape) < most * self._lanes

    def _more_comes(self) -> bool:
        return bool(self._coming) or any(line.expected for line in self._lines)

    def _fitting(self, shape: Hashable) -> int:
        return sum(len(line.windows.get(shape, ())) for line in self._lines)

    def _batch(self, most_of: Callable[[Hashable], int]) -> list[Taken[W]]:
        """What is left at the end is shared among the lanes, or one of them would be idle while another has it all."""
        first = self._next()
        if first is None:
            return []
        waiting = [line for line in self._lines if line.windows]
        shape = first.first(self._batches)[2]
        most, fitting = most_of(shape), self._fitting(shape)
        self._batches += 1
        if not self._more_comes() and not any(line.holds_back for line in self._lines):
            most = min(most, self._shares.setdefault(shape, -(-fitting // self._lanes)))
        batch = [self._pop(first, shape)]
        while len(batch) < most:
            lines = [line for line in waiting if line.windows.get(shape)]
            if not lines:
                break
            batch.append(self._pop(min(lines, key=lambda line: (line.clock, line.windows[shape][0][0])), shape))
        return batch

    def _pop(self, line: Line[W], shape: Hashable) -> Taken[W]:
        windows = line.windows[shape]
        place, window = windows.popleft()
        if not windows:
            del line.windows[shape]
        line.gathered.pop(place, None)
        self._clock = max(self._clock, line.clock)
        line.give(window.seconds)
        return Taken(line, place, window)

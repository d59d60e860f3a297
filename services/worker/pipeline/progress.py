"""How far a recording is, and how long it may still take. Pure."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence

from services.worker.pipeline.windows import SpeechWindow
from services.worker.work import Progress

INTERVAL_SECONDS = 0.5
"""Between two reports at least."""

MEMORY_SECONDS = 60.0
"""The speed is that of the last minute: other jobs come and go."""


class SpeechProgress:
    """The share of the speech that is finished, as it is to be reported; several threads may tell of it."""

    def __init__(
        self,
        windows: Sequence[SpeechWindow],
        finished: frozenset[int],
        clock: Callable[[], float],
        bound: float = 1.0,
    ) -> None:
        """``bound``: as `bound` would tell it."""
        self._total = math.fsum(window.seconds for window in windows)
        self._done = math.fsum(window.seconds for window in windows if window.index in finished)
        self._bound = bound
        self._clock = clock
        self._marks = deque([(clock(), self._finished)])
        self._last = -math.inf
        self._percent = 0.0
        self._lock = threading.Lock()

    def add(self, window: SpeechWindow) -> Progress | None:
        """What to report now that the window is decoded, if anything."""
        with self._lock:
            self._done += window.seconds
            return self._marked()

    def bound(self, share: float) -> Progress | None:
        """Likewise, now that in another respect (who speaks) no more than this share of the recording is finished."""
        with self._lock:
            self._bound = share
            return self._marked()

    @property
    def _finished(self) -> float:
        return min(self._done, self._bound * self._total)

    def _marked(self) -> Progress | None:
        now = self._clock()
        self._marks.append((now, self._finished))
        while len(self._marks) > 2 and now - self._marks[1][0] > MEMORY_SECONDS:
            self._marks.popleft()
        if now - self._last < INTERVAL_SECONDS or not self._total:
            return None
        self._last = now
        left = self.seconds_left()
        self._percent = max(self._percent, min(100.0, round(100 * self._finished / self._total, 1)))
        return Progress(self._percent, None if left is None else round(left, 1))

    def seconds_left(self) -> float | None:
        """At the speed of the last minute; None while that is not known."""
        (since, before), (now, done) = self._marks[0], self._marks[-1]
        if done <= before or now <= since:
            return None
        return max(0.0, self._total - done) * (now - since) / (done - before)

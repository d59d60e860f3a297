"""A clock that ticks only while a remote worker can be reached: what a job's wait for a slot is measured by."""

from __future__ import annotations

from collections.abc import Callable


class WaitClock:
    """Seconds, growing while it runs; ``now`` is any monotonic clock. It goes on from what was stored."""

    def __init__(self, now: Callable[[], float], seconds: float = 0.0) -> None:
        self._now = now
        self._seconds = seconds
        self._since: float | None = None

    def read(self) -> float:
        return self._seconds + (self._now() - self._since if self._since is not None else 0.0)

    @property
    def running(self) -> bool:
        return self._since is not None

    def run(self, running: bool) -> None:
        if running and self._since is None:
            self._since = self._now()
        elif not running and self._since is not None:
            self._seconds, self._since = self.read(), None

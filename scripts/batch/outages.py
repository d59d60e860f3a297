"""Waiting for a gateway that is away: as long as it takes, with one line when it begins and one when it is over.

A night's batch meets restarts, full disks and lost networks; none of them is a recording's fault.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential
from tenacity.stop import stop_base

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 20.0
FAULTS_TOLERATED = 8
"""So often an answer that makes no sense is asked for again: about two minutes."""
REMIND_SECONDS = 900.0

Result = TypeVar("Result")


class Away(Exception):
    """The gateway, or what it needs, is not there now; asked again, it may be. The message says what it looks like."""


class Faulty(Exception):
    """The gateway answered, but not as the API promises. Asked again a few times, then it is an error."""


class Outages:
    """Which kinds of call do not get through, for all recordings together; tells people about changes only."""

    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._kinds: set[str] = set()
        self._began = 0.0
        self._told = 0.0
        self._reason = ""

    def failed(self, kind: str, reason: str) -> None:
        now = self._clock()
        if not self._kinds:
            self._began = now
        new = not self._kinds or now - self._told >= REMIND_SECONDS
        self._kinds.add(kind)
        if new or (reason != self._reason and now - self._told >= LONGEST_WAIT_SECONDS):
            self._told, self._reason = now, reason
            self._tell(f"Waiting: {reason}. Trying again until it works; Ctrl-C to stop.")

    def succeeded(self, kind: str) -> None:
        if kind in self._kinds:
            self._kinds.remove(kind)
            if not self._kinds:
                self._tell(f"The gateway answers again, after {self._clock() - self._began:.0f} s.")


class _StopAfterFaults(stop_base):
    """Never for an outage; for faulty answers after a few in a row."""

    def __init__(self) -> None:
        self._faults = 0

    def __call__(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        self._faults = self._faults + 1 if isinstance(error, Faulty) else 0
        return self._faults >= FAULTS_TOLERATED


async def persistently(outages: Outages, kind: str, call: Callable[[], Awaitable[Result]]) -> Result:
    """Calls until it works. Raises Faulty when the answers stay senseless, and whatever else ``call`` raises."""

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        outages.failed(kind, str(error))

    retrying = AsyncRetrying(
        retry=retry_if_exception_type((Away, Faulty)),
        wait=wait_random_exponential(multiplier=FIRST_WAIT_SECONDS, max=LONGEST_WAIT_SECONDS),
        stop=_StopAfterFaults(),
        before_sleep=tell,
        reraise=True,
    )
    try:
        result: Result = await retrying(call)
    except Faulty:
        outages.succeeded(kind)  # it is given up, and no longer waited for
        raise
    outages.succeeded(kind)
    return result

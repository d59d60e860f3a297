"""How long to wait before trying again: exponential with full jitter, by tenacity.

Full jitter (a random wait between nothing and the bound) spreads many waiting callers best:
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations

from typing import Any

from tenacity import RetryCallState, wait_random_exponential

_NO_CALL: Any = None  # the state asks for a call; the wait depends on the number of tries alone


class Backoff:
    """Waits in seconds: the bound doubles from ``first`` with every failure, up to ``longest``."""

    def __init__(self, first: float, longest: float) -> None:
        self._wait = wait_random_exponential(multiplier=first, max=longest)
        self._failures = 0

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> float:
        """Counts a failure; returns the seconds to wait."""
        self._failures += 1
        state = RetryCallState(_NO_CALL, _NO_CALL, (), {})
        state.attempt_number = self._failures
        return float(self._wait(state))

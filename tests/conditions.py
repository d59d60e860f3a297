"""Waits for what threads and processes do, of which no event tells."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE = 30.0
"""Seconds."""


def until(condition: Callable[[], object]) -> None:
    """Until the condition holds; fails after the deadline."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)

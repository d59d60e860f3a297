"""How work ends early: with a reason that people can act on, or because somebody canceled it."""

from __future__ import annotations


class WorkError(Exception):
    """The work cannot be done. ``reason`` is a Reason's name of ``services.contract.errors``; no path in ``message``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type[WorkError], tuple[str, str]]:
        """So that it crosses between processes as it is."""
        return WorkError, (self.reason, self.message)


class WorkCanceled(Exception):
    """Raised between two steps once the work was canceled."""

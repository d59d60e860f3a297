"""What of a run its reader was told already, so that another child can go on with it and nothing is told twice. Pure."""

from __future__ import annotations

from dataclasses import replace

from services.worker.work import (
    FinishedWork,
    Planned,
    Progress,
    Report,
    SpeakersFound,
    SpeakerTurn,
    WindowFinished,
    WindowPlan,
    Work,
)


class Told:
    """Kept for as long as a run goes on. A plan with another fingerprint begins anew: all that follows it is told."""

    def __init__(self) -> None:
        self._plan: WindowPlan | None = None
        self._windows: set[int] = set()
        self._turns: tuple[SpeakerTurn, ...] | None = None
        self._percent = 0.0

    def is_news(self, report: Report) -> bool:
        """Notes the report; false for one that was made before, by a child that was there before."""
        match report:
            case Planned(plan):
                return self._planned(plan)
            case SpeakersFound(turns):
                is_first, self._turns = self._turns is None, turns
                return is_first
            case WindowFinished(index):
                is_first = index not in self._windows
                self._windows.add(index)
                return is_first
            case Progress(percent):
                is_further, self._percent = percent > self._percent, max(percent, self._percent)
                return is_further
        return True

    def rest_of(self, work: Work) -> Work:
        """The work as another child is to go on with it."""
        if self._plan is None:
            return work
        windows, turns = frozenset(self._windows), self._turns
        earlier = work.finished
        if earlier is not None and earlier.plan.fingerprint == self._plan.fingerprint:
            windows |= earlier.finished_windows
            turns = earlier.turns if turns is None else turns
        return replace(work, finished=FinishedWork(self._plan, windows, turns))

    def _planned(self, plan: WindowPlan) -> bool:
        known, self._plan = self._plan, plan
        if known is not None and known.fingerprint == plan.fingerprint:
            return False
        self._windows.clear()
        self._turns = None
        self._percent = 0.0
        return True

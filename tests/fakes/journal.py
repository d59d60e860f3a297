"""A journal in memory; what it has survives the `Attempts` that write to it, as a file survives its process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.contract.errors import Reason, ServiceError
from services.worker.attempts import Entry, JournalFullError, KeptAttempt
from services.worker.work import AttemptKey


class MemoryJournal:
    """Implements services.worker.attempts.AttemptJournal."""

    def __init__(self) -> None:
        self.kept: dict[AttemptKey, KeptAttempt] = {}
        self.full = False

    async def load(self) -> Sequence[KeptAttempt]:
        return list(self.kept.values())

    async def accept(self, key: AttemptKey, worker_job_id: str) -> None:
        if self.full:
            raise ServiceError(Reason.STORAGE_FULL)
        assert key not in self.kept
        self.kept[key] = KeptAttempt(key, worker_job_id, 0, (), over=False, waited_seconds=0.0)

    async def write(self, entries: Sequence[Entry]) -> None:
        self._require_room()
        for entry in entries:
            known = self.kept.get(entry.key)
            if known is not None:
                self.kept[entry.key] = _written(known, entry)

    async def grow_older(self, seconds: float) -> None:
        self._require_room()
        self.kept = {
            key: replace(kept, waited_seconds=kept.waited_seconds + seconds) for key, kept in self.kept.items()
        }

    async def forget(self, keys: Sequence[AttemptKey]) -> None:
        self._require_room()
        last = {key.job_id: key.attempt for key in keys}
        self.kept = {key: kept for key, kept in self.kept.items() if key.attempt > last.get(key.job_id, 0)}

    def _require_room(self) -> None:
        if self.full:
            raise JournalFullError("full, as the test says")


def _written(known: KeptAttempt, entry: Entry) -> KeptAttempt:
    events = [event for event in (*known.events, *entry.events) if event.number > entry.acknowledged]
    numbers = [event.number for event in events]
    assert numbers == list(range(entry.acknowledged + 1, entry.acknowledged + 1 + len(numbers))), "a gap"
    return replace(
        known,
        acknowledged=entry.acknowledged,
        events=() if entry.over else tuple(events),
        over=entry.over,
        waited_seconds=0.0,
    )

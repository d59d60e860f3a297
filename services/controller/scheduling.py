"""Which waiting job goes to which worker: pure, in the order of arrival, at a cost that does not grow with the queue.

Jobs that ask for the same thing (model, diarization) wait in one line; a worker takes the oldest head among the
lines it can serve, so a job that nobody can serve now does not hold up the others.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import count

from services.controller.jobs import ExecutionMode, Job, JobId


@dataclass(frozen=True, slots=True)
class Demand:
    """What a job needs of a worker; an empty model is the worker's default. ``alone``: a worker with nothing else to
    do, since an engine died under it, which may have been its fault. ``by_channel``: diarization may need no model."""

    mode: ExecutionMode
    model: str
    diarization: bool
    alone: bool = False
    by_channel: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker could take now. ``models`` are those it may load, ``failed`` those it could not; ``default`` is for
    jobs that name none. ``diarization`` is None as long as it does not tell. ``idle``: nothing runs there. Of a worker that
    was never heard nothing is ``known``."""

    worker: str
    mode: ExecutionMode
    credits: int
    models: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()
    diarization: bool | None = False
    default: str = ""
    known: bool = True
    idle: bool = True

    def serves(self, demand: Demand) -> bool:
        model = demand.model or self.default
        return (
            self.mode is demand.mode
            and (not model or model in self.models - self.failed)
            and (bool(self.diarization) or not demand.diarization)
        )

    def may_do(self, demand: Demand) -> bool:
        """As `serves`, or nearly: what may need no diarization model can be tried without one."""
        return self.serves(demand) or (demand.by_channel and self.serves(replace(demand, diarization=False)))

    def tells(self, demand: Demand) -> bool:
        """Whether it is known if it serves that."""
        return self.known and (self.diarization is not None or not demand.diarization)


def demand_of(job: Job, alone: bool = False) -> Demand:
    return Demand(job.mode, job.options.model, job.options.diarization, alone, job.options.speaker_per_channel)


class ReadyQueue:
    """The jobs that wait, each once. A job keeps its place until it is forgotten: one that was taken and comes back
    goes before all that arrived after it."""

    def __init__(self) -> None:
        self._lines: dict[Demand, list[tuple[int, JobId]]] = {}
        self._waiting: dict[JobId, int] = {}
        self._tickets: dict[JobId, int] = {}
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, job_id: JobId) -> bool:
        return job_id in self._waiting

    def arrive(self, job_id: JobId) -> None:
        """Gives it a place, behind all that have one, without having it wait."""
        if job_id not in self._tickets:
            self._tickets[job_id] = next(self._numbers)

    def push(self, job_id: JobId, demand: Demand) -> None:
        """Has it wait at its place; a job that already waits stays where it is."""
        if job_id not in self._waiting:
            self.arrive(job_id)
            ticket = self._waiting[job_id] = self._tickets[job_id]
            heapq.heappush(self._lines.setdefault(demand, []), (ticket, job_id))

    def push_back(self, job_id: JobId, demand: Demand) -> None:
        """As one that arrives now: the others may fit where it did not."""
        if job_id not in self._waiting:
            self._tickets.pop(job_id, None)
            self.push(job_id, demand)

    def discard(self, job_id: JobId) -> None:
        """It no longer waits, and is passed over when its turn comes; its place remains."""
        self._waiting.pop(job_id, None)

    def forget(self, job_id: JobId) -> None:
        """It will not come back."""
        self.discard(job_id)
        self._tickets.pop(job_id, None)

    def take(self, offers: Iterable[Offer]) -> tuple[JobId, str] | None:
        """Removes the oldest job that some worker with a credit serves; returns it with that worker's name.

        The worker with the most credits gets it. A demand that no worker could ever serve as things stand goes to
        any of its mode, so that the worker's refusal tells the user why, rather than a day's silence; not while there
        is a worker of which that is not known.
        """
        offers = list(offers)
        best: tuple[int, Demand, str] | None = None
        for demand in list(self._lines):
            ticket = self._head(demand)
            worker = _choose(demand, offers)
            if ticket is not None and worker is not None and (best is None or ticket < best[0]):
                best = (ticket, demand, worker)
        if best is None:
            return None
        _, job_id = heapq.heappop(self._lines[best[1]])
        del self._waiting[job_id]
        return job_id, best[2]

    def upcoming(self, offer: Offer) -> JobId | None:
        """The job that this worker would get first, if it had a credit; it stays in line."""
        heads = [
            (ticket, self._lines[demand][0][1])
            for demand in list(self._lines)
            if offer.serves(demand) and (ticket := self._head(demand)) is not None
        ]
        return min(heads)[1] if heads else None

    def _head(self, demand: Demand) -> int | None:
        line = self._lines[demand]
        while line and self._waiting.get(line[0][1]) != line[0][0]:
            heapq.heappop(line)
        if line:
            return line[0][0]
        del self._lines[demand]
        return None


class Waits:
    """Where the waits of jobs began, the longest wait first; a wait that ended is passed over when its turn comes."""

    def __init__(self) -> None:
        self._marks: dict[JobId, float] = {}
        self._heap: list[tuple[float, JobId]] = []
        self._in_heap: set[tuple[float, JobId]] = set()

    def begin(self, job_id: JobId, mark: float) -> None:
        """The job waits since ``mark``, and no longer since any other."""
        self._marks[job_id] = mark
        if (mark, job_id) not in self._in_heap:
            self._in_heap.add((mark, job_id))
            heapq.heappush(self._heap, (mark, job_id))

    def end(self, job_id: JobId) -> None:
        self._marks.pop(job_id, None)

    def longest(self) -> tuple[float, JobId] | None:
        """(mark, job) of whoever waits longest; None while nobody waits."""
        while self._heap:
            mark, job_id = self._heap[0]
            if self._marks.get(job_id) == mark:
                return mark, job_id
            self._in_heap.discard(heapq.heappop(self._heap))
        return None


def _choose(demand: Demand, offers: list[Offer]) -> str | None:
    same_mode = [offer for offer in offers if offer.mode is demand.mode]
    serving = [offer for offer in same_mode if offer.serves(demand)]
    serving = serving or [offer for offer in same_mode if offer.may_do(demand)]
    if not serving and all(offer.tells(demand) for offer in same_mode):
        serving = same_mode
    able = [offer for offer in serving if offer.credits > 0 and (offer.idle or not demand.alone)]
    # Rather one that may still get a diarization model than one that will not.
    best = max(able, key=lambda offer: (demand.diarization and offer.diarization is None, offer.credits), default=None)
    return best.worker if best is not None else None

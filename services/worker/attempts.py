"""The attempts that the worker holds: numbered events until they are acknowledged, the outcome for a day at most.

Invariant: an attempt's events are numbered from 1 without gaps, nothing follows its outcome, and its run depends on
no stream. A slot is taken from accepting to the end of the engine's run.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog

from services.contract.errors import Reason, ServiceError
from services.runtime.bell import Bell
from services.worker.engine.protocol import Engine
from services.worker.metrics import Metrics
from services.worker.status import WorkerStatus
from services.worker.work import AttemptKey, Canceled, Completed, Failed, Report, Work

log = structlog.get_logger()

KEPT_SECONDS = 24 * 3600.0
"""How long an outcome that nobody acknowledges is kept, and how long an attempt's number is remembered."""

Spawn = Callable[[str, Coroutine[Any, Any, None]], object]


@dataclass(frozen=True, slots=True)
class HandedBack:
    """The worker gives the attempt up unfinished; an outcome that no engine reports."""

    message: str


@dataclass(frozen=True, slots=True)
class Event:
    """``number`` counts from 1 in its attempt."""

    number: int
    occurred_at: datetime
    report: Report | HandedBack


OUTCOMES = (Completed, Failed, Canceled, HandedBack)


class Attempt:
    """One attempt's events and who listens to them. ``changed`` rings at every event, acknowledgement and takeover."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.key = work.key
        self.worker_job_id = f"wk_{uuid.uuid4().hex[:16]}"
        self.changed = Bell()
        self.log = log.bind(job_id=self.key.job_id, attempt=self.key.attempt, worker_job_id=self.worker_job_id)
        self.acknowledged = 0
        self.superseded = False
        self.running = True
        self.outcome: Event | None = None
        self._events: list[Event] = []
        self._stream = 0
        self._attached = 0

    @property
    def last_event(self) -> int:
        return self.acknowledged + len(self._events)

    @property
    def settled(self) -> bool:
        """Whether nobody needs anything of it any more."""
        return self.outcome is not None and self.acknowledged == self.outcome.number

    @property
    def attached(self) -> bool:
        return self._attached == self._stream != 0

    def record(self, report: Report | HandedBack) -> None:
        """Numbers what happened. After the outcome nothing happens: what the engine still says of it is left out."""
        if self.outcome is not None:
            return
        event = Event(self.last_event + 1, datetime.now(UTC), report)
        self._events.append(event)
        if isinstance(report, OUTCOMES):
            self.outcome = event
        self.changed.ring()

    def event_after(self, number: int) -> Event | None:
        index = number - self.acknowledged
        return self._events[index] if index < len(self._events) else None

    def acknowledge(self, through: int) -> None:
        """Forgets events up to ``through``. Raises INVALID_REQUEST where that never happened."""
        if through > self.last_event:
            raise ServiceError(
                Reason.INVALID_REQUEST, f"Event {through} of attempt {self.key} did not happen; {self.last_event} did."
            )
        if through > self.acknowledged:
            del self._events[: through - self.acknowledged]
            self.acknowledged = through
            self.changed.ring()

    def attach(self, last_event: int) -> int:
        """A new stream takes over, after what is durable on its side; returns the stream's number."""
        if last_event < self.acknowledged:
            raise ServiceError(
                Reason.ATTEMPT_UNKNOWN,
                f"The worker no longer holds events {last_event + 1} to {self.acknowledged} of attempt {self.key}.",
            )
        self.acknowledge(last_event)
        self._stream += 1
        self._attached = self._stream
        self.changed.ring()
        return self._stream

    def owned_by(self, stream: int) -> bool:
        return stream == self._stream

    def detach(self, stream: int) -> None:
        if stream == self._attached:
            self._attached = 0
            self.changed.ring()


@dataclass(frozen=True, slots=True)
class _Seen:
    """The highest attempt of a job; ``accepted`` and no longer held means that it is over."""

    attempt: int
    accepted: bool
    at: float


class Attempts:
    """All attempts by (job, attempt); ``spawn`` starts a task that outlives every stream."""

    def __init__(
        self,
        engine: Engine,
        status: WorkerStatus,
        metrics: Metrics,
        spawn: Spawn,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._status = status
        self._metrics = metrics
        self._spawn = spawn
        self._clock = clock
        self._held: dict[AttemptKey, Attempt] = {}
        self._ended_at: dict[AttemptKey, float] = {}
        self._seen: dict[str, _Seen] = {}
        self._changed = Bell()

    def held(self) -> list[AttemptKey]:
        """Attempts of which somebody still has to hear."""
        return [key for key, attempt in self._held.items() if not attempt.settled and not attempt.superseded]

    def recordings_in_use(self) -> set[str]:
        """Names of the audio files that runs read."""
        return {attempt.work.audio_path.name for attempt in self._held.values() if attempt.running}

    def find(self, key: AttemptKey) -> Attempt:
        """Raises ATTEMPT_STALE, ATTEMPT_UNKNOWN."""
        self._check_newest(key)
        attempt = self._held.get(key)
        if attempt is None:
            raise ServiceError(Reason.ATTEMPT_UNKNOWN, f"The worker does not hold attempt {key}.")
        return attempt

    def find_or_supersede(self, key: AttemptKey) -> Attempt | None:
        """The attempt when it is held; None for a new one, for which lower ones of its job are given up.

        Raises ATTEMPT_STALE.
        """
        self._check_newest(key)
        if key in self._held:
            return self._held[key]
        seen = self._seen.get(key.job_id)
        if seen is not None and seen.attempt == key.attempt and seen.accepted:
            raise ServiceError(Reason.ATTEMPT_STALE, f"Attempt {key} has ended, and its outcome was acknowledged.")
        self._seen[key.job_id] = _Seen(key.attempt, False, self._clock())
        for attempt in list(self._held.values()):
            if attempt.key.job_id == key.job_id:
                self._supersede(attempt)
        return None

    def accept(self, work: Work) -> Attempt:
        """Takes a slot and begins. Raises WORKER_DRAINING, WORKER_FULL."""
        self._status.reserve()
        attempt = self._held[work.key] = Attempt(work)
        self._seen[work.key.job_id] = _Seen(work.key.attempt, True, self._clock())
        # Begun here, not in the task: a cancel that comes before the task's first step must find it.
        self._spawn(f"attempt {work.key}", self._carry_out(attempt, self._engine.run(work)))
        return attempt

    def acknowledge(self, attempt: Attempt, through: int) -> None:
        attempt.acknowledge(through)
        self._forget_if_over(attempt)

    def cancel(self, attempt: Attempt) -> None:
        """The engine decides what comes of it; nothing to do where the outcome is known."""
        if attempt.outcome is None:
            attempt.log.info("remote_attempt_cancel_requested")
            self._engine.cancel(attempt.key)

    def detach(self, attempt: Attempt, stream: int) -> None:
        attempt.detach(stream)
        self._changed.ring()

    def hand_back_all(self, message: str) -> None:
        """Gives up what runs; who listens is told."""
        for attempt in list(self._held.values()):
            if attempt.outcome is None:
                self._engine.cancel(attempt.key)
                self._record(attempt, HandedBack(message))

    async def wait_acknowledged(self) -> None:
        """Until every outcome that somebody listens to is acknowledged."""
        while any(attempt.attached and not attempt.settled for attempt in self._held.values()):
            await self._changed.wait()

    def forget_old(self) -> None:
        """Outcomes that nobody came for in a day, and numbers of jobs that were not heard of for as long."""
        limit = self._clock() - KEPT_SECONDS
        for key, ended_at in list(self._ended_at.items()):
            if ended_at < limit:
                self._held[key].log.warning("remote_attempt_outcome_dropped", kept_seconds=KEPT_SECONDS)
                self._forget(key)
        jobs = {key.job_id for key in self._held}
        self._seen = {job: seen for job, seen in self._seen.items() if seen.at >= limit or job in jobs}

    async def _carry_out(self, attempt: Attempt, reports: AsyncIterator[Report]) -> None:
        try:
            async for report in reports:
                self._record(attempt, report)
        except Exception:  # the engine's boundary: its fault costs this attempt, not the worker
            attempt.log.exception("remote_attempt_broken")
        finally:
            attempt.running = False
            self._status.release()
        self._record(attempt, Failed(Reason.ENGINE_FAILED.value, "The engine ended without an outcome."))
        self._ended_at[attempt.key] = self._clock()
        self._forget_if_over(attempt)

    def _record(self, attempt: Attempt, report: Report | HandedBack) -> None:
        if attempt.outcome is not None:
            return
        attempt.record(report)
        self._metrics.events.inc()
        if isinstance(report, OUTCOMES):
            self._count_outcome(attempt, report)

    def _count_outcome(self, attempt: Attempt, outcome: object) -> None:
        name = {Completed: "completed", Failed: "failed", Canceled: "canceled", HandedBack: "handed_back"}[
            type(outcome)
        ]
        self._metrics.attempts.labels(name).inc()
        if isinstance(outcome, Completed):
            self._metrics.audio_seconds.inc(outcome.audio_seconds)
        details = {"reason": outcome.reason, "error": outcome.message} if isinstance(outcome, Failed) else {}
        attempt.log.info("remote_attempt_ended", outcome=name, events=attempt.last_event, **details)

    def _check_newest(self, key: AttemptKey) -> None:
        seen = self._seen.get(key.job_id)
        if seen is not None and key.attempt < seen.attempt:
            raise ServiceError(Reason.ATTEMPT_STALE, f"Attempt {seen.attempt} of job {key.job_id} was seen.")
        if seen is not None:
            self._seen[key.job_id] = replace(seen, at=self._clock())

    def _supersede(self, attempt: Attempt) -> None:
        attempt.log.info("remote_attempt_superseded")
        attempt.superseded = True
        self.cancel(attempt)
        attempt.changed.ring()
        self._forget_if_over(attempt)

    def _forget_if_over(self, attempt: Attempt) -> None:
        self._changed.ring()
        if not attempt.running and (attempt.settled or attempt.superseded):
            self._forget(attempt.key)

    def _forget(self, key: AttemptKey) -> None:
        self._held.pop(key, None)
        self._ended_at.pop(key, None)

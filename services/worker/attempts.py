"""The attempts that the worker holds, and their journal: what was accepted is not forgotten by a restart.

Invariant: a slot is taken from accepting to the end of the engine's run; an attempt is accepted only once the journal
holds it, and goes from the journal only once its outcome was acknowledged, or nobody came for it in a day.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import structlog

from services.contract.errors import Reason, ServiceError
from services.runtime.backoff import Backoff
from services.runtime.bell import Bell
from services.worker.attempt import OUTCOMES, Attempt, AttemptState, Event, HandedBack
from services.worker.engine.protocol import Engine
from services.worker.metrics import Metrics
from services.worker.status import WorkerStatus
from services.worker.work import AttemptKey, Canceled, Completed, Failed, Report, Work

log = structlog.get_logger()

KEPT_SECONDS = 24 * 3600.0
"""How long an outcome that nobody acknowledges is kept, and how long an attempt's number is remembered: time in which
the worker runs, so that a clock that is set does no harm."""

RESTARTED = "The worker was restarted; the job goes on from what was finished."

Spawn = Callable[[str, Coroutine[Any, Any, None]], object]


@dataclass(frozen=True, slots=True)
class KeptAttempt:
    """An attempt as the journal has it. ``over``: its number alone is remembered. ``waited_seconds``: since its last
    change, while a worker ran."""

    key: AttemptKey
    worker_job_id: str
    acknowledged: int
    events: tuple[Event, ...]
    over: bool
    waited_seconds: float


@dataclass(frozen=True, slots=True)
class Entry:
    """What is new of one attempt: further events, what was acknowledged, or that it is over and its events can go."""

    key: AttemptKey
    events: tuple[Event, ...]
    acknowledged: int
    over: bool


class JournalFullError(Exception):
    """Nothing was written: the disk has no room, or cannot be written now. ``reason``: STORAGE_FULL, STORAGE_FAILED."""

    def __init__(self, message: str, reason: Reason = Reason.STORAGE_FULL) -> None:
        self.reason = reason
        super().__init__(message)


class AttemptJournal(Protocol):
    """Everything that it was given is durable when its call returns."""

    async def load(self) -> Sequence[KeptAttempt]:
        """All of it, at the start."""

    async def accept(self, key: AttemptKey, worker_job_id: str) -> None:
        """A new attempt. Raises ServiceError: STORAGE_FULL where there is no room for what it may bring,
        STORAGE_FAILED where it cannot be written."""

    async def write(self, entries: Sequence[Entry]) -> None:
        """All or nothing; nothing of an attempt that it does not hold. Raises JournalFullError."""

    async def grow_older(self, seconds: float) -> None:
        """Every attempt has waited for so much longer since it was last written. Raises JournalFullError."""

    async def forget(self, keys: Sequence[AttemptKey]) -> None:
        """These, and lower ones of their jobs. Raises JournalFullError."""


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
        journal: AttemptJournal,
        spawn: Spawn,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._status = status
        self._metrics = metrics
        self._journal = journal
        self._spawn = spawn
        self._clock = clock
        self._held: dict[AttemptKey, Attempt] = {}
        self._ended_at: dict[AttemptKey, float] = {}
        self._seen: dict[str, _Seen] = {}
        self._changed = Bell()
        self._unwritten: dict[AttemptKey, Attempt] = {}
        self._to_write = Bell()
        self._writing = False
        self._aged_at = clock()

    async def restore(self) -> None:
        """Takes over what the process before this one left. No engine runs it any more: what has no outcome is
        handed back, so that it goes on from its last window."""
        for kept in await self._journal.load():
            at = self._clock() - kept.waited_seconds
            seen = self._seen.get(kept.key.job_id)
            if seen is None or seen.attempt < kept.key.attempt:
                self._seen[kept.key.job_id] = _Seen(kept.key.attempt, True, at)
            if not kept.over:
                self._restore(kept, at)
        if self._held:
            log.info("remote_attempts_restored", held=[str(key) for key in self._held])

    def _restore(self, kept: KeptAttempt, ended_at: float) -> None:
        attempt = self._held[kept.key] = Attempt(kept.key, worker_job_id=kept.worker_job_id)
        attempt.restore(kept.acknowledged, kept.events)
        self._ended_at[kept.key] = ended_at
        if attempt.outcome is None:
            self._record(attempt, HandedBack(RESTARTED))

    # --- what is held

    def held(self) -> list[AttemptKey]:
        """Attempts of which somebody still has to hear."""
        return [key for key, attempt in self._held.items() if not attempt.over]

    def unattended(self) -> list[AttemptKey]:
        """Those of them that nobody listens to."""
        return [key for key in self.held() if not self._held[key].attached]

    def recordings_in_use(self) -> set[str]:
        """Names of the audio files that runs read."""
        return {attempt.audio_name for attempt in self._held.values() if attempt.running}

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

    # --- an attempt's way

    def accept(self, work: Work) -> Attempt:
        """Takes a slot and begins; `Attempt.decided` tells when it is durable. Raises WORKER_DRAINING, WORKER_FULL."""
        self._status.reserve()
        attempt = self._held[work.key] = Attempt(work.key, work.audio_path.name)
        attempt.running = True
        self._seen[work.key.job_id] = _Seen(work.key.attempt, True, self._clock())
        self._spawn(f"attempt {work.key}", self._carry_out(attempt, work))
        return attempt

    def foresee(self, audio_path: Path) -> None:
        """Somebody asked for this recording, and will likely dispatch a job with it."""
        if audio_path.name not in self.recordings_in_use():
            self._engine.foresee(audio_path)

    def acknowledge(self, attempt: Attempt, through: int) -> None:
        attempt.acknowledge(through)
        self._must_write(attempt)
        self._forget_if_over(attempt)

    def cancel(self, attempt: Attempt) -> None:
        """The engine decides what comes of it; nothing to do where the outcome is known."""
        if attempt.outcome is None:
            attempt.log.info("remote_attempt_cancel_requested")
            self._stop(attempt)

    def detach(self, attempt: Attempt, stream: int) -> None:
        attempt.detach(stream)
        self._changed.ring()

    async def _carry_out(self, attempt: Attempt, work: Work) -> None:
        try:
            if await self._make_durable(attempt):
                options = work.options
                attempt.log.info("remote_attempt_accepted", model=options.model, diarization=options.diarization)
                await self._run(attempt, work)
        finally:
            attempt.running = False
            self._status.release()
        if attempt.state is AttemptState.RUNNING:
            self._record(attempt, Failed(Reason.ENGINE_FAILED.value, "The engine ended without an outcome."))
        self._ended_at[attempt.key] = self._clock()
        self._forget_if_over(attempt)

    async def _make_durable(self, attempt: Attempt) -> bool:
        """Whether it is accepted."""
        try:
            await self._journal.accept(attempt.key, attempt.worker_job_id)
        except ServiceError as refusal:
            attempt.refusal = refusal
        if attempt.state is AttemptState.SUPERSEDED:
            self._must_write(attempt)
            return False
        if attempt.refusal is not None:
            self._seen[attempt.key.job_id] = _Seen(attempt.key.attempt, False, self._clock())
            attempt.move(AttemptState.REFUSED)
            return False
        attempt.move(AttemptState.RUNNING)
        return True

    async def _run(self, attempt: Attempt, work: Work) -> None:
        if attempt.stop_asked:  # before there was anything to stop
            self._record(attempt, self._stopped(attempt))
            return
        try:
            async for report in self._engine.run(work):
                self._record(attempt, self._stopped(attempt) if isinstance(report, Canceled) else report)
        except Exception:  # the engine's boundary: its fault costs this attempt, not the worker
            attempt.log.exception("remote_attempt_broken")

    def _stop(self, attempt: Attempt) -> None:
        attempt.stop_asked = True
        if attempt.running:
            self._engine.cancel(attempt.key)

    @staticmethod
    def _stopped(attempt: Attempt) -> Canceled | HandedBack:
        return HandedBack(attempt.giving_back) if attempt.giving_back else Canceled()

    def _record(self, attempt: Attempt, report: Report | HandedBack) -> None:
        if not attempt.record(report):
            return
        self._must_write(attempt)
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

    # --- the journal

    async def write(self) -> None:
        """Brings what happens to the journal, for ever: all that is new in one step. What finds no room waits; it is
        in memory meanwhile, and nobody is told of it."""
        backoff = Backoff(0.25, 5.0)
        while True:
            while not self._unwritten:
                await self._to_write.wait()
            attempts, self._unwritten = list(self._unwritten.values()), {}
            try:
                await self._write(attempts)
            except JournalFullError as error:
                self._unwritten = {attempt.key: attempt for attempt in attempts} | self._unwritten
                log.warning("remote_journal_full", attempts=len(attempts), error=str(error))
                await asyncio.sleep(backoff.failed())
            else:
                backoff.succeeded()

    async def _write(self, attempts: Sequence[Attempt]) -> None:
        entries = [Entry(a.key, a.unwritten(), a.acknowledged, a.over) for a in attempts]
        self._writing = True
        try:
            await self._journal.write(entries)
        finally:
            self._writing = False
        for attempt, entry in zip(attempts, entries, strict=True):
            attempt.written(entry.events[-1].number if entry.events else 0)
        self._changed.ring()

    def _must_write(self, attempt: Attempt) -> None:
        self._unwritten[attempt.key] = attempt
        self._to_write.ring()

    # --- ends

    def stop_all(self, message: str) -> None:
        """Has what runs stop after the windows that are being decoded, and hands it back."""
        for attempt in self._held.values():
            if attempt.running and attempt.outcome is None:
                attempt.giving_back = attempt.giving_back or message
                self._stop(attempt)

    def hand_back_all(self, message: str) -> None:
        """Gives up at once what still runs."""
        self.stop_all(message)
        for attempt in self._held.values():
            self._record(attempt, HandedBack(message))

    async def wait_stopped(self) -> None:
        """Until nothing runs."""
        while any(attempt.running for attempt in self._held.values()):
            await self._changed.wait()

    async def wait_acknowledged(self) -> None:
        """Until all is written, and every outcome that somebody listens to is acknowledged."""
        while (
            self._unwritten
            or self._writing
            or any(attempt.attached and not attempt.over for attempt in self._held.values())
        ):
            await self._changed.wait()

    async def forget_old(self) -> None:
        """Outcomes that nobody came for in a day, and numbers of jobs that were not heard of for as long.

        Raises JournalFullError; the next call makes up for it.
        """
        now = self._clock()
        await self._journal.grow_older(now - self._aged_at)
        self._aged_at = now
        limit = now - KEPT_SECONDS
        old = {key for key, ended_at in self._ended_at.items() if ended_at < limit}
        jobs = {key.job_id for key in self._held if key not in old}
        gone = {job: seen for job, seen in self._seen.items() if seen.at < limit and job not in jobs}
        # The journal first: what it cannot forget now must be known the next time.
        await self._journal.forget([*old, *(AttemptKey(job, seen.attempt) for job, seen in gone.items())])
        for attempt in [self._held[key] for key in old if key in self._held]:
            attempt.log.warning("remote_attempt_outcome_dropped", kept_seconds=KEPT_SECONDS)
            self._forget(attempt.key)
            self._unwritten.pop(attempt.key, None)
        # A job that was heard of meanwhile stays.
        self._seen = {job: seen for job, seen in self._seen.items() if gone.get(job) != seen}

    def _check_newest(self, key: AttemptKey) -> None:
        seen = self._seen.get(key.job_id)
        if seen is not None and key.attempt < seen.attempt:
            raise ServiceError(Reason.ATTEMPT_STALE, f"Attempt {seen.attempt} of job {key.job_id} was seen.")
        if seen is not None:
            self._seen[key.job_id] = replace(seen, at=self._clock())

    def _supersede(self, attempt: Attempt) -> None:
        attempt.log.info("remote_attempt_superseded")
        if not attempt.over:
            attempt.move(AttemptState.SUPERSEDED)
        self._must_write(attempt)
        self._stop(attempt)
        self._forget_if_over(attempt)

    def _forget_if_over(self, attempt: Attempt) -> None:
        self._changed.ring()
        if not attempt.running and attempt.over:
            self._forget(attempt.key)

    def _forget(self, key: AttemptKey) -> None:
        self._held.pop(key, None)
        self._ended_at.pop(key, None)

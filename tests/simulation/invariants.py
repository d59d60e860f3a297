"""What must hold after every durable step, and when everything is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bulkscribe.worker.v1 import worker_pb2

from services.contract.errors import Reason
from services.controller.attempt import CRASHES_ALLOWED
from services.controller.dispatch import DispatchSettings
from services.controller.jobs import AttemptState, Job, JobError, JobId, JobState, JobUpdate
from services.controller.scheduling import Demand, Offer, ReadyQueue
from services.worker.work import AttemptKey
from tests.fakes.store import Row, Tables
from tests.simulation import engine
from tests.simulation.journal import Kept, Pages

Fail = Callable[[str, str], None]
"""Takes the invariant's name and what was seen."""


CANCEL_SECONDS = 1.0
"""After so long a cancel was heard; a window that is being decoded may still be told."""


class Rules:
    """One controller's; told of every commit."""

    def __init__(self, fail: Fail, note: Callable[..., None], settings: DispatchSettings) -> None:
        self._fail = fail
        self._note = note
        self._settings = settings
        self.submitted: dict[JobId, None] = {}
        """Acknowledged to their clients."""
        self.canceled: dict[JobId, float] = {}
        """Whose cancel was acknowledged, and when."""
        self.wanted_canceled: dict[JobId, None] = {}
        """Whose cancel was asked for."""
        self._decoded_canceled: Counter[str] = Counter()

    def created(self, tables: Tables, jobs: Sequence[Job]) -> None:
        self._note("created", [job.id for job in jobs])

    def saving(self, tables: Tables, update: JobUpdate) -> Callable[[], None]:
        """Looks at a step before it is written; what is returned judges it once it is."""
        row = tables.jobs.get(update.job.id)
        if row is None:
            return lambda: self._fail("job lost", f"{update.job.id} is saved and does not exist")
        old, windows, segments = row.job, frozenset(row.windows), len(row.segments)

        def check() -> None:
            new = row.job
            self._note("saved", new.id, new.version, new.state.value, new.attempt, new.worker_event, new.last_event)
            self._check_states(old, new)
            self._check_attempt(old, new, update)
            self._check_numbers(old, new, update, 0 if update.forget_finished_work else segments)
            if not update.forget_finished_work and not windows.isdisjoint(update.finished_windows):
                self._fail("window once", f"{new.id}: windows {update.finished_windows} of {sorted(windows)}")

        return check

    def dispatching(self, tables: Tables, job: Job, attempt: int, url: str) -> Callable[[], None]:
        """Looks before it is written; what is returned judges it once it is."""
        row = tables.jobs[job.id]
        highest, known = max(row.attempts, default=0), row.attempts.get(attempt)

        def check() -> None:
            self._note("dispatching", job.id, attempt, url)
            if attempt < highest or attempt <= row.job.attempt:
                self._fail("attempts grow", f"{job.id}: {attempt} after {highest} (job {row.job.attempt})")
            if known is not None and known.worker_url != url and known.state is not AttemptState.REFUSED:
                self._fail("attempt at one worker", f"{job.id}/{attempt} asked of {known.worker_url}, then of {url}")

        return check

    def decoding(self, tables: Tables, key: AttemptKey, piece: int, fingerprint: str) -> None:
        """The newest attempt leaves out what is durable."""
        row = tables.jobs[JobId(key.job_id)]
        same = row.plan is not None and row.plan.fingerprint == fingerprint
        if same and key.attempt == max(row.attempts) and piece in row.windows | _chunks(row):
            self._fail("durable once", f"{key} does piece {piece}, of which the outcome is durable")

    def decoding_canceled(self, key: AttemptKey, now: float) -> None:
        """On a network without trouble the worker hears of a cancel."""
        canceled_at = self.canceled.get(JobId(key.job_id))
        if canceled_at is not None and now > canceled_at + CANCEL_SECONDS:
            self._decoded_canceled[key.job_id] += 1
            if self._decoded_canceled[key.job_id] > 1:
                self._fail("cancel heard", f"{key} decodes {now - canceled_at:.1f} s after its cancel")

    def _check_states(self, old: Job, new: Job) -> None:
        if old.state.ended:
            self._fail("one end", f"{new.id}: {old.state.value}, then {new.state.value}")

    def _check_attempt(self, old: Job, new: Job, update: JobUpdate) -> None:
        starting = old.state is not JobState.RUNNING and new.state is JobState.RUNNING
        if new.attempt < old.attempt or (starting and new.attempt <= old.attempt):
            self._fail("attempts grow", f"{new.id}: {old.attempt}, then {new.attempt}")
        told = (
            update.segments
            or update.finished_windows
            or update.plan
            or update.speaker_chunks
            or update.decoded_windows
            or update.turns is not None
        )
        completes = new.state is JobState.COMPLETE
        if (told or completes) and (old.state is not JobState.RUNNING or new.attempt != old.attempt):
            self._fail("stale attempt", f"{new.id}: attempt {new.attempt} writes; {old.attempt} is {old.state.value}")
        if (told or completes) and new.worker_event <= old.worker_event:
            self._fail("event once", f"{new.id}: worker event {new.worker_event} after {old.worker_event}")

    def _check_numbers(self, old: Job, new: Job, update: JobUpdate, segments: int) -> None:
        numbers = sorted([change.number for change in update.changes] + [final.number for final in update.segments])
        if numbers != list(range(old.last_event + 1, new.last_event + 1)):
            self._fail("events gapless", f"{new.id}: {numbers} after {old.last_event}, up to {new.last_event}")
        ordinals = [final.ordinal for final in update.segments]
        if ordinals != list(range(segments, segments + len(ordinals))) or new.segment_count != segments + len(ordinals):
            self._fail("segments gapless", f"{new.id}: {ordinals} after {segments}, {new.segment_count} told")

    # --- at the end

    def check_end(self, tables: Tables) -> None:
        for job_id in self.submitted:
            if job_id not in tables.jobs:
                self._fail("submission lost", f"{job_id} was acknowledged and is not there")
        for job_id in self.canceled:
            if tables.jobs[job_id].job.state is not JobState.CANCELED:
                self._fail("cancel kept", f"{job_id} was canceled and is {tables.jobs[job_id].job.state.value}")
        requests = Counter(row.request_id for row in tables.jobs.values())
        if requests and max(requests.values()) > 1:
            self._fail("submitted once", f"jobs by request: {requests}")
        for row in tables.jobs.values():
            self._check_ended(row)

    def _check_ended(self, row: Row) -> None:
        job = row.job
        if job.seconds_left is not None:
            self._fail("no time left", f"{job.id} is {job.state.value} and has {job.seconds_left} s left")
        if job.state is JobState.COMPLETE:
            self._check_transcript(row)
        elif job.state is JobState.CANCELED:
            if job.id not in self.wanted_canceled:
                self._fail("cancel asked", f"{job.id} is canceled and nobody asked")
        elif job.state is JobState.FAILED:
            if not self._may_have_failed(row):
                self._fail("failed for a reason", f"{job.id}: {_said(job.error)}, {list(row.attempts.values())}")
        else:
            self._fail("all end", f"{job.id} is {job.state.value} ({job.stage}, attempt {job.attempt})")
        numbers = sorted([*row.changes, *row.segments])
        if row.plan is not None and numbers != list(range(1, job.last_event + 1)) and not self.forgot(row):
            self._fail("events gapless", f"{job.id}: {numbers}")

    def _may_have_failed(self, row: Row) -> bool:
        """By the engine's third death, or a limit on time that is over."""
        job = row.job
        assert job.error is not None
        assert job.finished_at is not None
        if job.error.code == Reason.REMOTE_WORKER_CAPACITY.value:
            return (job.finished_at - job.created_at).total_seconds() >= self._settings.capacity_seconds
        if job.error.code == Reason.REMOTE_WORKER_TIMEOUT.value and job.started_at is not None:
            return (job.finished_at - job.started_at).total_seconds() >= self._settings.run_seconds
        crashes = sum(asked.state is AttemptState.CRASHED for asked in row.attempts.values())
        return job.error.code == Reason.REMOTE_FAILED.value and crashes >= CRASHES_ALLOWED - 1

    @staticmethod
    def forgot(row: Row) -> bool:
        """Whether segments were told and dropped for another plan's."""
        return len(row.changes) + len(row.segments) < row.job.last_event

    def _check_transcript(self, row: Row) -> None:
        if row.plan is None:
            self._fail("exact transcript", f"{row.job.id} is complete, and its plan never came")
            return
        revision = row.plan.fingerprint.rpartition(" ")[2]
        wanted = engine.transcript(row.job.recording.sha256, revision)
        found = [_content(row.segments[number].segment) for number in sorted(row.segments)]
        if found != [_content(segment) for segment in wanted]:
            self._fail("exact transcript", f"{row.job.id}: {found} instead of {wanted}")
        quiet = [(stretch.start, stretch.end) for stretch in row.job.silent_stretches]
        if quiet != engine.silent_stretches(row.job.recording.sha256, revision):
            self._fail("silence kept", f"{row.job.id}: {quiet}")


class Told:
    """What a worker says on one stream is in its journal: it must know it after a crash."""

    def __init__(self, fail: Fail, pages: Pages) -> None:
        self._fail = fail
        self._pages = pages
        self._kept: dict[object, Kept] = {}

    def said(self, stream: object, message: worker_pb2.RunResponse) -> None:
        if message.WhichOneof("answer") == "accepted":
            name = message.accepted.worker_job_id
            kept = next((kept for kept in self._pages.attempts.values() if kept.worker_job_id == name), None)
            if kept is None:
                self._fail("told what is kept", f"{name} is accepted and not in the journal")
            else:
                self._kept[stream] = kept
        elif (kept := self._kept.get(stream)) is not None:
            number = message.event.number
            if not kept.over and number > kept.acknowledged and number not in kept.events:
                self._fail("told what is kept", f"event {number} of {kept.worker_job_id} is not in the journal")


class WatchedQueue(ReadyQueue):
    """Jobs that want the same leave in the order in which they came, however often they come back."""

    fail: Fail

    def __init__(self) -> None:
        super().__init__()
        self._line: dict[JobId, Demand | None] = {}

    def arrive(self, job_id: JobId) -> None:
        self._line.setdefault(job_id, None)
        super().arrive(job_id)

    def push(self, job_id: JobId, demand: Demand) -> None:
        self._line.setdefault(job_id, None)
        self._line[job_id] = demand
        super().push(job_id, demand)

    def push_back(self, job_id: JobId, demand: Demand) -> None:
        if job_id not in self:
            self._line.pop(job_id, None)
        super().push_back(job_id, demand)

    def forget(self, job_id: JobId) -> None:
        self._line.pop(job_id, None)
        super().forget(job_id)

    def take(self, offers: Iterable[Offer]) -> tuple[JobId, str] | None:
        taken = super().take(offers)
        if taken is not None:
            self._check(taken[0])
        return taken

    def _check(self, job_id: JobId) -> None:
        for other, demand in self._line.items():
            if other == job_id:
                return
            if other in self and demand == self._line[job_id]:
                WatchedQueue.fail("in order", f"{job_id} leaves before {other}")


class Decodes:
    """Pieces (`engine.piece_of`) that were done more than once, and what explains it."""

    def __init__(self, fail: Fail) -> None:
        self._fail = fail
        self._first: dict[tuple[str, str, int], Any] = {}
        self.twice: Counter[str] = Counter()

    def note(self, job_id: str, revision: str, piece: int, life: Any, explain: Callable[[str, int, Any], str]) -> None:
        """``life``: who does it; ``explain`` names what happened to whoever did it before."""
        key = (job_id, revision, piece)
        before = self._first.get(key)
        self._first[key] = life
        if before is None:
            return
        reason = explain(job_id, piece, before)
        self.twice[reason or "unexplained"] += 1
        if not reason:
            self._fail("decoded once", f"piece {piece} of {job_id} again, though nothing happened")


def _chunks(row: Row) -> set[int]:
    """Those of which the speakers are known."""
    known = range(engine.SPEAKER_CHUNKS) if row.turns is not None else row.speaker_chunks
    return {engine.FIRST_CHUNK - index for index in known}


def _content(segment: Any) -> tuple[float, float, str, str]:
    """The controller's and the worker's are two types."""
    return segment.start, segment.end, segment.text, segment.speaker


def _said(error: JobError | None) -> str:
    return f"{error.code}: {error.message}" if error is not None else "no error"

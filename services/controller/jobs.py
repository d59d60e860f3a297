"""What a job is and how it may change: one frozen value, its verbs, and the one table of transitions.

Pure: no I/O, no clock, no protobuf. Every verb goes through `Job._to`, which consults TRANSITIONS; a store only
compares and sets. Times are aware UTC datetimes; durations are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import NewType

JobId = NewType("JobId", str)
UploadId = NewType("UploadId", str)
Owner = NewType("Owner", str)


class JobState(Enum):
    QUEUED = "queued"
    QUEUED_REMOTE = "queued_remote"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def ended(self) -> bool:
        return self in ENDED


ENDED = frozenset({JobState.COMPLETE, JobState.FAILED, JobState.CANCELED})
WAITING = frozenset({JobState.QUEUED, JobState.QUEUED_REMOTE})


class ExecutionMode(Enum):
    LOCAL = "local"
    REMOTE = "remote"


class Verb(Enum):
    AWAIT_REMOTE = "await_remote"
    START = "start"
    REQUEUE = "requeue"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"


TRANSITIONS: dict[tuple[JobState, Verb], frozenset[JobState]] = {
    (JobState.QUEUED, Verb.AWAIT_REMOTE): frozenset({JobState.QUEUED_REMOTE}),
    (JobState.QUEUED, Verb.START): frozenset({JobState.RUNNING}),
    (JobState.QUEUED_REMOTE, Verb.START): frozenset({JobState.RUNNING}),
    (JobState.RUNNING, Verb.REQUEUE): frozenset({JobState.QUEUED, JobState.QUEUED_REMOTE}),
    (JobState.RUNNING, Verb.COMPLETE): frozenset({JobState.COMPLETE}),
    (JobState.QUEUED, Verb.FAIL): frozenset({JobState.FAILED}),
    (JobState.QUEUED_REMOTE, Verb.FAIL): frozenset({JobState.FAILED}),
    (JobState.RUNNING, Verb.FAIL): frozenset({JobState.FAILED}),
    (JobState.QUEUED, Verb.CANCEL): frozenset({JobState.CANCELED}),
    (JobState.QUEUED_REMOTE, Verb.CANCEL): frozenset({JobState.CANCELED}),
    (JobState.RUNNING, Verb.CANCEL): frozenset({JobState.CANCELED}),
}


class AttemptState(Enum):
    """What is durably known of an attempt; the value is what stores keep."""

    ASKED = "asked"  # a worker is being asked, or runs it
    REFUSED = "refused"  # it never began: its number may be asked for again
    ENDED = "ended"  # the job ended with it, or went on without it
    LOST = "lost"  # the job waits for its next attempt
    CRASHED = "crashed"  # so it does, but not for ever


ATTEMPT_TRANSITIONS: dict[AttemptState | None, frozenset[AttemptState]] = {
    None: frozenset({AttemptState.ASKED}),
    AttemptState.ASKED: frozenset(AttemptState),
    AttemptState.REFUSED: frozenset({AttemptState.ASKED}),
    AttemptState.ENDED: frozenset(),
    AttemptState.LOST: frozenset(),
    AttemptState.CRASHED: frozenset(),
}
"""From None: an attempt of which nothing was written. What has ended stays as it is."""


def states_before(state: AttemptState) -> frozenset[AttemptState]:
    """Those that may become ``state``."""
    return frozenset(known for known in AttemptState if state in ATTEMPT_TRANSITIONS[known])


class TransitionError(Exception):
    """The job's state does not allow the verb; nothing was changed."""

    def __init__(self, job: Job, verb: Verb) -> None:
        super().__init__(f"job {job.id} is {job.state.value}: cannot {verb.value}")
        self.state = job.state


@dataclass(frozen=True, slots=True)
class Options:
    """How a recording is to be transcribed; empty and None leave it to the worker."""

    model: str = ""
    language: str = ""
    use_remote_worker: bool = False
    diarization: bool = False
    diarization_max_duration_seconds: float | None = None
    diarization_fast_switching: bool = False
    speaker_per_channel: bool = False
    min_speakers: int | None = None
    max_speakers: int | None = None
    word_timestamps: bool = False
    initial_prompt: str = ""
    hotwords: str = ""
    vad: bool = True

    @property
    def diarizes_voices(self) -> bool:
        """Whether it cannot be done without a diarization model. By channel it may be."""
        return self.diarization and not self.speaker_per_channel


@dataclass(frozen=True, slots=True)
class Recording:
    """An upload that is complete: its content by digest, and what probing found."""

    upload_id: UploadId
    filename: str
    sha256: str
    size_bytes: int
    duration_seconds: float


@dataclass(frozen=True, slots=True)
class Word:
    text: str
    start: float
    end: float
    probability: float
    speaker: str = ""


@dataclass(frozen=True, slots=True)
class Segment:
    start: float
    end: float
    text: str
    speaker: str = ""
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a recording, in seconds from its beginning."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A worker's window plan; ``payload`` is the worker's own message, handed back to the next attempt as it is."""

    fingerprint: str
    language: str
    duration_seconds: float
    payload: bytes


@dataclass(frozen=True, slots=True)
class WorkerRef:
    """Who runs, or ran, the current attempt."""

    url: str
    worker_job_id: str = ""
    gpu: bool = False
    last_seen_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class JobError:
    """``code`` is a Reason's value; the message says what to do."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Job:
    """``version`` grows with every durable change and is what stores compare; ``last_event`` numbers what watchers
    see; ``worker_event`` is the last event of the current attempt that is durable.

    ``seconds_left`` is the worker's newest estimate, None while it has none. ``silent_stretches`` are the finished windows
    in which voice was heard that gave no words, in the order of time; with the windows they outlive their attempt."""

    id: JobId
    owner: Owner
    recording: Recording
    options: Options
    mode: ExecutionMode
    created_at: datetime
    state: JobState = JobState.QUEUED
    stage: str = "waiting"
    percent: float = 0.0
    message: str = ""
    attempt: int = 0
    worker: WorkerRef | None = None
    error: JobError | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    language: str = ""
    wait_mark: float = 0.0
    run_seconds: float = 0.0
    segment_count: int = 0
    last_event: int = 0
    worker_event: int = 0
    version: int = 0
    seconds_left: float | None = None
    silent_stretches: tuple[Stretch, ...] = ()

    def await_remote(self) -> Job:
        return self._to(Verb.AWAIT_REMOTE, JobState.QUEUED_REMOTE)

    def start(self, now: datetime, attempt: int, worker: WorkerRef) -> Job:
        """A worker accepted the attempt."""
        started = self._to(Verb.START, JobState.RUNNING)
        return replace(
            started,
            attempt=attempt,
            worker=worker,
            worker_event=0,
            started_at=self.started_at or now,
            stage="preparing",
            message="",
            error=None,
        )

    def requeue(self, message: str, wait_mark: float) -> Job:
        """Its worker lost it: the job waits for another attempt."""
        state = JobState.QUEUED if self.mode is ExecutionMode.LOCAL else JobState.QUEUED_REMOTE
        waiting = self._to(Verb.REQUEUE, state)
        return replace(waiting, worker=None, stage="waiting", message=message, worker_event=0, wait_mark=wait_mark)

    def complete(self, now: datetime, note: str = "") -> Job:
        """``note``: what people should know of the transcript."""
        ended = self._to(Verb.COMPLETE, JobState.COMPLETE)
        return replace(ended, finished_at=now, stage="done", percent=100.0, message=note, error=None)

    def fail(self, now: datetime, error: JobError) -> Job:
        return replace(self._to(Verb.FAIL, JobState.FAILED), finished_at=now, message="", error=error)

    def cancel(self, now: datetime, error: JobError) -> Job:
        return replace(self._to(Verb.CANCEL, JobState.CANCELED), finished_at=now, message="", error=error)

    def _to(self, verb: Verb, state: JobState) -> Job:
        if state not in TRANSITIONS.get((self.state, verb), ()):
            raise TransitionError(self, verb)
        return replace(self, state=state, seconds_left=None)  # an estimate is of one attempt, while it runs


@dataclass(frozen=True, slots=True)
class Change:
    """What watchers are told when a job moves; ``number`` is unique and growing within the job."""

    number: int
    occurred_at: datetime
    state: JobState
    stage: str
    percent: float
    message: str
    attempt: int
    error: JobError | None
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class FinalSegment:
    """A segment of the transcript; ``ordinal`` counts from 0, ``number`` is in one sequence with the changes."""

    number: int
    ordinal: int
    segment: Segment


@dataclass(frozen=True, slots=True)
class JobUpdate:
    """One durable step of a job: all of it or nothing. ``attempt_ended``: what became of its attempt ``job.attempt``.
    ``speaker_chunks``: by their numbers, of use until there are ``turns``; ``decoded_windows`` by theirs, until each is finished."""

    job: Job
    changes: tuple[Change, ...] = ()
    segments: tuple[FinalSegment, ...] = ()
    finished_windows: tuple[int, ...] = ()
    plan: Plan | None = None
    speaker_chunks: tuple[tuple[int, bytes], ...] = ()
    decoded_windows: tuple[tuple[int, bytes], ...] = ()
    turns: bytes | None = None
    forget_finished_work: bool = False
    attempt_ended: AttemptState | None = None

    @property
    def events(self) -> list[Change | FinalSegment]:
        """What watchers are told, in the order of its numbers."""
        return sorted((*self.changes, *self.segments), key=lambda event: event.number)

    def then(self, later: JobUpdate) -> JobUpdate:
        """Both as one step; ``later`` was made from this one's job, and forgets nothing that this one adds."""
        return JobUpdate(
            later.job,
            self.changes + later.changes,
            self.segments + later.segments,
            self.finished_windows + later.finished_windows,
            later.plan or self.plan,
            self.speaker_chunks + later.speaker_chunks,
            self.decoded_windows + later.decoded_windows,
            later.turns if later.turns is not None else self.turns,
            self.forget_finished_work or later.forget_finished_work,
            later.attempt_ended or self.attempt_ended,
        )


@dataclass(frozen=True, slots=True)
class FinishedWork:
    """What earlier attempts of a job made durable."""

    plan: Plan | None = None
    windows: frozenset[int] = field(default_factory=frozenset)
    turns: bytes | None = None
    speaker_chunks: tuple[bytes, ...] = ()
    decoded_windows: tuple[bytes, ...] = ()


def changed(job: Job, now: datetime) -> JobUpdate:
    """The job with one more event that tells its watchers how it stands."""
    told = replace(job, last_event=job.last_event + 1)
    change = Change(
        told.last_event,
        now,
        job.state,
        job.stage,
        job.percent,
        job.message,
        job.attempt,
        job.error,
        job.seconds_left,
    )
    return JobUpdate(told, (change,))


def created(job: Job, now: datetime) -> JobUpdate:
    """A new job as its watchers first see it: waiting, and where a remote worker is to run it, waiting for that."""
    told = changed(job, now)
    if job.mode is ExecutionMode.LOCAL:
        return told
    waiting = changed(told.job.await_remote(), now)
    return JobUpdate(waiting.job, told.changes + waiting.changes)


def with_segments(job: Job, window: int, segments: tuple[Segment, ...], silent: Stretch | None = None) -> JobUpdate:
    """The job with a finished window; each segment is an event of its own. ``silent`` is where the window lies, when
    voice was heard in it that gave no words."""
    final = tuple(
        FinalSegment(job.last_event + 1 + index, job.segment_count + index, segment)
        for index, segment in enumerate(segments)
    )
    told = replace(
        job,
        last_event=job.last_event + len(final),
        segment_count=job.segment_count + len(final),
        silent_stretches=job.silent_stretches if silent is None else (*job.silent_stretches, silent),
    )
    return JobUpdate(told, segments=final, finished_windows=(window,))

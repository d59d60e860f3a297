"""Protobuf messages to the controller's values and back; the only place that knows both."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate

from bulkscribe.jobs.v1 import jobs_pb2, uploads_pb2
from bulkscribe.worker.v1 import worker_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.controller.jobs import (
    Change,
    ExecutionMode,
    FinalSegment,
    FinishedWork,
    Job,
    JobId,
    JobState,
    Options,
    Plan,
    Segment,
    Stretch,
    Word,
)
from services.controller.store.protocol import Upload
from services.controller.workers import WorkerStatus

STATES = {state: getattr(jobs_pb2, f"JOB_STATUS_{state.name}") for state in JobState}
STATES_BACK = {number: state for state, number in STATES.items()}
MODES = {mode: getattr(jobs_pb2, f"EXECUTION_MODE_{mode.name}") for mode in ExecutionMode}


DECODED_BYTES = 8 * 1024 * 1024
"""Of decoded windows, sent with a dispatch: a message may have twice as much. What is left out is decoded again."""


def duration(seconds: float) -> Duration:
    message = Duration()
    message.FromMicroseconds(round(seconds * 1e6))
    return message


def seconds(message: Duration) -> float:
    return message.ToMicroseconds() / 1e6


def timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


# --- clients: jobs


def options_of(message: jobs_pb2.JobOptions) -> Options:
    return Options(
        model=message.model,
        language=message.language,
        use_remote_worker=message.use_remote_worker,
        diarization=message.diarization_enabled,
        diarization_max_duration_seconds=(
            seconds(message.diarization_max_duration) if message.HasField("diarization_max_duration") else None
        ),
        diarization_fast_switching=message.diarization_fast_switching,
        speaker_per_channel=message.speaker_per_channel,
        min_speakers=message.min_speakers if message.HasField("min_speakers") else None,
        max_speakers=message.max_speakers if message.HasField("max_speakers") else None,
        word_timestamps=message.word_timestamps,
        initial_prompt=message.initial_prompt,
        hotwords=message.hotwords,
        vad=not message.vad_disabled,
    )


def options_message(options: Options) -> jobs_pb2.JobOptions:
    longest = options.diarization_max_duration_seconds
    return jobs_pb2.JobOptions(
        model=options.model,
        language=options.language,
        use_remote_worker=options.use_remote_worker,
        diarization_enabled=options.diarization,
        diarization_max_duration=duration(longest) if longest is not None else None,
        diarization_fast_switching=options.diarization_fast_switching,
        speaker_per_channel=options.speaker_per_channel,
        min_speakers=options.min_speakers,
        max_speakers=options.max_speakers,
        word_timestamps=options.word_timestamps,
        initial_prompt=options.initial_prompt,
        hotwords=options.hotwords,
        vad_disabled=not options.vad,
    )


def job_message(job: Job) -> jobs_pb2.Job:
    worker = job.worker
    return jobs_pb2.Job(
        job_id=job.id,
        upload_id=job.recording.upload_id,
        filename=job.recording.filename,
        status=STATES[job.state],
        execution_mode=MODES[job.mode],
        progress=progress_message(job),
        message=job.message,
        worker=jobs_pb2.JobWorker(
            worker_job_id=worker.worker_job_id,
            url=worker.url,
            last_seen_at=timestamp(worker.last_seen_at),
            gpu=worker.gpu,
        )
        if worker
        else None,
        attempt=job.attempt,
        created_at=timestamp(job.created_at),
        started_at=timestamp(job.started_at),
        finished_at=timestamp(job.finished_at),
        options=options_message(job.options),
        last_error_code=job.error.code if job.error else "",
        last_error_message=job.error.message if job.error else "",
        audio_duration=duration(job.recording.duration_seconds),
        size_bytes=job.recording.size_bytes,
        last_event=job.last_event,
        silent_stretches=stretch_messages(job),
    )


def progress_message(job: Job | Change) -> jobs_pb2.JobProgress:
    """How far the job is, or was at the change."""
    remaining = duration(job.seconds_left) if job.seconds_left is not None else None
    return jobs_pb2.JobProgress(stage=job.stage, percent=job.percent, remaining=remaining)


def stretch_messages(job: Job) -> list[jobs_pb2.Stretch]:
    """Where voice was heard that gave no words."""
    return [
        jobs_pb2.Stretch(start=duration(stretch.start), end=duration(stretch.end)) for stretch in job.silent_stretches
    ]


def segment_message(final: FinalSegment) -> jobs_pb2.TranscriptSegment:
    segment = final.segment
    return jobs_pb2.TranscriptSegment(
        id=final.ordinal,
        start=duration(segment.start),
        end=duration(segment.end),
        text=segment.text,
        speaker=segment.speaker,
        words=[
            jobs_pb2.TranscriptWord(
                text=word.text,
                start=duration(word.start),
                end=duration(word.end),
                probability=word.probability,
                speaker=word.speaker,
            )
            for word in segment.words
        ],
    )


def turn_messages(finished: FinishedWork) -> list[jobs_pb2.SpeakerTurn]:
    """The worker's speaker turns, for clients; none without diarization."""
    turns = worker_pb2.SpeakerTurns.FromString(finished.turns or b"").turns
    return [jobs_pb2.SpeakerTurn(start=turn.start, end=turn.end, speaker=turn.speaker) for turn in turns]


def event_message(event: Change | FinalSegment) -> jobs_pb2.WatchJobResponse:
    if isinstance(event, FinalSegment):
        return jobs_pb2.WatchJobResponse(number=event.number, segment=segment_message(event))
    return jobs_pb2.WatchJobResponse(
        number=event.number,
        occurred_at=timestamp(event.occurred_at),
        changed=jobs_pb2.JobChanged(
            status=STATES[event.state],
            progress=progress_message(event),
            message=event.message,
            attempt=event.attempt,
            last_error_code=event.error.code if event.error else "",
            last_error_message=event.error.message if event.error else "",
        ),
    )


def upload_message(upload: Upload, committed: int) -> uploads_pb2.Upload:
    return uploads_pb2.Upload(
        upload_id=upload.id,
        filename=upload.filename,
        committed_bytes=committed,
        complete=upload.complete,
        sha256=upload.sha256 if upload.complete else "",
        duration=duration(upload.duration_seconds) if upload.complete else None,
        created_at=timestamp(upload.created_at),
        size_bytes=upload.size_bytes or upload.declared_bytes,
    )


def worker_message(status: WorkerStatus) -> jobs_pb2.RemoteWorker:
    capacity = status.capacity
    message = jobs_pb2.RemoteWorker(
        url=status.url,
        connected=status.connected,
        last_seen_at=timestamp(status.last_seen_at),
        latency=duration(status.latency_seconds) if status.latency_seconds is not None else None,
        error=status.error.message if status.error else "",
        error_code=status.error.code if status.error else "",
    )
    if capacity is not None:
        message.version = capacity.version
        message.active_jobs = capacity.total - capacity.free
        message.max_concurrent_jobs = capacity.total
        message.gpu = capacity.gpu
        message.gpu_name = capacity.gpu_name
        message.diarization = capacity.diarization
        message.max_file_bytes = capacity.max_file_bytes
        message.draining = capacity.draining
        message.diarization_note = capacity.diarization_note
        message.models.extend(
            jobs_pb2.WorkerModel(name=model.name, state=model.state, error=model.error, note=model.note)
            for model in capacity.models
        )
    return message


# --- workers: attempts


def dispatch_message(job: Job, attempt: int, finished: FinishedWork) -> worker_pb2.RunRequest:
    options = job.options
    longest = options.diarization_max_duration_seconds
    dispatch = worker_pb2.Dispatch(
        attempt=worker_pb2.AttemptRef(job_id=job.id, attempt=attempt),
        audio=audio_message(job),
        options=worker_pb2.TranscriptionOptions(
            model=options.model,
            language=options.language,
            diarization=options.diarization,
            diarization_max_duration=duration(longest) if longest is not None else None,
            diarization_fast_switching=options.diarization_fast_switching,
            speaker_per_channel=options.speaker_per_channel,
            min_speakers=options.min_speakers,
            max_speakers=options.max_speakers,
            word_timestamps=options.word_timestamps,
            initial_prompt=options.initial_prompt,
            hotwords=options.hotwords,
            vad_disabled=not options.vad,
        ),
        finished=_finished_message(finished),
    )
    return worker_pb2.RunRequest(dispatch=dispatch)


def attach_message(job: Job, attempt: int) -> worker_pb2.RunRequest:
    ref = worker_pb2.AttemptRef(job_id=job.id, attempt=attempt)
    last_event = job.worker_event if job.attempt == attempt else 0
    return worker_pb2.RunRequest(attach=worker_pb2.Attach(attempt=ref, last_event=last_event))


def give_up_message(job_id: JobId, attempt: int) -> worker_pb2.RunRequest:
    ref = worker_pb2.AttemptRef(job_id=job_id, attempt=attempt)
    return worker_pb2.RunRequest(attach=worker_pb2.Attach(attempt=ref, give_up=True))


def acknowledge_message(through: int) -> worker_pb2.RunRequest:
    return worker_pb2.RunRequest(acknowledge=worker_pb2.Acknowledge(through_event=through))


def cancel_message() -> worker_pb2.RunRequest:
    return worker_pb2.RunRequest(cancel=worker_pb2.Cancel())


def audio_message(job: Job) -> worker_pb2.Audio:
    return worker_pb2.Audio(sha256=job.recording.sha256, size_bytes=job.recording.size_bytes)


def _finished_message(finished: FinishedWork) -> worker_pb2.FinishedWork | None:
    if finished.plan is None:
        return None
    turns = worker_pb2.SpeakerTurns.FromString(finished.turns) if finished.turns is not None else None
    plan = worker_pb2.WindowPlan.FromString(finished.plan.payload)
    chunks = [worker_pb2.SpeakerChunk.FromString(payload) for payload in finished.speaker_chunks]
    sizes = accumulate(len(payload) for payload in finished.decoded_windows)
    decoded = [
        worker_pb2.WindowFinished.FromString(payload)
        for payload, size in zip(finished.decoded_windows, sizes, strict=True)
        if size <= DECODED_BYTES
    ]
    return worker_pb2.FinishedWork(
        plan=plan, windows=sorted(finished.windows), turns=turns, speaker_chunks=chunks, decoded_windows=decoded
    )


# --- workers: events


@dataclass(frozen=True, slots=True)
class StageReported:
    stage: str
    detail: str


@dataclass(frozen=True, slots=True)
class ProgressReported:
    """``seconds_left`` is None where the worker does not say."""

    percent: float
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class TurnsReported:
    payload: bytes


@dataclass(frozen=True, slots=True)
class SpeakerChunkReported:
    """``payload`` is the worker's own message, as a plan's."""

    index: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class DecodedReported:
    """A window's words before their speakers are known; ``payload`` likewise."""

    index: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class WindowReported:
    """``silent``: voice was heard in it that gave no words."""

    index: int
    segments: tuple[Segment, ...]
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Completed:
    processing_seconds: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Canceled:
    pass


@dataclass(frozen=True, slots=True)
class HandedBack:
    message: str


WorkerEvent = (
    StageReported
    | ProgressReported
    | Plan
    | TurnsReported
    | SpeakerChunkReported
    | DecodedReported
    | WindowReported
    | Completed
    | Failed
    | Canceled
    | HandedBack
)
OUTCOMES = (Completed, Failed, Canceled, HandedBack)


def worker_event(event: worker_pb2.Event) -> WorkerEvent | None:
    """What a worker says; None for a kind that a newer worker knows and this controller does not."""
    match event.WhichOneof("kind"):
        case "stage_changed":
            return StageReported(event.stage_changed.stage, event.stage_changed.detail)
        case "progress":
            known = event.progress.HasField("remaining")
            return ProgressReported(
                event.progress.percent, max(0.0, seconds(event.progress.remaining)) if known else None
            )
        case "planned":
            plan = event.planned
            return Plan(plan.fingerprint, plan.language, seconds(plan.duration), plan.SerializeToString())
        case "speakers_found":
            return TurnsReported(event.speakers_found.SerializeToString())
        case "speaker_chunk_found":
            chunk = event.speaker_chunk_found
            return SpeakerChunkReported(chunk.index, chunk.SerializeToString())
        case "window_decoded":
            return DecodedReported(event.window_decoded.index, event.window_decoded.SerializeToString())
        case "window_finished":
            window = event.window_finished
            segments = tuple(_segment(segment) for segment in window.segments)
            return WindowReported(window.index, segments, window.silent and not segments)
        case "outcome":
            return _outcome(event.outcome)
        case _:
            return None


def window_stretch(plan: Plan, index: int) -> Stretch | None:
    """Where a window of the plan lies; None for one that it does not have."""
    windows = worker_pb2.WindowPlan.FromString(plan.payload).windows
    return next(
        (Stretch(seconds(window.start), seconds(window.end)) for window in windows if window.index == index), None
    )


def _outcome(outcome: worker_pb2.Outcome) -> WorkerEvent | None:
    match outcome.WhichOneof("result"):
        case "completed":
            return Completed(seconds(outcome.completed.processing_duration), outcome.completed.note)
        case "failed":
            return Failed(outcome.failed.reason, outcome.failed.message)
        case "canceled":
            return Canceled()
        case "handed_back":
            return HandedBack(outcome.handed_back.message)
        case _:
            return None


def _segment(message: worker_pb2.Segment) -> Segment:
    words = tuple(
        Word(word.text, seconds(word.start), seconds(word.end), word.probability, word.speaker)
        for word in message.words
    )
    return Segment(seconds(message.start), seconds(message.end), message.text, message.speaker, words)

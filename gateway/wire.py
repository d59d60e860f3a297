"""Protobuf messages to the API's JSON and back. Only this module and `controller` know the stubs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args
from urllib.parse import urlsplit, urlunsplit

from bulkscribe.jobs.v1 import jobs_pb2, uploads_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.answers import (
    CapabilitiesAnswer,
    CreatedJobs,
    JobAnswer,
    JobsAnswer,
    JobWorkerAnswer,
    KnownUploadAnswer,
    Mode,
    ModelAnswer,
    OptionsAnswer,
    ProgressAnswer,
    RemoteWorkerAnswer,
    RuntimeAnswer,
    SegmentEvent,
    StateEvent,
    Status,
    UploadAnswer,
    WorkerAnswer,
)
from gateway.requests import JobOptions
from gateway.transcripts import Segment, Stretch, Transcript, Turn, Word, segment_answer, stretch_answers
from services.contract.limits import MEGABYTE, VERSION

STATUS_NUMBERS: dict[Status, jobs_pb2.JobStatus] = {
    status: getattr(jobs_pb2, f"JOB_STATUS_{status.upper()}") for status in get_args(Status)
}
STATUSES: dict[int, Status] = {number: status for status, number in STATUS_NUMBERS.items()}
MODES: dict[int, Mode] = {jobs_pb2.EXECUTION_MODE_LOCAL: "local", jobs_pb2.EXECUTION_MODE_REMOTE: "remote"}

Event = jobs_pb2.WatchJobResponse


def seconds(message: Duration) -> float:
    return message.ToMicroseconds() / 1e6


def duration(given: float) -> Duration:
    message = Duration()
    message.FromMicroseconds(round(given * 1e6))
    return message


def moment(message: Timestamp, given: bool) -> str | None:
    """ISO 8601 in UTC with Z, to the millisecond; None for one that was not ``given``."""
    return message.ToDatetime().isoformat(timespec="milliseconds") + "Z" if given else None


# --- jobs


def options_message(options: JobOptions) -> jobs_pb2.JobOptions:
    longest = options.diarization_max_duration_seconds
    return jobs_pb2.JobOptions(
        model=options.model or "",
        language=options.language or "",
        use_remote_worker=bool(options.use_remote_worker),
        diarization_enabled=bool(options.diarization_enabled),
        diarization_max_duration=duration(longest) if longest is not None else None,
        diarization_fast_switching=bool(options.diarization_fast_switching),
        speaker_per_channel=bool(options.speaker_per_channel),
        min_speakers=options.min_speakers,
        max_speakers=options.max_speakers,
        word_timestamps=bool(options.word_timestamps),
        initial_prompt=options.initial_prompt or "",
        hotwords=options.hotwords or "",
        vad_disabled=options.vad is False,
    )


def options_answer(options: jobs_pb2.JobOptions) -> OptionsAnswer:
    bounded = options.HasField("diarization_max_duration")
    return {
        "model": options.model or None,
        "language": options.language or None,
        "useRemoteWorker": options.use_remote_worker,
        "diarizationEnabled": options.diarization_enabled,
        "diarizationMaxDurationSeconds": seconds(options.diarization_max_duration) if bounded else None,
        "diarizationFastSwitching": options.diarization_fast_switching,
        "speakerPerChannel": options.speaker_per_channel,
        "minSpeakers": options.min_speakers if options.HasField("min_speakers") else None,
        "maxSpeakers": options.max_speakers if options.HasField("max_speakers") else None,
        "wordTimestamps": options.word_timestamps,
        "initialPrompt": options.initial_prompt or None,
        "hotwords": options.hotwords or None,
        "vad": not options.vad_disabled,
    }


def job_answer(job: jobs_pb2.Job) -> JobAnswer:
    return {
        "jobId": job.job_id,
        "uploadId": job.upload_id,
        "filename": job.filename,
        "status": STATUSES[job.status],
        "executionMode": MODES[job.execution_mode],
        "progress": progress_answer(job.progress),
        "message": job.message,
        "worker": job_worker_answer(job.worker) if job.HasField("worker") else None,
        "attempt": job.attempt,
        "createdAt": moment(job.created_at, job.HasField("created_at")),
        "startedAt": moment(job.started_at, job.HasField("started_at")),
        "finishedAt": moment(job.finished_at, job.HasField("finished_at")),
        "options": options_answer(job.options),
        "lastErrorCode": job.last_error_code or None,
        "lastErrorMessage": job.last_error_message or None,
        "audioDurationSeconds": seconds(job.audio_duration) if job.HasField("audio_duration") else None,
        "sizeBytes": job.size_bytes,
        "lastEventId": job.last_event,
        "silentStretches": stretch_answers(stretch_values(job.silent_stretches)),
    }


def progress_answer(progress: jobs_pb2.JobProgress) -> ProgressAnswer:
    known = progress.HasField("remaining")
    return {
        "stage": progress.stage,
        "percent": round(progress.percent, 1),
        "secondsLeft": round(seconds(progress.remaining), 1) if known else None,
    }


def job_worker_answer(worker: jobs_pb2.JobWorker) -> JobWorkerAnswer:
    return {
        "workerJobId": worker.worker_job_id,
        "url": shown_url(worker.url),
        "lastSeenAt": moment(worker.last_seen_at, worker.HasField("last_seen_at")),
        "gpu": worker.gpu,
    }


def created_answer(response: jobs_pb2.CreateJobsResponse) -> CreatedJobs:
    first = response.jobs[0]
    return {
        "jobId": first.job_id,
        "status": STATUSES[first.status],
        "executionMode": MODES[first.execution_mode],
        "jobs": [
            {
                "jobId": job.job_id,
                "uploadId": job.upload_id,
                "status": STATUSES[job.status],
                "executionMode": MODES[job.execution_mode],
            }
            for job in response.jobs
        ],
    }


def jobs_answer(response: jobs_pb2.ListJobsResponse) -> JobsAnswer:
    return {"jobs": [job_answer(job) for job in response.jobs], "nextPageToken": response.next_page_token or None}


# --- events and transcripts


def event_answer(event: Event) -> tuple[str, StateEvent | SegmentEvent]:
    """The event's name and data."""
    if event.WhichOneof("kind") == "segment":
        return "segment", {"segment": segment_answer(segment_value(event.segment))}
    changed = event.changed
    return "status", {
        "status": STATUSES[changed.status],
        "progress": progress_answer(changed.progress),
        "message": changed.message,
        "attempt": changed.attempt,
        "lastErrorCode": changed.last_error_code or None,
        "lastErrorMessage": changed.last_error_message or None,
    }


def segment_value(message: jobs_pb2.TranscriptSegment) -> Segment:
    words = tuple(
        Word(word.text, seconds(word.start), seconds(word.end), word.probability, word.speaker)
        for word in message.words
    )
    return Segment(message.id, seconds(message.start), seconds(message.end), message.text, message.speaker, words)


def stretch_values(messages: Iterable[jobs_pb2.Stretch]) -> tuple[Stretch, ...]:
    return tuple(Stretch(seconds(message.start), seconds(message.end)) for message in messages)


def transcript_value(header: jobs_pb2.TranscriptHeader, segments: list[Segment]) -> Transcript:
    turns = tuple(Turn(seconds(turn.start), seconds(turn.end), turn.speaker) for turn in header.turns)
    return Transcript(
        header.language,
        seconds(header.duration),
        tuple(header.speakers),
        header.filename,
        tuple(segments),
        turns,
        stretch_values(header.silent_stretches),
    )


# --- uploads


def upload_answer(upload: uploads_pb2.Upload) -> UploadAnswer:
    return {
        "id": upload.upload_id,
        "filename": upload.filename,
        "sizeBytes": upload.committed_bytes,
        "sha256": upload.sha256,
        "durationSeconds": seconds(upload.duration) if upload.HasField("duration") else None,
    }


def known_upload_answer(upload: uploads_pb2.Upload) -> KnownUploadAnswer:
    return {
        **upload_answer(upload),
        "sizeBytes": upload.size_bytes or upload.committed_bytes,
        "complete": upload.complete,
        "offset": upload.committed_bytes,
    }


# --- runtime


def runtime_answer(response: jobs_pb2.GetRuntimeResponse) -> RuntimeAnswer:
    workers = [worker_answer(worker) for worker in response.workers]
    first = workers[0] if workers else worker_answer(jobs_pb2.RemoteWorker())
    remote: RemoteWorkerAnswer = {"mode": response.mode, "configured": response.configured, **first}
    local = response.HasField("local_worker")
    return {
        "remoteWorker": remote,
        "workers": workers,
        "localWorker": worker_answer(response.local_worker) if local else None,
        "queue": {
            "queued": response.queue.queued,
            "queuedRemote": response.queue.queued_remote,
            "running": response.queue.running,
        },
        "version": response.version or VERSION,
    }


def worker_answer(worker: jobs_pb2.RemoteWorker) -> WorkerAnswer:
    latency = round(seconds(worker.latency) * 1000, 2) if worker.HasField("latency") else None
    return {
        "url": shown_url(worker.url),
        "connected": worker.connected,
        "lastSeenAt": moment(worker.last_seen_at, worker.HasField("last_seen_at")),
        "latencyMs": latency,
        "workerVersion": worker.version or None,
        "error": worker.error or None,
        "errorCode": worker.error_code or None,
        "draining": worker.draining,
        "workerCapabilities": capabilities_answer(worker),
    }


def capabilities_answer(worker: jobs_pb2.RemoteWorker) -> CapabilitiesAnswer:
    if not worker.version:  # it has never reported
        return {
            "activeJobs": None,
            "maxConcurrentJobs": None,
            "gpu": None,
            "gpuName": None,
            "models": None,
            "diarization": None,
            "diarizationNote": None,
            "maxFileMB": None,
        }
    return {
        "activeJobs": worker.active_jobs,
        "maxConcurrentJobs": worker.max_concurrent_jobs,
        "gpu": worker.gpu,
        "gpuName": worker.gpu_name or None,
        "models": [model_answer(model) for model in worker.models],
        "diarization": worker.diarization or None,
        "diarizationNote": worker.diarization_note or None,
        "maxFileMB": worker.max_file_bytes // MEGABYTE,
    }


def model_answer(model: jobs_pb2.WorkerModel) -> ModelAnswer:
    return {"name": model.name, "state": model.state, "error": model.error or None, "note": model.note or None}


def shown_url(url: str) -> str | None:
    """The address without credentials, path of a socket or query; None for none."""
    if not url:
        return None
    if url.startswith("unix:"):
        return "unix"
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

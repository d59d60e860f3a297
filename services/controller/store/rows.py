"""Rows of the tables to values and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from services.controller.jobs import (
    Change,
    ExecutionMode,
    FinalSegment,
    Job,
    JobError,
    JobId,
    JobState,
    Options,
    Owner,
    Recording,
    Segment,
    Stretch,
    UploadId,
    Word,
    WorkerRef,
)
from services.controller.store.protocol import Upload

Row = Mapping[Any, Any]


def job_row(job: Job) -> dict[str, Any]:
    """The columns of a job that may change, and those that may not; without the request it came by."""
    worker, error = job.worker, job.error
    return {
        "id": job.id,
        "owner": job.owner,
        "upload_id": job.recording.upload_id,
        "filename": job.recording.filename,
        "sha256": job.recording.sha256,
        "size_bytes": job.recording.size_bytes,
        "audio_seconds": job.recording.duration_seconds,
        "options": asdict(job.options),
        "mode": job.mode.value,
        "state": job.state.value,
        "stage": job.stage,
        "percent": job.percent,
        "message": job.message,
        "attempt": job.attempt,
        "worker_url": worker.url if worker else None,
        "worker_job_id": worker.worker_job_id if worker else None,
        "worker_gpu": worker.gpu if worker else False,
        "worker_last_seen_at": worker.last_seen_at if worker else None,
        "error_code": error.code if error else None,
        "error_message": error.message if error else None,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "language": job.language,
        "wait_mark": job.wait_mark,
        "run_seconds": job.run_seconds,
        "segment_count": job.segment_count,
        "last_event": job.last_event,
        "worker_event": job.worker_event,
        "version": job.version,
        "seconds_left": job.seconds_left,
        "silent_stretches": [[stretch.start, stretch.end] for stretch in job.silent_stretches],
    }


def job_of(row: Row) -> Job:
    worker = WorkerRef(row["worker_url"], row["worker_job_id"], row["worker_gpu"], row["worker_last_seen_at"])
    return Job(
        id=JobId(row["id"]),
        owner=Owner(row["owner"]),
        recording=Recording(
            UploadId(row["upload_id"]), row["filename"], row["sha256"], row["size_bytes"], row["audio_seconds"]
        ),
        options=Options(**row["options"]),
        mode=ExecutionMode(row["mode"]),
        created_at=row["created_at"],
        state=JobState(row["state"]),
        stage=row["stage"],
        percent=row["percent"],
        message=row["message"],
        attempt=row["attempt"],
        worker=worker if row["worker_url"] is not None else None,
        error=JobError(row["error_code"], row["error_message"]) if row["error_code"] else None,
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        language=row["language"],
        wait_mark=row["wait_mark"],
        run_seconds=row["run_seconds"],
        segment_count=row["segment_count"],
        last_event=row["last_event"],
        worker_event=row["worker_event"],
        version=row["version"],
        seconds_left=row["seconds_left"],
        silent_stretches=tuple(Stretch(*stretch) for stretch in row["silent_stretches"]),
    )


def upload_row(upload: Upload) -> dict[str, Any]:
    """An empty request id is stored as NULL, of which any number may stand beside each other."""
    return asdict(upload) | {"request_id": upload.request_id or None}


def upload_of(row: Row) -> Upload:
    return Upload(**{**row, "request_id": row["request_id"] or ""})


def change_row(job_id: JobId, change: Change) -> dict[str, Any]:
    payload = {
        "state": change.state.value,
        "stage": change.stage,
        "percent": change.percent,
        "message": change.message,
        "attempt": change.attempt,
        "error": [change.error.code, change.error.message] if change.error else None,
        "seconds_left": change.seconds_left,
    }
    return {"job_id": job_id, "number": change.number, "occurred_at": change.occurred_at, "payload": payload}


def change_of(row: Row) -> Change:
    payload = row["payload"]
    return Change(
        number=row["number"],
        occurred_at=row["occurred_at"],
        state=JobState(payload["state"]),
        stage=payload["stage"],
        percent=payload["percent"],
        message=payload["message"],
        attempt=payload["attempt"],
        error=JobError(*payload["error"]) if payload["error"] else None,
        seconds_left=payload.get("seconds_left"),  # an earlier version wrote none
    )


def segment_row(job_id: JobId, final: FinalSegment) -> dict[str, Any]:
    segment = final.segment
    return {
        "job_id": job_id,
        "number": final.number,
        "ordinal": final.ordinal,
        "start_seconds": segment.start,
        "end_seconds": segment.end,
        "text": segment.text,
        "speaker": segment.speaker,
        "words": [[word.text, word.start, word.end, word.probability, word.speaker] for word in segment.words],
    }


def segment_of(row: Row) -> FinalSegment:
    words = tuple(Word(*word) for word in row["words"])
    segment = Segment(row["start_seconds"], row["end_seconds"], row["text"], row["speaker"], words)
    return FinalSegment(row["number"], row["ordinal"], segment)

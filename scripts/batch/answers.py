"""What the gateway answers, as values; everything else in an answer is passed over. Raises Faulty for what the API does not promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scripts.batch.outages import Faulty
from scripts.batch.state import Status

ON_BY_ITSELF = ("vad",)
"""Options that are on where nobody says anything; all others are off, or none."""


@dataclass(frozen=True, slots=True)
class Job:
    """``percent`` is of the whole job, 0 to 100; ``seconds_left`` what it is expected to take still, None while unknown;
    ``last_event`` the newest event that it has in it."""

    job_id: str
    status: Status
    execution_mode: str
    stage: str = ""
    percent: float = 0.0
    message: str = ""
    error_code: str | None = None
    error: str | None = None
    duration_seconds: float | None = None
    last_event: str = ""
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """A job that was made before, as a list of them tells it; ``options`` are all that there are."""

    job_id: str
    upload_id: str
    status: Status
    options: Mapping[str, object]

    def has_options(self, asked: Mapping[str, object]) -> bool:
        """Whether it was asked for with these; what they do not name is as it is by itself."""
        return _named(self.options) == _named(asked)


@dataclass(frozen=True, slots=True)
class Report:
    """What an event says about a job; ``seconds_left`` as in `Job`."""

    status: Status
    stage: str
    percent: float
    message: str
    seconds_left: float | None = None


def read_job(document: Any) -> Job:
    """A job from GET /api/jobs/{id}, or the shorter one from POST /api/jobs."""
    try:
        progress = document.get("progress") or {}
        return Job(
            job_id=str(document["jobId"]),
            status=Status(document["status"]),
            execution_mode=str(document["executionMode"]),
            stage=str(progress.get("stage") or ""),
            percent=float(progress.get("percent") or 0.0),
            message=str(document.get("message") or ""),
            error_code=_text(document.get("lastErrorCode")),
            error=_text(document.get("lastErrorMessage")),
            duration_seconds=_seconds(document.get("audioDurationSeconds")),
            last_event=str(document.get("lastEventId") or ""),
            seconds_left=_seconds(progress.get("secondsLeft")),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Faulty("the answer is no job") from error


def read_made(document: Any) -> tuple[list[Made], str]:
    """(the jobs, the token of the next page, empty where there is none) from GET /api/jobs."""
    try:
        jobs = [
            Made(str(job["jobId"]), str(job["uploadId"]), Status(job["status"]), dict(job["options"]))
            for job in document["jobs"]
        ]
        return jobs, str(document.get("nextPageToken") or "")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Faulty("the answer is no list of jobs") from error


def read_report(document: Any) -> Report | None:
    """What a `status` event says; None for events of other kinds."""
    if not isinstance(document, dict) or "status" not in document:
        return None
    try:
        progress = document.get("progress") or {}
        return Report(
            Status(document["status"]),
            str(progress.get("stage") or ""),
            float(progress.get("percent") or 0.0),
            str(document.get("message") or ""),
            _seconds(progress.get("secondsLeft")),
        )
    except (AttributeError, TypeError, ValueError):
        return None


def _named(options: Mapping[str, object]) -> Mapping[str, object]:
    """Those that say anything, as the server keeps them."""
    language = str(options.get("language") or "").lower()
    kept = {**options, "language": "" if language == "auto" else language}
    return {key: value for key, value in kept.items() if value not in (None, "") and value != (key in ON_BY_ITSELF)}


def _text(value: object) -> str | None:
    return str(value) if value else None


def _seconds(value: Any) -> float | None:
    return None if value is None else float(value)

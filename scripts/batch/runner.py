"""The way of each recording: uploaded, submitted, followed to its end, its transcripts saved; N at once.

Each step looks in the state for what is already done and writes what it did before the next begins, so that a run
may be cut anywhere and another goes on from there. Uploads and submissions are named by what they are of, so that they
are the same again also for a run that knows of nothing but the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from scripts.batch.answers import Job, Report, read_report
from scripts.batch.arguments import Arguments
from scripts.batch.client import Gateway, Refused
from scripts.batch.content import CHANGED, Content, UnreadableRecording, current, read_content
from scripts.batch.made import MadeJobs
from scripts.batch.outages import Away, Faulty
from scripts.batch.progress import Display
from scripts.batch.recordings import Recording, shown, transcript_name
from scripts.batch.state import BatchState, Entry, Status
from services.contract.limits import MEGABYTE
from services.runtime.backoff import Backoff

FIRST_POLL_SECONDS = 1.0
LONGEST_POLL_SECONDS = 15.0
"""Between looks at a job whose events do not come through."""

LOSSES_TOLERATED = 3
"""So often in a row the server may lose a recording without a change of session; then it fails."""


class Lost(Exception):
    """The server no longer knows the job, or the upload it needs."""

    def __init__(self, *, upload: bool) -> None:
        super().__init__("the upload" if upload else "the job")
        self.upload = upload


class Runner:
    def __init__(self, gateway: Gateway, state: BatchState, arguments: Arguments, display: Display) -> None:
        self._gateway = gateway
        self._state = state
        self._arguments = arguments
        self._display = display
        self._made = MadeJobs(gateway)
        self._limit: int | None = None  # bytes of one recording; None until it was asked for
        self._asking = asyncio.Lock()

    async def run(self, recordings: Sequence[Recording]) -> None:
        """Brings each to an end that is in the state. Raises StorageError when that cannot be written."""
        pending = iter(recordings)
        async with asyncio.TaskGroup() as group:
            for number in range(min(self._arguments.parallel, len(recordings))):
                group.create_task(self._work(pending), name=f"recordings {number + 1}")

    async def _work(self, pending: Iterator[Recording]) -> None:
        for recording in pending:
            self._display.begin(recording.name)
            entry = await self._transcribe(recording)
            self._display.end(recording.name, entry.status, reason_of(entry))

    async def _transcribe(self, recording: Recording) -> Entry:
        try:
            return await self._until_kept(recording)
        except Refused as error:
            failed = self._entry(recording).failed(error.code or None, error.message)
        except Faulty as error:
            failed = self._entry(recording).failed("UNEXPECTED_ANSWER", str(error))
        except UnreadableRecording as error:
            failed = self._entry(recording).failed("UNREADABLE_FILE", f"the file {error}")
        return self._state.put(recording.name, failed)

    async def _until_kept(self, recording: Recording) -> Entry:
        """Begins anew what the server lost. A gateway with another key loses all; that never counts as a failure."""
        losses = 0
        while True:
            session = self._gateway.session
            try:
                return await self._carry(recording)
            except Lost as lost:
                losses = losses + 1 if self._gateway.session == session else 0
                if losses > LOSSES_TOLERATED:
                    raise Refused(404, "NOT_FOUND", f"the server keeps losing {lost}") from lost
                self._made.lost(self._entry(recording).job_id or "")
                again = "uploaded" if lost.upload else "submitted"
                self._display.tell(f"{shown(recording.name)}: the server no longer knows {lost}; it is {again} again.")
                self._state.put(recording.name, self._entry(recording).anew(upload=lost.upload))

    async def _carry(self, recording: Recording) -> Entry:
        if self._entry(recording).upload_id is None and self._entry(recording).job_id is None:
            await self._upload(recording)
        submitted = None
        if self._entry(recording).job_id is None and not self._entry(recording).status.ended:
            submitted = await self._submit(recording)
        if self._entry(recording).job_id is None:
            return self._entry(recording)
        job = await self._follow(recording, submitted)
        if job.status is Status.COMPLETE:
            await self._save_transcripts(recording, job.job_id)
            if job.message:  # what people should know of the transcript
                self._display.tell(f"{shown(recording.name)}: {shown(job.message)}")
        entry = ended_entry(self._entry(recording), job)
        return self._state.put(recording.name, replace(entry, saved=entry.saved or job.status is Status.COMPLETE))

    async def _upload(self, recording: Recording) -> None:
        name = recording.name
        content = await self._content(recording)

        def sent(size_bytes: int) -> None:
            self._display.sent(name, size_bytes, content.size_bytes)

        try:
            upload_id = await self._gateway.upload(recording.path, name, content, sent)
        except Refused as error:
            if error.unknown:
                raise Lost(upload=True) from error
            raise
        if current(recording.path) != content.fingerprint:
            raise UnreadableRecording(CHANGED)
        self._state.put(name, self._entry(recording).uploaded(upload_id))

    async def _content(self, recording: Recording) -> Content:
        """Hashed once for each state of the file, however often the run is cut."""
        entry, now = self._entry(recording), current(recording.path)
        if entry.sha256 is not None and entry.content == now:
            return Content(now, entry.sha256)
        await self._check_size(now.size_bytes)

        def hashed(size_bytes: int, total_bytes: int) -> None:
            self._display.hashed(recording.name, size_bytes, total_bytes)

        content = await read_content(recording.path, hashed)
        self._state.put(recording.name, entry.hashed(content))
        return content

    async def _check_size(self, size_bytes: int) -> None:
        """Raises Refused for what the gateway would refuse: before it is read, which may take minutes."""
        async with self._asking:
            if self._limit is None:
                self._limit = await self._gateway.largest_upload()
        if size_bytes > self._limit:
            limit = self._limit // MEGABYTE
            message = f"The file is larger than {limit} MB. Split it, or raise GATEWAY_MAX_UPLOAD_MB."
            raise Refused(413, "FILE_TOO_LARGE", message)

    async def _submit(self, recording: Recording) -> Job | None:
        """The job, where it has not ended yet; None where it has to be asked about."""
        options = self._arguments.job_options()
        if await self._adopts(recording, options):
            return None
        entry = self._state.put(recording.name, self._entry(recording).submitting(recording.name, options))
        await self._state.saved()
        assert entry.upload_id is not None
        assert entry.request_id is not None
        asked = options if entry.options is None else entry.options  # which a state of long ago does not hold
        try:
            job = await self._gateway.create_job(entry.upload_id, asked, entry.request_id)
        except Refused as error:
            if error.unknown:
                raise Lost(upload=True) from error
            raise
        self._state.put(recording.name, entry.submitted(job.job_id))
        return None if job.status.ended else job  # the answer says of no job how it ended

    async def _adopts(self, recording: Recording, options: Mapping[str, object]) -> bool:
        """Whether a run before that the state does not know of has submitted it, perhaps again after a failure: then
        what that submitted last is gone on with. A request that has its id finds its job by itself."""
        entry = self._entry(recording)
        named = entry.request_id or entry.replaces or entry.again
        if named is not None or entry.upload_id is None:
            return False
        made = await self._made.find(entry.upload_id, options)
        if made is not None:
            self._state.put(recording.name, entry.adopted(made.job_id, options))
        return made is not None

    async def _follow(self, recording: Recording, submitted: Job | None) -> Job:
        """The job when it has ended: told by its events, looked at whenever they break off. ``submitted``: as it was a moment
        ago."""
        job_id = self._entry(recording).job_id
        assert job_id is not None
        backoff = Backoff(FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS)
        last_event = ""
        while True:
            job = submitted or await self._look(job_id)
            submitted = None
            self._observe(recording, job)
            if job.status.ended:
                return job
            last_event, ended = await self._listen(recording, job_id, last_event or job.last_event, backoff)
            if not ended:
                await asyncio.sleep(backoff.failed())

    async def _look(self, job_id: str) -> Job:
        try:
            return await self._gateway.job(job_id)
        except Refused as error:
            if error.unknown:
                raise Lost(upload=False) from error
            raise

    async def _listen(self, recording: Recording, job_id: str, last: str, backoff: Backoff) -> tuple[str, bool]:
        """(the last event's id, whether the job ended); anything wrong with the stream just ends it."""
        with contextlib.suppress(Away, Faulty, Refused, ValueError):
            async with contextlib.aclosing(self._gateway.events(job_id, last)) as events:
                async for event in events:
                    last = event.id or last
                    backoff.succeeded()
                    report = read_report(json.loads(event.data))
                    if report is not None:
                        self._show(recording, report)
                        if report.status.ended:
                            return last, True
        return last, False

    def _observe(self, recording: Recording, job: Job) -> None:
        entry = replace(self._entry(recording), execution_mode=job.execution_mode)
        self._state.put(recording.name, entry)
        self._show(recording, Report(job.status, job.stage, job.percent, job.message, job.seconds_left))

    def _show(self, recording: Recording, report: Report) -> None:
        """An end is in the state only when its transcripts are saved."""
        if not report.status.ended:
            self._state.put(recording.name, replace(self._entry(recording), status=report.status))
            self._display.report(recording.name, report)

    async def restore_transcripts(self, recording: Recording) -> None:
        """Fetches the missing ones of a complete recording again, for as long as the server has its job."""
        missing = missing_transcripts(recording, self._arguments)
        job_id = self._entry(recording).job_id
        name = shown(recording.name)
        try:
            if job_id is None:
                raise Refused(404, "", "its job is not known")
            for form, path in missing:
                await self._gateway.save_transcript(job_id, form, path)
        except (Refused, Faulty) as error:
            forms = ", ".join(form for form, _ in missing)
            self._display.tell(f"{name}: complete, but its {forms} transcript cannot be fetched again: {error}")
        else:
            self._display.tell(f"{name}: fetched again: {', '.join(form for form, _ in missing)}")

    async def _save_transcripts(self, recording: Recording, job_id: str) -> None:
        """What is there already may be another folder's: only what this batch made itself is replaced."""

        def kept(other: Path) -> None:
            self._display.tell(
                f"{shown(recording.name)}: another transcript was there under its name, and is kept as {shown(str(other))}"
            )

        is_ours = self._entry(recording).saved
        for form, path in transcript_paths(recording, self._arguments):
            try:
                await self._gateway.save_transcript(job_id, form, path, None if is_ours else kept)
            except Refused as error:
                if error.unknown:
                    raise Lost(upload=False) from error
                raise

    def _entry(self, recording: Recording) -> Entry:
        return self._state.entries[recording.name]


def ended_entry(entry: Entry, job: Job) -> Entry:
    """With what the ended job says; a complete one has no error."""
    failed = job.status is not Status.COMPLETE
    duration = job.duration_seconds if job.duration_seconds is not None else entry.duration_seconds
    return replace(
        entry,
        status=job.status,
        execution_mode=job.execution_mode,
        duration_seconds=duration,
        error_code=job.error_code if failed else None,
        error=shown(job.error or job.message) if failed else None,
    )


def reason_of(entry: Entry) -> str:
    """Why a recording failed or was canceled; nothing for others."""
    return shown(": ".join(part for part in (entry.error_code, entry.error) if part))


def transcript_paths(recording: Recording, arguments: Arguments) -> list[tuple[str, Path]]:
    """(format, path) of each transcript."""
    return [(form, arguments.output / transcript_name(recording.name, form)) for form in arguments.formats]


def missing_transcripts(recording: Recording, arguments: Arguments) -> list[tuple[str, Path]]:
    """Those that are not there."""
    return [(form, path) for form, path in transcript_paths(recording, arguments) if not path.exists()]

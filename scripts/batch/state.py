"""What was reached: one JSON file, replaced whole, so that a run can be cut anywhere.

What a cut leaves out is asked for again and answered the same, for all that is asked for is named by what it is of; only what a
submission asks for is on disk before it is sent, for it stays so whatever the next run is told. The file
holds the session, so only its owner may read it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from scripts.batch.content import Content, job_request_id
from scripts.batch.recordings import Fingerprint
from scripts.batch.storage import replacing

SAVING_SHARE = 0.05
"""How much of the time may go into writing the file: that of ten thousand recordings takes hundredths of a second."""


class Status(Enum):
    """The states of a job; a recording that has none yet is queued."""

    QUEUED = "queued"
    QUEUED_REMOTE = "queued_remote"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def ended(self) -> bool:
        return self in (Status.COMPLETE, Status.FAILED, Status.CANCELED)


class StateError(Exception):
    """The state file cannot be read; the message says why. It is left as it is."""


@dataclass(frozen=True, slots=True)
class Session:
    """``cookie`` is the session cookie's value; both are secrets."""

    cookie: str
    csrf_token: str


@dataclass(frozen=True, slots=True)
class Entry:
    """How far one recording is. ``content`` and ``sha256`` are of its file as it was hashed; ``request_id`` names its
    submission, ``options`` is what that asks for, ``replaces`` the failed job that it is to replace, ``again`` which time it is where
    it is done more than once, ``saved`` whether its transcripts are ours to replace."""

    status: Status
    execution_mode: str
    upload_id: str | None = None
    job_id: str | None = None
    request_id: str | None = None
    replaces: str | None = None
    content: Fingerprint | None = None
    sha256: str | None = None
    duration_seconds: float | None = None
    error_code: str | None = None
    error: str | None = None
    options: Mapping[str, object] | None = None
    again: str | None = None
    saved: bool = False

    def hashed(self, content: Content) -> Entry:
        return replace(self, content=content.fingerprint, sha256=content.sha256)

    def uploaded(self, upload_id: str) -> Entry:
        return replace(self, upload_id=upload_id)

    def submitting(self, name: str, options: Mapping[str, object]) -> Entry:
        """With the request that is about to be sent; one that may have been sent already stays as it was, whatever
        is asked for now."""
        if self.request_id is not None:
            return self
        content = self.sha256 or self.upload_id or ""
        request_id = job_request_id(name, content, options, self.replaces, self.again)
        return replace(self, request_id=request_id, options=options)

    def has_other(self, options: Mapping[str, object]) -> bool:
        """Whether it was submitted with other options than these; not where that was not kept."""
        return self.options is not None and self.options != options

    def adopted(self, job_id: str, options: Mapping[str, object]) -> Entry:
        """With a job that an earlier run submitted."""
        return replace(self, job_id=job_id, options=options)

    def submitted(self, job_id: str) -> Entry:
        return replace(self, job_id=job_id)

    def failed(self, code: str | None, message: str) -> Entry:
        return replace(self, status=Status.FAILED, error_code=code, error=message)

    def anew(self, *, upload: bool) -> Entry:
        """For a job that the server lost; with ``upload`` the recording is sent again, too."""
        kept = replace(self, status=Status.QUEUED, job_id=None, request_id=None, options=None)
        kept = replace(kept, error_code=None, error=None)
        return replace(kept, upload_id=None, content=None, sha256=None) if upload else kept

    def retried(self, *, upload: bool) -> Entry:
        """For another job than the one that failed."""
        return replace(self.anew(upload=upload), replaces=self.job_id or self.replaces)

    def once_more(self, again: str, *, upload: bool) -> Entry:
        """For another job than any that was made without this name of the time."""
        return replace(self.anew(upload=upload), replaces=None, again=again)


class BatchState:
    """The entries by file name, and the session. Every change is on disk before the call returns, or soon after while it is
    `kept`. ``controller`` is the key of the gateway whose session it is, None where that was not kept.
    """

    def __init__(
        self, path: Path, entries: Mapping[str, Entry], session: Session | None, controller: str | None = None
    ) -> None:
        self._path = path
        self._entries = dict(entries)
        self._lines = {name: _line(name, _entry_json(entry)) for name, entry in entries.items()}
        self._session = session
        self._controller = controller
        self._kept = False
        self._unsaved = asyncio.Event()
        self._next_save = asyncio.Event()
        self._due = 0.0

    @property
    def entries(self) -> Mapping[str, Entry]:
        return self._entries

    @property
    def session(self) -> Session | None:
        return self._session

    def session_with(self, controller: str) -> Session | None:
        """The session unless it is another gateway's, which must not see it."""
        return self._session if self._controller in (None, controller) else None

    def put(self, name: str, entry: Entry) -> Entry:
        """Raises StorageError; the file is as it was before then."""
        if self._entries.get(name) != entry:
            self._set(name, entry)
            if self._kept and time.monotonic() < self._due:
                self._unsaved.set()
            else:
                self.save()
        return entry

    def put_all(self, entries: Mapping[str, Entry]) -> None:
        """In one write, which is made in any case: it shows whether the file can be written."""
        for name, entry in entries.items():
            self._set(name, entry)
        self.save()

    def put_session(self, session: Session, controller: str) -> None:
        if (self._session, self._controller) != (session, controller):
            self._session, self._controller = session, controller
            self.save()

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Meanwhile changes that come fast are written together, and at the end what is left. Raises StorageError, in a group."""
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(self._keep(), name="keep the state")
            self._kept = True
            try:
                yield
            finally:
                self._kept = False
                keeper.cancel()
                if self._unsaved.is_set():
                    self.save()

    async def saved(self) -> None:
        """Once all that was put is on disk."""
        if self._unsaved.is_set():
            await self._next_save.wait()

    async def _keep(self) -> None:
        while True:
            await self._unsaved.wait()
            await asyncio.sleep(self._due - time.monotonic())
            if self._unsaved.is_set():
                self.save()

    def save(self) -> None:
        began = time.monotonic()
        with replacing(self._path) as file:
            file.write(self._document())
        self._unsaved.clear()
        self._next_save.set()
        self._next_save = asyncio.Event()
        ended = time.monotonic()
        self._due = ended + (ended - began) / SAVING_SHARE

    def _set(self, name: str, entry: Entry) -> None:
        self._entries[name] = entry
        self._lines[name] = _line(name, _entry_json(entry))

    def _document(self) -> bytes:
        """JSON with a line for each recording."""
        files = b"{\n    " + b",\n    ".join(self._lines.values()) + b"\n  }" if self._lines else b"{}"
        rest = [
            _line("session", self._session.cookie if self._session else None),
            _line("csrfToken", self._session.csrf_token if self._session else None),
        ] + ([_line("controller", self._controller)] if self._controller else [])
        return b'{\n  "files": ' + files + b",\n  " + b",\n  ".join(rest) + b"\n}\n"


def load_state(path: Path) -> BatchState:
    """The state in a file, an empty one where there is none. Raises StateError."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return BatchState(path, {}, None)
    except OSError as error:
        raise StateError(f"cannot read the state file {str(path)!r}: {error.strerror or error}") from error
    try:
        return _read_state(path, json.loads(content))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        what = str(error) if isinstance(error, ValueError) else "its shape is another"
        raise StateError(
            f"{str(path)!r} is no batch state ({what}); move it away to begin anew, or name another with --state"
        ) from error


def _read_state(path: Path, document: Any) -> BatchState:
    entries = {str(name): _read_entry(name, value) for name, value in document["files"].items()}
    cookie, csrf_token = document.get("session"), document.get("csrfToken")
    usable = all(isinstance(value, str) and value.isascii() and value.isprintable() for value in (cookie, csrf_token))
    session = Session(cookie, csrf_token) if usable and cookie and csrf_token else None
    return BatchState(path, entries, session, _optional(document, "controller", str))


def _entry_json(entry: Entry) -> dict[str, object]:
    shape: dict[str, object] = {
        "uploadId": entry.upload_id,
        "jobId": entry.job_id,
        "status": entry.status.value,
        "executionMode": entry.execution_mode,
    }
    more = {
        "requestId": entry.request_id,
        "options": entry.options,
        "replaces": entry.replaces,
        "again": entry.again,
        "saved": entry.saved or None,
        "sizeBytes": entry.content.size_bytes if entry.content else None,
        "modifiedNs": entry.content.modified_ns if entry.content else None,
        "sha256": entry.sha256,
        "durationSeconds": entry.duration_seconds,
        "errorCode": entry.error_code,
        "error": entry.error,
    }
    return shape | {key: value for key, value in more.items() if value is not None}


def _read_entry(name: str, value: Any) -> Entry:
    size, modified = _optional(value, "sizeBytes", int), _optional(value, "modifiedNs", int)
    known = size is not None and modified is not None
    return Entry(
        status=_read_status(name, value["status"]),
        execution_mode=_optional(value, "executionMode", str) or "local",
        upload_id=_optional(value, "uploadId", str) or None,
        job_id=_optional(value, "jobId", str) or None,
        request_id=_optional(value, "requestId", str),
        replaces=_optional(value, "replaces", str) or None,
        content=Fingerprint(size, modified) if known else None,
        sha256=_optional(value, "sha256", str),
        duration_seconds=_optional(value, "durationSeconds", _number),
        error_code=_optional(value, "errorCode", str),
        error=_optional(value, "error", str),
        options=_optional(value, "options", dict),
        again=_optional(value, "again", str),
        saved=value.get("saved") is True,
    )


def _read_status(name: str, value: object) -> Status:
    try:
        return Status(value)
    except ValueError:
        raise ValueError(f"the status of {name!r} is {value!r}") from None


def _optional(value: Any, key: str, convert: Callable[[Any], Any]) -> Any:
    found = value.get(key)
    return None if found is None else convert(found)


def _number(value: object) -> float:
    return float(str(value))


def _line(name: str, value: object) -> bytes:
    return _encoded(name) + b": " + _encoded(value)


def _encoded(value: object) -> bytes:
    """Names as they are; those that are no Unicode are escaped, so that they come back as they were."""
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()

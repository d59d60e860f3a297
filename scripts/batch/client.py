"""Calls to the gateway. An outage is waited for; a session that ended is renewed; a refusal is an exception.

The session's cookie and CSRF token go out as headers made here, so that no cookie jar's rules come between.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import aiohttp

from scripts.batch import answers
from scripts.batch.content import (
    CHANGED,
    Content,
    UnreadableRecording,
    current,
    open_recording,
    pieces,
    upload_request_id,
)
from scripts.batch.events import Event, EventDecoder
from scripts.batch.outages import Away, Faulty, Outages, persistently
from scripts.batch.recordings import shown
from scripts.batch.state import Session
from scripts.batch.storage import replacing

COOKIE = "bulkscribe_session"
CSRF_HEADER = "X-CSRF-Token"

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
"""How long an answer may stand still: the gateway itself gives up on the controller after 10 s."""
UPLOAD_STALL_SECONDS = 300.0
"""How long an upload may stand still; the check of a long recording at its end counts as standing still."""
EVENT_SILENCE_SECONDS = 45.0
"""The stream has a comment every 15 s at least; after three that are missing it is dead."""

UPLOADS = "/api/uploads"
TUS = {"Tus-Resumable": "1.0.0"}
"""Uploads can be cut and go on by this protocol, https://tus.io."""
SENT_AT_ONCE_BYTES = 1024 * 1024
"""A recording up to this size goes with the request that begins its upload: cut, little is sent again."""

WAITED_FOR = frozenset({408, 423, 425, 429, 502, 503, 504, 507})
"""Statuses of an outage: restarting, overloaded, or a disk that is full."""

ASKED_AGAIN = frozenset({"UPLOAD_BUSY", "UPLOAD_OFFSET_MISMATCH", "STREAM_TAKEN_OVER"})
"""Codes of an upload that a request before this one was at: its offset has moved."""
LONGEST_REASON = 300
JOBS_PER_PAGE = 1000
"""As many as the gateway gives at once."""
UNBOUNDED = sys.maxsize

Result = TypeVar("Result")


class Refused(Exception):
    """The gateway refuses, and would again (4xx)."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}" if code else message)
        self.status = status
        self.code = code
        self.message = message

    @property
    def unknown(self) -> bool:
        """What was asked about is not there, or another session's."""
        return self.status == 404


@dataclass(slots=True)
class Sending:
    """An upload on its way. ``reached`` is the offset that the gateway told last, ``cut`` whether the last try ended
    early; ``upload_id`` is known once it was begun, and it is ``whole`` when the gateway has checked all of it. ``begins``:
    the offset that the answer to its beginning told, until something was sent."""

    path: Path
    name: str
    content: Content
    sent: Callable[[int], None]
    upload_id: str | None = None
    begins: int | None = None
    reached: int = 0
    cut: bool = False
    whole: bool = False

    @property
    def address(self) -> str:
        return f"{UPLOADS}/tus/{quote(self.upload_id or '', safe='')}"


class Gateway:
    """One session with one gateway; ``renewed`` hears of every new session before anything is sent in it.

    ``earlier`` are cookies of other sessions, which are tried when the gateway does not know this one.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: str,
        session: Session | None,
        renewed: Callable[[Session], None],
        outages: Outages,
        earlier: Sequence[str] = (),
    ) -> None:
        self._http = http
        self._url = url
        self._session = session
        self._renewed = renewed
        self._outages = outages
        self._earlier = [cookie for cookie in earlier if session is None or cookie != session.cookie]
        self._renewing = asyncio.Lock()
        self._doubtful = True  # whether the session may have ended since it was last used

    @property
    def session(self) -> Session | None:
        return self._session

    async def connect(self) -> None:
        """Makes sure of the session. Raises Refused or Faulty when this is no gateway."""
        await persistently(self._outages, "session", self._assure_session)

    async def largest_upload(self) -> int:
        """Bytes that one recording may have; UNBOUNDED where the gateway does not say. Raises Faulty."""

        async def attempt() -> int:
            try:
                async with self._request("OPTIONS", f"{UPLOADS}/tus", headers=TUS) as response:
                    limit = response.headers.get("Tus-Max-Size", "")
            except Refused:  # by something before the gateway: it is told when the upload begins
                return UNBOUNDED
            return int(limit) if limit.isascii() and limit.isdigit() else UNBOUNDED

        return await self._call("limit", attempt)

    async def upload(self, path: Path, name: str, content: Content, sent: Callable[[int], None]) -> str:
        """Sends a recording from the disk, from where an earlier try or run was cut; ``sent`` hears the offset. Returns the
        upload's id.

        The same name and content never make another upload. Raises UnreadableRecording, Refused or Faulty.
        """
        sending = Sending(path, name, content, sent)
        while not sending.whole:
            await self._call("upload", lambda: self._send_on(sending))
        assert sending.upload_id is not None
        return sending.upload_id

    async def create_job(self, upload_id: str, options: Mapping[str, object], request_id: str) -> answers.Job:
        """The upload's job; the same ``request_id`` never makes another. Raises Refused or Faulty."""
        body = {"uploadIds": [upload_id], "options": dict(options), "requestId": request_id}

        async def attempt() -> answers.Job:
            async with self._request("POST", "/api/jobs", json=body) as response:
                return answers.read_job(await _json(response))

        return await self._call("submit", attempt)

    async def jobs(self) -> list[answers.Made]:
        """All jobs of the session, newest first. Raises Refused or Faulty."""
        made: list[answers.Made] = []
        token = ""

        async def attempt() -> tuple[list[answers.Made], str]:
            page = {"pageSize": str(JOBS_PER_PAGE), "pageToken": token}
            async with self._request("GET", "/api/jobs", params=page) as response:
                return answers.read_made(await _json(response))

        while True:
            page, token = await self._call("jobs", attempt)
            made += page
            if not token:
                return made

    async def job(self, job_id: str) -> answers.Job:
        """Raises Refused (``unknown`` when there is no such job) or Faulty."""

        async def attempt() -> answers.Job:
            async with self._request("GET", _job_path(job_id)) as response:
                return answers.read_job(await _json(response))

        return await self._call("job", attempt)

    async def cancel(self, job_id: str) -> None:
        """Raises Refused (a job that has ended, or is unknown) or Faulty."""

        async def attempt() -> None:
            async with self._request("POST", f"{_job_path(job_id)}/cancel"):
                return

        await self._call("cancel", attempt)

    async def events(self, job_id: str, last_event: str) -> AsyncGenerator[Event, None]:
        """The events after ``last_event`` until the stream ends. Raises Away, Faulty or Refused: one try only."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_event} if last_event else {})
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=EVENT_SILENCE_SECONDS)
        decoder = EventDecoder()
        async with self._request("GET", f"{_job_path(job_id)}/events", headers=headers, timeout=timeout) as response:
            if response.content_type != "text/event-stream":
                raise Faulty("the gateway's events are no event stream")
            async for piece in response.content.iter_any():
                for event in decoder.feed(piece):
                    yield event

    async def save_transcript(
        self, job_id: str, form: str, path: Path, kept: Callable[[Path], None] | None = None
    ) -> None:
        """Puts the transcript at ``path`` when it is whole; ``kept`` as of `replacing`. Raises Refused, Faulty or StorageError."""

        async def attempt() -> None:
            with replacing(path, kept) as file:
                async with self._request("GET", f"{_job_path(job_id)}/transcript", params={"format": form}) as response:
                    async for piece in response.content.iter_any():
                        file.write(piece)

        await self._call("transcript", attempt)

    async def _call(self, kind: str, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """Tries until the gateway is there and knows the session."""

        async def in_session() -> Result:
            await self._assure_session()
            used = self._session
            try:
                return await attempt()
            except Refused as error:
                if not _is_of_session(error) or not await self._renews(used):
                    raise
                return await attempt()

        return await persistently(self._outages, kind, in_session)

    async def _renews(self, used: Session | None) -> bool:
        """Whether there is another session now than the one that was refused."""
        if self._session == used:
            self._doubtful = True
            await self._assure_session()
        return self._session != used

    async def _assure_session(self) -> None:
        """Asks for the session's state where that is in doubt; takes another if the gateway does not know it."""
        async with self._renewing:
            if not self._doubtful:
                return
            used = self._session
            session = await self._ask_session(used)
            if used is not None and session.cookie != used.cookie:
                session = await self._known_earlier(session)
                self._earlier.insert(0, used.cookie)  # the gateway may come up with the old key again
            if session != used:
                self._renewed(session)
            self._session, self._doubtful = session, False

    async def _known_earlier(self, new: Session) -> Session:
        """The first of the earlier sessions that the gateway knows, else the new one: with it, no job is found again."""
        for cookie in self._earlier:
            session = await self._ask_session(Session(cookie, ""))
            if session.cookie == cookie:
                self._earlier.remove(cookie)
                return session
        return new

    async def _ask_session(self, session: Session | None) -> Session:
        """The same one with its CSRF token, or a new one."""
        headers = _session_headers(session)
        async with self._request("GET", "/api/session", headers=headers) as response:
            return _answered_session(await _json(response), response, session)

    async def _send_on(self, sending: Sending) -> None:
        """One try. One that was cut and yet moved something on is a success: the next one need not wait for long."""
        if sending.upload_id is None:
            await self._begin(sending)
        if sending.whole:
            return
        offset = await self._offset(sending)
        moved, sending.reached = offset > sending.reached, offset
        if sending.cut and moved:
            sending.cut = False
            return
        try:
            end = await self._append(sending, offset)
        except Away:
            sending.cut = True
            raise
        if end != sending.content.size_bytes:
            raise Faulty("all of an upload was sent, and only a part of it taken")
        sending.whole = True

    async def _begin(self, sending: Sending) -> None:
        """A new upload, or that of an earlier run; whole at once where it is small, or its content was there already."""
        name = sending.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        sha256 = sending.content.sha256
        metadata = {"filename": name, "sha256": sha256, "requestId": upload_request_id(sending.name, sha256)}
        headers = TUS | {
            "Upload-Length": str(sending.content.size_bytes),
            "Upload-Metadata": ",".join(
                f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in metadata.items()
            ),
        }
        begun = partial(self._request, "POST", f"{UPLOADS}/tus")
        if sending.content.size_bytes <= SENT_AT_ONCE_BYTES:
            begun = partial(self._sending, sending, "POST", f"{UPLOADS}/tus", 0)
        async with begun(headers=headers) as response:
            upload_id = response.headers.get("Location", "").rstrip("/").rpartition("/")[2]
            begins = response.headers.get("Upload-Offset", "")
        if not upload_id:
            raise Faulty("the answer to an upload names none")
        sending.upload_id = upload_id
        sending.begins = int(begins) if begins.isdigit() else None
        sending.whole = sending.begins == sending.content.size_bytes
        if sending.whole:
            sending.sent(sending.content.size_bytes)

    async def _offset(self, sending: Sending) -> int:
        """Asked for, unless the upload was begun just now."""
        begins, sending.begins = sending.begins, None
        if begins is not None:
            return begins
        try:
            async with self._request("HEAD", sending.address, headers=TUS) as response:
                offset = response.headers.get("Upload-Offset", "")
        except Refused as error:
            if not error.unknown:
                raise
            sending.upload_id = None
            raise Faulty("the gateway no longer knows an upload that was begun") from error
        if not offset.isdigit() or int(offset) > sending.content.size_bytes:
            raise Faulty("the answer to an upload names no offset of it")
        return int(offset)

    async def _append(self, sending: Sending, offset: int) -> int:
        """Sends what follows the offset; nothing where only the finish is missing. Returns the offset that was reached."""
        headers = TUS | {"Upload-Offset": str(offset)}
        async with self._sending(sending, "PATCH", sending.address, offset, headers) as response:
            end = response.headers.get("Upload-Offset", "")
            return int(end) if end.isdigit() else sending.content.size_bytes

    @contextlib.asynccontextmanager
    async def _sending(
        self, sending: Sending, method: str, path: str, offset: int, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request whose body is what follows the offset. Raises as `_request`, and UnreadableRecording."""
        size_bytes, unreadable = sending.content.size_bytes, list[UnreadableRecording]()

        async def body(file: BinaryIO, moved: Callable[[], None]) -> AsyncIterator[bytes]:
            total = offset
            try:
                async for piece in pieces(file, offset, size_bytes):
                    moved()
                    yield piece
                    total += len(piece)
                    sending.sent(total)
            except UnreadableRecording as error:  # which the HTTP library would make a lost connection
                unreadable.append(error)
                raise

        sending.sent(offset)
        about = {
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(size_bytes - offset),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        try:
            with open_recording(sending.path) as file:
                async with _stall_guard() as moved:
                    more: dict[str, Any] = {
                        "data": body(file, moved),
                        "headers": {**headers, **about},
                        "timeout": timeout,
                    }
                    async with self._request(method, path, **more) as response:
                        moved()
                        yield response
        except Away:
            if unreadable:
                raise unreadable[0] from None
            raise
        except Refused as error:
            if error.code == "UPLOAD_DIGEST_MISMATCH":
                raise _damaged(sending) from error
            raise

    @contextlib.asynccontextmanager
    async def _request(self, method: str, path: str, **more: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer below 400. Raises Away, Faulty or Refused, for a connection that is lost while it is read, too."""
        headers = {**_session_headers(self._session), **more.pop("headers", {})}
        usual = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS)
        more.setdefault("timeout", usual)
        try:
            async with self._http.request(method, self._url + path, headers=headers, **more) as response:
                if response.status >= 400:
                    await _refuse(response)
                yield response
        except (aiohttp.InvalidURL, aiohttp.TooManyRedirects, aiohttp.ClientConnectorCertificateError) as error:
            raise Refused(0, "", f"the address cannot be used: {shown(str(error))}") from error
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            self._doubtful = True  # it may come back with another key
            raise Away(f"{shown_url(self._url)} {_reason(error)}") from error


def _session_headers(session: Session | None) -> dict[str, str]:
    if session is None:
        return {}
    return {"Cookie": f"{COOKIE}={session.cookie}", CSRF_HEADER: session.csrf_token}


@contextlib.asynccontextmanager
async def _stall_guard() -> AsyncIterator[Callable[[], None]]:
    """Raises Away when what it yields is not called for too long."""
    now = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(UPLOAD_STALL_SECONDS) as deadline:
            yield lambda: deadline.reschedule(now() + UPLOAD_STALL_SECONDS)
    except TimeoutError as error:
        raise Away(f"an upload stood still for {UPLOAD_STALL_SECONDS:.0f} s") from error


def _answered_session(document: Any, response: aiohttp.ClientResponse, used: Session | None) -> Session:
    """The cookie that the answer sets, or the one that was sent where it sets none."""
    csrf_token = document.get("csrfToken") if isinstance(document, dict) else None
    morsel = response.cookies.get(COOKIE)
    cookie = morsel.value if morsel else used.cookie if used else None
    if not isinstance(csrf_token, str) or not cookie:
        raise Faulty(f"{shown_url(str(response.url.origin()))} answers, but is no gateway")
    return Session(cookie, csrf_token)


async def _refuse(response: aiohttp.ClientResponse) -> None:
    """Raises what an error status means."""
    code, message = _error_text(await response.text(errors="replace"))
    message = message or f"HTTP {response.status} {response.reason or ''}".strip()
    if response.status in WAITED_FOR or code in ASKED_AGAIN:
        raise Away(f"{message.rstrip('.')} ({response.status})")
    if response.status >= 500:
        raise Faulty(f"{message.rstrip('.')} ({response.status})")
    raise Refused(response.status, code, message)


def _damaged(sending: Sending) -> Exception:
    """What it means that other bytes arrived than were hashed; the server has dropped them."""
    sending.upload_id, sending.reached, sending.cut = None, 0, False
    if current(sending.path) != sending.content.fingerprint:
        return UnreadableRecording(CHANGED)
    return Faulty("what arrived is not what the file holds")


def _error_text(body: str) -> tuple[str, str]:
    """(code, message) of an error as JSON; nothing of any other."""
    try:
        document = json.loads(body)
        return str(document.get("code") or ""), shown(str(document.get("error") or ""))[:LONGEST_REASON]
    except (ValueError, AttributeError):
        return "", ""


async def _json(response: aiohttp.ClientResponse) -> Any:
    try:
        return json.loads(await response.read())
    except ValueError as error:
        raise Faulty(f"the answer to {response.method} {response.url.path} is no JSON") from error


def _is_of_session(error: Refused) -> bool:
    return error.status == 401 or (error.status == 403 and error.code in ("CSRF_INVALID", ""))


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot be reached ({shown(error.os_error.strerror or str(error.os_error))})"
    return "broke the connection off"


def _job_path(job_id: str) -> str:
    return f"/api/jobs/{quote(job_id, safe='')}"


def shown_url(url: str) -> str:
    """The address without a password that it may hold."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

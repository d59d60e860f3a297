"""A gateway in the test's own loop: sessions, uploads, jobs, events and transcripts, with faults to order.

Jobs complete by themselves after ``steps`` unless they are held; every call is counted by its kind.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

COOKIE = "bulkscribe_session"

READING = ("GET", "HEAD")
DURATION_SECONDS = 60.0

Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


@dataclass
class FakeUpload:
    """``content`` is what arrived of ``size_bytes``."""

    upload_id: str
    owner: str
    filename: str
    content: bytes
    size_bytes: int = 0
    sha256: str = ""
    request_id: str = ""
    complete: bool = False


@dataclass
class FakeJob:
    job_id: str
    owner: str
    upload: FakeUpload
    options: dict[str, Any]
    request_id: str
    mode: str
    status: str = "queued"
    error_code: str | None = None
    error: str | None = None
    message: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def ended(self) -> bool:
        return self.status in ("complete", "failed", "canceled")


class FakeGateway:
    def __init__(self) -> None:
        self.url = ""
        self.key = "first"
        self.known: dict[str, str] = {}  # cookie -> key it was made with
        self.uploads: dict[str, FakeUpload] = {}
        self.jobs: dict[str, FakeJob] = {}
        self.calls: Counter[str] = Counter()
        self.faults: dict[str, deque[Fault]] = {}
        self.rejected: dict[str, tuple[str, str]] = {}  # file name -> (code, message)
        self.failing: dict[str, tuple[str, str]] = {}  # file name -> (error code, message) of its job
        self.notes: dict[str, str] = {}  # file name -> what its complete job says
        self.canceled: set[str] = set()
        self.max_bytes: int | None = 2**40
        self.jobs_per_page = 1000
        self.created = 0  # jobs
        self.begun = 0  # uploads
        self.received = 0  # bytes of recordings
        self.cut_after: deque[int] = deque()  # bytes received in all after which a connection breaks, one each
        self.held: set[str] = set()  # file names whose jobs stay running until released
        self.last_event_ids: list[str] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._running: asyncio.TaskGroup | None = None
        self._seen: dict[str, asyncio.Event] = {}

    # --- what tests do with it

    def fault(self, kind: str, *faults: Fault) -> None:
        """The next calls of the kind meet these, one each."""
        self.faults.setdefault(kind, deque()).extend(faults)

    async def until(self, condition: Callable[[], bool], deadline: float = 20.0) -> None:
        async with asyncio.timeout(deadline):
            while not condition():  # noqa: ASYNC110 - conditions are of files and processes, too
                await asyncio.sleep(0.01)

    async def release(self, filename: str) -> None:
        self.held.discard(filename)
        for job in list(self.jobs.values()):
            if job.upload.filename == filename and job.status == "running":
                await self._end(job)

    def forget_sessions(self) -> None:
        """As a gateway does that starts again with another key."""
        self.key = secrets.token_hex(4)

    def uploaded(self, filename: str) -> list[FakeUpload]:
        return [upload for upload in self.uploads.values() if upload.filename == filename]

    def jobs_of(self, filename: str) -> list[FakeJob]:
        return [job for job in self.jobs.values() if job.upload.filename == filename]

    # --- the API

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**30)
        add = app.router.add_route
        add("GET", "/api/session", self._faulty("session", self._session))
        add("OPTIONS", "/api/uploads/tus", self._faulty("limit", self._tell_limit))
        add("POST", "/api/uploads/tus", self._faulty("upload", self._begin_upload))
        add("HEAD", "/api/uploads/tus/{upload}", self._faulty("offset", self._tell_offset))
        add("PATCH", "/api/uploads/tus/{upload}", self._faulty("send", self._append))
        add("POST", "/api/jobs", self._faulty("submit", self._submit))
        add("GET", "/api/jobs", self._faulty("jobs", self._list))
        add("DELETE", "/api/jobs/{job}", self._faulty("delete", self._delete))
        add("GET", "/api/jobs/{job}", self._faulty("job", self._show))
        add("GET", "/api/jobs/{job}/events", self._faulty("events", self._events))
        add("GET", "/api/jobs/{job}/transcript", self._faulty("transcript", self._transcript))
        return app

    def _faulty(self, kind: str, respond: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
        async def responding(request: web.Request) -> web.StreamResponse:
            self.calls[kind] += 1
            faults = self.faults.get(kind)
            if faults:
                answer = await faults.popleft()(request)
                if answer is not None:
                    return answer
            return await respond(request)

        return responding

    async def _session(self, request: web.Request) -> web.Response:
        cookie = request.cookies.get(COOKIE, "")
        if self.known.get(cookie) != self.key:
            cookie = f"cookie-{secrets.token_hex(8)}"
            self.known[cookie] = self.key
        response = web.json_response({"csrfToken": f"csrf-{cookie}", "cookieName": COOKIE})
        response.set_cookie(COOKIE, cookie, httponly=True, samesite="Lax")
        return response

    def _owner(self, request: web.Request) -> str:
        cookie = request.cookies.get(COOKIE, "")
        if self.known.get(cookie) != self.key:
            raise refusal(401 if request.method in READING else 403, "CSRF_INVALID", "no session")
        if request.method not in READING and request.headers.get("X-CSRF-Token") != f"csrf-{cookie}":
            raise refusal(403, "CSRF_INVALID", "wrong token")
        return cookie

    async def _tell_limit(self, _request: web.Request) -> web.Response:
        return web.Response(status=204, headers={"Tus-Max-Size": str(self.max_bytes)} if self.max_bytes else {})

    async def _begin_upload(self, request: web.Request) -> web.Response:
        owner = self._owner(request)
        pairs = (pair.split(" ") for pair in request.headers["Upload-Metadata"].split(","))
        about = {key: base64.b64decode(value).decode() for key, value in pairs}
        same = (owner, about["requestId"])
        known = [upload for upload in self.uploads.values() if (upload.owner, upload.request_id) == same]
        upload = known[0] if known else self._new_upload(owner, about, int(request.headers["Upload-Length"]))
        if request.body_exists and not upload.content:
            await self._take(request, upload)
        elif len(upload.content) == upload.size_bytes and not upload.complete:
            self._finish(upload)
        headers = {"Location": f"/api/uploads/tus/{upload.upload_id}", "Upload-Offset": str(len(upload.content))}
        return web.Response(status=201, headers=headers)

    def _new_upload(self, owner: str, about: dict[str, str], size_bytes: int) -> FakeUpload:
        self.begun += 1
        upload_id = f"u{self.begun}"
        upload = FakeUpload(upload_id, owner, about["filename"], b"", size_bytes, about["sha256"], about["requestId"])
        self.uploads[upload_id] = upload
        return upload

    def _known_upload(self, request: web.Request) -> FakeUpload:
        owner = self._owner(request)
        upload = self.uploads.get(request.match_info["upload"])
        if upload is None or upload.owner != owner:
            raise refusal(404, "NOT_FOUND", "no such upload")
        return upload

    async def _tell_offset(self, request: web.Request) -> web.Response:
        upload = self._known_upload(request)
        return web.Response(headers={"Upload-Offset": str(len(upload.content))})

    async def _append(self, request: web.Request) -> web.Response:
        upload = self._known_upload(request)
        if int(request.headers["Upload-Offset"]) != len(upload.content):
            raise refusal(409, "UPLOAD_OFFSET_MISMATCH", "the offset is another")
        await self._take(request, upload)
        return web.Response(status=204, headers={"Upload-Offset": str(len(upload.content))})

    async def _take(self, request: web.Request, upload: FakeUpload) -> None:
        async for piece in request.content.iter_any():
            upload.content += piece
            self.received += len(piece)
            if self.cut_after and self.received >= self.cut_after[0]:
                self.cut_after.popleft()
                assert request.transport is not None
                request.transport.abort()
                return
        if len(upload.content) == upload.size_bytes:
            self._finish(upload)

    def _finish(self, upload: FakeUpload) -> None:
        refused = self.rejected.get(upload.filename)
        if refused is None and hashlib.sha256(upload.content).hexdigest() != upload.sha256:
            refused = ("UPLOAD_DIGEST_MISMATCH", "other content")
        if refused is not None:
            del self.uploads[upload.upload_id]
            raise refusal(422, *refused)
        upload.complete = True

    async def _submit(self, request: web.Request) -> web.Response:
        owner, body = self._owner(request), await request.json()
        upload = self.uploads.get(body["uploadIds"][0])
        if upload is None or upload.owner != owner or not upload.complete:
            raise refusal(404, "NOT_FOUND", "no such upload")
        if body["options"].get("model") == "unknown":
            raise refusal(400, "MODEL_UNKNOWN", "no worker offers the model unknown")
        known = [job for job in self.jobs.values() if (job.owner, job.request_id) == (owner, body["requestId"])]
        job = known[0] if known else self._create(owner, upload, body)
        return web.json_response({"jobId": job.job_id, "status": job.status, "executionMode": job.mode, "jobs": []})

    def _create(self, owner: str, upload: FakeUpload, body: dict[str, Any]) -> FakeJob:
        options = body["options"]
        mode = "remote" if options.get("useRemoteWorker") else "local"
        self.created += 1
        job = FakeJob(f"j{self.created}", owner, upload, options, body["requestId"], mode)
        self.jobs[job.job_id] = job
        assert self._running is not None
        self._running.create_task(self._work(job))
        return job

    async def _work(self, job: FakeJob) -> None:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await self._change(job, "queued_remote", message="Waiting for worker capacity")
        await self._change(job, "running", stage="transcribing", percent=10)
        await self._say(job, "segment", {"segment": {"id": 0, "text": "hello"}})
        await self._change(job, "running", stage="transcribing", percent=60)
        if job.upload.filename not in self.held:
            await self._end(job)

    async def _end(self, job: FakeJob) -> None:
        name = job.upload.filename
        if name in self.failing:
            job.error_code, job.error = self.failing[name]
            status = "failed"
        else:
            status = "canceled" if name in self.canceled else "complete"
        if status == "canceled":
            job.error_code, job.error = "USER_CANCELED", "User canceled the job"
        self.in_flight -= 1
        job.message = self.notes.get(name, "")
        await self._change(job, status, percent=100, message=job.message)

    async def _change(self, job: FakeJob, status: str, stage: str = "", percent: float = 0, message: str = "") -> None:
        job.status = status
        await self._say(
            job, "status", {"status": status, "progress": {"stage": stage, "percent": percent}, "message": message}
        )

    async def _say(self, job: FakeJob, name: str, data: dict[str, Any]) -> None:
        async with job.changed:
            job.events.append({"id": len(job.events) + 1, "name": name, "data": data})
            job.changed.notify_all()

    def _job(self, request: web.Request) -> FakeJob:
        owner = self._owner(request)
        job = self.jobs.get(request.match_info["job"])
        if job is None or job.owner != owner:
            raise refusal(404, "NOT_FOUND", "no such job")
        return job

    async def _show(self, request: web.Request) -> web.Response:
        return web.json_response(_shown(self._job(request)))

    async def _delete(self, request: web.Request) -> web.Response:
        del self.jobs[self._job(request).job_id]
        return web.json_response({})

    async def _list(self, request: web.Request) -> web.Response:
        owner, first = self._owner(request), int(request.query["pageToken"] or 0)
        last = first + min(int(request.query["pageSize"]), self.jobs_per_page)
        jobs = [job for job in reversed(self.jobs.values()) if job.owner == owner]
        shown = [_shown(job) for job in jobs[first:last]]
        return web.json_response({"jobs": shown, "nextPageToken": str(last) if last < len(jobs) else None})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        job = self._job(request)
        last = request.headers.get("Last-Event-ID", "")
        self.last_event_ids.append(last)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": hello\n\n")
        number = int(last or 0)
        while True:
            async with job.changed:
                while len(job.events) <= number and not job.ended:
                    await job.changed.wait()
            for event in job.events[number:]:
                await response.write(
                    f"id: {event['id']}\nevent: {event['name']}\ndata: {json.dumps(event['data'])}\n\n".encode()
                )
            number = len(job.events)
            if job.ended:
                return response

    async def _transcript(self, request: web.Request) -> web.Response:
        job = self._job(request)
        if job.status != "complete":
            raise refusal(409, "TRANSCRIPT_NOT_READY", "not yet")
        return web.Response(text=f"{request.query['format']} of {job.upload.filename} by {job.job_id}")

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[FakeGateway]:
        """Answers on a port until the block ends; what it knows outlives that."""
        runner = web.AppRunner(self.app(), shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        async with asyncio.TaskGroup() as group:
            self._running = group
            await web.TCPSite(runner, "127.0.0.1", port).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            try:
                yield self
            finally:
                await runner.cleanup()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


def _shown(job: FakeJob) -> dict[str, Any]:
    return {
        "jobId": job.job_id, "uploadId": job.upload.upload_id, "filename": job.upload.filename, "status": job.status,
        "executionMode": job.mode, "progress": {"stage": "", "percent": 0}, "message": job.message, "attempt": 1,
        "lastErrorCode": job.error_code, "lastErrorMessage": job.error, "audioDurationSeconds": 60.0,
        "options": {"language": None, "wordTimestamps": False, "vad": True} | job.options,
    }  # fmt: skip


# --- faults


def refusal(status: int, code: str, message: str) -> web.HTTPException:
    kinds = {
        400: web.HTTPBadRequest,
        401: web.HTTPUnauthorized,
        403: web.HTTPForbidden,
        404: web.HTTPNotFound,
        409: web.HTTPConflict,
        422: web.HTTPUnprocessableEntity,
    }
    return kinds[status](text=json.dumps({"error": message, "code": code}), content_type="application/json")


def answers(status: int, message: str = "not now") -> Fault:
    async def fault(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": message, "code": "CONTROLLER_UNREACHABLE"}, status=status)

    return fault


def says(text: str, content_type: str = "text/html") -> Fault:
    async def fault(_request: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type=content_type)

    return fault


async def drops(request: web.Request) -> web.StreamResponse | None:
    """The connection breaks before the answer; nothing was done."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def after_doing(gateway: FakeGateway, kind: str) -> Fault:
    """The call is carried out, and the connection breaks before its answer."""

    async def fault(request: web.Request) -> web.StreamResponse:
        await {"submit": gateway._submit, "upload": gateway._begin_upload, "send": gateway._append}[kind](request)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return fault

"""/api/uploads: forms of recordings, which stream through to the controller and are never held in memory; and what
is known of an upload.

A file that is bad (no audio, too large) is an entry of `errors` and the files beside it are kept; a request that is
malformed, or a controller that is away, fails the whole request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import structlog
from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HeadersParser
from multidict import CIMultiDictProxy
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from gateway import wire
from gateway.answers import KnownUploadAnswer, KnownUploadsAnswer, RefusedFile, UploadAnswer, UploadsAnswer
from gateway.controller import Controller, UploadStream
from gateway.endpoints import UPLOAD_ID, Endpoint
from gateway.metrics import Metrics
from gateway.requests import ListUploads, read_query
from gateway.sessions import owner_of
from services.contract.errors import Reason, ServiceError
from services.contract.filenames import safe_filename
from services.contract.limits import MEGABYTE

log = structlog.get_logger()

FIELD = "files"
READ_BYTES = 1024 * 1024
"""What is read and sent on at once. aiohttp reads parts twice as fast in such pieces as in its default of 8 KiB."""

DISCARD_SECONDS = 5.0

MOST_HEADERS, LONGEST_HEADER_BYTES = 32, 16 * 1024
_CONTROLS = bytes(code for code in (*range(0x20), 0x7F) if code != 0x09)

# What is wrong with one file, and not with the request or the system.
OF_THE_FILE = frozenset(
    {
        Reason.AUDIO_INVALID,
        Reason.FILE_TOO_LARGE,
        Reason.STORAGE_FULL,
        Reason.UPLOAD_DIGEST_MISMATCH,
        Reason.INVALID_REQUEST,
    }
)


class UploadRoutes:
    def __init__(self, controller: Controller, metrics: Metrics, max_bytes: int) -> None:
        self._controller = controller
        self._metrics = metrics
        self._max_bytes = max_bytes

    def endpoints(self) -> list[Endpoint]:
        errors = (Reason.INVALID_REQUEST, Reason.STORAGE_FULL, Reason.CONTROLLER_UNREACHABLE)
        return [
            Endpoint(
                "POST", "/api/uploads", self.create, "Takes recordings", UploadsAnswer, multipart=True, errors=errors
            ),
            Endpoint(
                "GET", "/api/uploads", self.list, "This session's complete uploads of one content", KnownUploadsAnswer,
                query=ListUploads, errors=(Reason.INVALID_REQUEST, Reason.CONTROLLER_UNREACHABLE),
            ),
            Endpoint(
                "GET", f"/api/uploads{UPLOAD_ID}", self.show, "An upload, whole or on its way", KnownUploadAnswer,
                errors=(Reason.NOT_FOUND, Reason.CONTROLLER_UNREACHABLE),
            ),
        ]  # fmt: skip

    async def list(self, request: web.Request) -> web.Response:
        query = read_query(request, ListUploads)
        uploads = await self._controller.list_uploads(owner_of(request), query.sha256)
        answer: KnownUploadsAnswer = {"uploads": [wire.known_upload_answer(upload) for upload in uploads]}
        return web.json_response(answer)

    async def show(self, request: web.Request) -> web.Response:
        upload = await self._controller.get_upload(owner_of(request), request.match_info["upload_id"])
        return web.json_response(wire.known_upload_answer(upload))

    async def create(self, request: web.Request) -> web.Response:
        answer: UploadsAnswer = {"uploads": [], "errors": []}
        try:
            async for part in _files(request):
                await self._take(owner_of(request), part, answer)
        except (ValueError, HttpProcessingError) as error:
            log.info("upload_malformed", error=str(error))
            await self._forget(owner_of(request), answer)
            raise ServiceError(Reason.INVALID_REQUEST, "The body is not well-formed multipart/form-data.") from error
        except BaseException:
            await self._forget(owner_of(request), answer)
            raise
        _check_outcome(answer)
        return web.json_response(answer)

    async def _forget(self, owner: str, answer: UploadsAnswer) -> None:
        """The whole request fails: nobody is told the ids of the recordings that were already taken."""
        with suppress(ServiceError, TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                for upload in answer["uploads"]:
                    await self._controller.delete_upload(owner, upload["id"])

    async def _take(self, owner: str, part: BodyPartReader, answer: UploadsAnswer) -> None:
        name = safe_filename(part.filename)
        try:
            answer["uploads"].append(await self._upload(owner, name, part))
        except ServiceError as error:
            if error.reason not in OF_THE_FILE:
                raise
            self._metrics.uploads.labels(error.reason.value).inc()
            log.info("upload_refused", filename=name, code=error.reason.value)
            answer["errors"].append(_refused(name, error))
            await _drain(part)

    async def _upload(self, owner: str, name: str, part: BodyPartReader) -> UploadAnswer:
        upload_id = (await self._controller.create_upload(owner, name)).upload_id
        try:
            async with self._controller.write_upload(owner, upload_id) as stream:
                await self._copy(part, stream)
                upload = await stream.finish()
        except BaseException as error:
            await self._discard(owner, upload_id, error)
            raise
        self._metrics.uploads.labels("complete").inc()
        log.info("upload_complete", upload_id=upload_id, filename=name, bytes=upload.committed_bytes)
        return wire.upload_answer(upload)

    async def _copy(self, part: BodyPartReader, stream: UploadStream) -> None:
        taken = 0
        while not part.at_eof():
            data = await part.read_chunk(READ_BYTES)
            taken += len(data)
            if taken > self._max_bytes:
                limit = self._max_bytes // MEGABYTE
                raise ServiceError(
                    Reason.FILE_TOO_LARGE,
                    f"The file is larger than {limit} MB. Split it, or raise GATEWAY_MAX_UPLOAD_MB.",
                )
            if data:
                await stream.write(data)
                self._metrics.upload_bytes.inc(len(data))

    async def _discard(self, owner: str, upload_id: str, error: BaseException) -> None:
        """Removes what was begun: over HTTP nobody can go on with it. The controller may have removed it itself."""
        if isinstance(error, ServiceError) and error.reason is Reason.CONTROLLER_UNREACHABLE:
            return
        if isinstance(error, asyncio.CancelledError | ConnectionError):
            self._metrics.uploads.labels("cut").inc()
            log.warning("upload_cut", upload_id=upload_id, reason="the client went away or the gateway stops")
        busy = AsyncRetrying(
            retry=retry_if_exception(_is_busy),  # the stream that was just canceled may not have ended there
            wait=wait_random_exponential(multiplier=0.05, max=1),
            stop=stop_after_delay(DISCARD_SECONDS),
            reraise=True,
        )
        with suppress(ServiceError, TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                await busy(self._controller.delete_upload, owner, upload_id)


async def _files(request: web.Request) -> AsyncIterator[BodyPartReader]:
    """The parts of the field `files`; others are read and dropped. Raises ValueError when the body is malformed."""
    if request.content_type != "multipart/form-data":
        raise ServiceError(
            Reason.INVALID_REQUEST, f"Send the recordings as multipart/form-data, in the field `{FIELD}`."
        )
    async for part in _Parts.of(request):
        if not isinstance(part, BodyPartReader):
            raise ServiceError(Reason.INVALID_REQUEST, "A multipart within a multipart is not taken.")
        if part.name == FIELD:
            yield part
        await _drain(part)


class _Parts(MultipartReader):
    """As aiohttp's, but a control character in a part's header is left out: it is in some file's name, and the files
    beside it are none the worse for it."""

    @classmethod
    def of(cls, request: web.Request) -> _Parts:
        return cls(request.headers, request.content)

    async def next(self) -> MultipartReader | BodyPartReader | None:
        try:
            return await super().next()
        except (AssertionError, RuntimeError) as error:  # what aiohttp makes of some malformed parts
            raise ValueError(f"a part is malformed: {error}") from error

    async def _read_headers(self) -> CIMultiDictProxy[str]:
        lines: list[bytes] = []
        while line := (await self._content.readline()).rstrip(b"\r\n"):
            lines.append(line.translate(None, _CONTROLS))
            if len(lines) > MOST_HEADERS or len(line) > LONGEST_HEADER_BYTES:
                raise ValueError("the headers of a part are too long")
        return HeadersParser().parse_headers([*lines, b""])[0]


async def _drain(part: BodyPartReader) -> None:
    while not part.at_eof():
        await part.read_chunk(READ_BYTES)


def _refused(name: str, error: ServiceError) -> RefusedFile:
    return {"filename": name, "code": error.reason.value, "error": error.message}


def _check_outcome(answer: UploadsAnswer) -> None:
    if answer["uploads"]:
        return
    if not answer["errors"]:
        raise ServiceError(Reason.INVALID_REQUEST, f"There is no file in the field `{FIELD}`.")
    if all(refused["code"] == Reason.STORAGE_FULL.value for refused in answer["errors"]):
        raise ServiceError(Reason.STORAGE_FULL)


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, ServiceError) and error.reason is Reason.UPLOAD_BUSY

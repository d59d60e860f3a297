"""/api/uploads/tus: uploads that can be cut and go on, by the protocol tus 1.0.0 (https://tus.io).

The gateway keeps nothing of an upload: its length, its digest and its bytes are the controller's, which syncs whatever
arrived before a cut. So any gateway can go on with it, also one that was started anew.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import structlog
from aiohttp import web

from gateway.controller import Controller, UploadStream, is_being_checked
from gateway.endpoints import UPLOAD_ID, Endpoint
from gateway.errors import RETRY_SECONDS
from gateway.metrics import Metrics
from gateway.sessions import owner_of
from services.contract.errors import Reason, ServiceError
from services.contract.filenames import safe_filename
from services.contract.limits import MEGABYTE

log = structlog.get_logger()

PATH = "/api/uploads/tus"
VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,termination"
CONTENT_TYPE = "application/offset+octet-stream"

READ_BYTES = 1024 * 1024
"""What is read and sent on at once."""

CUT_SECONDS = 5.0
"""How long the controller may take to sync what a client had sent that is gone."""

LONGEST_REQUEST_ID = 200
_NUMBER = re.compile(r"[0-9]{1,18}")
_DIGEST = re.compile(r"[0-9a-f]{64}")

_RESUMABLE = ("Tus-Resumable", f"The protocol's version, {VERSION}.")
_LENGTH = ("Upload-Length", "Bytes of the whole recording.")
_METADATA = (
    "Upload-Metadata",
    "Keys and values in base64: filename, sha256 (checked at the end), requestId (the same again in the "
    "same session gives the same upload).",
)
_METHOD = ("X-HTTP-Method-Override", "PATCH or DELETE.")
_OFFSET = ("Upload-Offset", "Where the body begins: the offset that HEAD tells.")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What `Upload-Metadata` says; ``sha256`` and ``request_id`` are empty where it does not."""

    filename: str
    sha256: str
    request_id: str


class TusRoutes:
    """``max_bytes`` bounds one recording."""

    def __init__(self, controller: Controller, metrics: Metrics, max_bytes: int) -> None:
        self._controller = controller
        self._metrics = metrics
        self._max_bytes = max_bytes

    def endpoints(self) -> list[Endpoint]:
        one, away = f"{PATH}{UPLOAD_ID}", Reason.CONTROLLER_UNREACHABLE
        of_content = (
            Reason.INVALID_REQUEST, Reason.AUDIO_INVALID, Reason.FILE_TOO_LARGE, Reason.UPLOAD_DIGEST_MISMATCH,
            Reason.STORAGE_FULL, away,
        )  # fmt: skip
        of_offset = (Reason.NOT_FOUND, Reason.UPLOAD_OFFSET_MISMATCH, Reason.STREAM_TAKEN_OVER)
        return [
            Endpoint("OPTIONS", PATH, self.options, "What of tus is spoken", None, session=False, status=204),
            Endpoint("OPTIONS", one, self.options, "What of tus is spoken", None, session=False, status=204),
            Endpoint(
                "POST", PATH, self.create, "Begins an upload that can be cut and go on", None, status=201,
                headers=(_RESUMABLE, _LENGTH, _METADATA), stream=CONTENT_TYPE,
                errors=(*of_content, Reason.UPLOAD_BUSY),
            ),
            Endpoint(
                "HEAD", one, self.tell, "The offset to go on from; a request that still sends is ended", None,
                headers=(_RESUMABLE,), errors=(Reason.NOT_FOUND, away),
            ),
            Endpoint(
                "PATCH", one, self.append, "The next bytes; the last ones make the upload complete", None, status=204,
                headers=(_RESUMABLE, _OFFSET), stream=CONTENT_TYPE, errors=(*of_content, *of_offset),
            ),
            Endpoint(
                "POST", one, self.override, "PATCH or DELETE, for clients that cannot send them", None, status=204,
                headers=(_RESUMABLE, _METHOD, _OFFSET), stream=CONTENT_TYPE, errors=(*of_content, *of_offset),
            ),
            Endpoint(
                "DELETE", one, self.delete, "Removes an upload that no job uses", None, status=204,
                headers=(_RESUMABLE,), errors=(Reason.NOT_FOUND, Reason.UPLOAD_IN_USE, away),
            ),
        ]  # fmt: skip

    async def options(self, _request: web.Request) -> web.Response:
        return web.Response(status=204, headers={"Tus-Extension": EXTENSIONS, "Tus-Max-Size": str(self._max_bytes)})

    async def create(self, request: web.Request) -> web.Response:
        _check_version(request)
        if request.headers.get("X-HTTP-Method-Override", "POST") != "POST":
            raise ServiceError(
                Reason.INVALID_REQUEST,
                "X-HTTP-Method-Override is for an upload's own address; this one begins uploads.",
            )
        length = self._length(request)
        metadata = _metadata(request.headers.get("Upload-Metadata", ""))
        sends = request.body_exists and request.content_type == CONTENT_TYPE
        if sends:
            _check_encoding(request)
        owner = owner_of(request)
        upload = await self._controller.create_upload(
            owner, metadata.filename, length, metadata.sha256, metadata.request_id
        )
        if is_being_checked(upload):
            raise ServiceError(Reason.UPLOAD_BUSY, "All bytes are there, and are being checked. Ask again in a moment.")
        offset = upload.committed_bytes
        if sends and offset == 0:
            offset = await self._write(request, upload.upload_id, 0, length)
        headers = {"Location": f"{PATH}/{upload.upload_id}", "Upload-Offset": str(offset)}
        return web.Response(status=201, headers=headers)

    async def tell(self, request: web.Request) -> web.Response:
        _check_version(request)
        upload = await self._controller.get_upload(owner_of(request), request.match_info["upload_id"], settle=True)
        if is_being_checked(upload):
            return web.Response(status=503, headers={"Retry-After": str(RETRY_SECONDS)})
        name = base64.b64encode(upload.filename.encode()).decode()
        headers = {"Upload-Offset": str(upload.committed_bytes), "Upload-Metadata": f"filename {name}"}
        if upload.size_bytes:
            headers["Upload-Length"] = str(upload.size_bytes)
        return web.Response(headers=headers)

    async def append(self, request: web.Request) -> web.Response:
        _check_version(request)
        if request.content_type != CONTENT_TYPE:
            raise web.HTTPUnsupportedMediaType
        _check_encoding(request)
        offset = _number(request, "Upload-Offset")
        upload_id = request.match_info["upload_id"]
        upload = await self._controller.get_upload(owner_of(request), upload_id)
        if not upload.size_bytes:
            raise ServiceError(Reason.INVALID_REQUEST, "This upload is another kind's, which cannot be gone on with.")
        end = await self._write(request, upload_id, offset, upload.size_bytes)
        return web.Response(status=204, headers={"Upload-Offset": str(end)})

    async def delete(self, request: web.Request) -> web.Response:
        _check_version(request)
        await self._controller.delete_upload(owner_of(request), request.match_info["upload_id"])
        return web.Response(status=204)

    async def override(self, request: web.Request) -> web.Response:
        method = request.headers.get("X-HTTP-Method-Override", "")
        if method == "PATCH":
            return await self.append(request)
        if method == "DELETE":
            return await self.delete(request)
        raise web.HTTPMethodNotAllowed("POST", ["DELETE", "HEAD", "PATCH"])

    async def _write(self, request: web.Request, upload_id: str, offset: int, length: int) -> int:
        """Passes the body on; returns the committed offset, once the upload is complete if that is its end."""
        if offset > length:
            raise ServiceError(Reason.UPLOAD_OFFSET_MISMATCH, f"The upload ends at byte {length}.")
        if offset + (request.content_length or 0) > length:
            raise _too_much(length)
        owner, end = owner_of(request), offset
        async with self._controller.write_upload(owner, upload_id, offset, take_over=True) as stream:
            async with _synced_when_cut(stream, upload_id):
                while data := await request.content.read(READ_BYTES):
                    end += len(data)
                    if end > length:
                        raise _too_much(length)
                    await stream.write(data)
                    self._metrics.upload_bytes.inc(len(data))
            if end < length:
                return int((await stream.end()).committed_bytes)
            await self._finish(stream, upload_id)
        return end

    async def _finish(self, stream: UploadStream, upload_id: str) -> None:
        try:
            upload = await stream.finish()
        except ServiceError as error:
            self._metrics.uploads.labels(error.reason.value).inc()
            log.info("upload_refused", upload_id=upload_id, code=error.reason.value)
            raise
        self._metrics.uploads.labels("complete").inc()
        log.info("upload_complete", upload_id=upload_id, filename=upload.filename, bytes=upload.committed_bytes)

    def _length(self, request: web.Request) -> int:
        length = _number(request, "Upload-Length")
        if length == 0:
            raise ServiceError(Reason.AUDIO_INVALID, "The file cannot be transcribed: it is empty.")
        if length > self._max_bytes:
            limit = self._max_bytes // MEGABYTE
            raise ServiceError(
                Reason.FILE_TOO_LARGE,
                f"The file is larger than {limit} MB. Split it, or raise GATEWAY_MAX_UPLOAD_MB.",
            )
        return length


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Which the protocol wants in every answer, also in one that refuses."""
    if request.path.startswith(PATH):
        response.headers["Tus-Resumable"] = response.headers["Tus-Version"] = VERSION


@asynccontextmanager
async def _synced_when_cut(stream: UploadStream, upload_id: str) -> AsyncIterator[None]:
    """A client that is gone (or a gateway that ends): what it had sent is handed on and kept, for it may come back."""
    try:
        yield
    except (asyncio.CancelledError, ConnectionError):
        log.warning("upload_cut", upload_id=upload_id, reason="the client went away or the gateway stops")
        with suppress(ServiceError, TimeoutError, asyncio.InvalidStateError):
            async with asyncio.timeout(CUT_SECONDS):
                await stream.end()
        raise


def _check_version(request: web.Request) -> None:
    if request.headers.get("Tus-Resumable") != VERSION:
        raise web.HTTPPreconditionFailed


def _check_encoding(request: web.Request) -> None:
    """Offsets count the recording's bytes, and those of a body that is compressed are others."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise web.HTTPUnsupportedMediaType


def _number(request: web.Request, name: str) -> int:
    value = request.headers.get(name, "")
    if not _NUMBER.fullmatch(value):
        raise ServiceError(Reason.INVALID_REQUEST, f"The header {name} must be a whole number of bytes.")
    return int(value)


def _metadata(header: str) -> Metadata:
    """Raises INVALID_REQUEST that names the key."""
    values = dict(_pair(pair) for pair in header.split(",") if pair.strip())
    sha256, request_id = values.get("sha256", "").lower(), values.get("requestId", "")
    if sha256 and not _DIGEST.fullmatch(sha256):
        raise ServiceError(Reason.INVALID_REQUEST, "sha256 of Upload-Metadata must be 64 hexadecimal digits.")
    if len(request_id) > LONGEST_REQUEST_ID or "\0" in request_id:
        raise ServiceError(
            Reason.INVALID_REQUEST,
            f"requestId of Upload-Metadata may have {LONGEST_REQUEST_ID} characters, none U+0000.",
        )
    return Metadata(safe_filename(values.get("filename")), sha256, request_id)


def _pair(text: str) -> tuple[str, str]:
    key, _, encoded = text.strip().partition(" ")
    try:
        return key, base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise ServiceError(Reason.INVALID_REQUEST, "A value of Upload-Metadata is no UTF-8 text in base64.") from None


def _too_much(length: int) -> ServiceError:
    return ServiceError(Reason.INVALID_REQUEST, f"The body goes past the {length} bytes of Upload-Length.")

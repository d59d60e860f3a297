"""Uploads: begun, written in one or many streams, probed when whole, removed when nothing needs them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import structlog

from services.contract.errors import Reason, ServiceError
from services.contract.filenames import safe_filename
from services.contract.limits import MEGABYTE
from services.controller.jobs import Owner, UploadId
from services.controller.prober import AudioProber
from services.controller.store.protocol import Store, Upload
from services.runtime.blobs import BlobFolder, PartialFile, committed_bytes

log = structlog.get_logger()

UNFINISHED_SECONDS = 24 * 3600.0
"""How long an upload that nobody goes on with is kept."""


class Recordings:
    """``max_bytes`` bounds one recording."""

    def __init__(self, store: Store, blobs: BlobFolder, prober: AudioProber, max_bytes: int) -> None:
        self._store = store
        self._blobs = blobs
        self._prober = prober
        self._max_bytes = max_bytes
        self._open: set[UploadId] = set()
        self._keeping = asyncio.Lock()  # else a blob could be removed that another upload has just found there

    async def create(self, owner: Owner, filename: str, size_bytes: int, request_id: str) -> Upload:
        self._check_size(size_bytes)
        upload = Upload(UploadId(uuid4().hex), owner, safe_filename(filename), datetime.now(UTC), request_id=request_id)
        return await self._store.create_upload(upload)

    async def owned(self, owner: Owner, upload_id: UploadId) -> Upload:
        """Raises ServiceError(NOT_FOUND), for another's as well."""
        upload = await self._store.get_upload(upload_id)
        if upload is None or upload.owner != owner:
            raise ServiceError(Reason.NOT_FOUND, "There is no such upload in this session.")
        return upload

    def committed(self, upload: Upload) -> int:
        return upload.size_bytes if upload.complete else committed_bytes(self._blobs.partial_path(upload.id))

    async def write(self, upload: Upload, offset: int) -> UploadWriter:
        """A writer that goes on at ``offset``. Raises UPLOAD_BUSY and UPLOAD_OFFSET_MISMATCH."""
        if upload.id in self._open:
            raise ServiceError(Reason.UPLOAD_BUSY)
        if upload.complete:
            raise ServiceError(Reason.UPLOAD_OFFSET_MISMATCH, "The upload is already complete.")
        file = PartialFile(self._blobs.partial_path(upload.id))
        self._open.add(upload.id)
        try:
            await file.open(offset)
        except BaseException:
            self._open.discard(upload.id)
            raise
        return UploadWriter(self, upload, file)

    def released(self, upload: Upload) -> None:
        self._open.discard(upload.id)

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise ServiceError(
                Reason.FILE_TOO_LARGE,
                f"The file is over the limit of {self._max_bytes // MEGABYTE} MB. Split it, or raise CONTROLLER_MAX_UPLOAD_MB.",
            )

    async def check_grown(self, upload: Upload, size_bytes: int) -> None:
        """Raises FILE_TOO_LARGE, and drops what was written of it."""
        try:
            self._check_size(size_bytes)
        except ServiceError:
            await self._drop(upload)
            raise

    async def complete(self, upload: Upload, file: PartialFile, expected_sha256: str) -> Upload:
        """Verifies and probes what was written. Raises UPLOAD_DIGEST_MISMATCH and AUDIO_INVALID; it is dropped then."""
        digest = await file.digest()
        try:
            if expected_sha256 and digest != expected_sha256:
                raise ServiceError(Reason.UPLOAD_DIGEST_MISMATCH)
            if file.size == 0:
                raise ServiceError(Reason.AUDIO_INVALID, "The file cannot be transcribed: it is empty.")
            duration = await self._prober.duration_seconds(self._blobs.partial_path(upload.id))
        except ServiceError as error:
            log.info("upload_refused", upload_id=upload.id, reason=error.reason.value)
            await self._drop(upload)
            raise
        whole = replace(upload, sha256=digest, size_bytes=file.size, duration_seconds=duration, complete=True)
        async with self._keeping:
            await self._blobs.adopt(upload.id, digest)
            await self._store.save_upload(whole)
        log.info("upload_completed", upload_id=upload.id, bytes=file.size, seconds=round(duration, 2))
        return whole

    async def remove(self, upload: Upload) -> bool:
        """False, and nothing done, while a job uses it."""
        if not upload.complete:  # before the store, which may have no room to write before this made some
            await self._blobs.discard_partial(upload.id)
        if not await self._store.delete_upload(upload.id):
            return False
        async with self._keeping:
            if upload.sha256 and not await self._store.blob_in_use(upload.sha256):
                await self._blobs.remove(upload.sha256)
        return True

    async def remove_unused(self, upload_id: UploadId) -> None:
        upload = await self._store.get_upload(upload_id)
        if upload is not None:
            await self.remove(upload)

    async def sweep(self, now: float) -> None:
        """Removes uploads that were cut and never gone on with; ``now`` is in seconds since the epoch."""
        for upload in await self._store.incomplete_uploads():
            partial = self._blobs.partial_path(upload.id)
            touched = partial.stat().st_mtime if partial.exists() else upload.created_at.timestamp()
            if upload.id not in self._open and now - touched > UNFINISHED_SECONDS:
                await self._drop(upload)
                log.info("upload_dropped", upload_id=upload.id, idle_seconds=round(now - touched))

    async def _drop(self, upload: Upload) -> None:
        await self._blobs.discard_partial(upload.id)
        await self._store.delete_upload(upload.id)


class UploadWriter:
    """One stream into one upload; nobody else may write it until `close`."""

    def __init__(self, recordings: Recordings, upload: Upload, file: PartialFile) -> None:
        self._recordings = recordings
        self._file = file
        self.upload = upload

    async def append(self, data: bytes) -> None:
        await self._recordings.check_grown(self.upload, self._file.size + len(data))
        await self._file.append(data)

    async def complete(self, expected_sha256: str) -> None:
        self.upload = await self._recordings.complete(self.upload, self._file, expected_sha256)

    async def close(self) -> None:
        """Syncs what arrived, also after a stream that broke."""
        try:
            await self._file.close()
        finally:
            self._recordings.released(self.upload)

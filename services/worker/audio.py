"""The worker's recordings: named by their content, uploaded in pieces, removed by age and quota.

Invariant: a recording is found only when it is whole, verified and synced; one that a run reads is never removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from services.contract.errors import Reason, ServiceError
from services.contract.limits import MEGABYTE
from services.runtime.blobs import BlobFolder, PartialFile, committed_bytes, storage_errors
from services.worker.metrics import Metrics

log = structlog.get_logger()

YOUNG_SECONDS = 15 * 60.0
"""The quota takes nothing that was used so lately: its dispatch is likely under way."""


@dataclass(frozen=True, slots=True)
class Recording:
    """``sha256`` in lower-case hexadecimal; ``size`` in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Committed:
    """``size``: synced bytes; ``complete``: whole and verified."""

    size: int
    complete: bool


@dataclass(frozen=True, slots=True)
class AudioLimits:
    """``max_bytes`` of one recording; ``quota_bytes`` of all, ``max_age_seconds`` since the last use."""

    max_bytes: int
    quota_bytes: int
    max_age_seconds: float


class Upload:
    """One upload under way; ``committed`` tells what came of it once `AudioStore.upload` was left."""

    def __init__(self, recording: Recording, file: PartialFile) -> None:
        self._recording = recording
        self._file = file
        self.committed = Committed(file.size, False)

    async def append(self, data: bytes) -> None:
        """Raises INVALID_REQUEST past the recording's size, STORAGE_FULL, STORAGE_FAILED."""
        if self._file.size + len(data) > self._recording.size:
            raise ServiceError(
                Reason.INVALID_REQUEST, f"More data came than the {self._recording.size} bytes that were announced."
            )
        await self._file.append(data)


class AudioStore:
    """All recordings below one folder, which is this process's own."""

    def __init__(self, folder: Path, limits: AudioLimits, metrics: Metrics) -> None:
        self._blobs = BlobFolder(folder)
        self._limits = limits
        self._metrics = metrics
        self._uploads: dict[str, int] = {}

    def check(self, recording: Recording) -> None:
        """Raises FILE_TOO_LARGE."""
        if recording.size > self._limits.max_bytes:
            raise ServiceError(
                Reason.FILE_TOO_LARGE,
                f"The recording has {recording.size} bytes; this worker takes {self._limits.max_bytes // MEGABYTE} MB"
                " at most. Split it, or raise WORKER_MAX_FILE_MB.",
            )

    def find(self, recording: Recording) -> Path:
        """Where the whole recording lies; it counts as used now. Raises AUDIO_MISSING, STORAGE_FAILED."""
        with storage_errors():
            complete = self._is_complete(recording)
        if not complete:
            raise ServiceError(Reason.AUDIO_MISSING)
        return self._used(recording)

    async def stat(self, recording: Recording) -> Committed:
        """While it is being uploaded: where that upload began. Raises FILE_TOO_LARGE, INVALID_REQUEST,
        STORAGE_FAILED."""
        self.check(recording)
        with storage_errors():
            if self._is_complete(recording):
                self._used(recording)
                return Committed(recording.size, True)
            if recording.sha256 in self._uploads:
                return Committed(self._uploads[recording.sha256], False)
            return Committed(await asyncio.to_thread(self._sync_partial, recording), False)

    @contextlib.asynccontextmanager
    async def upload(self, recording: Recording, offset: int) -> AsyncIterator[Upload]:
        """Takes what follows ``offset``; leaving, however, syncs what arrived, and verifies it when it is all.

        Raises FILE_TOO_LARGE, UPLOAD_BUSY, UPLOAD_OFFSET_MISMATCH, UPLOAD_DIGEST_MISMATCH, STORAGE_FULL, STORAGE_FAILED.
        """
        held = await self.stat(recording)
        if held.complete:
            raise ServiceError(Reason.UPLOAD_OFFSET_MISMATCH, "The recording is already complete.")
        if recording.sha256 in self._uploads:
            raise ServiceError(Reason.UPLOAD_BUSY)
        self._uploads[recording.sha256] = held.size
        file = PartialFile(self._partial(recording))
        try:
            with storage_errors():
                await file.open(offset)
            upload = Upload(recording, file)
            try:
                yield upload
            finally:
                self._metrics.received_bytes.inc(file.size - offset)
                with storage_errors():
                    await file.close()
            with storage_errors():
                upload.committed = await self._finish(recording, file)
        finally:
            del self._uploads[recording.sha256]

    async def sweep(self, in_use: Callable[[], set[str]]) -> None:
        """Removes what was not used for long, and the least recently used above the quota; never what runs read.

        Looks in a thread; decides and removes on the loop, so that no dispatch comes between.
        """
        files = await asyncio.to_thread(self._files_by_use)
        kept = in_use() | self._uploads.keys()
        now = time.time()
        stored = sum(stat.st_size for _, stat in files)
        for path, stat in files:
            age = now - stat.st_mtime
            expendable = stored > self._limits.quota_bytes and age > YOUNG_SECONDS
            if path.name.removesuffix(".part") in kept or not (age > self._limits.max_age_seconds or expendable):
                continue
            if not _is_unused_since(path, stat):
                continue
            path.unlink(missing_ok=True)
            stored -= stat.st_size
            log.info("audio_removed", sha256=path.name, bytes=stat.st_size, age_seconds=round(age))
        self._metrics.stored_bytes.set(stored)

    async def _finish(self, recording: Recording, file: PartialFile) -> Committed:
        if file.size < recording.size:
            return Committed(file.size, False)
        if await file.digest() != recording.sha256:
            await self._blobs.discard_partial(self._name(recording))
            log.warning("remote_audio_refused", sha256=recording.sha256, reason="UPLOAD_DIGEST_MISMATCH")
            raise ServiceError(Reason.UPLOAD_DIGEST_MISMATCH)
        await self._blobs.adopt(self._name(recording), recording.sha256)
        log.info("remote_audio_received", sha256=recording.sha256, bytes=recording.size)
        return Committed(file.size, True)

    def _used(self, recording: Recording) -> Path:
        """It counts as used now, where the disk takes that; a use that cannot be noted is no error."""
        path = self._blobs.path(recording.sha256)
        with contextlib.suppress(OSError):
            os.utime(path)
        return path

    def _is_complete(self, recording: Recording) -> bool:
        path = self._blobs.path(recording.sha256)
        if not path.exists():
            return False
        if path.stat().st_size != recording.size:
            raise ServiceError(Reason.INVALID_REQUEST, "The recording of this digest has another size.")
        return True

    def _sync_partial(self, recording: Recording) -> int:
        """What a process that was killed had written may lie in memory only; synced, it counts."""
        path = self._partial(recording)
        if committed_bytes(path) > recording.size:
            path.unlink()
        if not path.exists():
            return 0
        with path.open("rb") as file:
            os.fdatasync(file.fileno())
        return committed_bytes(path)

    def _partial(self, recording: Recording) -> Path:
        return self._blobs.partial_path(self._name(recording))

    @staticmethod
    def _name(recording: Recording) -> str:
        return f"{recording.sha256}.part"

    def _files_by_use(self) -> list[tuple[Path, os.stat_result]]:
        """The least recently used first."""
        files = []
        for path in self._blobs.folder.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):  # an upload that ended meanwhile
                if path.is_file():
                    files.append((path, path.stat()))
        return sorted(files, key=lambda entry: entry[1].st_mtime)


def _is_unused_since(path: Path, stat: os.stat_result) -> bool:
    try:
        return path.stat().st_mtime == stat.st_mtime
    except FileNotFoundError:
        return False

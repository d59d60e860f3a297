"""The worker's recordings on a disk that is a dictionary: what `services.worker.audio.AudioStore` answers.

Invariant: only what was synced is there after a crash, and a recording is found only when it is whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from services.contract.errors import Reason, ServiceError
from services.worker.audio import Committed, Recording
from tests.simulation.journal import Pages
from tests.simulation.process import Process


@dataclass
class Disk:
    """What a worker has on its disk; it outlives processes."""

    whole: dict[str, bytes] = field(default_factory=dict)
    partial: dict[str, bytes] = field(default_factory=dict)
    journal: Pages = field(default_factory=Pages)
    full: bool = False


class Upload:
    def __init__(self, disk: Disk, recording: Recording, size: int) -> None:
        self.committed = Committed(size, False)
        self.data = b""
        self._disk = disk
        self._room = recording.size - size

    async def append(self, data: bytes) -> None:
        if self._disk.full:
            raise ServiceError(Reason.STORAGE_FULL)
        if len(self.data) + len(data) > self._room:
            raise ServiceError(Reason.INVALID_REQUEST, "More data came than was announced.")
        self.data += data


class SimulatedAudio:
    """In place of AudioStore, for one life of a worker. The digest of a recording is its content in hexadecimal."""

    def __init__(self, disk: Disk, process: Process, random: Random) -> None:
        self._disk = disk
        self._process = process
        self._random = random
        self._uploads: dict[str, int] = {}

    def find(self, recording: Recording) -> Path:
        if recording.sha256 not in self._disk.whole:
            raise ServiceError(Reason.AUDIO_MISSING)
        return Path(recording.sha256)

    async def stat(self, recording: Recording) -> Committed:
        if recording.sha256 in self._disk.whole:
            return Committed(recording.size, True)
        if recording.sha256 in self._uploads:
            return Committed(self._uploads[recording.sha256], False)
        await self._wait()
        return Committed(len(self._disk.partial.get(recording.sha256, b"")), False)

    @contextlib.asynccontextmanager
    async def upload(self, recording: Recording, offset: int) -> AsyncIterator[Upload]:
        held = await self.stat(recording)
        if held.complete:
            raise ServiceError(Reason.UPLOAD_OFFSET_MISMATCH, "The recording is already complete.")
        if recording.sha256 in self._uploads:
            raise ServiceError(Reason.UPLOAD_BUSY)
        self._uploads[recording.sha256] = held.size
        try:
            if offset != held.size:
                raise ServiceError(Reason.UPLOAD_OFFSET_MISMATCH)
            upload = Upload(self._disk, recording, held.size)
            try:
                yield upload
            finally:
                await self._sync(recording, upload)
        finally:
            del self._uploads[recording.sha256]

    async def _sync(self, recording: Recording, upload: Upload) -> None:
        await self._wait()
        data = self._disk.partial.get(recording.sha256, b"") + upload.data
        self._disk.partial[recording.sha256] = data
        if len(data) == recording.size:
            if digest(data) != recording.sha256:
                del self._disk.partial[recording.sha256]
                raise ServiceError(Reason.UPLOAD_DIGEST_MISMATCH)
            self._disk.whole[recording.sha256] = self._disk.partial.pop(recording.sha256)
        await self._wait()
        upload.committed = Committed(len(data), len(data) == recording.size)

    async def _wait(self) -> None:
        self._process.require_life()
        await asyncio.sleep(self._random.expovariate(200.0))
        self._process.require_life()


class Blobs:
    """In place of the controller's BlobFolder: its recordings never go away."""

    def __init__(self) -> None:
        self._content: dict[str, bytes] = {}

    def add(self, content: bytes) -> str:
        sha256 = digest(content)
        self._content[sha256] = content
        return sha256

    def path(self, sha256: str) -> Blob:
        return Blob(self._content[sha256])


@dataclass(frozen=True)
class Blob:
    """As a Path, as far as uploads go."""

    content: bytes

    def open(self, mode: str, buffering: int) -> io.BytesIO:
        return io.BytesIO(self.content)


def digest(content: bytes) -> str:
    """As long as a SHA-256, and cheaper."""
    return content.hex().ljust(64, "0")

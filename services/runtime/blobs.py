"""Files named by their content, and uploads into them that can be cut and go on.

Writing and hashing happen in threads, in pieces, one piece behind the stream, so the loop stays free and memory
flat. A blob's file exists under its digest only when it is whole, verified and synced.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
from pathlib import Path
from typing import BinaryIO

from services.contract.errors import Reason, ServiceError

PIECE_BYTES = 4 * 1024 * 1024
"""Written at once: large enough that the thread's hand-over costs nothing, small enough to hold two."""

RESERVED_BYTES = 64 * 1024 * 1024
"""Left free on the disk, for what is small and must be written all the same: a database, a journal, a log."""

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class PartialFile:
    """Appends to a file from a committed offset on; only what was synced counts as committed.

    Not for two tasks at once. Errors of a full disk are ServiceError(STORAGE_FULL); what was committed stays.
    Bytes are hashed as they come only where all of them come in one go: after a cut the file is read once, at its end,
    and not at every new beginning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._hash: hashlib._Hash | None = hashlib.sha256()
        self._piece: list[bytes] = []
        self._piece_size = 0
        self._writing: asyncio.Future[None] | None = None
        self._size = 0
        self._synced = 0
        self._busy = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes taken so far, synced or not."""
        return self._size

    @property
    def synced(self) -> int:
        """Bytes that no crash takes away."""
        return self._synced

    async def open(self, offset: int) -> None:
        """Goes on after ``offset`` bytes, which are synced then. Raises UPLOAD_OFFSET_MISMATCH."""
        committed = committed_bytes(self._path)
        if offset != committed:
            raise ServiceError(
                Reason.UPLOAD_OFFSET_MISMATCH, f"The upload goes on at byte {committed}, not at {offset}."
            )
        opening = asyncio.ensure_future(asyncio.to_thread(self._open))
        try:
            with storage_errors():
                self._file = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            await asyncio.wait([opening])
            raise
        self._hash = None if offset else hashlib.sha256()
        self._size = self._synced = offset

    async def append(self, data: bytes) -> None:
        self._piece.append(data)
        self._piece_size += len(data)
        self._size += len(data)
        if self._piece_size >= PIECE_BYTES:
            await self._flush()

    async def sync(self) -> int:
        """Makes all that was taken durable; returns the committed size."""
        await self._flush()
        await self._written()
        if self._file is not None:
            size = self._size
            with storage_errors():
                await asyncio.to_thread(os.fdatasync, self._file.fileno())
            self._synced = size
        return self._size

    async def digest(self) -> str:
        """SHA-256 of the whole file, in lower-case hexadecimal; everything is synced first."""
        await self.sync()
        if self._hash is not None:
            return self._hash.hexdigest()
        return await asyncio.to_thread(_file_digest, self._path)

    async def close(self) -> None:
        """Syncs what arrived, where the disk still takes it; to its end, also when the task is canceled meanwhile."""
        closing = asyncio.ensure_future(self._sync_and_close())
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await asyncio.wait([closing])
            if not closing.cancelled():
                closing.exception()  # nobody is there to hear of it
            raise

    async def _sync_and_close(self) -> None:
        try:
            await self.sync()
        finally:
            file, self._file = self._file, None
            if file is not None:
                await asyncio.to_thread(self._close, file)

    def _close(self, file: BinaryIO) -> None:
        with self._busy:
            file.close()

    def _open(self) -> BinaryIO:
        folder = self._path.parent
        is_first, is_new = not folder.exists(), not self._path.exists()
        folder.mkdir(parents=True, exist_ok=True)
        file = self._path.open("ab", buffering=0)
        try:
            if is_new:  # once: what is synced of a file is lost with its name
                sync_folder(folder)
                if is_first:
                    sync_folder(folder.parent)
            else:  # a killed process may have written what lies in memory only
                os.fdatasync(file.fileno())
                os.utime(self._path)
        except OSError:
            file.close()
            raise
        return file

    async def _flush(self) -> None:
        await self._written()
        if self._piece:
            piece, self._piece, self._piece_size = self._piece, [], 0
            self._writing = asyncio.get_running_loop().run_in_executor(None, self._write, piece)

    async def _written(self) -> None:
        """Waits for the piece that is being written. Canceled, it is waited for by whoever closes; failed, it stays
        failed: a later piece behind half of this one would be a hole."""
        if self._writing is not None:
            with storage_errors():
                await asyncio.shield(self._writing)
            self._writing = None

    def _write(self, piece: list[bytes]) -> None:
        with self._busy:
            file = self._file
            if file is None:
                return  # closed by a task that was canceled twice, and could not wait for this piece
            _require_room(file, sum(map(len, piece)))
            for data in piece:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                if self._hash is not None:
                    self._hash.update(data)


class BlobFolder:
    """Blobs by SHA-256 below one folder; partial ones beside them under any name that the caller keeps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def partial_path(self, name: str) -> Path:
        return self.folder / "partial" / name

    def has(self, sha256: str) -> bool:
        return self.path(sha256).exists()

    async def adopt(self, name: str, sha256: str) -> Path:
        """Makes a synced partial file the blob of its digest. Done again, it finds the blob and is content.

        Raises FileNotFoundError where there is neither.
        """
        with storage_errors():
            return await asyncio.to_thread(self._adopt, self.partial_path(name), self.path(sha256))

    async def discard_partial(self, name: str) -> None:
        await asyncio.to_thread(self.partial_path(name).unlink, missing_ok=True)

    async def remove(self, sha256: str) -> None:
        await asyncio.to_thread(self.path(sha256).unlink, missing_ok=True)

    async def settle(self, name: str) -> int:
        """Syncs a partial file that nobody writes: what a killed process had written may lie in memory only. Returns
        its committed bytes. It is no longer idle."""
        with storage_errors():
            return await asyncio.to_thread(_settle, self.partial_path(name))

    async def digests(self) -> frozenset[str]:
        """Of all blobs."""
        return await asyncio.to_thread(lambda: frozenset(path.name for path in self.folder.glob("??/*")))

    async def idle_partials(self, idle_seconds: float, now: float) -> frozenset[str]:
        """The names of partial files that were last written, or asked for, so long before ``now``, in seconds since the epoch."""
        return await asyncio.to_thread(_idle, self.folder / "partial", now - idle_seconds)

    def _adopt(self, partial: Path, blob: Path) -> Path:
        blob.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.replace(blob)
        except FileNotFoundError:
            if not blob.exists():
                raise
        for folder in (blob.parent, self.folder):
            sync_folder(folder)
        return blob


def _require_room(file: BinaryIO, size: int) -> None:
    disk = os.fstatvfs(file.fileno())
    if disk.f_bavail * disk.f_frsize < size + RESERVED_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _close_opened(opening: asyncio.Future[BinaryIO]) -> None:
    """Of a task that was canceled while a thread opened its file: nobody else has it."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def committed_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _settle(path: Path) -> int:
    try:
        with path.open("rb") as file:
            os.fdatasync(file.fileno())
            os.utime(file.fileno())
            return os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return 0


def _idle(folder: Path, before: float) -> frozenset[str]:
    if not folder.exists():
        return frozenset()
    return frozenset(path.name for path in folder.iterdir() if 0 < _written_at(path) < before)


def _written_at(path: Path) -> float:
    """In seconds since the epoch; 0 for a file that was renamed or removed since it was listed."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0


def sync_folder(folder: Path) -> None:
    """Makes a rename or a new file inside the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class storage_errors:
    """Turns errors of a full disk into STORAGE_FULL, and those of one that cannot be used into STORAGE_FAILED.

    A file that is not there is no error of the disk, and neither is a time that ran out: they pass.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise ServiceError(Reason.STORAGE_FULL) from error
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            raise ServiceError(Reason.STORAGE_FAILED) from error

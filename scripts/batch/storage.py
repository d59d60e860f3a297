"""Files that are there whole or not at all, and a lock that keeps a second runner out."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


class StorageError(Exception):
    """Something cannot be written; the message says what, why and what to do."""


class Locked(Exception):
    """Another runner holds the lock."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes ``path``'s place when the block ends well: written beside it, synced, renamed.

    It can be read by its owner only. Raises StorageError; what was there before stays then.
    """
    scratch: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
        scratch = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
        scratch = None
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    finally:
        if scratch is not None:
            with contextlib.suppress(OSError):
                scratch.unlink()


def _sync_folder(folder: Path) -> None:
    """Makes the rename durable, where the file system can sync a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Makes the folder and makes sure that files can be written into it. Raises StorageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(f"cannot write into {str(folder)!r}: {error.strerror or error}") from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds ``path`` as a lock file, and removes it after. Raises Locked, or StorageError where it cannot be made."""
    try:
        descriptor = _acquire(path)
    except BlockingIOError as error:
        raise Locked from error
    except OSError as error:
        raise StorageError(f"cannot lock {str(path)!r}: {error.strerror or error}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # before the lock is let go, so that nobody's lock but ours is removed
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(descriptor, path):
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder removed it between our opening and locking it


def _is_same(descriptor: int, path: Path) -> bool:
    ours = os.fstat(descriptor)
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)

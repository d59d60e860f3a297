"""Files that are there whole or not at all, and a lock that keeps a second runner out."""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import BinaryIO

from scripts.batch.recordings import LONGEST_NAME_BYTES

KEPT = ".kept"
"""How the names end of what was moved aside."""


class StorageError(Exception):
    """Something cannot be written; the message says what, why and what to do."""


class Locked(Exception):
    """Another runner holds the lock."""


@contextlib.contextmanager
def replacing(path: Path, kept: Callable[[Path], None] | None = None) -> Iterator[BinaryIO]:
    """A file that takes ``path``'s place when the block ends well: written beside it, synced, renamed.

    It can be read by its owner only. Raises StorageError; what was there before stays then. Where ``kept`` is given, a file of
    another content is not replaced but moved aside, and ``kept`` told where to.
    """
    try:
        descriptor, scratch = _open_scratch(path)
        with os.fdopen(descriptor, "wb") as file:  # which keeps its lock until it is renamed or gone
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if kept is not None and (other := _move_aside(path, scratch)) is not None:
                    kept(other)
                scratch.replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    scratch.unlink()
                raise
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def _move_aside(path: Path, scratch: Path) -> Path | None:
    """Where to, or None where there is nothing or the same."""
    if not path.is_file() or filecmp.cmp(path, scratch, shallow=False):
        return None
    stem = path.name
    if len(os.fsencode(stem)) > LONGEST_NAME_BYTES - len(".999.kept"):
        stem = hashlib.sha256(os.fsencode(stem)).hexdigest()
    other = next(free for number in count(1) if not (free := path.with_name(f"{stem}.{number}{KEPT}")).exists())
    path.rename(other)
    return other


def scratch_path(path: Path) -> Path:
    """Where ``path``'s next content is written. Always the same, so that what a kill leaves there is overwritten."""
    name = f".{path.name}.part"
    if len(os.fsencode(name)) > LONGEST_NAME_BYTES:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}.part"
    return path.with_name(name)


def _open_scratch(path: Path) -> tuple[int, Path]:
    """An empty file for this writer alone: one of its own where another writes the same, or the usual cannot be had."""
    scratch = scratch_path(path)
    with contextlib.suppress(OSError):
        descriptor = _acquire(scratch, os.O_NOFOLLOW)
        try:
            os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, 0)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor, scratch
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    return descriptor, Path(name)


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


def _acquire(path: Path, flags: int = 0) -> int:
    """Opens and locks it. Raises BlockingIOError when another holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
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

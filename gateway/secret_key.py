"""The key that signs sessions where none is set: made once, kept in a file, so that sessions outlive any end."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from services.runtime.folder import make_private

NAME = "secret.key"
KEY_BYTES = 32
LONGEST_FILE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class KeptKey:
    """``trouble`` says why the key ends with this process; empty where it is kept."""

    key: str
    trouble: str = ""


def kept_key(folder: Path) -> KeptKey:
    """The folder's key, made where there is none; another one, in memory, where the folder cannot be used, or where its
    key may be known to others."""
    try:
        make_private(folder)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            trouble = _lock(descriptor)
            key = _read(folder / NAME)
            if trouble and not key:
                return KeptKey(_random(), trouble)
            return KeptKey(key or _make(folder, descriptor))
        finally:
            os.close(descriptor)
    except OSError as error:
        return KeptKey(_random(), error.strerror or str(error))


def _lock(descriptor: int) -> str:
    """Two gateways that start together must come to the same key. Returns why it cannot be had: some file systems have
    no locks, and a key that is there is good all the same."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _read(path: Path) -> str:
    """Empty where there is none, or one too short to protect anything. Raises OSError for one that others may know."""
    try:  # never waits, as it would for the other end of a pipe
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return ""
    try:
        _require_private(os.fstat(descriptor))
        text = os.read(descriptor, LONGEST_FILE_BYTES).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)
    return text if len(text) >= KEY_BYTES else ""


def _require_private(file: os.stat_result) -> None:
    mode = stat.S_IMODE(file.st_mode)
    if not stat.S_ISREG(file.st_mode):
        raise OSError(f"{NAME} is no regular file")
    if file.st_uid != os.geteuid():
        raise OSError(f"{NAME} belongs to another user")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise OSError(f"{NAME} is open to others: its mode is {mode:04o}, not 0600")


def _make(folder: Path, descriptor: int) -> str:
    """Whole or not at all, and for its owner only."""
    key = _random()
    handle, scratch = tempfile.mkstemp(prefix=f".{NAME}.", dir=folder)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(key + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).replace(folder / NAME)
    except OSError:
        Path(scratch).unlink(missing_ok=True)
        raise
    os.fsync(descriptor)
    return key


def _random() -> str:
    return secrets.token_urlsafe(KEY_BYTES)

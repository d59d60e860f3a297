"""The key that signs sessions where none is set: made once, kept in a file, so that sessions outlive any end."""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

NAME = "secret.key"
KEY_BYTES = 32
LONGEST_FILE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class KeptKey:
    """``trouble`` says why the key ends with this process; empty where it is kept."""

    key: str
    trouble: str = ""


def kept_key(folder: Path) -> KeptKey:
    """The folder's key, made where there is none; another one, in memory, where the folder cannot be used."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # two gateways that start together must come to the same key
            return KeptKey(_read(folder / NAME) or _make(folder, descriptor))
        finally:
            os.close(descriptor)
    except OSError as error:
        return KeptKey(_random(), error.strerror or str(error))


def _read(path: Path) -> str:
    """Empty where there is none, or one too short to protect anything."""
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST_FILE_BYTES).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return ""
    return text if len(text) >= KEY_BYTES else ""


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

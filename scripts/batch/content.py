"""A recording's bytes: hashed, and read from the disk as they are sent."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from scripts.batch.recordings import Fingerprint, fingerprint

PIECE_BYTES = 512 * 1024
HASH_BYTES = 8 * 1024 * 1024
"""Read and hashed in one thread's turn: progress is told between."""

CHANGED = "changed while it was uploaded; try it again when it is whole"


class UnreadableRecording(Exception):
    """The recording cannot be read, or changed while it was; the message says why."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a recording's file held when it was hashed; ``sha256`` in lower-case hexadecimal."""

    fingerprint: Fingerprint
    sha256: str

    @property
    def size_bytes(self) -> int:
        return self.fingerprint.size_bytes


async def read_content(path: Path, hashed: Callable[[int, int], None]) -> Content:
    """Hashes a file; ``hashed`` hears how many bytes of how many. Raises UnreadableRecording."""
    before = current(path)
    digest, done = hashlib.sha256(), 0
    with open_recording(path) as file:
        while piece := await asyncio.to_thread(_read_into, file, digest):
            done += piece
            hashed(done, before.size_bytes)
    if current(path) != before or done != before.size_bytes:
        raise UnreadableRecording("changed while it was read; try it again when it is whole")
    return Content(before, digest.hexdigest())


async def pieces(file: BinaryIO, offset: int, size_bytes: int) -> AsyncIterator[bytes]:
    """What follows ``offset`` of an open recording of that size. Raises UnreadableRecording."""
    file.seek(offset)
    left = size_bytes - offset
    while left > 0:
        piece = await asyncio.to_thread(_read, file, min(PIECE_BYTES, left))
        left -= len(piece)
        yield piece


def current(path: Path) -> Fingerprint:
    """Raises UnreadableRecording."""
    try:
        return fingerprint(path)
    except OSError as error:
        raise UnreadableRecording(f"cannot be read: {error.strerror or error}") from error


def open_recording(path: Path) -> BinaryIO:
    """Raises UnreadableRecording."""
    try:
        return path.open("rb")
    except OSError as error:
        raise UnreadableRecording(f"cannot be read: {error.strerror or error}") from error


def upload_request_id(name: str, sha256: str) -> str:
    """The same file of the same name is the same upload, whoever asks and whatever was forgotten meanwhile."""
    return _request_id([name, sha256])


def job_request_id(
    name: str, content: str, options: Mapping[str, object], replaces: str | None, again: str | None
) -> str:
    """The same content, name and options are the same job; another one only where it ``replaces`` a failed one, or for
    another time that people named (``again``)."""
    parts: list[object] = [name, content, dict(sorted(options.items())), replaces]
    return _request_id(parts if again is None else [*parts, again])


def _request_id(parts: object) -> str:
    return f"batch-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"


def _read_into(file: BinaryIO, digest: hashlib._Hash) -> int:
    piece = _read(file, HASH_BYTES, end=True)
    digest.update(piece)
    return len(piece)


def _read(file: BinaryIO, size: int, end: bool = False) -> bytes:
    """``end``: whether the file may end here."""
    try:
        piece = file.read(size)
    except OSError as error:
        raise UnreadableRecording(f"cannot be read: {error.strerror or error}") from error
    if not piece and not end:
        raise UnreadableRecording("became shorter while it was sent; try it again when it is whole")
    return piece

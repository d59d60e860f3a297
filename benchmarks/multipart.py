"""One recording as a multipart/form-data body, read from the disk as it is sent."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import quote

FIELD = "files"
PIECE_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class RecordingBody:
    """``size_bytes`` is the recording's; the body is so long that ``length`` says, whatever happens to the file."""

    name: str
    size_bytes: int
    boundary: str

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self.boundary}"

    @property
    def length(self) -> int:
        return len(self._head()) + self.size_bytes + len(self._tail())

    async def pieces(self, file: BinaryIO) -> AsyncIterator[bytes]:
        """The whole body, with the open recording in it."""
        yield self._head()
        left = self.size_bytes
        while left:
            piece = await asyncio.to_thread(file.read, min(PIECE_BYTES, left))
            left -= len(piece)
            yield piece
        yield self._tail()

    def _head(self) -> bytes:
        return (
            f"--{self.boundary}\r\n"
            f'Content-Disposition: form-data; name="{FIELD}"; {name_parameters(self.name)}\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()

    def _tail(self) -> bytes:
        return f"\r\n--{self.boundary}--\r\n".encode()


def recording_body(name: str, size_bytes: int) -> RecordingBody:
    return RecordingBody(name, size_bytes, f"batch-{secrets.token_hex(16)}")


def name_parameters(name: str) -> str:
    """The file's name twice: exactly (RFC 5987), and without what parsers of the plain form stumble over.

    Names may hold what ends a parameter (quotes, and semicolons for some parsers) or a header (line ends).
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    plain = "".join(character if _is_plain(character) else "_" for character in text)
    return f"filename=\"{plain}\"; filename*=UTF-8''{quote(text, safe='')}"


def _is_plain(character: str) -> bool:
    return character.isprintable() and character not in '"\\;%'

"""What crosses the pipe between the front and the engine child: frozen values, pickled, each behind its length.

Both ends are processes of ours on a socket pair that nobody else can open, which is why pickle is safe here.
"""

from __future__ import annotations

import asyncio
import pickle
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from services.worker.engine.protocol import EngineSettings
from services.worker.work import EngineState, Report, Work

_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Configure:
    """The first message."""

    settings: EngineSettings


@dataclass(frozen=True, slots=True)
class RunWork:
    """``run`` is the front's number for it, so that a late report never meets a later run of the same attempt."""

    run: int
    work: Work


@dataclass(frozen=True, slots=True)
class CancelWork:
    run: int


@dataclass(frozen=True, slots=True)
class Foresee:
    """A run of this recording will likely come soon."""

    audio_path: Path


@dataclass(frozen=True, slots=True)
class Ping:
    pass


@dataclass(frozen=True, slots=True)
class Pong:
    pass


@dataclass(frozen=True, slots=True)
class StateReported:
    state: EngineState


@dataclass(frozen=True, slots=True)
class WorkReported:
    run: int
    report: Report


@dataclass(frozen=True, slots=True)
class Recycle:
    """The child asks to be replaced: its CUDA context is lost, or its memory is in pieces.

    ``reason`` is for the log; ``batch_size`` is what later children begin with, 0 for what this one began with; ``is_less``: that
    is less than this one tried, so that the next may get further with the same work.
    """

    reason: str
    batch_size: int = 0
    is_less: bool = False


ToEngine = Configure | RunWork | CancelWork | Foresee | Ping
FromEngine = StateReported | WorkReported | Pong | Recycle


def encode(message: ToEngine | FromEngine) -> bytes:
    content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(content)) + content


def receive(stream: BinaryIO) -> ToEngine | None:
    """The next message, waiting for it; None once the other end is gone."""
    try:
        head = stream.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        (size,) = _LENGTH.unpack(head)
        content = stream.read(size)
    except ConnectionError:
        return None
    if len(content) < size:
        return None
    message: ToEngine = pickle.loads(content)  # noqa: S301 - see above
    return message


async def receive_async(stream: asyncio.StreamReader) -> FromEngine | None:
    """As ``receive``, without blocking the loop even where a message comes in pieces."""
    try:
        (size,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
        content = await stream.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    message: FromEngine = pickle.loads(content)  # noqa: S301 - see above
    return message

"""A TCP proxy between two processes: its test cuts, stalls, slows down and refuses what goes through it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

CHUNK_BYTES = 64 * 1024
AT_ONCE = 256
"""Chunks that a slow lane holds at most; the sender waits then, as on a real line."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: closing sends RST."""


@dataclass
class Lane:
    """One direction. While it is not ``open`` nothing is read from its sender; ``delay`` is in seconds."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    delay: float = 0.0

    def __post_init__(self) -> None:
        self.open.set()


class Proxy:
    """From ``port`` to ``target`` of this machine. Stalled connections are kept, and go on once the lanes are open."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.target = target
        self.up, self.down = Lane(), Lane()
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    async def accept(self) -> None:
        """Again, after `refuse`."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True)

    def refuse(self) -> None:
        """No new connections; those that are go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def cut(self) -> None:
        """Resets every connection."""
        for end in self._ends:
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.transport.abort()

    def stall(self, *, up: bool = True, down: bool = True) -> None:
        """A black hole: bytes of that direction are taken from nobody, connections stay."""
        for lane, stalled in ((self.up, up), (self.down, down)):
            if stalled:
                lane.open.clear()

    def delay(self, seconds: float) -> None:
        self.up.delay = self.down.delay = seconds

    def heal(self) -> None:
        self.delay(0.0)
        self.up.open.set()
        self.down.open.set()

    async def close(self) -> None:
        self.refuse()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self._ends.add(writer)
        try:
            await self.up.open.wait()  # what was sent into a black hole arrives after it
            with contextlib.suppress(OSError):
                await self._join(reader, writer)
        except asyncio.CancelledError:
            pass  # asyncio would report a connection's task that was canceled
        finally:
            self._serving.discard(task)
            self._drop(writer)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self._ends.add(back_writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_carry(reader, back_writer, self.up), name="up")
                group.create_task(_carry(back_reader, writer, self.down), name="down")
        except* OSError:
            pass
        finally:
            self._drop(back_writer)

    def _drop(self, end: asyncio.StreamWriter) -> None:
        self._ends.discard(end)
        end.transport.abort()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lane: Lane) -> None:
    now = asyncio.get_running_loop().time
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(AT_ONCE)

    async def read() -> None:
        data = b"first"
        while data:
            await lane.open.wait()
            data = await reader.read(CHUNK_BYTES)
            await under_way.put((now() + lane.delay, data))

    async def write() -> None:
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(max(0.0, due - now()))
            await lane.open.wait()
            if not data:
                break
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async with asyncio.TaskGroup() as group:
        group.create_task(read(), name="read")
        group.create_task(write(), name="write")


@contextlib.asynccontextmanager
async def proxied(port: int, target: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(port, target)
    await proxy.accept()
    try:
        yield proxy
    finally:
        await proxy.close()

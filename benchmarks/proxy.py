"""A TCP proxy of one's own: counts what passes towards its target, and breaks its connections when it is told."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from scripts.processes import free_ports

READ_BYTES = 64 * 1024


class Proxy:
    """``sent`` bytes went to the target in all, ``cut`` times every connection was broken (RST).

    ``target`` is a port of this machine; ``pace`` is in bytes a second for each connection, as fast as it goes by default.
    """

    def __init__(self, target: int, pace: float = math.inf) -> None:
        self.sent = 0
        self.cut = 0
        self.port = 0
        self._target = target
        self._pace = pace
        self._cuts: deque[int] = deque()
        self._writers: set[asyncio.StreamWriter] = set()

    def cut_at(self, cuts: Sequence[int]) -> None:
        """Breaks all connections once so many bytes have passed from now on."""
        self._cuts = deque(sorted(self.sent + cut for cut in cuts))

    def break_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", port or free_ports(1)[0])
        self.port = int(server.sockets[0].getsockname()[1])
        try:
            async with server:
                yield self
        finally:
            self.break_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            onward_reader, onward = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers |= {writer, onward}
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pass_on(reader, onward))
                    group.create_task(self._pass_back(onward_reader, writer))
            finally:
                self._writers -= {writer, onward}
                onward.transport.abort()
        writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                self.sent += len(data)
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(len(data) / self._pace)
                if self._cuts and self.sent >= self._cuts[0]:
                    self._cuts.popleft()
                    self.cut += 1
                    self.break_all()
        writer.transport.close()

    async def _pass_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                writer.write(data)
                await writer.drain()
        writer.transport.close()

"""One port for two protocols: peeking, splicing, backpressure, silence, ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from services.runtime import listener as listening
from services.runtime.listener import PREFACE, Listener, peer_name
from tests.worker import eventually

DEADLINE = 10


@dataclass
class Port:
    port: int
    listener: Listener
    clients: list[asyncio.StreamWriter] = field(default_factory=list)
    spliced: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def connect(self, *first: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.clients.append(writer)
        for piece in first:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        return reader, writer

    async def inward(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        await eventually(lambda: bool(self.spliced))
        return self.spliced[-1]


@asynccontextmanager
async def listener(folder: Path, grpc: bool = True) -> AsyncIterator[Port]:
    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    assert runner.server is not None
    path = folder / "grpc"
    async with asyncio.TaskGroup() as group:
        made = Listener(path, runner.server, lambda name, work: group.create_task(work, name=name))
        port = Port(await made.start("127.0.0.1", 0), made)
        server = await asyncio.start_unix_server(lambda *ends: port.spliced.append(ends), path) if grpc else None
        try:
            yield port
        finally:
            made.close()
            for writer in [*port.clients, *(inner for _, inner in port.spliced)]:
                writer.transport.abort()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
            if server is not None:
                server.close()
            await runner.cleanup()


async def test_http_in_one_piece_and_byte_by_byte(tmp_path: Path) -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with listener(tmp_path) as port:
        for pieces in ([request], [bytes([byte]) for byte in request], [b"P", request.replace(b"GET", b"OST")]):
            reader, _writer = await port.connect(*pieces)
            async with asyncio.timeout(DEADLINE):
                assert (await reader.read()).startswith(b"HTTP/1.1 ")
        assert not port.spliced


async def test_the_preface_is_spliced_byte_for_byte_in_both_directions(tmp_path: Path) -> None:
    async with listener(tmp_path) as port:
        reader, _writer = await port.connect(*[bytes([byte]) for byte in PREFACE], b" rest")
        inner_reader, inner_writer = await port.inward()
        async with asyncio.timeout(DEADLINE):
            assert await inner_reader.readexactly(len(PREFACE) + 5) == PREFACE + b" rest"
            inner_writer.write(b"answer")
            assert await reader.readexactly(6) == b"answer"
            inner_writer.close()
            assert await reader.read() == b""


async def test_grpc_learns_who_calls(tmp_path: Path) -> None:
    async with listener(tmp_path) as port:
        _, writer = await port.connect(PREFACE)
        _, inner_writer = await port.inward()
        name = inner_writer.get_extra_info("peername")
        ours = writer.get_extra_info("sockname")
        assert peer_name(f"unix-abstract:{name.decode().strip(chr(0))}") == f"127.0.0.1:{ours[1]}"


@pytest.mark.parametrize(
    ("peer", "name"),
    [("ipv4:10.0.0.1:55", "ipv4:10.0.0.1:55"), ("ipv6:%5B::1%5D:55", "ipv6:[::1]:55"), ("unix:", "unix:")],
)
def test_names_of_other_peers(peer: str, name: str) -> None:
    assert peer_name(peer) == name


async def test_a_slow_reader_slows_the_writer_and_nothing_is_lost(tmp_path: Path) -> None:
    block = bytes(range(256)) * 4096
    blocks = 32
    async with listener(tmp_path) as port:
        _, writer = await port.connect(PREFACE)
        inner_reader, _ = await port.inward()
        await inner_reader.readexactly(len(PREFACE))
        for _ in range(blocks):
            writer.write(block)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.2)  # 32 MB fit nowhere: the end that does not read holds it back
        async with asyncio.timeout(DEADLINE):
            for _ in range(blocks):
                assert await inner_reader.readexactly(len(block)) == block


async def test_a_client_that_goes_ends_the_inner_connection(tmp_path: Path) -> None:
    async with listener(tmp_path) as port:
        _, writer = await port.connect(PREFACE)
        inner_reader, _ = await port.inward()
        writer.transport.abort()
        async with asyncio.timeout(DEADLINE):
            assert await inner_reader.read() in (PREFACE, b"")


async def test_once_closed_it_takes_nobody_and_what_is_open_goes_on(tmp_path: Path) -> None:
    async with listener(tmp_path) as port:
        reader, writer = await port.connect(PREFACE)
        inner_reader, inner_writer = await port.inward()
        async with asyncio.timeout(DEADLINE):
            await inner_reader.readexactly(len(PREFACE))
            port.listener.close()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port.port)
            inner_writer.write(b"answer")
            assert await reader.readexactly(6) == b"answer"
            writer.write(b"more")
            assert await inner_reader.readexactly(4) == b"more"


async def test_a_silent_connection_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "SILENCE_SECONDS", 0.05)
    async with listener(tmp_path) as port:
        for first in (b"", PREFACE[:3]):
            reader, _writer = await port.connect(*([first] if first else []))
            async with asyncio.timeout(DEADLINE):
                with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                    await reader.readexactly(1)
        assert not port.listener.unknown


async def test_without_the_grpc_server_the_connection_ends(tmp_path: Path) -> None:
    async with listener(tmp_path, grpc=False) as port:
        reader, _writer = await port.connect(PREFACE)
        async with asyncio.timeout(DEADLINE):
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)

"""A channel finds a peer that comes back at another address under the same name."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.runtime.channel import open_channel

SOON = 12.0
"""Seconds; far less than the 30 that gRPC waits by itself before it asks for a name again."""


class NameServer(asyncio.DatagramProtocol):
    """Knows one IPv4 address for every name."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        end = data.index(b"\0", 12) + 5
        question = data[12:end]
        (kind,) = struct.unpack(">H", question[-4:-2])
        answer = b""
        if kind == 1:
            self.asked += 1
            answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(self.address)
        head = data[:2] + struct.pack(">HHHHH", 0x8180, 1, bool(answer), 0, 0)
        self._transport.sendto(head + question + answer, addr)


@asynccontextmanager
async def name_server(address: str) -> AsyncIterator[tuple[NameServer, int]]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(address), local_addr=("127.0.0.1", 0)
    )
    try:
        yield protocol, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


@asynccontextmanager
async def peer() -> AsyncIterator[int]:
    """Yields its port, at 127.0.0.1 alone."""
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def test_a_name_is_asked_for_again_soon() -> None:
    async with (
        peer() as port,
        name_server("127.0.0.2") as (names, name_port),
        open_channel(f"dns://127.0.0.1:{name_port}/worker.example:{port}") as channel,
    ):
        check = health_pb2_grpc.HealthStub(channel).Check
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            await check(health_pb2.HealthCheckRequest())
        names.address = "127.0.0.1"
        await check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=SOON)
    assert names.asked >= 2

"""One TCP port for gRPC and HTTP/1.1: a listener that peeks at the first bytes of every connection.

gRPC's own server refuses HTTP/1.1. What begins with the HTTP/2 preface is spliced to the gRPC server on a Unix
socket; anything else is handed to an HTTP/1.1 protocol with `set_protocol`, at no further cost. TLS ends here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import unquote

PREFACE = b"PRI * HTTP/2.0"
"""RFC 9113, section 3.4; four bytes would do, no HTTP/1.1 method begins so."""

SILENCE_SECONDS = 10.0
"""How long a connection may say nothing that tells what it speaks."""

ProtocolFactory = Callable[[], asyncio.BaseProtocol]
Spawn = Callable[[str, Coroutine[Any, Any, None]], object]
"""Starts a named task that ends by itself."""


class Listener:
    """Owns the port, and the connections of which it is not known yet what they speak."""

    def __init__(
        self, grpc_socket: Path, http: ProtocolFactory, spawn: Spawn, tls: ssl.SSLContext | None = None
    ) -> None:
        self.grpc_socket = grpc_socket
        self.http = http
        self.spawn = spawn
        self.unknown: set[asyncio.Transport] = set()
        self._tls = tls
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Serves both on host:port; returns the port. Raises OSError when the address cannot be had."""
        if self._tls is not None:
            # The server's order counts: who speaks both gets HTTP/1.1 (curl, browsers), gRPC offers h2 alone.
            self._tls.set_alpn_protocols(["http/1.1", "h2"])
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Peek(self), host, port, ssl=self._tls)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    def close(self) -> None:
        """Takes no new connections. Those that are spliced or handed over end with whom they were given to.

        It does not wait for them, as `wait_closed` does from Python 3.12.1 on: they are ended only after this.
        """
        if self._server is not None:
            self._server.close()
        for transport in list(self.unknown):
            transport.abort()


class _Peek(asyncio.Protocol):
    """Waits for enough bytes to tell what speaks, then gives the connection away."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._seen = b""
        self._splicing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._listener.unknown.add(transport)
        self._patience = asyncio.get_running_loop().call_later(SILENCE_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if self._splicing:
            return
        if self._seen.startswith(PREFACE):
            self._known()
            self._splicing = True
            self._transport.pause_reading()
            self._listener.spawn("splice", self._splice())
        elif not PREFACE.startswith(self._seen[: len(PREFACE)]):
            self._known()
            self._hand_over()

    def connection_lost(self, exc: Exception | None) -> None:
        self._known()

    def _known(self) -> None:
        self._patience.cancel()
        self._listener.unknown.discard(self._transport)

    def _hand_over(self) -> None:
        protocol = self._listener.http()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        assert isinstance(protocol, asyncio.Protocol)
        protocol.data_received(self._seen)

    async def _splice(self) -> None:
        client = self._transport
        try:
            inward = await _connect(self._listener.grpc_socket, _Pipe(client), client.get_extra_info("peername"))
        except OSError:
            client.abort()  # the gRPC server is gone: this process is stopping
            return
        if client.is_closing():
            inward.close()
            return
        client.set_protocol(_Pipe(inward))
        inward.write(self._seen)
        client.resume_reading()


class _Pipe(asyncio.Protocol):
    """Writes what it receives to the other side, no faster than that takes it, and closes with it."""

    def __init__(self, other: asyncio.Transport) -> None:
        self._other = other

    def data_received(self, data: bytes) -> None:
        self._other.write(data)

    def pause_writing(self) -> None:
        """This side's buffer is full: stop the other from reading more."""
        if not self._other.is_closing():
            self._other.pause_reading()

    def resume_writing(self) -> None:
        if not self._other.is_closing():
            self._other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._other.close()


async def _connect(path: Path, protocol: asyncio.Protocol, peer: Any) -> asyncio.Transport:
    """A connection whose own address says who is behind it, since gRPC would see a nameless socket otherwise."""
    loop = asyncio.get_running_loop()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        if sys.platform == "linux" and peer:  # abstract names exist there only
            with contextlib.suppress(OSError):  # the name is still that of an older connection: none, then
                connection.bind(f"\0{_SPLICED}{os.getpid()}/{peer[0]}:{peer[1]}")
        await loop.sock_connect(connection, str(path))
        transport, _ = await loop.create_unix_connection(lambda: protocol, sock=connection)
    except BaseException:
        connection.close()
        raise
    return transport


_SPLICED = "bulkscribe/"


def peer_name(peer: str) -> str:
    """Who calls, from a gRPC context's `peer()`; behind the listener, whom it spliced."""
    name = unquote(peer)
    kind, _, address = name.partition(":")
    if kind == "unix-abstract" and address.startswith(_SPLICED):
        return address.removeprefix(_SPLICED).partition("/")[2]
    return name

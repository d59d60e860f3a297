"""A gRPC server with health and reflection, and the options that decide how fast a dead peer is noticed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.contract.limits import FRAME_BYTES, MAX_MESSAGE_BYTES
from services.runtime.interceptors import BearerTokenInterceptor, ServiceErrorInterceptor, Translate

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.http2.max_frame_size", FRAME_BYTES),
    ("grpc.so_reuseport", 0),  # else two servers share a port silently
    ("grpc.http2.min_ping_interval_without_data_ms", 2_000),  # below the clients' keepalive interval
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # without it a stopped peer is noticed after 65 s
    ("grpc.keepalive_permit_without_calls", 1),
)

Registration = tuple[ServiceDescriptor, Callable[[Any, grpc.aio.Server], None], Any]


class Server:
    """Owns one grpc.aio server; ``services`` are (descriptor, generated add function, servicer).

    ``translate`` gives the ServiceError of an exception that the servicers let through, where there is one.
    """

    def __init__(
        self, services: Sequence[Registration], token: str | None, translate: Translate = lambda _error: None
    ) -> None:
        interceptors: list[grpc.aio.ServerInterceptor] = [ServiceErrorInterceptor(translate)]
        if token is not None:
            interceptors.insert(0, BearerTokenInterceptor(token))
        server = grpc.aio.server(interceptors=interceptors, options=SERVER_OPTIONS)
        self._names = [descriptor.full_name for descriptor, _, _ in services]
        for _, add, servicer in services:
            add(servicer, server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection([*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
        self._server: grpc.aio.Server | None = server

    async def start(self, address: str) -> int:
        """Listens on "host:port" or "unix:/path" and serves; returns the port (0 for a socket).

        Raises OSError when the address cannot be had.
        """
        assert self._server is not None, "a server starts once"
        if not address.startswith("unix:"):
            _require_free(address)
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: the address is in use or not this machine's") from error
        await self._server.start()
        await self.set_serving(True)
        return port if not address.startswith("unix:") else 0

    async def set_serving(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)

    async def stop(self, grace: float) -> None:
        """Refuses new calls at once, and ends running ones after ``grace`` seconds with UNAVAILABLE. Again: nothing."""
        server, self._server = self._server, None
        if server is None:
            return
        await self._health.enter_graceful_shutdown()
        await server.stop(grace)
        # Its destructor starts a task, for which there must be a loop that runs: not when the collector finds it.
        del server
        await asyncio.sleep(0)


def _require_free(address: str) -> None:
    """gRPC tells on standard error, in words of its own, what it tells its caller nothing of."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise OSError(f"cannot listen on {address}: {error.strerror}") from error


def unix_address(path: Path) -> str:
    return f"unix:{path}"

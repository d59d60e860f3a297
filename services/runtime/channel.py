"""A gRPC channel to another process of the system, with the token on every call."""

from __future__ import annotations

from urllib.parse import urlsplit

import grpc

from services.contract.limits import FRAME_BYTES, MAX_MESSAGE_BYTES
from services.contract.metadata import AUTHORIZATION, bearer

CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.http2.max_frame_size", FRAME_BYTES),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # without it a stopped peer is noticed after 65 s
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),  # a minute's outage is over 2 s after its end, not 7
    ("grpc.min_reconnect_backoff_ms", 2_000),  # how long one try may take: a packet that was dropped is sent anew
    # A name is looked up again so soon, not after 30 s: a worker that was started anew may have another address.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
    ("grpc.enable_http_proxy", 0),
)

Metadata = tuple[tuple[str, str], ...]


def open_channel(url: str, ca_certificates: bytes | None = None) -> grpc.aio.Channel:
    """A channel to "http://host:port" (plain), "https://host:port" (TLS), "host:port" or "unix:/path"."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        credentials = grpc.ssl_channel_credentials(ca_certificates)
        return grpc.aio.secure_channel(f"{parts.hostname}:{parts.port or 443}", credentials, CHANNEL_OPTIONS)
    target = f"{parts.hostname}:{parts.port or 80}" if parts.scheme == "http" else url
    return grpc.aio.insecure_channel(target, CHANNEL_OPTIONS)


def call_metadata(token: str) -> Metadata:
    """Metadata that carries the token; none when it is empty. Not a call credential: those need TLS."""
    return ((AUTHORIZATION, bearer(token)),) if token else ()

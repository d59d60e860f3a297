"""The controller's settings: every variable it reads."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from services.runtime.settings import ProcessSettings, header_token

Mode = Literal["off", "optional", "required"]


class ControllerSettings(ProcessSettings):
    remote_worker_url: str = Field(
        default="",
        description="Workers' addresses, separated by commas: http://host:8477 plain, https://host:8477 with TLS.",
    )
    remote_worker_token: SecretStr = Field(
        default=SecretStr(""), description="The workers' WORKER_TOKEN; needed with REMOTE_WORKER_URL."
    )
    remote_worker_mode: Mode = Field(
        default="off",
        description="off: all jobs run on this machine; optional: those that ask for it run remotely; required: all do.",
    )
    remote_worker_timeout_seconds: float = Field(
        default=3600, gt=0, description="How long one job may run, in seconds of a reachable worker."
    )
    remote_worker_capacity_timeout_seconds: float = Field(
        default=86400,
        gt=0,
        description="How long a job may wait for a slot, in seconds of a reachable worker; longer than a night's batch.",
    )
    remote_worker_poll_seconds: float = Field(
        default=5,
        ge=0.1,
        le=60,
        description="How often a worker reports, in seconds; retries back off up to it, with full jitter.",
    )
    remote_worker_lease_seconds: float = Field(
        default=60,
        gt=0,
        description="How long a job stays with a worker that cannot be reached before another worker gets it, in seconds.",
    )
    remote_worker_ca: Path | None = Field(
        default=None, description="Certificate of the authority behind an https worker; none: the system's authorities."
    )
    controller_listen: str = Field(default="127.0.0.1:8475", description="host:port of the gRPC server.")
    controller_token: SecretStr = Field(
        default=SecretStr(""),
        description="What clients must send as a bearer token; none: anybody, on a loopback address only.",
    )
    controller_max_upload_mb: int = Field(
        default=4000, gt=0, description="Largest recording in MB; the gateway's limit is usually the lower one."
    )
    data_dir: Path = Field(default=Path("data"), description="Folder of the database, recordings and transcripts.")
    database_url: str = Field(
        default="",
        description="SQLAlchemy URL: `sqlite:///file`, or another database with a driver for asyncio; none: SQLite in DATA_DIR.",
    )
    log_dir: Path = Field(default=Path("logs"), description="Folder of app.log.")

    @field_validator("controller_token", "remote_worker_token")
    @classmethod
    def _token(cls, value: SecretStr) -> SecretStr:
        return header_token(value)

    @field_validator("remote_worker_url")
    @classmethod
    def _urls(cls, value: str) -> str:
        for url in filter(None, map(str.strip, value.split(","))):
            parts = urlsplit(url)
            more = parts.path.rstrip("/") or parts.query or parts.fragment
            if parts.scheme not in ("http", "https") or not parts.hostname or _port(url) == 0 or more:
                raise ValueError("each address must be http://host:port or https://host:port, separated by commas")
            if parts.username is not None or parts.password is not None:
                raise ValueError("no address may hold a name or a password; the token is REMOTE_WORKER_TOKEN")
        return value

    @field_validator("controller_listen")
    @classmethod
    def _listen(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not (port.isascii() and port.isdigit()) or not 0 <= int(port) <= 65535:
            raise ValueError("must be host:port with a port from 0 (any free one) to 65535")
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        token = bool(self.remote_worker_token.get_secret_value())
        if self.remote_worker_mode == "required" and not (self.worker_urls and token):
            raise ValueError(
                "REMOTE_WORKER_MODE=required needs REMOTE_WORKER_URL and REMOTE_WORKER_TOKEN; set both, or another mode"
            )
        if self.remote_worker_mode != "off" and self.worker_urls and not token:
            raise ValueError(
                "REMOTE_WORKER_URL is set without REMOTE_WORKER_TOKEN; set it to the worker's WORKER_TOKEN"
            )
        if not self.controller_token.get_secret_value() and not _is_loopback(self.controller_listen):
            raise ValueError(
                f"CONTROLLER_LISTEN={self.controller_listen!r} is open to other machines without CONTROLLER_TOKEN; set it, or listen on 127.0.0.1"
            )
        return self

    @property
    def worker_urls(self) -> tuple[str, ...]:
        urls = map(str.strip, self.remote_worker_url.split(","))
        return tuple(dict.fromkeys(url.rstrip("/") for url in urls if url))

    @property
    def store_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'bulkscribe.db'}"


def _port(url: str) -> int | None:
    try:
        return urlsplit(url).port
    except ValueError:
        return 0


def _is_loopback(listen: str) -> bool:
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

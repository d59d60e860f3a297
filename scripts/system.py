"""Which processes make a system, what they are started with, and where they can be reached."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.processes import Service, free_ports, grpc_ready, http_ready

OWN_SETTINGS = (
    "WORKER_", "CONTROLLER_", "GATEWAY_", "REMOTE_WORKER_", "DATA_DIR", "DATABASE_URL", "LOG_DIR", "BULKSCRIBE_",
)  # fmt: skip
"""What the names of our settings begin with."""


def services(environment: Mapping[str, str]) -> list[Service]:
    """Worker, controller and gateway, in the order of what needs what. The environment names their addresses."""
    scheme = "https" if environment.get("WORKER_TLS_CERT") else "http"
    worker = f"{scheme}://{_local(environment['WORKER_HOST'], environment['WORKER_PORT'])}"
    return [
        Service("worker", "services.worker", environment, http_ready(f"{worker}/health")),
        Service("controller", "services.controller", environment, grpc_ready(environment["CONTROLLER_ADDRESS"])),
        Service("gateway", "gateway", environment, http_ready(f"{page(environment)}healthz")),
    ]


def page(environment: Mapping[str, str]) -> str:
    return f"http://{_local(environment['GATEWAY_HOST'], environment['GATEWAY_PORT'])}/"


@dataclass(frozen=True, slots=True)
class ScratchSystem:
    """A system that meets no other: free ports, data in a folder of its own, the bundled models, no network."""

    environment: Mapping[str, str]

    @property
    def services(self) -> list[Service]:
        return services(self.environment)

    @property
    def url(self) -> str:
        return page(self.environment).rstrip("/")

    @property
    def worker_url(self) -> str:
        return self.environment["REMOTE_WORKER_URL"]

    @property
    def controller_address(self) -> str:
        return self.environment["CONTROLLER_ADDRESS"]


def scratch_system(folder: Path, logs: Path, **settings: str) -> ScratchSystem:
    """``settings`` go before what is chosen here; those of this process's environment do not count."""
    worker, controller, gateway = free_ports(3)
    token = secrets.token_urlsafe(32)
    chosen = {
        "HF_HUB_OFFLINE": "1",
        "WORKER_HOST": "127.0.0.1",
        "WORKER_PORT": str(worker),
        "WORKER_TOKEN": token,
        "WORKER_MODEL": "demo",
        "WORKER_DATA_DIR": str(folder / "worker"),
        "REMOTE_WORKER_URL": f"http://127.0.0.1:{worker}",
        "REMOTE_WORKER_TOKEN": token,
        "REMOTE_WORKER_MODE": "required",
        "REMOTE_WORKER_POLL_SECONDS": "1",
        "CONTROLLER_LISTEN": f"127.0.0.1:{controller}",
        "CONTROLLER_ADDRESS": f"127.0.0.1:{controller}",
        "CONTROLLER_TOKEN": secrets.token_urlsafe(32),
        "DATA_DIR": str(folder / "controller"),
        "LOG_DIR": str(logs),
        "GATEWAY_DATA_DIR": str(folder / "gateway"),
        "GATEWAY_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(gateway),
    }
    return ScratchSystem(foreign_environment() | chosen | settings)


def foreign_environment() -> dict[str, str]:
    """This process's environment without our settings."""
    given = os.environ  # noqa: TID251 - a launcher hands the environment on to what it starts
    return {name: value for name, value in given.items() if not name.startswith(OWN_SETTINGS)}


def _local(host: str, port: str) -> str:
    """host:port to reach a listener from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not listened on
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

"""The gateway's settings: every variable it reads."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from services.contract.limits import MEGABYTE
from services.runtime.settings import ProcessSettings, header_token


class GatewaySettings(ProcessSettings):
    gateway_host: str = Field(
        default="127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 lets other machines in."
    )
    gateway_port: int = Field(default=8476, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    controller_address: str = Field(
        default="127.0.0.1:8475", description="host:port of the controller (https://host:port with TLS)."
    )
    controller_token: SecretStr = Field(
        default=SecretStr(""), description="The controller's CONTROLLER_TOKEN; none when it has none."
    )
    gateway_secret_key: SecretStr = Field(
        default=SecretStr(""),
        description="Any string that signs sessions; none: a random one, made once and kept in GATEWAY_DATA_DIR.",
    )
    gateway_data_dir: Path = Field(
        default=Path("data/gateway"),
        description="Folder of the kept key, so that sessions outlive a restart; not used with GATEWAY_SECRET_KEY.",
    )
    gateway_max_upload_mb: int = Field(
        default=2000, gt=0, description="Largest recording in MB (of 1,048,576 bytes), one file of an upload."
    )
    log_dir: Path = Field(default=Path("logs"), description="Folder of app.log.")

    @field_validator("controller_token")
    @classmethod
    def _token(cls, value: SecretStr) -> SecretStr:
        return header_token(value)

    @field_validator("gateway_secret_key")
    @classmethod
    def _not_empty(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().strip():
            raise ValueError("an empty one protects nothing; unset it, or give it a value")
        return value

    @field_validator("controller_address")
    @classmethod
    def _address(cls, value: str) -> str:
        if value.startswith("unix:") and len(value) > len("unix:"):
            return value
        url = value if "://" in value else f"//{value}"
        try:
            parts = urlsplit(url)
            valid = bool(parts.hostname and parts.port) and parts.scheme in ("", "http", "https")
        except ValueError:
            valid = False
        if not valid:
            raise ValueError("must be host:port with a port from 1 to 65535, or https://host:port")
        return value

    @property
    def max_upload_bytes(self) -> int:
        return self.gateway_max_upload_mb * MEGABYTE

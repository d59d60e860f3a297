"""The worker's settings: every variable it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from services.runtime.settings import ProcessSettings, header_token

AUTO = "auto"

LARGEST_MB = 2**40
"""Of a size in MB: an exabyte, which every contract and database can hold in bytes."""


def _slots(value: object) -> int:
    """0 stands for auto."""
    if value == AUTO:
        return 0
    if not str(value).isdecimal() or not 1 <= int(str(value)) <= 1000:
        raise ValueError("must be a whole number from 1 to 1000, or auto")
    return int(str(value))


def _batch(value: object) -> int:
    if value == AUTO:
        return 0
    if not str(value).isdecimal() or int(str(value)) > 1024:
        raise ValueError("must be a whole number from 1 to 1024, or auto (also 0)")
    return int(str(value))


def _names(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))


class WorkerSettings(ProcessSettings):
    worker_token: SecretStr = Field(
        description="What callers must send as a bearer token; the worker does not start without it."
    )
    worker_host: str = Field(default="0.0.0.0", min_length=1, description="Address to listen on; all of this machine.")  # noqa: S104 - other machines are to call
    worker_port: int = Field(
        default=8477,
        ge=0,
        le=65535,
        description="Port for gRPC and HTTP together; 0 takes any free one and says which.",
    )
    worker_tls_cert: Path | None = Field(
        default=None, description="PEM file of the certificate chain; with WORKER_TLS_KEY the port speaks TLS only."
    )
    worker_tls_key: Path | None = Field(default=None, description="PEM file of the certificate's key.")
    worker_max_concurrent_jobs: Annotated[int, BeforeValidator(_slots)] = Field(
        default=1,
        description="Jobs at once, shared out among the GPUs; auto sizes it from each one's memory, the model and whether"
        " diarization is on (1 on a CPU).",
    )
    worker_model: str = Field(
        default="large-v3", min_length=1, description="Model for jobs that name none; loaded at start and kept."
    )
    worker_models: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = Field(
        default=(),
        description="Names that jobs may ask for besides, separated by commas: faster-whisper names or folders in"
        " WORKER_MODEL_DIR; none: all that are known.",
    )
    worker_model_dir: Path | None = Field(
        default=None, description="Folder of model folders, for hosts without network and for models of one's own."
    )
    worker_diarization_model: str = Field(
        default=AUTO,
        min_length=1,
        description="auto (demo's own with WORKER_MODEL=demo, else community-1 where cache or HF_TOKEN give it), demo,"
        " none, a hub name or a folder.",
    )
    hf_token: SecretStr = Field(default=SecretStr(""), description="Hugging Face token, for pyannote's gated models.")
    hf_home: Path = Field(
        default=Path("~/.cache/huggingface"), description="Where the hub's client keeps models, and a token."
    )
    worker_device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto takes a GPU where there is one."
    )
    cuda_visible_devices: str | None = Field(
        default=None, description="Which GPUs may be used, as CUDA reads it; none: all. Each gets an engine of its own."
    )
    worker_compute_type: Literal[
        "",
        "default",
        "auto",
        "int8",
        "int8_float32",
        "int8_float16",
        "int8_bfloat16",
        "int16",
        "float16",
        "bfloat16",
        "float32",
    ] = Field(default="", description="CTranslate2's number format; none: the one the model was saved with.")
    worker_batch_size: Annotated[int, BeforeValidator(_batch)] = Field(
        default=0, description="Windows decoded at once; auto (also 0) fits the device; less where memory runs out."
    )
    worker_max_file_mb: int = Field(
        default=2000, ge=1, le=LARGEST_MB, description="Largest recording in MB (1024 * 1024 bytes); protects the disk."
    )
    worker_data_dir: Path = Field(
        default=Path("data/worker"),
        description="Folder of uploaded recordings, of their sound before and while they are decoded (115 MB an hour), and of the journal; this worker's own.",
    )
    worker_audio_quota_mb: int = Field(
        default=50_000,
        ge=1,
        description="MB that recordings may take; the least recently used go first, never those in use or used in the"
        " last quarter of an hour.",
    )
    worker_audio_max_age_hours: float = Field(
        default=24, gt=0, description="Hours that an unused recording is kept, so that a new attempt need not upload."
    )
    worker_journal_quota_mb: int = Field(
        default=1000,
        ge=1,
        description="MB of results that wait for their controllers, 24 hours at most; when they fill it, no new job is taken.",
    )
    worker_drain_seconds: float = Field(
        default=60,
        ge=0,
        description="Seconds that the windows being decoded may take to finish after SIGTERM; a second signal is quick.",
    )
    worker_ping_public: bool = Field(default=False, description="Whether /v1/ping answers without the token.")
    log_dir: Path = Field(default=Path("logs"), description="Folder of app.log.")

    @field_validator("worker_token")
    @classmethod
    def _token(cls, value: SecretStr) -> SecretStr:
        return header_token(value)

    @field_validator("worker_model_dir")
    @classmethod
    def _folder(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            raise ValueError("must be a folder that exists")
        return value

    @field_validator("worker_tls_cert", "worker_tls_key")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                value.read_bytes()
            except OSError as error:
                raise ValueError(f"must be a PEM file that can be read: {error.strerror}") from None
        return value

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.worker_tls_cert is None) != (self.worker_tls_key is None):
            raise ValueError("WORKER_TLS_CERT and WORKER_TLS_KEY go together: set both, or neither")
        return self

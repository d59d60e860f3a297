"""The tables. Alembic's migrations lead here; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.engine import Dialect


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in and out; SQLite itself keeps no time zone."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC).replace(tzinfo=None) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None else None


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite counts a primary key up by itself only when it is an INTEGER.
Sequence = BigInteger().with_variant(Integer, "sqlite")

uploads = Table(
    "uploads",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("request_id", String(200)),
    Column("filename", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False, index=True),
    Column("duration_seconds", Float, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("declared_bytes", BigInteger, nullable=False, server_default="0"),
    Column("declared_sha256", String(64), nullable=False, server_default=text("''")),
    Column("completed_at", UtcDateTime),
    UniqueConstraint("owner", "request_id"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("sequence", Sequence, primary_key=True, autoincrement=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("owner", String(200), nullable=False),
    Column("request_id", String(200)),
    Column("request_index", Integer, nullable=False),
    Column("upload_id", String(40), ForeignKey("uploads.id"), nullable=False, index=True),
    Column("filename", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("audio_seconds", Float, nullable=False),
    Column("options", JSON, nullable=False),
    Column("mode", String(10), nullable=False),
    Column("state", String(20), nullable=False),
    Column("stage", String(20), nullable=False),
    Column("percent", Float, nullable=False),
    Column("message", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("worker_url", Text),
    Column("worker_job_id", String(100)),
    Column("worker_gpu", Boolean, nullable=False),
    Column("worker_last_seen_at", UtcDateTime),
    Column("error_code", String(60)),
    Column("error_message", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("language", String(16), nullable=False),
    Column("wait_mark", Float, nullable=False),
    Column("run_seconds", Float, nullable=False),
    Column("segment_count", Integer, nullable=False),
    Column("last_event", BigInteger, nullable=False),
    Column("worker_event", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("seconds_left", Float),
    Column("silent_stretches", JSON, nullable=False, server_default=text("'[]'")),
    UniqueConstraint("owner", "request_id", "request_index"),
    Index("ix_jobs_owner_sequence", "owner", "sequence"),
    Index("ix_jobs_owner_state_sequence", "owner", "state", "sequence"),
    Index("ix_jobs_state", "state"),
)


def _job_id() -> Column[str]:
    return Column("job_id", String(40), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)


attempts = Table(
    "attempts",
    metadata,
    _job_id(),
    Column("number", Integer, primary_key=True),
    Column("worker_url", Text, nullable=False),
    Column("dispatched_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("state", String(20), nullable=False),
)

left_behind = Table(
    "left_behind",
    metadata,
    Column("job_id", String(40), primary_key=True),
    Column("number", Integer, primary_key=True),
)
"""Attempts of deleted jobs that a worker may still run."""

plans = Table(
    "plans",
    metadata,
    _job_id(),
    Column("fingerprint", String(100), nullable=False),
    Column("language", String(16), nullable=False),
    Column("duration_seconds", Float, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("turns", LargeBinary),
)

speaker_chunks = Table(
    "speaker_chunks",
    metadata,
    _job_id(),
    Column("chunk_index", Integer, primary_key=True),
    Column("payload", LargeBinary, nullable=False),
)
"""Chunks that are diarized, until who speaks is known of all of the recording."""

decoded_windows = Table(
    "decoded_windows",
    metadata,
    _job_id(),
    Column("window_index", Integer, primary_key=True),
    Column("payload", LargeBinary, nullable=False),
)
"""Windows whose words are known, until it is known who said them."""

finished_windows = Table("finished_windows", metadata, _job_id(), Column("window_index", Integer, primary_key=True))

events = Table(
    "events",
    metadata,
    _job_id(),
    Column("number", BigInteger, primary_key=True),
    Column("occurred_at", UtcDateTime, nullable=False),
    Column("payload", JSON, nullable=False),
)

segments = Table(
    "segments",
    metadata,
    _job_id(),
    Column("number", BigInteger, primary_key=True),
    Column("ordinal", Integer, nullable=False),
    Column("start_seconds", Float, nullable=False),
    Column("end_seconds", Float, nullable=False),
    Column("text", Text, nullable=False),
    Column("speaker", String(100), nullable=False),
    Column("words", JSON, nullable=False),
)

wait_clock = Table(
    "wait_clock", metadata, Column("id", Integer, primary_key=True), Column("seconds", Float, nullable=False)
)

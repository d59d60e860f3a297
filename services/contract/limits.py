"""Sizes and times that both ends of a contract must agree on."""

from __future__ import annotations

VERSION = "0.1.0"

CHUNK_BYTES = 1024 * 1024
"""Bytes of a recording in one stream message: 350 to 560 MB/s between 256 KiB and 2 MiB, memory flat."""

FRAME_BYTES = 1024 * 1024
"""Largest HTTP/2 frame that either side takes: gRPC's 16 KiB cost recordings a tenth of their speed."""

MEGABYTE = 1024 * 1024
"""What `..._MB` settings count in."""

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Largest message either side takes: a finished plan of a 24-hour recording with its turns is about 1 MB."""

HEARTBEATS_MISSED = 3
"""A worker that was silent for so many intervals is unreachable."""

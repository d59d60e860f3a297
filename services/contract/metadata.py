"""Metadata keys of both contracts."""

from __future__ import annotations

import hmac

AUTHORIZATION = "authorization"
ERROR_DETAILS = "grpc-status-details-bin"


def bearer(token: str) -> str:
    """The value of `authorization` for a token."""
    return f"Bearer {token}"


def bearer_matches(value: str | None, token: str) -> bool:
    """Whether an `authorization` value carries the token; takes the same time wherever they differ."""
    return hmac.compare_digest((value or "").encode(), bearer(token).encode())

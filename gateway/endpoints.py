"""What an address of the API is: the one value that both the router and the OpenAPI document are made from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from services.contract.errors import Reason

JOB_ID = "/{job_id:[A-Za-z0-9_-]{1,100}}"
"""Anything else is no job's id, and so the address is unknown."""

UPLOAD_ID = "/{upload_id:[A-Za-z0-9_-]{1,100}}"
"""As a job's."""

READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing, and so need no CSRF token."""

Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``answer`` is a type of `answers`, or the content types of what is not JSON; ``other_types`` are beside JSON.

    ``errors`` are those of its own; what a session or a CSRF token adds follows from ``session`` and ``method``.
    ``answer`` None is an answer without a body, of ``status``; ``headers`` are those that a request has, with their
    descriptions, and ``stream`` is the content type of a body that is bytes.
    """

    method: str
    path: str
    respond: Respond
    summary: str
    answer: Any
    session: bool = True
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    multipart: bool = False
    other_types: tuple[str, ...] = ()
    errors: tuple[Reason, ...] = ()
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    stream: str = ""

    @property
    def changes(self) -> bool:
        return self.method not in READING

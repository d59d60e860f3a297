"""Sessions: a signed cookie with a random id, a CSRF token that is another signature of it. Nothing is stored.

The owner that the controller sees is a hash of the id, so that no database holds what a cookie is made of.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from aiohttp import web
from itsdangerous import BadSignature, Signer

from gateway.endpoints import READING
from services.contract.errors import Reason, ServiceError

COOKIE = "bulkscribe_session"
CSRF_HEADER = "X-CSRF-Token"
COOKIE_SECONDS = 365 * 24 * 3600
"""A year from the last visit: without the cookie a person's jobs cannot be found again."""

_OWNER = web.RequestKey("owner", str)


@dataclass(frozen=True, slots=True)
class Session:
    """``cookie`` and ``csrf_token`` are secrets of the browser; ``owner`` is none."""

    cookie: str
    csrf_token: str
    owner: str


class Sessions:
    """Makes sessions and knows them again. An empty key means a random one: sessions end with the process."""

    def __init__(self, secret_key: str = "") -> None:
        key = hashlib.sha256(secret_key.encode()).digest() if secret_key else secrets.token_bytes(32)
        self._cookies = Signer(key, salt="bulkscribe.session", digest_method=hashlib.sha256)
        self._csrf = Signer(key, salt="bulkscribe.csrf", digest_method=hashlib.sha256)

    def new(self) -> Session:
        return self._session(secrets.token_urlsafe(32))

    def known(self, cookie: str | None) -> Session | None:
        """The session of a cookie's value; None when it is missing or not signed by this key."""
        if not cookie:
            return None
        try:
            return self._session(self._cookies.unsign(cookie.encode("utf-8", "replace")).decode())
        except (BadSignature, UnicodeDecodeError):
            return None

    def _session(self, session_id: str) -> Session:
        return Session(
            cookie=self._cookies.sign(session_id).decode(),
            csrf_token=self._csrf.get_signature(session_id).decode(),
            owner=hashlib.sha256(session_id.encode()).hexdigest()[:32],
        )

    def admit(self, request: web.Request) -> None:
        """Lets a request through that has a session and, where it changes something, its CSRF token.

        Raises ServiceError UNAUTHENTICATED (reading without a session) or CSRF_INVALID (changing without both).
        """
        session = self.known(request.cookies.get(COOKIE))
        if request.method not in READING:
            _check_csrf(session, request.headers.get(CSRF_HEADER, ""))
        if session is None:
            raise ServiceError(
                Reason.UNAUTHENTICATED, "There is no session. Call GET /api/session first and send its cookie."
            )
        request[_OWNER] = session.owner


def _check_csrf(session: Session | None, token: str) -> None:
    if session is None:
        raise ServiceError(
            Reason.CSRF_INVALID,
            f"There is no session. Call GET /api/session first; send its cookie, and its csrfToken as {CSRF_HEADER}.",
        )
    if not hmac.compare_digest(token.encode("utf-8", "replace"), session.csrf_token.encode()):
        raise ServiceError(Reason.CSRF_INVALID)


def owner_of(request: web.Request) -> str:
    """Whose request it is; only for requests that were admitted."""
    return request[_OWNER]


def set_cookie(response: web.Response, session: Session, secure: bool) -> None:
    response.set_cookie(
        COOKIE, session.cookie, max_age=COOKIE_SECONDS, path="/", httponly=True, samesite="Lax", secure=secure
    )

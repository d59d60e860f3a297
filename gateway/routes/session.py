"""GET /api/session: the cookie and its CSRF token."""

from __future__ import annotations

from aiohttp import web

from gateway.answers import SessionAnswer
from gateway.endpoints import Endpoint
from gateway.sessions import COOKIE, Sessions, set_cookie


class SessionRoutes:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint("GET", "/api/session", self.show, "This session, or a new one", SessionAnswer, session=False),
        ]

    async def show(self, request: web.Request) -> web.Response:
        session = self._sessions.known(request.cookies.get(COOKIE)) or self._sessions.new()
        answer: SessionAnswer = {
            "csrfToken": session.csrf_token,
            "sessionId": session.owner,
            "cookieName": COOKIE,
        }
        response = web.json_response(answer)
        set_cookie(response, session, secure=request.secure)
        return response

"""GET /: the page, and its script and style."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from gateway.endpoints import Endpoint

STATIC = Path(__file__).resolve().parent.parent / "static"

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class PageRoutes:
    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint("GET", "/", self.page, "The page", ("text/html",), session=False),
            Endpoint("GET", "/static/page.js", self.script, "Its script", ("text/javascript",), session=False),
            Endpoint("GET", "/static/page.css", self.style, "Its style", ("text/css",), session=False),
        ]

    async def page(self, _request: web.Request) -> web.Response:
        response = _text("page.html", "text/html")
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        return response

    async def script(self, _request: web.Request) -> web.Response:
        return _text("page.js", "text/javascript")

    async def style(self, _request: web.Request) -> web.Response:
        return _text("page.css", "text/css")


def _text(name: str, content_type: str) -> web.Response:
    text = (STATIC / name).read_text(encoding="utf-8")
    return web.Response(text=text, content_type=content_type, headers={"Cache-Control": "no-cache"})

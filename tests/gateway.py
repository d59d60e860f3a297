"""A gateway in this process, on a free port, over a fake controller; and a browser's side of a session."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

from gateway.app import make_app, make_runner
from gateway.controller import Controller
from gateway.sessions import CSRF_HEADER, Sessions
from services.runtime.channel import open_channel
from tests.fakes.controller import FakeController

DEADLINE = 20.0
MAX_UPLOAD_BYTES = 4 * 1024 * 1024


@dataclass
class Browser:
    """One session; changing requests carry its CSRF token."""

    url: str
    http: aiohttp.ClientSession
    csrf: str = ""

    async def begin(self) -> dict[str, Any]:
        _, answer = await self.get("/api/session")
        self.csrf = answer["csrfToken"]
        return dict(answer)

    async def get(self, path: str, **more: Any) -> tuple[int, Any]:
        return await self.ask("GET", path, **more)

    async def post(self, path: str, **more: Any) -> tuple[int, Any]:
        return await self.ask("POST", path, **more)

    async def ask(self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> tuple[int, Any]:
        given = ({CSRF_HEADER: self.csrf} if self.csrf else {}) | (headers or {})
        async with self.http.request(method, self.url + path, headers=given, **more) as response:
            return response.status, await response.json()

    async def upload(self, *files: tuple[str, bytes]) -> tuple[int, Any]:
        form = aiohttp.FormData(quote_fields=False)  # names as they are, like browsers and curl
        for name, content in files:
            form.add_field("files", io.BytesIO(content), filename=name, content_type="audio/wav")
        return await self.post("/api/uploads", data=form)

    async def new_job(self, name: str = "a.wav", **options: Any) -> str:
        _, uploaded = await self.upload((name, b"sound"))
        body = {"uploadIds": [uploaded["uploads"][0]["id"]], "options": options}
        status, created = await self.post("/api/jobs", json=body)
        assert status == 200, created
        return str(created["jobId"])

    async def events(self, job_id: str, after: int | None = None) -> list[dict[str, Any]]:
        """All events until the stream ends, as dicts with id, event and data."""
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        async with self.http.get(f"{self.url}/api/jobs/{job_id}/events", headers=headers) as response:
            assert response.status == 200, await response.text()
            return [event async for event in events_of(response)]


async def events_of(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """Server-sent events as they come; comments are passed over."""
    event: dict[str, Any] = {}
    async for raw in response.content:
        name, _, value = raw.decode().rstrip("\n").partition(": ")
        if name:
            event[name] = value
        elif "data" in event:
            yield {"id": int(event["id"]), "event": event["event"], "data": json.loads(event["data"])}
            event = {}


@dataclass
class Setup:
    fake: FakeController
    browser: Browser
    app: web.Application
    runner: web.AppRunner

    @asynccontextmanager
    async def another_browser(self) -> AsyncIterator[Browser]:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
            yield Browser(self.browser.url, http)


@asynccontextmanager
async def gateway_over_fake(
    token: str = "",
    secret_key: str = "",
    fake: FakeController | None = None,
    silence_seconds: float = 10.0,
    max_upload_bytes: int = MAX_UPLOAD_BYTES,
) -> AsyncIterator[Setup]:
    """Starts both; the session of ``browser`` has begun."""
    fake = fake or FakeController()
    await fake.start()
    async with open_channel(fake.address) as channel:
        app = make_app(Controller(channel, token), Sessions(secret_key), max_upload_bytes, silence_seconds)
        runner = make_runner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
            browser = Browser(url, http)
            await browser.begin()
            try:
                yield Setup(fake, browser, app, runner)
            finally:
                await http.close()
                await runner.cleanup()
    await fake.stop()


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition that another task brings about; fails after DEADLINE seconds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - what is waited for is another process's doing
            await asyncio.sleep(0.005)

"""A client that never gives up: what fails for want of a gateway or a controller is asked again, as a person would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.gateway import Browser, events_of

ANSWER_SECONDS = 30.0
SILENCE_SECONDS = 40.0
"""An event stream has a comment every 15 s; after two that are missing it is opened anew."""
PAUSE_SECONDS = 0.1
OUTAGES = frozenset({502, 503, 504, 507})


class Visitor:
    """One session. ``base`` may be another gateway later: sessions are signed, not stored."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._browser = Browser(url, http)

    async def begin(self) -> None:
        _, answer = await self.ask("GET", "/api/session")
        self._browser.csrf = json.loads(answer)["csrfToken"]

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, bytes]:
        """Status and body of the first answer that is no outage."""
        while True:
            try:
                status, body = await self.ask_once(method, path, **more)
            except (aiohttp.ClientError, OSError, TimeoutError):
                status, body = 503, b""
            if status not in OUTAGES:
                return status, body
            await asyncio.sleep(PAUSE_SECONDS)

    async def ask_once(self, method: str, path: str, **more: Any) -> tuple[int, bytes]:
        headers = {"X-CSRF-Token": self._browser.csrf}
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        url = self._browser.url + path
        async with self._browser.http.request(method, url, headers=headers, timeout=timeout, **more) as response:
            return response.status, await response.read()

    async def upload(self, path: Path) -> str:
        content = await asyncio.to_thread(path.read_bytes)
        while True:
            try:
                status, answer = await self._browser.upload((path.name, content))
            except (aiohttp.ClientError, OSError, TimeoutError):
                status, answer = 503, {}
            if status == 200:
                assert not answer["errors"], answer
                return str(answer["uploads"][0]["id"])
            assert status in OUTAGES, answer
            await asyncio.sleep(PAUSE_SECONDS)

    async def try_upload(self, name: str, content: bytes) -> tuple[int, dict[str, Any]]:
        status, answer = await self._browser.upload((name, content))
        return status, dict(answer)

    async def create(self, upload_id: str, request_id: str, options: Mapping[str, object]) -> str:
        """The same ``request_id`` never makes another job, however often it has to be asked for."""
        body = {"uploadIds": [upload_id], "options": dict(options), "requestId": request_id}
        status, answer = await self.ask("POST", "/api/jobs", json=body)
        assert status == 200, answer
        return str(json.loads(answer)["jobId"])

    async def job(self, job_id: str) -> dict[str, Any]:
        _, answer = await self.ask("GET", f"/api/jobs/{job_id}")
        return dict(json.loads(answer))

    async def jobs(self) -> list[str]:
        """The ids of all jobs of the session."""
        found: list[str] = []
        page = ""
        while True:
            _, body = await self.ask("GET", "/api/jobs", params={"pageSize": "100", "pageToken": page})
            answer = json.loads(body)
            found += [job["jobId"] for job in answer["jobs"]]
            page = answer["nextPageToken"]
            if not page:
                return found

    async def cancel(self, job_id: str) -> int:
        """200, or 409 where the job had ended (or an earlier try, whose answer was lost, canceled it)."""
        status, answer = await self.ask("POST", f"/api/jobs/{job_id}/cancel")
        assert status in (200, 409), answer
        return status

    async def transcript(self, job_id: str) -> tuple[int, bytes]:
        return await self.ask("GET", f"/api/jobs/{job_id}/transcript", params={"format": "json"})

    async def runtime(self) -> dict[str, Any]:
        _, answer = await self.ask("GET", "/api/runtime")
        return dict(json.loads(answer))

    async def events(self, job_id: str, after: int) -> AsyncIterator[dict[str, Any]]:
        """One stream, to its end. Raises what breaks it."""
        headers = {"Last-Event-ID": str(after)} if after else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_SECONDS, sock_read=SILENCE_SECONDS)
        url = f"{self._browser.url}/api/jobs/{job_id}/events"
        async with self._browser.http.get(url, headers=headers, timeout=timeout) as response:
            if response.status != 200:
                raise ConnectionError(f"{response.status}: {await response.text()}")
            async for event in events_of(response):
                yield event


@asynccontextmanager
async def visiting(url: str) -> AsyncIterator[Visitor]:
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.CookieJar(unsafe=True), connector=aiohttp.TCPConnector(limit=0)
    ) as http:
        visitor = Visitor(url, http)
        await visitor.begin()
        yield visitor

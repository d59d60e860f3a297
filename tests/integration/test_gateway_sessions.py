"""Who may call what: cookie, CSRF token, and what a session's absence answers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from gateway.sessions import COOKIE, CSRF_HEADER
from tests.gateway import Browser, Setup, gateway_over_fake


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    async with gateway_over_fake() as running:
        yield running


async def test_the_cookie_is_for_this_site_and_not_for_scripts(setup: Setup) -> None:
    async with aiohttp.ClientSession() as http, http.get(setup.browser.url + "/api/session") as response:
        cookie = response.headers["Set-Cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))


async def test_a_session_stays_itself(setup: Setup) -> None:
    first, again = await setup.browser.begin(), await setup.browser.begin()
    assert first == again
    async with setup.another_browser() as other:
        stranger = await other.begin()
    assert stranger["csrfToken"] != first["csrfToken"]
    assert stranger["sessionId"] != first["sessionId"]


async def test_a_secret_key_keeps_sessions_over_a_restart() -> None:
    async with gateway_over_fake(secret_key="any string") as before:
        session = await before.browser.begin()
        cookie = next(iter(before.browser.http.cookie_jar)).value
    async with (
        gateway_over_fake(secret_key="any string") as after,
        aiohttp.ClientSession(cookies={COOKIE: cookie}) as http,
    ):
        assert await Browser(after.browser.url, http).begin() == session
    async with gateway_over_fake() as elsewhere, aiohttp.ClientSession(cookies={COOKIE: cookie}) as http:
        assert (await Browser(elsewhere.browser.url, http).get("/api/jobs"))[0] == 401
        assert (await Browser(elsewhere.browser.url, http).begin())["sessionId"] != session["sessionId"]


CHANGES = [
    ("POST", "/api/uploads"),
    ("POST", "/api/uploads/tus"),
    ("POST", "/api/uploads/tus/x"),
    ("PATCH", "/api/uploads/tus/x"),
    ("DELETE", "/api/uploads/tus/x"),
    ("POST", "/api/jobs"),
    ("POST", "/api/jobs/x/cancel"),
    ("DELETE", "/api/jobs/x"),
]


@pytest.mark.parametrize(("method", "path"), CHANGES)
@pytest.mark.parametrize("token", [None, "", "wrong", "ünicode"])
async def test_changes_need_the_csrf_token(setup: Setup, method: str, path: str, token: str | None) -> None:
    headers = {} if token is None else {CSRF_HEADER: token}
    setup.browser.csrf = ""
    status, answer = await setup.browser.ask(method, path, headers=headers)
    assert (status, answer["code"]) == (403, "CSRF_INVALID")


@pytest.mark.parametrize(("method", "path"), CHANGES)
async def test_changes_without_a_session_are_told_where_to_get_one(setup: Setup, method: str, path: str) -> None:
    async with setup.another_browser() as other:
        other.csrf = setup.browser.csrf
        status, answer = await other.ask(method, path)
    assert (status, answer["code"]) == (403, "CSRF_INVALID")
    assert "GET /api/session" in answer["error"]


@pytest.mark.parametrize(
    "path",
    ["/api/jobs", "/api/jobs/x", "/api/jobs/x/events", "/api/jobs/x/transcript", "/api/uploads", "/api/uploads/x"],
)
async def test_reading_needs_a_session(setup: Setup, path: str) -> None:
    async with setup.another_browser() as other:
        status, answer = await other.get(path)
    assert (status, answer["code"]) == (401, "UNAUTHENTICATED")
    assert "GET /api/session" in answer["error"]


async def test_the_controller_never_sees_what_the_cookie_is_made_of(setup: Setup) -> None:
    job_id = await setup.browser.new_job()
    cookie = next(iter(setup.browser.http.cookie_jar)).value
    assert setup.fake.jobs[job_id].owner not in cookie
    assert cookie.split(".")[0] not in setup.fake.jobs[job_id].owner

"""A browser's session with the running system."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.gateway import Browser
from tests.system import System


@pytest.fixture
async def browser(system: System) -> AsyncIterator[Browser]:
    """A session of its own for each test."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        made = Browser(system.url, http)
        await made.begin()
        yield made

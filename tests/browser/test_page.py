"""The page in a real browser: a recording is chosen, transcribed, followed to its end and read, without a reload."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright, expect

from scripts.demo import EXAMPLES
from tests.system import System

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
EXECUTABLE = next(filter(None, map(shutil.which, BROWSERS)), None)
# No sandbox, since tests may run as root; and nothing that calls home.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
END_MS = 60_000

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium is installed")


@pytest.fixture
async def page(system: System) -> AsyncIterator[Page]:
    """The page, whose console must stay empty of errors."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=EXECUTABLE, args=ARGUMENTS)
        opened = await browser.new_page()
        problems: list[str] = []
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        await opened.goto(system.url)
        yield opened
        await browser.close()
        assert problems == []


async def test_a_recording_is_transcribed_and_read(page: Page, tmp_path: Path) -> None:
    await expect(page.locator("#runtime")).to_contain_text("1 of 1 workers connected")
    await page.set_input_files("#files", EXAMPLES / "player-test.webm")
    await page.fill("#model", "demo")
    await page.check("#useRemoteWorker")
    await page.click("#send")
    job = page.locator(".job").first
    await expect(job.locator(".name")).to_have_text("player-test.webm", timeout=END_MS)
    await expect(job.locator(".badge")).to_have_text("complete", timeout=END_MS)
    async with page.expect_download() as download:
        await job.locator("a", has_text="txt").click()
    text = Path(await (await download.value).path()).read_text()
    assert "play" in text
    await page.screenshot(path=tmp_path / "page.png", full_page=True)
    await job.locator(".delete").click()
    await expect(page.locator("#none")).to_be_visible()


async def test_what_is_no_recording_is_told_and_models_say_what_they_know(page: Page, tmp_path: Path) -> None:
    hostile = tmp_path / "<img src=x onerror=alert(1)>.mp3"
    hostile.write_text("no sound")
    await page.set_input_files("#files", hostile)
    await page.click("#send")
    problem = page.locator("#problem")
    await expect(problem).to_contain_text("no audio can be decoded", timeout=END_MS)
    await expect(problem).to_contain_text("<img src=x onerror=alert(1)>.mp3")
    assert await page.locator("#problem img").count() == 0
    note = await page.locator("#models option[value=demo]").get_attribute("label")
    assert note is not None
    assert "synthetic speech" in note

"""The page in a real browser: a recording is chosen, transcribed, followed to its end and read, without a reload.

What a real system comes to only by chance is shown over a controller that does as the test says.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from bulkscribe.jobs.v1 import jobs_pb2
from playwright.async_api import Page, async_playwright, expect

from scripts.demo import EXAMPLES
from tests.fakes.controller import segment
from tests.gateway import Setup, gateway_over_fake
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
    async with opened_page(system.url) as opened:
        yield opened


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    async with gateway_over_fake() as running:
        yield running


@asynccontextmanager
async def opened_page(url: str) -> AsyncIterator[Page]:
    """The page, whose console must stay empty of errors."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=EXECUTABLE, args=ARGUMENTS)
        opened = await browser.new_page()
        problems: list[str] = []
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        await opened.goto(url)
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


async def test_a_job_says_what_it_waits_for_how_long_it_takes_and_where_words_are_missing(setup: Setup) -> None:
    fake = setup.fake
    async with opened_page(setup.browser.url) as page:
        await page.set_input_files("#files", EXAMPLES / "player-test.webm")
        await page.click("#send")
        job = page.locator(".job").first
        await expect(job.locator(".badge")).to_have_text("queued", timeout=END_MS)
        (job_id,) = fake.jobs
        detail, silent = job.locator(".detail"), job.locator(".silent")

        async def runs(stage: str, percent: float, seconds_left: float | None, message: str = "") -> None:
            await fake.change(job_id, jobs_pb2.JOB_STATUS_RUNNING, stage, percent, seconds_left, message=message)
            await page.evaluate("refresh()")

        await runs("loading", 0, None, "loading model demo")
        await expect(detail).to_contain_text("loading 0 % · loading model demo")
        for seconds, words in ((9000, "2 h 30 min left"), (181.5, "about 3 min left"), (5, "less than a minute left")):
            await runs("transcribing", 40, seconds)
            await expect(detail).to_contain_text(f"{words} · ")
        await runs("transcribing", 50, None)
        await expect(detail).to_contain_text("transcribing 50 %")
        await expect(detail).not_to_contain_text("left")
        fake.add_silence(job_id, 30, 58)
        fake.add_silence(job_id, 3690, 3718)
        await runs("transcribing", 60, None)
        await expect(detail).to_contain_text("transcribing 60 %")
        await expect(silent).to_be_hidden()
        await fake.complete(job_id, segment(0))
        words = "2 stretches with voice gave no words: 0:30\u20130:58, 1:01:30\u20131:01:58"
        await expect(silent).to_have_text(words)


async def test_one_speaker_a_channel_is_asked_for_together_with_diarization(setup: Setup) -> None:
    async with opened_page(setup.browser.url) as page:
        by_channel, apart = page.locator("#speakerPerChannel"), page.locator("#diarizationEnabled")
        await by_channel.check()
        await expect(apart).to_be_checked()
        await apart.uncheck()
        await expect(by_channel).not_to_be_checked()
        await by_channel.check()
        await page.set_input_files("#files", EXAMPLES / "player-test.webm")
        await page.click("#send")
        await expect(page.locator(".job .badge").first).to_have_text("queued", timeout=END_MS)
        (job,) = setup.fake.jobs.values()
        assert (job.message.options.diarization_enabled, job.message.options.speaker_per_channel) == (True, True)

"""Processes that are killed, stopped and cut off in the middle of real work, and disks that are full: nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.corpus import make_corpus
from benchmarks.scoring import word_errors
from tests.disks import grow, small_disk
from tests.faults.decodes import batches, repeats
from tests.gateway import Browser, events_of
from tests.processes import Processes, browsing, processes
from tests.recordings import encode, tone

END_SECONDS = 90.0
LONG_SECONDS = 240.0
PROGRAMS = ("worker", "controller", "gateway")


async def submit(browser: Browser, path: Path) -> str:
    status, uploaded = await browser.upload((path.name, path.read_bytes()))
    assert (status, uploaded.get("errors")) == (200, []), uploaded
    body = {"uploadIds": [uploaded["uploads"][0]["id"]], "options": {"model": "demo", "useRemoteWorker": True}}
    status, created = await browser.post("/api/jobs", json=body)
    assert status == 200, created
    return str(created["jobId"])


async def events(browser: Browser, job_id: str, after: int = 0) -> AsyncIterator[dict[str, Any]]:
    headers = {"Last-Event-ID": str(after)}
    async with browser.http.get(f"{browser.url}/api/jobs/{job_id}/events", headers=headers) as response:
        assert response.status == 200
        async for event in events_of(response):
            yield event


async def first_segment(browser: Browser, job_id: str) -> int:
    """Until the first window is done; returns that event's number."""
    async with asyncio.timeout(END_SECONDS), aclosing(events(browser, job_id)) as stream:
        async for event in stream:
            if "segment" in event["data"]:
                return int(event["id"])
            assert event["data"].get("status") not in ("complete", "failed"), event
    raise AssertionError("the job ended without a segment")


async def until(browser: Browser, job_id: str, **wanted: object) -> dict[str, Any]:
    """The job, once it is as wanted; fails loudly after the deadline."""
    job: dict[str, Any] = {}
    try:
        async with asyncio.timeout(END_SECONDS):
            while not wanted.items() <= job.items():
                await asyncio.sleep(0.05)
                _, job = await browser.get(f"/api/jobs/{job_id}")
    except TimeoutError:
        raise AssertionError(f"it did not become {wanted}: {job}") from None
    return job


async def complete(browser: Browser, job_id: str) -> dict[str, Any]:
    job = await until(browser, job_id, status="complete")
    _, transcript = await browser.get(f"/api/jobs/{job_id}/transcript")
    return job | {"transcript": transcript}


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[Processes]:
    """A window a batch, so that there is much to be in the middle of."""
    async with processes(tmp_path, WORKER_BATCH_SIZE="1") as made:
        yield made


@pytest.fixture
async def browser(up: Processes) -> AsyncIterator[Browser]:
    async with browsing(up.system.url) as made:
        yield made


@pytest.fixture
def long(tmp_path: Path) -> tuple[Path, str]:
    """A recording of many windows, and what is said in it."""
    (spoken,) = make_corpus(tmp_path / "recordings", 1, LONG_SECONDS, LONG_SECONDS)
    return tmp_path / "recordings" / spoken.name, spoken.text


async def test_a_worker_and_its_engine_killed_in_the_middle(
    up: Processes, browser: Browser, long: tuple[Path, str]
) -> None:
    path, text = long
    undisturbed = await complete(browser, await submit(browser, path))
    assert word_errors(text, undisturbed["transcript"]["text"]).rate <= 0.05

    job_id = await submit(browser, path)
    await first_segment(browser, job_id)
    (engine,) = up.children("worker")
    os.kill(engine, signal.SIGKILL)
    after_engine = await complete(browser, job_id)
    assert (after_engine["attempt"], after_engine["lastErrorCode"]) == (2, None)
    assert after_engine["transcript"] == undisturbed["transcript"]

    job_id = await submit(browser, path)
    await first_segment(browser, job_id)
    await up.kill("worker")
    waiting = await until(browser, job_id, lastErrorCode="REMOTE_WORKER_UNREACHABLE")
    assert waiting["status"] in ("running", "queued_remote")
    await up.start("worker")
    after_worker = await complete(browser, job_id)
    assert after_worker["attempt"] == 2
    assert after_worker["transcript"] == undisturbed["transcript"]


async def test_a_controller_and_a_gateway_killed_in_the_middle(
    up: Processes, browser: Browser, long: tuple[Path, str]
) -> None:
    job_id = await submit(browser, long[0])
    seen = await first_segment(browser, job_id)
    await up.kill("controller")
    status, answer = await browser.get(f"/api/jobs/{job_id}")
    assert (status, answer["code"]) == (503, "CONTROLLER_UNREACHABLE")
    await up.start("controller")
    await up.kill("gateway")
    await up.start("gateway")
    later = [event async for event in events(browser, job_id, after=seen)]  # the session is still known
    job = await complete(browser, job_id)
    assert job["attempt"] == 1
    every = [event async for event in events(browser, job_id)]
    assert later == [event for event in every if event["id"] > seen]
    told = [event["data"]["segment"] for event in every if "segment" in event["data"]]
    assert told == job["transcript"]["segments"]


async def test_what_the_local_worker_decoded_while_its_controller_was_away_is_not_decoded_again(
    tmp_path: Path, long: tuple[Path, str]
) -> None:
    async with processes(tmp_path, WORKER_BATCH_SIZE="1", REMOTE_WORKER_MODE="off") as up:
        async with browsing(up.system.url) as browser:
            job_id = await submit(browser, long[0])
            await first_segment(browser, job_id)
            await up.strike("controller")
            await up.start("controller")
            job = await complete(browser, job_id)
            assert (job["executionMode"], job["attempt"]) == ("local", 2)
            assert word_errors(long[1], job["transcript"]["text"]).rate <= 0.05
        found = repeats(batches(tmp_path / "logs" / "app.log"), [])
        assert found.needless == 0, found.of


async def test_a_worker_stopped_while_a_recording_is_sent_to_it(
    up: Processes, browser: Browser, tmp_path: Path
) -> None:
    large = encode(tmp_path / "large.wav", tone(900, 48_000), "pcm_s16le", 48_000)
    up.send("worker", signal.SIGSTOP)
    job_id = await submit(browser, large)
    await until(browser, job_id, status="queued_remote")
    await up.kill("worker")
    await up.start("worker")
    job = await complete(browser, job_id)
    assert job["attempt"] == 1


async def test_ctrl_c_in_every_program_while_it_works(up: Processes, browser: Browser, long: tuple[Path, str]) -> None:
    job_id = await submit(browser, long[0])
    await first_segment(browser, job_id)
    for name in PROGRAMS:
        up.send(name, signal.SIGINT)
    assert [await up.ended(name) for name in PROGRAMS] == [0, 0, 0]
    for name in PROGRAMS:
        assert "Traceback" not in up.output(name)
    for name in PROGRAMS:
        await up.start(name)
    job = await complete(browser, job_id)
    assert word_errors(long[1], job["transcript"]["text"]).rate <= 0.05


# --- full disks


async def test_the_controllers_disk_is_full_during_an_upload(tmp_path: Path) -> None:
    large = encode(tmp_path / "large.wav", tone(300), "pcm_s16le")
    small = encode(tmp_path / "small.wav", tone(1), "pcm_s16le")
    with small_disk(tmp_path / "controller", 70) as disk:
        async with processes(tmp_path) as up, browsing(up.system.url) as browser:
            status, answer = await browser.upload(("large.wav", large.read_bytes()))
            assert (status, answer["code"]) == (507, "STORAGE_FULL"), answer
            assert "disk is full" in answer["error"]
            await complete(browser, await submit(browser, small))
            grow(disk, 120)
            await complete(browser, await submit(browser, large))


async def test_the_workers_disk_is_full_and_the_job_waits_until_there_is_room(tmp_path: Path) -> None:
    large = encode(tmp_path / "large.wav", tone(300), "pcm_s16le")
    with small_disk(tmp_path / "worker", 68) as disk:
        async with processes(tmp_path) as up, browsing(up.system.url) as browser:
            job_id = await submit(browser, large)
            waiting = await until(browser, job_id, lastErrorCode="STORAGE_FULL")
            assert (waiting["status"], waiting["attempt"]) == ("queued_remote", 0)
            assert "disk" in waiting["message"]
            grow(disk, 120)
            assert (await complete(browser, job_id))["attempt"] == 1

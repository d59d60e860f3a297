"""The batch runner killed between any two steps, with and without its state file: nothing is sent or made twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.batch import Batch, ended
from tests.fakes.gateway import FakeGateway, Fault

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("session", "limit", "upload", "offset", "send", "jobs", "submit", "events", "job", "transcript")
SIZES = {"a.mp3": 3_000_000, "b.mp3": 400_000, "c.mp3": 400_000}


@pytest.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    async with FakeGateway().serving() as fake:
        yield fake


@pytest.fixture
def batch(tmp_path: Path, gateway: FakeGateway) -> Batch:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name, size in SIZES.items():
        (folder / name).write_bytes(os.urandom(size))
    (folder / "c.mp3").write_bytes((folder / "b.mp3").read_bytes())  # the same sound under two names
    return Batch(folder, gateway.url)


def check(batch: Batch, gateway: FakeGateway) -> None:
    """Every recording was sent, submitted and transcribed exactly once."""
    assert sorted(upload.filename for upload in gateway.uploads.values()) == sorted(SIZES)
    assert sorted(job.upload.filename for job in gateway.jobs.values()) == sorted(SIZES)
    assert gateway.begun == len(SIZES)
    assert gateway.received == sum(SIZES.values())
    for name in SIZES:
        assert batch.state["files"][name]["status"] == "complete"
        (job,) = gateway.jobs_of(name)
        assert batch.transcript(f"{name}.txt") == f"txt of {name} by {job.job_id}"


async def check_again_without_state(batch: Batch, gateway: FakeGateway) -> None:
    """From the session alone: the one that is remembered, and then the one that is given."""
    cookie = batch.state["session"]
    for options in ((), ("--session", cookie)):
        batch.state_file.unlink()
        result = await batch.run(*options)
        assert result.status == 0, result.out + result.err
        check(batch, gateway)
        assert batch.state["session"] == cookie
    batch.state_file.write_text(json.dumps({"files": {}, "session": cookie, "csrfToken": batch.state["csrfToken"]}))
    assert (await batch.run()).status == 0
    check(batch, gateway)


def killing(
    process: list[asyncio.subprocess.Process], carry_out: Callable[[web.Request], Awaitable[Any]] | None
) -> Fault:
    """The runner dies when this request arrives, or once it was carried out and before its answer."""

    async def fault(request: web.Request) -> web.StreamResponse | None:
        if carry_out is not None:
            await carry_out(request)
        process[-1].kill()
        await asyncio.Event().wait()
        return None

    return fault


@pytest.mark.parametrize("state_survives", [True, False])
async def test_killed_at_every_request(batch: Batch, gateway: FakeGateway, state_survives: bool) -> None:
    processes: list[asyncio.subprocess.Process] = []
    gateway.cut_after.extend([1_000_000, 2_000_000])
    deeds = {
        "session": gateway._session, "limit": gateway._tell_limit, "upload": gateway._begin_upload, "offset": gateway._tell_offset,
        "send": gateway._append, "jobs": gateway._list, "submit": gateway._submit, "job": gateway._show,
        "transcript": gateway._transcript,
    }  # fmt: skip
    gateway.held.update(SIZES)
    for kind in KINDS:
        if kind == "transcript":
            for name in SIZES:
                await gateway.release(name)
        for deed in (None, deeds.get(kind)):
            gateway.fault(kind, killing(processes, deed))
            processes.append(await batch.start("--formats", "txt", "--parallel", "2"))
            assert (await ended(processes[-1])).status == -signal.SIGKILL, kind
            if not state_survives:
                batch.state_file.unlink(missing_ok=True)
    assert (await batch.run("--formats", "txt")).status == 0
    check(batch, gateway)
    await check_again_without_state(batch, gateway)


async def test_killed_at_every_write(batch: Batch, gateway: FakeGateway) -> None:
    """The nth run dies at its nth write, so that all of them are met; every third finds the state file gone."""
    number, status = 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        number += 1
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.fakes.dying_batch", str(number), ("before", "after")[number % 2]),
            *("--input", str(batch.folder), "--controller", gateway.url, "--formats", "txt"),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        status = (await ended(process)).status
        if status == -signal.SIGKILL and number % 3 == 0:
            batch.state_file.unlink(missing_ok=True)
        assert number < 60
    assert status == 0
    assert number > 8
    check(batch, gateway)
    await check_again_without_state(batch, gateway)


async def test_killed_at_any_moment(batch: Batch, gateway: FakeGateway) -> None:
    for number in range(12):
        process = await batch.start("--formats", "txt", "--parallel", "3")
        try:
            async with asyncio.timeout(0.1 + number * 0.04):
                await process.wait()
        except TimeoutError:
            process.kill()
        await ended(process)
        if number % 4 == 3:
            batch.state_file.unlink(missing_ok=True)
    assert (await batch.run("--formats", "txt")).status == 0
    check(batch, gateway)


async def test_a_job_that_replaces_a_failed_one_is_made_once_too(batch: Batch, gateway: FakeGateway) -> None:
    gateway.failing["a.mp3"] = ("REMOTE_FAILED", "the engine met an error")
    assert (await batch.run("--formats", "txt")).status == 1
    gateway.failing.clear()
    processes: list[asyncio.subprocess.Process] = []
    gateway.fault("submit", killing(processes, gateway._submit))
    processes.append(await batch.start("--formats", "txt", "--retry-failed"))
    assert (await ended(processes[-1])).status == -signal.SIGKILL
    assert (await batch.run("--formats", "txt")).status == 0
    assert len(gateway.jobs_of("a.mp3")) == 2
    batch.state_file.unlink()
    assert (await batch.run("--formats", "txt")).status == 0  # it finds the one in its place
    assert len(gateway.jobs_of("a.mp3")) == 2
    assert gateway.begun == len(SIZES)


async def test_a_session_that_is_not_known_any_more_begins_anew(batch: Batch, gateway: FakeGateway) -> None:
    assert (await batch.run("--formats", "txt")).status == 0
    batch.state_file.unlink()
    gateway.forget_sessions()
    result = await batch.run("--formats", "txt")
    assert result.status == 0
    assert "does not know this session any more" in result.out
    assert len(gateway.jobs) == 2 * len(SIZES)
    batch.state_file.unlink()
    assert (await batch.run("--formats", "txt")).status == 0  # the new one is remembered in its place
    assert len(gateway.jobs) == 2 * len(SIZES)

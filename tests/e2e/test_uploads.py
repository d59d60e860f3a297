"""A large upload through a real gateway and a real controller, cut and killed again and again."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import shutil
import wave
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from benchmarks.proxy import Proxy
from scripts.batch.client import COOKIE, Gateway
from scripts.batch.content import read_content
from scripts.batch.outages import Outages
from scripts.processes import ROOT, free_ports
from scripts.system import scratch_system
from tests.batch import Batch, ended
from tests.disks import grow, small_disk
from tests.gateway import Browser
from tests.processes import Processes, browsing
from tests.system import System

SIZE_BYTES = 64 * 1024 * 1024
CUTS = 20
PACE = 30e6
"""Bytes a second: as fast as it goes, all that a cut finds is what the buffers on the way hold."""
DEADLINE = 100.0


@dataclass
class Line:
    """client ─ ``front`` ─ gateway ─ ``back`` ─ controller"""

    up: Processes
    front: Proxy
    back: Proxy

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.front.port}"

    async def restart(self, name: str) -> None:
        await self.up.kill(name)
        await self.up.start(name)

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = (self.up.folder / "logs" / "app.log").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["event"] == event]


@pytest.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    async with lined(tmp_path) as made:
        yield made


@asynccontextmanager
async def lined(tmp_path: Path) -> AsyncIterator[Line]:
    """No worker: nothing is transcribed here."""
    (back_port,) = free_ports(1)
    system = scratch_system(tmp_path, tmp_path / "logs", CONTROLLER_ADDRESS=f"127.0.0.1:{back_port}")
    controller, gateway = (
        int(system.environment[name].rpartition(":")[2]) for name in ("CONTROLLER_LISTEN", "GATEWAY_PORT")
    )
    up = Processes(system, tmp_path)
    async with AsyncExitStack() as stack:
        back = await stack.enter_async_context(Proxy(controller).serving(back_port))
        front = await stack.enter_async_context(Proxy(gateway, PACE).serving())
        stack.push_async_callback(up.kill_all)
        await up.start("controller")
        await up.start("gateway")
        yield Line(up, front, back)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Noise, so that no byte is like the one before it."""
    path = tmp_path / "long 🎙.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(random.Random(3).randbytes(SIZE_BYTES - 44))
    return path


async def send(url: str, recording: Path) -> dict[str, Any]:
    """As the batch runner sends it; what the gateway says of it then."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        gateway = Gateway(http, url, None, lambda _session: None, Outages(print))
        await gateway.connect()
        content = await read_content(recording, lambda _done, _size: None)
        upload_id = await gateway.upload(recording, recording.name, content, lambda _size: None)
        assert gateway.session is not None
        headers = {"Cookie": f"{COOKIE}={gateway.session.cookie}"}
        async with http.get(f"{url}/api/uploads/{upload_id}", headers=headers) as response:
            return dict(await response.json())


async def passed(proxy: Proxy, size_bytes: int) -> None:
    async with asyncio.timeout(DEADLINE):
        while proxy.sent < size_bytes:  # noqa: ASYNC110 - a count has no event
            await asyncio.sleep(0.005)


@pytest.mark.timeout(150)
async def test_an_upload_that_is_cut_and_killed_again_and_again_arrives_once(
    line: Line, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.batch.outages.FIRST_WAIT_SECONDS", 0.02)
    monkeypatch.setattr("scripts.batch.outages.LONGEST_WAIT_SECONDS", 0.5)
    line.front.cut_at(random.Random(5).sample(range(SIZE_BYTES), CUTS))
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        sending = group.create_task(send(line.url, recording))
        await passed(line.back, SIZE_BYTES // 4)
        await line.restart("gateway")
        await passed(line.back, SIZE_BYTES // 2)
        await line.restart("controller")
    upload = sending.result()
    assert upload["sha256"] == hashlib.sha256(recording.read_bytes()).hexdigest()
    assert (upload["complete"], upload["sizeBytes"], upload["filename"]) == (True, SIZE_BYTES, recording.name)
    assert len(check_streams(line)) > CUTS // 2  # those that a kill ended could not tell
    assert line.front.cut == CUTS
    # What was under way when it was cut is lost: at most what the buffers on the way hold.
    for proxy in (line.front, line.back):
        assert proxy.sent - SIZE_BYTES < (CUTS + 2) * 1024 * 1024
    assert not list((line.up.folder / "controller" / "blobs" / "partial").iterdir())


def check_streams(line: Line) -> list[tuple[int, int]]:
    """(offset, bytes) of each that the controller took: nothing that was synced came again."""
    streams = sorted((one["offset"], one["bytes"]) for one in line.logged("upload_stream_ended"))
    for (offset, size_bytes), (following, _) in pairwise(streams):
        assert offset + size_bytes <= following, streams
    assert sum(streams[-1]) == SIZE_BYTES
    return streams


async def test_a_disk_that_was_full_takes_the_rest_once_there_is_room(
    tmp_path: Path, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.batch.outages.FIRST_WAIT_SECONDS", 0.05)
    monkeypatch.setattr("scripts.batch.outages.LONGEST_WAIT_SECONDS", 0.5)
    with small_disk(tmp_path / "controller", 100) as disk:  # of which 64 MB are kept free
        async with lined(tmp_path) as line, asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            sending = group.create_task(send(line.url, recording))
            while not any(one.get("status") == 507 for one in line.logged("request")):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
            grow(disk, 200)
            assert (await sending)["complete"]
            assert check_streams(line)[-1][0] > 30_000_000  # what had room was not sent again


async def patch(browser: Browser, location: str, offset: int, data: bytes) -> tuple[int, str]:
    headers = {
        "Tus-Resumable": "1.0.0", "Upload-Offset": str(offset), "X-CSRF-Token": browser.csrf,
        "Content-Type": "application/offset+octet-stream",
    }  # fmt: skip
    async with browser.http.patch(browser.url + location, data=data, headers=headers) as response:
        return response.status, response.headers.get("Upload-Offset", "")


async def test_a_finish_that_a_killed_controller_did_not_come_to_is_repeated(line: Line, tmp_path: Path) -> None:
    """The last byte is in, and the process dies before the recording is probed."""
    content = (ROOT / "examples" / "dictation.wav").read_bytes()
    name = base64.b64encode(b"a.wav").decode()
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(len(content)), "Upload-Metadata": f"filename {name}"}
    async with browsing(line.url) as browser:
        async with browser.http.post(
            f"{line.url}/api/uploads/tus", headers=headers | {"X-CSRF-Token": browser.csrf}
        ) as response:
            location = response.headers["Location"]
        assert (await patch(browser, location, 0, content[:-1]))[0] == 204
        await line.up.kill("controller")
        with (tmp_path / "controller" / "blobs" / "partial" / location.rpartition("/")[2]).open("ab") as file:
            file.write(content[-1:])  # what it had written when it died
        assert (await patch(browser, location, len(content), b""))[0] == 503
        await line.up.start("controller")
        await line.restart("gateway")
        tus = {"Tus-Resumable": "1.0.0"}
        async with browser.http.head(line.url + location, headers=tus) as response:
            assert response.headers["Upload-Offset"] == str(len(content))
        assert await patch(browser, location, len(content), b"") == (204, str(len(content)))
        assert (await browser.get(location.replace("/tus", "")))[1]["complete"]


async def test_the_readmes_commands_upload_a_recording(system: System, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    readme = (ROOT / "README.md").read_text()
    session = next(line for line in readme.splitlines() if "/api/session | jq -r .csrfToken" in line)
    (tus,) = [block for block in readme.split("```bash\n")[1:] if block.startswith("file=")]
    script = f"set -euo pipefail\n{session}\n{tus.partition('```')[0]}".replace("localhost:8476", system.url)
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", script, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode == 127:
        pytest.skip("curl or jq is not installed")
    assert process.returncode == 0, err.decode()
    upload = json.loads(out)
    assert (upload["filename"], upload["complete"]) == ("hearing.flac", True)
    assert upload["sha256"] == hashlib.sha256((ROOT / "examples" / "hearing.flac").read_bytes()).hexdigest()


@pytest.mark.timeout(240)
async def test_a_batch_that_is_killed_and_whose_state_is_lost_makes_every_job_once(
    system: System, tmp_path: Path
) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name in ("dictation.wav", "voice memo.ogg"):
        shutil.copy(ROOT / "examples" / name, folder)
    shutil.copy(folder / "voice memo.ogg", folder / "the same.ogg")
    batch = Batch(folder, system.url)
    options = ("--remote", "--model", "demo", "--parallel", "3", "--formats", "txt")
    for number in range(8):
        process = await batch.start(*options)
        try:
            async with asyncio.timeout(0.3 + number * 0.15):
                await process.wait()
        except TimeoutError:
            process.kill()
        await ended(process)
        if number % 2:
            batch.state_file.unlink(missing_ok=True)
    result = await batch.run(*options)
    assert result.status == 0, result.out + result.err
    names = sorted(batch.state["files"])
    async with aiohttp.ClientSession(cookies={COOKIE: batch.state["session"]}) as http:
        async with http.get(f"{system.url}/api/jobs") as response:
            jobs = (await response.json())["jobs"]
        assert sorted(job["filename"] for job in jobs) == names
        assert {job["status"] for job in jobs} == {"complete"}
        assert len({job["uploadId"] for job in jobs}) == len(names)
    assert batch.transcript("the same.ogg.txt") == batch.transcript("voice memo.ogg.txt")

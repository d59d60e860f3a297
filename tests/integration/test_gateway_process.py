"""The gateway as a process: settings, help, start, end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from gateway.sessions import COOKIE
from tests.fakes.controller import FakeController
from tests.gateway import DEADLINE, Browser, until

ROOT = Path(__file__).resolve().parent.parent.parent


def environment(folder: Path, **settings: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    own = {"LOG_DIR": str(folder / "logs"), "GATEWAY_DATA_DIR": str(folder / "gateway"), "GATEWAY_PORT": "0"}
    return kept | own | settings


async def start(folder: Path, *arguments: str, **settings: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        *arguments,
        cwd=ROOT,
        env=environment(folder, **settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    async with asyncio.timeout(DEADLINE):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def running(folder: Path, **settings: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The process and its address."""
    process = await start(folder, **settings)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("bulkscribe gateway on http://127.0.0.1:"), (await process.communicate())[1]
        yield process, line.split()[-1]
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.fixture
async def fake() -> AsyncIterator[FakeController]:
    controller = FakeController()
    await controller.start()
    yield controller
    await controller.stop()


@asynccontextmanager
async def browsing(url: str) -> AsyncIterator[Browser]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        browser = Browser(url, http)
        await browser.begin()
        yield browser


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_PORT", "99999"),
        ("GATEWAY_PORT", "x"),
        ("GATEWAY_PORT", ""),
        ("GATEWAY_HOST", ""),
        ("CONTROLLER_ADDRESS", "nowhere"),
        ("CONTROLLER_ADDRESS", "host:99999"),
        ("CONTROLLER_ADDRESS", ""),
        ("CONTROLLER_TOKEN", ""),
        ("GATEWAY_SECRET_KEY", ""),
        ("GATEWAY_MAX_UPLOAD_MB", "0"),
        ("GATEWAY_MAX_UPLOAD_MB", "1.5"),
        ("LOG_DIR", "/dev/null/logs"),
    ],
)
async def test_a_wrong_setting_is_one_line(tmp_path: Path, name: str, value: str) -> None:
    code, out, err = await ended(await start(tmp_path, **{name: value}))
    assert code
    assert out == ""
    assert len(err.splitlines()) == 1
    assert name in err
    assert value in err


async def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = await ended(await start(tmp_path, GATEWAY_PORT=port))
    assert code
    assert "Traceback" not in err
    assert f"GATEWAY_PORT='{port}'" in err.splitlines()[-1]


async def test_help_names_every_setting(tmp_path: Path) -> None:
    code, out, err = await ended(await start(tmp_path, "--help"))
    assert (code, err) == (0, "")
    for name in (
        "GATEWAY_HOST",
        "GATEWAY_PORT (8476)",
        "CONTROLLER_ADDRESS (127.0.0.1:8475)",
        "GATEWAY_MAX_UPLOAD_MB (2000)",
    ):
        assert name in out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    async with (
        running(tmp_path) as (process, url),
        aiohttp.ClientSession() as http,
        http.get(url + "/healthz") as response,
    ):
        assert response.status == 200
        process.send_signal(number)  # with an idle connection open
        code, _, err = await ended(process)
    assert code == 0
    assert "Traceback" not in err


async def test_the_end_does_not_wait_for_an_upload_that_stands_still(tmp_path: Path, fake: FakeController) -> None:
    async def standing_still() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n' + b"\0" * 2_000_000
        await asyncio.Event().wait()

    async with running(tmp_path, CONTROLLER_ADDRESS=fake.address) as (process, url), browsing(url) as browser:

        async def upload() -> None:
            headers = {"Content-Type": "multipart/form-data; boundary=x"}
            with pytest.raises(aiohttp.ClientError):
                await browser.post("/api/uploads", data=standing_still(), headers=headers)

        async with asyncio.TaskGroup() as group:
            group.create_task(upload())
            await until(lambda: fake.received > 1_000_000)
            process.terminate()
            async with asyncio.timeout(10):
                code, _, err = await ended(process)
    assert code == 0
    assert "Traceback" not in err
    assert "upload_cut" in err
    await until(lambda: fake.canceled_writes == 1)


async def test_sessions_outlive_a_gateway_that_is_killed(tmp_path: Path) -> None:
    async with running(tmp_path) as (process, url), aiohttp.ClientSession() as http:
        async with http.get(f"{url}/api/session") as response:
            session, cookie = await response.json(), response.cookies[COOKIE].value
        process.kill()
        await process.wait()
    key = (tmp_path / "gateway" / "secret.key").read_text().strip()
    async with running(tmp_path) as (process, url), aiohttp.ClientSession(cookies={COOKIE: cookie}) as http:
        assert await Browser(url, http).begin() == session
        process.terminate()
        _, out, err = await ended(process)
    assert key not in out + err + (tmp_path / "logs" / "app.log").read_text()


async def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with (
        running(tmp_path, GATEWAY_DATA_DIR=str(tmp_path / "file" / "gateway")) as (process, url),
        aiohttp.ClientSession() as http,
    ):
        assert (await Browser(url, http).begin())["csrfToken"]
        process.terminate()
        await ended(process)
    lines = [json.loads(line) for line in (tmp_path / "logs" / "app.log").read_text().splitlines()]
    (warning,) = [line for line in lines if line["event"] == "gateway_key_not_kept"]
    assert warning["level"] == "warning"
    assert "GATEWAY_DATA_DIR" in warning["what_to_do"]


async def test_a_key_that_is_set_needs_no_folder(tmp_path: Path) -> None:
    async with running(tmp_path, GATEWAY_SECRET_KEY="any string"):
        assert not (tmp_path / "gateway").exists()


async def test_secrets_stay_out_of_the_log(tmp_path: Path) -> None:
    settings = {"CONTROLLER_TOKEN": "token-of-the-controller", "GATEWAY_SECRET_KEY": "key-of-the-gateway"}
    async with running(tmp_path, **settings) as (process, url), aiohttp.ClientSession() as http:
        csrf = (await Browser(url, http).begin())["csrfToken"]
        async with http.get(f"{url}/api/runtime?secret=in-the-query") as response:
            assert response.status == 503
        process.terminate()
        _, out, err = await ended(process)
    log = (tmp_path / "logs" / "app.log").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert {"gateway_started", "request", "stopped"} <= {line["event"] for line in lines}
    assert {line["service"] for line in lines} == {"gateway"}
    for secret in (*settings.values(), csrf, "in-the-query"):
        assert secret not in log + out + err


@pytest.mark.timeout(60)
async def test_a_stopped_controller_is_noticed(tmp_path: Path, fake: FakeController) -> None:
    """A controller that stops answering without closing anything (SIGSTOP): 503 within 10 s, event streams go on after."""
    gate = await asyncio.start_server(lambda reader, writer: relay(reader, writer, fake.port, flowing), "127.0.0.1", 0)
    flowing = asyncio.Event()
    flowing.set()
    port = gate.sockets[0].getsockname()[1]
    async with running(tmp_path, CONTROLLER_ADDRESS=f"127.0.0.1:{port}") as (_, url), browsing(url) as browser:
        job_id = await browser.new_job()
        async with asyncio.TaskGroup() as group:
            following = group.create_task(browser.events(job_id))
            await until(lambda: fake.open_watches == 1)
            flowing.clear()
            async with asyncio.timeout(10):
                assert (await browser.get("/api/jobs"))[0] == 503
            await fake.complete(job_id)
            flowing.set()
            async with asyncio.timeout(20):
                assert [event["id"] for event in await following] == [1, 2]
    gate.close()


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, flowing: asyncio.Event) -> None:
    """Passes bytes both ways while ``flowing``; holds them back otherwise, as a stopped process would."""
    onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", port)

    async def passing(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await flowing.wait()
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(passing(reader, onward_writer))
        group.create_task(passing(onward_reader, writer))

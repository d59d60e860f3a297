"""The controller as a process: wrong settings, what it listens on and owns, signals, the local worker it starts."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import grpc
import pytest
from bulkscribe.jobs.v1 import jobs_pb2

from services.contract.errors import Reason
from services.runtime.channel import open_channel
from services.runtime.errors import service_error
from tests.integration.conftest import Client
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
DEADLINE = 30.0


def environment(folder: Path, **settings: str) -> dict[str, str]:
    given = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "CONTROLLER_LISTEN": f"127.0.0.1:{free_port()}",
        "DATA_DIR": str(folder / "data"),
        "LOG_DIR": str(folder / "logs"),
        "WORKER_MODEL": "demo",
        "WORKER_DIARIZATION_MODEL": "none",
    }
    return given | settings


async def start(folder: Path, *arguments: str, **settings: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.controller", *arguments),
        cwd=ROOT,
        env=environment(folder, **settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    async with asyncio.timeout(DEADLINE):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def running(folder: Path, **settings: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, Client]]:
    """The process and a client of it; kills it and its children when it still runs at the end."""
    address = f"127.0.0.1:{free_port()}"
    process = await start(folder, CONTROLLER_LISTEN=address, **settings)
    channel = open_channel(address)
    try:
        async with asyncio.timeout(DEADLINE):
            await channel.channel_ready()
        yield process, Client(channel)
    finally:
        await channel.close()
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()


async def local_worker_connected(client: Client) -> None:
    async with asyncio.timeout(DEADLINE):
        while not (await client.runtime()).local_worker.connected:  # noqa: ASYNC110 - as a client sees it
            await asyncio.sleep(0.05)


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"CONTROLLER_LISTEN": "127.0.0.1:99999"}, "CONTROLLER_LISTEN='127.0.0.1:99999' is not allowed: must be host"),
        ({"CONTROLLER_LISTEN": "8475"}, "CONTROLLER_LISTEN='8475' is not allowed: must be host:port"),
        ({"CONTROLLER_LISTEN": "0.0.0.0:8475"}, "is open to other machines without CONTROLLER_TOKEN"),
        (
            {"CONTROLLER_LISTEN": "192.0.2.1:8475", "CONTROLLER_TOKEN": "t"},
            "CONTROLLER_LISTEN='192.0.2.1:8475': cannot listen",
        ),
        ({"CONTROLLER_TOKEN": ""}, "CONTROLLER_TOKEN='' is not allowed: an empty token"),
        (
            {"REMOTE_WORKER_MODE": "sometimes"},
            "REMOTE_WORKER_MODE='sometimes' is not allowed: must be 'off', 'optional'",
        ),
        (
            {"REMOTE_WORKER_MODE": "required"},
            "REMOTE_WORKER_MODE=required needs REMOTE_WORKER_URL and REMOTE_WORKER_TOKEN",
        ),
        ({"REMOTE_WORKER_URL": "gpu-server:8477"}, "REMOTE_WORKER_URL='gpu-server:8477' is not allowed: each address"),
        ({"REMOTE_WORKER_TIMEOUT_SECONDS": "-1"}, "REMOTE_WORKER_TIMEOUT_SECONDS='-1' is not allowed: must be greater"),
        ({"DATA_DIR": "/proc/nowhere"}, "DATA_DIR='/proc/nowhere' cannot be written"),
        ({"LOG_DIR": "/proc/nowhere"}, "LOG_DIR='/proc/nowhere' cannot be written"),
        ({"DATABASE_URL": "nonsense"}, "DATABASE_URL"),
        ({"DATABASE_URL": "mysql+nothing://x/y"}, "DATABASE_URL"),
        ({"REMOTE_WORKER_CA": "/nowhere.pem", "REMOTE_WORKER_MODE": "optional"}, "REMOTE_WORKER_CA='/nowhere.pem'"),
    ],
)
async def test_a_wrong_setting_ends_it_with_one_line(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    status, out, err = await ended(await start(tmp_path, **settings))
    assert status in (1, 2)
    lines = [line for line in err.splitlines() if "[info" not in line]
    assert (out, len(lines)) == ("", 1), err
    assert said in lines[0]


async def test_a_port_in_use_ends_it_with_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, _, err = await ended(await start(tmp_path, CONTROLLER_LISTEN=address))
    assert status == 1
    assert f"CONTROLLER_LISTEN='{address}': cannot listen" in err.splitlines()[-1]
    assert "Traceback" not in err


async def test_help_lists_the_settings(tmp_path: Path) -> None:
    status, out, err = await ended(await start(tmp_path, "--help"))
    assert (status, err) == (0, "")
    for setting in (
        "REMOTE_WORKER_MODE (off)",
        "REMOTE_WORKER_TIMEOUT_SECONDS (3600)",
        "CONTROLLER_LISTEN (127.0.0.1:8475)",
    ):
        assert setting in re.sub(r"\.0\)", ")", out)


async def test_two_controllers_do_not_share_a_folder(tmp_path: Path) -> None:
    async with running(tmp_path):
        status, _, err = await ended(await start(tmp_path))
    assert status == 1
    assert "is used by another controller" in err.splitlines()[-1]


@pytest.mark.parametrize(("write", "said"), [("garbage", "not a database"), ("newer", "newer")])
async def test_a_database_that_is_none_or_too_new_is_left_alone(tmp_path: Path, write: str, said: str) -> None:
    path = tmp_path / "data" / "bulkscribe.db"
    path.parent.mkdir()
    if write == "garbage":
        path.write_bytes(b"no database at all" * 100)
    else:
        with closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
            database.execute("INSERT INTO alembic_version VALUES ('9999')")
            database.commit()
    status, _, err = await ended(await start(tmp_path))
    assert status == 1
    assert "DATABASE_URL" in err.splitlines()[-1]
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err
    if write == "newer":
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
    else:
        assert path.read_bytes().startswith(b"no database at all")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_and_its_local_worker(tmp_path: Path, number: signal.Signals) -> None:
    async with running(tmp_path) as (process, client):
        await local_worker_connected(client)
        started = children(process.pid)
        assert started
        process.send_signal(number)
        status, _, err = await ended(process)
    assert status == 0
    assert "Traceback" not in err
    assert alive(started) == []


async def test_killed_it_takes_its_local_worker_along(tmp_path: Path) -> None:
    async with running(tmp_path) as (process, client):
        await local_worker_connected(client)
        started = children(process.pid)
        process.kill()
        await process.wait()
        async with asyncio.timeout(DEADLINE):
            while alive(started):  # noqa: ASYNC110 - nobody's children
                await asyncio.sleep(0.05)


async def test_the_token_is_asked_for_and_kept(tmp_path: Path) -> None:
    async with running(tmp_path, CONTROLLER_TOKEN="token-of-this-test") as (process, client):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.runtime()
        assert service_error(caught.value, Reason.INTERNAL).reason is Reason.UNAUTHENTICATED
        metadata = (("authorization", "Bearer token-of-this-test"),)
        await client.jobs.GetRuntime(jobs_pb2.GetRuntimeRequest(), metadata=metadata)
        process.terminate()
        _, _, err = await ended(process)
    assert "token-of-this-test" not in err + (tmp_path / "logs" / "app.log").read_text()


async def test_a_local_worker_that_cannot_start_is_told_to_who_waits_for_it(tmp_path: Path) -> None:
    async with running(tmp_path, WORKER_MAX_CONCURRENT_JOBS="none") as (process, client):
        job_id = await client.submit(use_remote_worker=False)
        job = await client.wait(job_id, "queued", lambda job: "exit status" in job.message)
        assert "local worker ended by itself (exit status 2)" in job.message
        process.terminate()
        status, _, err = await ended(process)
    assert status == 0
    assert "WORKER_MAX_CONCURRENT_JOBS='none' is not allowed" in err

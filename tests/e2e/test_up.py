"""`make up`: the three processes together, and how they end."""

from __future__ import annotations

import os
import shlex
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from scripts.processes import free_ports
from scripts.up import completed
from tests.e2e.launchers import Launcher, read_until, rest


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    made = Launcher()
    yield made
    made.kill_all()


def settings(folder: Path) -> dict[str, str]:
    worker, controller, gateway = free_ports(3)
    return {
        "DATA_DIR": str(folder / "data"),
        "WORKER_DATA_DIR": str(folder / "worker"),
        "LOG_DIR": str(folder / "logs"),
        "WORKER_PORT": str(worker),
        "CONTROLLER_LISTEN": f"127.0.0.1:{controller}",
        "GATEWAY_PORT": str(gateway),
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_stops_all_three_cleanly(launcher: Launcher, tmp_path: Path, number: int) -> None:
    given = settings(tmp_path)
    process = await launcher.start("scripts.up", **given)
    seen = await read_until(process, "Ctrl-C")
    page = f"http://127.0.0.1:{given['GATEWAY_PORT']}/"
    assert page in seen
    env_file = tmp_path / "data" / "up.env"
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    token = dict(word.split("=", 1) for word in shlex.split(env_file.read_text()) if "=" in word)["WORKER_TOKEN"]
    ping = f"http://127.0.0.1:{given['WORKER_PORT']}/v1/ping"
    async with aiohttp.ClientSession() as http:
        async with http.get(page) as response:
            assert response.status == 200
        async with http.get(ping, headers={"Authorization": f"Bearer {token}"}) as response:
            assert response.status == 200
    process.send_signal(number)
    status, out = await rest(process)
    assert status == 0, out
    assert token not in seen + out
    assert launcher.processes() == []


async def test_one_that_dies_takes_the_others_along(launcher: Launcher, tmp_path: Path) -> None:
    process = await launcher.start("scripts.up", **settings(tmp_path))
    await read_until(process, "Ctrl-C")
    (controller,) = [pid for pid in launcher.processes() if "-m services.controller " in launcher.command(pid)]
    os.kill(controller, signal.SIGKILL)
    status, out = await rest(process)
    assert status == 1
    assert "the controller ended by itself (signal SIGKILL)" in out
    assert launcher.processes() == []


async def test_a_wrong_setting_is_one_clear_line(launcher: Launcher, tmp_path: Path) -> None:
    process = await launcher.start("scripts.up", **settings(tmp_path) | {"GATEWAY_PORT": "99999"})
    status, out = await rest(process)
    assert status == 1
    assert "GATEWAY_PORT='99999' is not allowed" in out
    assert "the gateway ended by itself (exit status 2)" in out
    assert "Traceback" not in out
    assert launcher.processes() == []


async def test_a_launcher_that_is_killed_leaves_nothing(launcher: Launcher, tmp_path: Path) -> None:
    process = await launcher.start("scripts.up", **settings(tmp_path))
    await read_until(process, "Ctrl-C")
    process.kill()
    await rest(process)
    await launcher.gone()


def test_the_environment_wins_and_secrets_are_kept() -> None:
    first = completed({}, {})
    assert first["WORKER_TOKEN"] == first["REMOTE_WORKER_TOKEN"] != first["CONTROLLER_TOKEN"]
    assert completed({}, first) == first
    given = completed({"WORKER_TOKEN": "mine", "WORKER_MODEL": "tiny", "WORKER_PORT": "1234"}, first)
    assert (given["REMOTE_WORKER_TOKEN"], given["WORKER_MODEL"]) == ("mine", "tiny")
    assert given["REMOTE_WORKER_URL"] == "http://127.0.0.1:1234"
    assert completed({"WORKER_TOKEN": ""}, first)["WORKER_TOKEN"] == ""

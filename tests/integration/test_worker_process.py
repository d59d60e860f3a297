"""The worker as a process: wrong settings, the one port, signals, the local worker's socket."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from bulkscribe.worker.v1 import worker_pb2 as pb
from bulkscribe.worker.v1 import worker_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.contract.errors import Reason
from services.runtime.channel import call_metadata, open_channel
from tests.worker import DEADLINE, dispatch, eventually, put_requests, reason_of

TOKEN = "token-of-the-process-test"
REPOSITORY = Path(__file__).parents[2]
WORKER = (sys.executable, "-m", "services.worker")
FAKE = (sys.executable, "-m", "tests.fakes.worker_process")


def environment(folder: Path, **settings: str) -> dict[str, str]:
    given = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "WORKER_HOST": "127.0.0.1",
        "WORKER_PORT": "0",
        "WORKER_TOKEN": TOKEN,
        "WORKER_MODEL": "demo",
        "WORKER_DATA_DIR": str(folder / "data"),
        "LOG_DIR": str(folder / "logs"),
    }
    return given | settings


@dataclass
class Process:
    """A worker that runs."""

    process: asyncio.subprocess.Process
    folder: Path
    address: str = ""

    async def line(self, pattern: str) -> re.Match[str]:
        """The first line on its terminal that matches."""
        assert self.process.stderr is not None
        seen = []
        async with asyncio.timeout(DEADLINE):
            while line := (await self.process.stderr.readline()).decode():
                seen.append(line)
                if match := re.search(pattern, re.sub(r"\x1b\[\d*m", "", line)):
                    return match
        raise AssertionError(f"{pattern} was not said: {''.join(seen)}")

    async def ended(self) -> int:
        async with asyncio.timeout(DEADLINE):
            await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "logs" / "app.log").read_text().splitlines()]


@asynccontextmanager
async def started(
    folder: Path, *arguments: str, command: tuple[str, ...] = FAKE, **settings: str
) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *command,
        *arguments,
        env=environment(folder, **settings),
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    worker = Process(process, folder)
    try:
        worker.address = (await worker.line(r"worker_started.*address=(\S+)"))[1]
        yield worker
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"WORKER_TOKEN": ""}, r"WORKER_TOKEN='' is not allowed: an empty token"),
        ({"WORKER_TOKEN": "  "}, r"WORKER_TOKEN=\(secret\) is not allowed: an empty token"),
        ({"WORKER_PORT": "99999"}, r"WORKER_PORT='99999' is not allowed: must be less than or equal to 65535"),
        ({"WORKER_PORT": "eighty"}, r"WORKER_PORT='eighty' is not allowed: must be a whole number"),
        ({"WORKER_PING_PUBLIC": "perhaps"}, r"WORKER_PING_PUBLIC='perhaps' is not allowed: must be true or false"),
        ({"WORKER_MAX_CONCURRENT_JOBS": "0"}, r"WORKER_MAX_CONCURRENT_JOBS='0' is not allowed: must be .* or auto"),
        ({"WORKER_DEVICE": "tpu"}, r"WORKER_DEVICE='tpu' is not allowed: must be 'auto', 'cpu' or 'cuda'"),
        ({"WORKER_TLS_CERT": "/nowhere.pem", "WORKER_TLS_KEY": __file__}, r"WORKER_TLS_CERT='/nowhere.pem' is not"),
        ({"WORKER_TLS_CERT": __file__}, r"WORKER_TLS_CERT and WORKER_TLS_KEY go together"),
        ({"WORKER_TLS_CERT": __file__, "WORKER_TLS_KEY": __file__}, r"WORKER_TLS_CERT=.* must be a PEM certificate"),
        ({"WORKER_DATA_DIR": "/proc/nowhere"}, r"WORKER_DATA_DIR='/proc/nowhere' cannot be written"),
        ({"LOG_DIR": "/proc/nowhere"}, r"LOG_DIR='/proc/nowhere' cannot be written"),
        ({"WORKER_HOST": "192.0.2.1"}, r"WORKER_PORT=0 cannot be had on WORKER_HOST='192.0.2.1'"),
    ],
)
def test_a_wrong_setting_ends_it_with_one_line(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    _ends_with_one_line(environment(tmp_path, **settings), said)


def test_a_missing_token_ends_it_with_one_line(tmp_path: Path) -> None:
    given = environment(tmp_path)
    del given["WORKER_TOKEN"]
    _ends_with_one_line(given, r"WORKER_TOKEN is not set: .*bearer token")


def test_a_port_in_use_ends_it_with_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        _ends_with_one_line(environment(tmp_path, WORKER_PORT=str(port)), f"WORKER_PORT={port} cannot be had")


def _ends_with_one_line(given: dict[str, str], said: str) -> None:
    ended = subprocess.run(WORKER, env=given, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode not in (0, None)
    (line,) = ended.stderr.strip().splitlines()
    assert re.search(said, line), line
    assert TOKEN not in ended.stderr


def test_help_lists_the_settings(tmp_path: Path) -> None:
    given = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    ended = subprocess.run(
        [*WORKER, "--help"], env=given, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    )
    assert "WORKER_TOKEN (required)" in ended.stdout
    assert "WORKER_PORT (8477)" in ended.stdout


def test_the_front_imports_no_model_library() -> None:
    code = "import services.worker.__main__, sys; print(sorted({'torch', 'ctranslate2', 'numpy', 'av'} & set(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.strip() == "[]"


async def test_http_and_grpc_on_one_port(tmp_path: Path) -> None:
    async with started(tmp_path) as worker:
        async with aiohttp.ClientSession() as http:
            await _check_http(http, worker.address)
        async with open_channel(worker.address) as channel:
            await _check_grpc(channel)
        worker.process.terminate()
        assert await worker.ended() == 0
        events = [line["event"] for line in worker.log()]
        assert events.count("remote_call_unauthorized") == 4
        unauthorized = [line for line in worker.log() if line["event"] == "remote_call_unauthorized"]
        assert all(line["peer"].startswith("127.0.0.1") for line in unauthorized), unauthorized
        assert TOKEN not in (tmp_path / "logs" / "app.log").read_text()


async def _check_http(http: aiohttp.ClientSession, address: str) -> None:
    async with http.get(f"{address}/health") as answer:
        assert answer.status == 200
        assert (await answer.json())["status"] == "ok"
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        async with http.get(f"{address}/v1/ping", headers=headers) as answer:
            assert answer.status == 401
            assert (await answer.json())["code"] == "UNAUTHENTICATED"
    async with http.get(f"{address}/v1/ping", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
        ping = await answer.json()
        assert (ping["activeJobs"], ping["maxConcurrentJobs"], ping["gpu"], ping["maxFileMB"]) == (0, 1, False, 2000)
        assert ping["models"][1] == {
            "name": "broken",
            "state": "failed",
            "error": "no such folder: set WORKER_MODEL_DIR",
            "note": None,
        }
    async with http.get(f"{address}/metrics") as answer:
        assert "worker_slots 1.0" in await answer.text()
    for method, path, status in (("GET", "/nowhere", 404), ("POST", "/health", 405)):
        async with http.request(method, f"{address}{path}") as answer:
            assert answer.status == status
            assert set(await answer.json()) == {"error", "code"}


async def _check_grpc(channel: grpc.aio.Channel) -> None:
    stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
    request = pb.StatAudioRequest(audio=pb.Audio(sha256="0" * 64, size_bytes=1))
    assert not (await stub.StatAudio(request, metadata=call_metadata(TOKEN))).complete
    for token in ("", "wrong"):
        assert await reason_of(stub.StatAudio(request, metadata=call_metadata(token))) is Reason.UNAUTHENTICATED
    health: Any = health_pb2_grpc.HealthStub(channel)
    for service in ("", "bulkscribe.worker.v1.WorkerService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = reflection.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="*")]))
    names = [service.name for service in (await call.read()).list_services_response.service]
    assert "bulkscribe.worker.v1.WorkerService" in names


async def test_ping_may_be_public(tmp_path: Path) -> None:
    async with (
        started(tmp_path, WORKER_PING_PUBLIC="true") as worker,
        aiohttp.ClientSession() as http,
        http.get(f"{worker.address}/v1/ping") as answer,
    ):
        assert answer.status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_status_0_and_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    """With the real engine child."""
    async with started(tmp_path, command=WORKER) as worker:
        await asyncio.to_thread(_wait_for_child, worker.process.pid)
        os.killpg(worker.process.pid, number)
        assert await worker.ended() == 0
        with pytest.raises(ProcessLookupError):
            os.killpg(worker.process.pid, 0)


async def test_kill_leaves_no_process(tmp_path: Path) -> None:
    async with started(tmp_path, command=WORKER) as worker:
        child = await asyncio.to_thread(_wait_for_child, worker.process.pid)
        worker.process.kill()
        await worker.ended()
        await eventually(lambda: not _runs(child))


def _wait_for_child(pid: int) -> int:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    while not (children := listed.read_text().split()):
        os.sched_yield()
    return int(children[0])


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """Draining, it would wait for the acknowledgement that does not come."""
    async with started(tmp_path) as worker, open_channel(worker.address) as channel:
        await _run_unacknowledged(channel)
        worker.process.terminate()
        await worker.line("stopping")
        worker.process.terminate()
        assert await worker.ended() == 128 + signal.SIGTERM


async def test_draining_ends_though_nobody_acknowledges(tmp_path: Path) -> None:
    async with started(tmp_path) as worker, open_channel(worker.address) as channel:
        await _run_unacknowledged(channel)
        worker.process.terminate()
        async with asyncio.timeout(10):
            assert await worker.ended() == 0
        assert "remote_outcomes_unacknowledged" in [line["event"] for line in worker.log()]


async def _run_unacknowledged(channel: grpc.aio.Channel) -> Any:
    stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
    await stub.PutAudio(iter(put_requests(b"sound")), metadata=call_metadata(TOKEN))
    run = stub.Run(metadata=call_metadata(TOKEN))
    await run.write(dispatch("job", content=b"sound"))
    while not (await run.read()).event.HasField("outcome"):
        pass
    return run


async def test_two_workers_do_not_share_a_folder(tmp_path: Path) -> None:
    async with started(tmp_path):
        _ends_with_one_line(environment(tmp_path), r"WORKER_DATA_DIR=.* is used by another worker")


async def test_a_local_worker_serves_a_socket_without_token_and_ends_with_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "private" / "worker"
    async with started(tmp_path, "--socket", str(path), WORKER_TOKEN="") as worker:
        assert worker.address == f"unix:{path}"
        assert path.parent.stat().st_mode & 0o777 == 0o700
        async with open_channel(worker.address) as channel:
            stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
            answer = await stub.StatAudio(pb.StatAudioRequest(audio=pb.Audio(sha256="0" * 64, size_bytes=1)))
            assert answer.committed_bytes == 0
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        assert await worker.ended() == 0


def test_a_local_worker_without_a_pipe_says_so(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*FAKE, "--socket", str(tmp_path / "s" / "worker")],
        env=environment(tmp_path),
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "--socket needs a pipe" in ended.stderr.splitlines()[-1]


async def test_tls(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    _make_certificate(cert, key)
    async with started(tmp_path, WORKER_TLS_CERT=str(cert), WORKER_TLS_KEY=str(key)) as worker:
        address = worker.address.replace("127.0.0.1", "localhost")
        assert address.startswith("https://")
        async with aiohttp.ClientSession() as http, http.get(f"{address}/health", ssl=_trusting(cert)) as answer:
            assert answer.status == 200
        both = _trusting(cert)
        both.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection("localhost", int(address.rpartition(":")[2]), ssl=both)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1", "else curl would meet gRPC"
        writer.close()
        await writer.wait_closed()
        async with open_channel(address, cert.read_bytes()) as channel:
            stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
            request = pb.StatAudioRequest(audio=pb.Audio(sha256="0" * 64, size_bytes=1))
            assert not (await stub.StatAudio(request, metadata=call_metadata(TOKEN))).complete


def _trusting(cert: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(cert))


def _make_certificate(cert: Path, key: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    try:
        subprocess.run([*command, *names], check=True, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")

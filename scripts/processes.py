"""The three processes under one launcher: started together, watched, stopped in order, none left behind.

Each process leads a group of its own, so that Ctrl-C in a terminal reaches the launcher alone, which then stops the
gateway before the controller and the controller before the worker. On Linux a process also gets SIGTERM when the
launcher dies without stopping it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).resolve().parent.parent

READY_SECONDS = 60.0
"""A cold start of Python and gRPC on a busy machine takes a tenth of it."""
READY_INTERVAL_SECONDS = 0.1
STOP_SECONDS = 100.0
"""A worker that drains waits for its running batch, and a controller for its local worker; after this a process is
killed with all that it started. A second Ctrl-C does not wait for it."""
SAME_STOP_SECONDS = 2.0
"""Signals so close together are one: supervisors signal the process and then its group."""
OUTPUT_BYTES = 64 * 1024
PR_SET_PDEATHSIG = 1


class LaunchError(Exception):
    """A process ended by itself, or was not ready in time; the message names it."""


@dataclass(frozen=True, slots=True)
class Service:
    """``ready`` says whether it answers; ``environment`` is all that the process gets."""

    name: str
    module: str
    environment: Mapping[str, str]
    ready: Callable[[], Awaitable[bool]]


class Launch:
    """Running processes. ``stop`` ends them in the reverse of the order they were given in."""

    def __init__(self, services: Sequence[Service], logs: Path | None) -> None:
        self._services = services
        self._logs = logs
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by the services' names."""
        return {name: process.pid for name, process in self._processes.items()}

    async def start(self, group: asyncio.TaskGroup) -> None:
        """All at once: each waits for the others by itself."""
        for service in self._services:
            process = await self._spawn(service)
            self._processes[service.name] = process
            if process.stdout is not None:
                group.create_task(_prefixed(service.name, process.stdout), name=f"output of {service.name}")

    async def wait_ready(self) -> None:
        """Raises LaunchError (in a group) when one ends, or does not answer in time."""
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self.watch(), name="watch")
            await self._all_ready()
            watching.cancel()

    async def watch(self) -> None:
        """Until one ends by itself: raises LaunchError (in a group) that says which and how."""
        async with asyncio.TaskGroup() as group:
            for name, process in self._processes.items():
                group.create_task(_fail_at_end(name, process), name=f"end of {name}")

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL for what does not end in time, and for what an ended process left behind."""
        for service in reversed(self._services):
            process = self._processes.get(service.name)
            if process is None:
                continue
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                print(f"The {service.name} did not end within {STOP_SECONDS:.0f} s and is killed.", file=sys.stderr)
            _kill_group(process)
            await process.wait()

    def kill(self) -> None:
        """At once, whatever state they are in."""
        for process in self._processes.values():
            _kill_group(process)

    async def _all_ready(self) -> None:
        for service in self._services:
            try:
                async with asyncio.timeout(READY_SECONDS):
                    while not await service.ready():  # noqa: ASYNC110 - another process has no event to wait for
                        await asyncio.sleep(READY_INTERVAL_SECONDS)
            except TimeoutError:
                raise LaunchError(f"the {service.name} does not answer after {READY_SECONDS:.0f} s") from None

    async def _spawn(self, service: Service) -> asyncio.subprocess.Process:
        with contextlib.ExitStack() as stack:
            output: int | BinaryIO = asyncio.subprocess.PIPE
            if self._logs is not None:
                self._logs.mkdir(parents=True, exist_ok=True)
                output = stack.enter_context((self._logs / f"{service.name}.log").open("wb"))
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                service.module,
                cwd=ROOT,
                env=dict(service.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )


@contextlib.asynccontextmanager
async def launched(services: Sequence[Service], logs: Path | None = None) -> AsyncIterator[Launch]:
    """The processes, once all answer; stops them when the block ends, however it does.

    Their output goes to `<name>.log` in ``logs``, else to standard output with their names before it. Raises
    LaunchError when they do not come up.
    """
    launch = Launch(services, logs)
    try:
        async with asyncio.TaskGroup() as outputs:
            try:
                await launch.start(outputs)
                await launch.wait_ready()
                yield launch
            finally:
                try:
                    await launch.stop()
                finally:
                    launch.kill()
    except BaseExceptionGroup as group:
        errors, rest = group.split(LaunchError)
        if errors is None or rest is not None:
            raise
        raise _first(errors) from None


def http_ready(url: str) -> Callable[[], Awaitable[bool]]:
    """Whether a GET is answered with 200; certificates are not checked, for it is this machine's own."""

    async def ready() -> bool:
        timeout = aiohttp.ClientTimeout(total=5)
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with aiohttp.ClientSession(timeout=timeout) as http, http.get(url, ssl=False) as response:
                return response.status == 200
        return False

    return ready


def grpc_ready(address: str) -> Callable[[], Awaitable[bool]]:
    """Whether gRPC health says SERVING."""

    async def ready() -> bool:
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
            except grpc.aio.AioRpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    return ready


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on; another process could still take one before it is used."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def cancel_on_signals(stopping: Callable[[signal.Signals], object]) -> None:
    """Ctrl-C, SIGTERM and a closed terminal cancel this task; one that comes later cancels its cleaning up, too."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    stopped: list[float] = []

    def cancel(number: signal.Signals) -> None:
        if not stopped:
            stopping(number)
        elif loop.time() - stopped[0] < SAME_STOP_SECONDS:
            return
        stopped.append(loop.time())
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, cancel, number)


async def _prefixed(name: str, output: asyncio.StreamReader) -> None:
    """Copies whole lines, with the process's name before each."""
    rest = b""
    while piece := await output.read(OUTPUT_BYTES):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            _print_line(name, line)
    if rest:
        _print_line(name, rest)


async def _fail_at_end(name: str, process: asyncio.subprocess.Process) -> None:
    raise LaunchError(f"the {name} ended by itself ({_how(await process.wait())})")


def _print_line(name: str, line: bytes) -> None:
    print(f"{name:<10} | {line.decode('utf-8', 'replace')}", flush=True)


def _kill_group(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _die_with_parent() -> None:
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


_LIBC = ctypes.CDLL(None)  # loaded before any fork, so that nothing is loaded after one


def _how(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

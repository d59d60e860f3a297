"""A system whose processes and links a scenario breaks, the jobs that go on in it, and what became of them.

Every process listens on a port that stays the same over its lives; controllers reach workers, and gateways controllers,
through proxies of the scenario.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp

from scripts.processes import Service, free_ports, grpc_ready, http_ready
from scripts.system import ScratchSystem, scratch_system
from services.runtime.bell import Bell
from tests.faults import decodes, followed
from tests.faults.decodes import DURABLE_WITHIN, Span
from tests.faults.followed import Followed
from tests.faults.outcome import Outcome
from tests.faults.proxy import Proxy, proxied
from tests.faults.visitor import Visitor, visiting
from tests.processes import Processes

END_SECONDS = 60.0
"""How long nothing may move before the jobs that have not ended are called lost."""
RECOVERY_SECONDS = 60.0
READY_SECONDS = 60.0
OBSERVED_SECONDS = 0.1

WORKER, CONTROLLER, GATEWAY = "worker", "controller", "gateway"

SPEAKERS = {"diarizationEnabled": True, "wordTimestamps": True, "diarizationMaxDurationSeconds": 120}
"""In chunks, so that there are finished ones to go on from."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the system consists of. ``paced``: a fake engine that takes so many seconds a window; None: the real one.
    ``speakers``: every job asks for speakers and words, and batches are wider than one window."""

    workers: int = 1
    controllers: int = 1
    slots: int = 1
    poll_seconds: float = 0.5
    paced: float | None = None
    speakers: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    own_settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By the names of processes: what only one of them gets."""


@dataclass(frozen=True, slots=True)
class Recording:
    path: Path
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.name


Transcripts = Mapping[str, bytes]
"""By the recordings' names: what an undisturbed run gives, byte for byte."""


class World:
    def __init__(
        self,
        processes: Processes,
        links: Mapping[str, Proxy],
        pages: Sequence[str],
        visitors: Sequence[Visitor],
        shape: Shape,
        outcome: Outcome,
    ) -> None:
        self.processes = processes
        self.page = pages[0]
        self.visitors = visitors
        """A session at each gateway."""
        self.links = links
        self.visitor = visitors[0]
        self.shape = shape
        self.outcome = outcome
        self.random = random.Random(outcome.seed)  # the seed has a run's moments again
        self.bell = Bell()
        self.jobs: list[Followed] = []
        self.blind: list[Span] = []
        """When what was decoded could not become known to anybody else: decoding that again cannot be helped."""
        self.worker_shifts: list[decodes.Shift] = []
        """Of the worker's clock, which the lines of its log are timed by."""
        self.active: dict[str, int] = {}
        """The taken slots of each worker, as last seen."""
        self._uploads: dict[tuple[Visitor, str], str] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._orphans: list[tuple[int, str]] = []
        self._following: list[asyncio.Task[None]] = []

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    @staticmethod
    def clock() -> datetime:
        """As the lines of the log count."""
        return datetime.now(UTC)

    @property
    def log(self) -> Path:
        return self.processes.folder / "logs" / "app.log"

    # --- jobs

    async def submit(self, recording: Recording, visitor: Visitor | None = None) -> Followed:
        visitor = visitor or self.visitor
        upload = self._uploads.get((visitor, recording.name))
        if upload is None:
            upload = self._uploads[visitor, recording.name] = await visitor.upload(recording.path)
        speakers = SPEAKERS if self.shape.speakers else {}
        options = {"model": "demo", "useRemoteWorker": True} | dict(recording.options) | speakers
        job_id = await visitor.create(upload, secrets.token_hex(8), options)
        job = Followed(visitor, recording.name, job_id, self.bell)
        self.jobs.append(job)
        assert self._tasks is not None
        self._following.append(self._tasks.create_task(job.follow(), name=f"follow {job_id}"))
        return job

    @property
    def going(self) -> list[Followed]:
        return [job for job in self.jobs if job.end is None]

    async def keep_busy(self, recordings: Sequence[Recording], least: int = 2) -> None:
        """Submits until so many jobs have not ended."""
        while len(self.going) < least:
            await self.submit(self.random.choice(recordings))

    async def moves(self, since: float | None = None) -> float | None:
        """Waits for news, after ``since`` (else now), of a job that runs; returns the seconds, None where all end first."""
        since = self.now if since is None else since
        return await self._news(since, lambda job: job.moved)

    async def next_segment(self) -> None:
        """Waits for the next segment of any job; not where all end first."""
        await self._news(self.now, lambda job: job.told)

    async def _news(self, since: float, moments: Callable[[Followed], Sequence[float]]) -> float | None:
        async with asyncio.timeout(RECOVERY_SECONDS):
            while True:
                later = [moment for job in self.jobs for moment in moments(job)[-50:] if moment >= since]
                if later:
                    return min(later) - since
                if not self.going:
                    return None
                await self.bell.wait()

    async def moved(self, job: Followed) -> None:
        """Until that job has been seen running, or has ended."""
        async with asyncio.timeout(RECOVERY_SECONDS):
            while not job.moved and job.end is None:
                await self.bell.wait()

    async def until(self, job: Followed, **wanted: object) -> dict[str, Any]:
        """The job, once it is shown as wanted."""
        async with asyncio.timeout(RECOVERY_SECONDS):
            while True:
                shown = await self.visitor.job(job.job_id)
                if wanted.items() <= shown.items():
                    return shown
                await asyncio.sleep(0.05)

    async def ended(self, jobs: Sequence[Followed] | None = None) -> None:
        """Until these (all) jobs have ended, or nothing was told of any job for too long."""
        told, since = -1, self.now
        while any(job.end is None for job in (self.jobs if jobs is None else jobs)):
            if told != (told := sum(len(job.events) for job in self.jobs)):
                since = self.now
            if self.now - since > END_SECONDS:
                break
            await self.bell.wait()  # it rings with every look at a worker, too

    # --- faults

    async def strike(self, name: str, down_seconds: float = 0.0) -> datetime:
        """Kills a process alone, and starts it again (returns when); what it had started must notice."""
        children = [(child, _born(child)) for child in self.processes.children(name)]
        with self.deaf():
            await self.processes.strike(name)
            await self._gone(children)
        await asyncio.sleep(down_seconds)
        started = self.clock()
        await self.processes.start(name)
        self._orphans += children
        return started

    async def _gone(self, children: Sequence[tuple[int, str]]) -> None:
        """An engine may finish a window while its front is dead already; those that stay are looked for at the end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while any(born and _born(child) == born for child, born in children):  # noqa: ASYNC110 - no child of ours
                    await asyncio.sleep(0.005)

    @contextmanager
    def deaf(self, before: timedelta = DURABLE_WITHIN) -> Iterator[None]:
        """What is decoded meanwhile, or shortly before, may become known to nobody else."""
        begun = self.clock() - before
        try:
            yield
        finally:
            self.blind.append((begun, self.clock()))

    async def engine(self, worker: str = WORKER) -> int:
        """The engine child's process id; there is none for a moment after one died."""
        async with asyncio.timeout(READY_SECONDS):
            while True:
                for child in self.processes.children(worker):
                    with suppress(OSError):
                        if b"services.worker.engine" in Path(f"/proc/{child}/cmdline").read_bytes():
                            return child
                await asyncio.sleep(0.02)

    @contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        """SIGSTOP, and SIGCONT at the end."""
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def note_recovery(self, since: float) -> None:
        """``since``: when the fault was over. Two figures: until a job is shown running, until the next segment comes."""
        try:
            seconds = await self.moves(since)
            if seconds is not None:
                self.outcome.recoveries.append(seconds)
            seconds = await self._news(since, lambda job: job.told)
            if seconds is not None:
                self.outcome.measure("end of the fault to the next segment", seconds)
        except TimeoutError:
            self.outcome.promise(False, f"nothing moved within {RECOVERY_SECONDS:g} s of the end of a fault")

    # --- what became of it

    async def settle(self, expected: Transcripts) -> None:
        """Waits for all jobs to end, and judges them."""
        await self.ended()
        left = [pid for pid, born in self._orphans if born and _born(pid) == born]
        self.outcome.promise(not left, f"processes were left behind by those that were killed: {left}")
        for visitor in {job.followed_by for job in self.jobs}:
            mine = {job.job_id for job in self.jobs if job.followed_by is visitor}
            there = await visitor.jobs()
            self.outcome.duplicated += len(there) - len(mine & set(there))
            self.outcome.lost += len(mine - set(there))
        self.outcome.jobs += len(self.jobs)
        for job in self.jobs:
            await self._judge(job, expected)
        self.read_log()

    def read_log(self) -> None:
        """Counts what was decoded twice, and runs beyond the slots of a fake engine."""
        decoded = decodes.unshifted(decodes.batches(self.log), self.worker_shifts)
        self.outcome.take(decodes.repeats(decoded, self.blind))
        for run in decodes.lines(self.log, "paced_engine_runs"):
            if run["running"] > run["slots"]:
                self.outcome.oversubscribed += 1

    async def _judge(self, job: Followed, expected: Transcripts) -> None:
        outcome = self.outcome
        if job.end is None:
            outcome.lost += 1
            shown = await job.followed_by.job(job.job_id)
            outcome.note(
                f"{job.job_id} has not ended: {shown['status']}, {shown['message']!r}, {shown['lastErrorCode']}"
            )
            return
        every = [event async for event in job.followed_by.events(job.job_id, 0)]
        told = followed.segments(every)
        outcome.wrong_events += followed.wrong_numbers(every) + (job.events != every)
        if job.events != every:
            outcome.note(f"{job.job_id}: {len(job.events)} events followed, {len(every)} told afterwards")
        if followed.ends(every) != 1:
            outcome.duplicated += 1
            outcome.note(f"{job.job_id} ended {followed.ends(every)} times: {followed.states(every)}")
        if job.end == "complete":
            self._compare(job, told, *await job.followed_by.transcript(job.job_id), expected)
        elif job.end == "failed" or not job.canceled:
            outcome.lost += 1
            outcome.note(f"{job.job_id} {job.end}: {every[-1]['data']}")

    def _compare(
        self, job: Followed, told: list[dict[str, Any]], status: int, transcript: bytes, expected: Transcripts
    ) -> None:
        if status != 200 or transcript != expected[job.recording]:
            self.outcome.unequal += 1
            self.outcome.note(f"{job.job_id}: the transcript of {job.recording} differs")
            (self.processes.folder / f"{job.job_id}.json").write_bytes(transcript)
        if status == 200 and json.loads(transcript)["segments"] != told:
            self.outcome.wrong_segments += 1
            self.outcome.note(f"{job.job_id}: {len(told)} segments were told, the transcript has others")

    # --- life

    @asynccontextmanager
    async def _living(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            watching = tasks.create_task(self._observe(), name="observe")
            try:
                yield
            finally:
                for task in (*self._following, watching):
                    task.cancel()

    async def _observe(self) -> None:
        """Looks at what the workers say of their slots."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1.0)) as http:
            while True:
                for name in self._workers():
                    await self._observe_worker(http, name)
                await asyncio.sleep(OBSERVED_SECONDS)

    def _workers(self) -> list[str]:
        return [name for name in self.links if name.startswith(WORKER)]

    async def _observe_worker(self, http: aiohttp.ClientSession, name: str) -> None:
        url = f"http://127.0.0.1:{self.links[name].target}/v1/ping"
        headers = {"Authorization": f"Bearer {self.processes.system.environment['WORKER_TOKEN']}"}
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with http.get(url, headers=headers) as response:
                answer = await response.json()
            self.active[name] = answer["activeJobs"]
            self.bell.ring()
            if answer["activeJobs"] > answer["maxConcurrentJobs"]:
                self.outcome.oversubscribed += 1

    async def idle(self, name: str) -> None:
        """Until that worker says that all its slots are free."""
        self.active.pop(name, None)
        async with asyncio.timeout(RECOVERY_SECONDS):
            while self.active.get(name) != 0:
                await self.bell.wait()


@asynccontextmanager
async def world(folder: Path, shape: Shape, outcome: Outcome) -> AsyncIterator[World]:
    """Everything started, and the engines ready; what still lives at the end is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    base = {
        "GATEWAY_SECRET_KEY": "key of the test",
        "WORKER_DEVICE": "cpu",
        "WORKER_BATCH_SIZE": "3" if shape.speakers else "1",  # many small steps, each durable
        "WORKER_DIARIZATION_MODEL": "demo" if shape.speakers else "none",
        "WORKER_MAX_CONCURRENT_JOBS": str(shape.slots),
        "REMOTE_WORKER_POLL_SECONDS": f"{shape.poll_seconds:g}",
        "PACED_SECONDS": f"{shape.paced or 0:g}",
    }
    system = scratch_system(folder, folder / "logs", **(base | dict(shape.settings)))
    layout = _Layout(system, shape)
    processes = Processes(system, folder, layout.services())
    async with AsyncExitStack() as stack:
        stack.push_async_callback(processes.kill_all)
        links = {
            name: await stack.enter_async_context(proxied(port, target))
            for name, (port, target) in layout.links.items()
        }
        for service in layout.services():
            await processes.start(service.name)
        await _engines_ready(system, [links[name].target for name in layout.workers])
        visitors = [await stack.enter_async_context(visiting(page)) for page in layout.pages]
        made = World(processes, links, layout.pages, visitors, shape, outcome)
        async with made._living():
            yield made


class _Layout:
    """Which process listens where. The first of a kind has the kind's name, the others a number behind it."""

    def __init__(self, system: ScratchSystem, shape: Shape) -> None:
        self._environment = system.environment
        self._shape = shape
        self.workers = _names(WORKER, shape.workers)
        self.controllers = _names(CONTROLLER, shape.controllers)
        self.gateways = _names(GATEWAY, shape.controllers)
        names = [*self.workers, *self.controllers, *self.gateways]
        behind = [*self.workers, *self.controllers]
        ports = free_ports(len(names) + len(behind))
        self._ports = dict(zip(names, ports, strict=False))
        between = dict(zip(behind, ports[len(names) :], strict=True))
        self.links = {name: (between[name], self._ports[name]) for name in behind}

    @property
    def pages(self) -> list[str]:
        return [f"http://127.0.0.1:{self._ports[name]}" for name in self.gateways]

    def services(self) -> list[Service]:
        return [*self._workers(), *self._controllers(), *self._gateways()]

    def _workers(self) -> Iterator[Service]:
        module = "services.worker" if self._shape.paced is None else "tests.fakes.paced_worker"
        for name in self.workers:
            port, folder = self._ports[name], f"{self._environment['WORKER_DATA_DIR']}/{name}"
            own = {"WORKER_PORT": str(port), "WORKER_DATA_DIR": folder}
            yield self._service(name, module, own, http_ready(f"http://127.0.0.1:{port}/health"))

    def _controllers(self) -> Iterator[Service]:
        urls = ",".join(f"http://127.0.0.1:{self.links[name][0]}" for name in self.workers)
        for name in self.controllers:
            address, folder = f"127.0.0.1:{self._ports[name]}", f"{self._environment['DATA_DIR']}/{name}"
            own = {"CONTROLLER_LISTEN": address, "DATA_DIR": folder, "REMOTE_WORKER_URL": urls}
            yield self._service(name, "services.controller", own, grpc_ready(address))

    def _gateways(self) -> Iterator[Service]:
        for name, controller in zip(self.gateways, self.controllers, strict=True):
            port = self._ports[name]
            own = {"GATEWAY_PORT": str(port), "CONTROLLER_ADDRESS": f"127.0.0.1:{self.links[controller][0]}"}
            yield self._service(name, "gateway", own, http_ready(f"http://127.0.0.1:{port}/healthz"))

    def _service(self, name: str, module: str, own: Mapping[str, str], ready: Any) -> Service:
        environment = {**self._environment, **own, **self._shape.own_settings.get(name, {})}
        return Service(name, module, environment, ready)


def _names(kind: str, count: int) -> list[str]:
    return [kind if number == 1 else f"{kind}-{number}" for number in range(1, count + 1)]


def _born(pid: int) -> str:
    """When the process began, in the kernel's ticks, which tells it from a later one of the same number; "" for none."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state == "Z" else fields[18]


async def _engines_ready(system: ScratchSystem, ports: Sequence[int]) -> None:
    headers = {"Authorization": f"Bearer {system.environment['WORKER_TOKEN']}"}
    async with asyncio.timeout(READY_SECONDS), aiohttp.ClientSession(headers=headers) as http:
        for port in ports:
            while True:
                async with http.get(f"http://127.0.0.1:{port}/v1/ping") as response:
                    if any(model["state"] == "loaded" for model in (await response.json())["models"]):
                        break
                await asyncio.sleep(0.05)

"""One world from a seed: controllers, workers, clients, a schedule of faults, and what came of it.

Invariant: nothing but the seed decides what happens.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import sys
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any

from bulkscribe.jobs.v1 import jobs_pb2

from services.contract.errors import Reason, ServiceError
from services.controller.dispatch import DispatchSettings
from services.controller.jobs import JobId
from services.controller.store.protocol import StoreFullError
from services.worker.work import AttemptKey
from tests.simulation import engine
from tests.simulation.controller import INTERVAL_SECONDS, OWNER, CallBrokeError, ControllerMachine
from tests.simulation.faults import Faults
from tests.simulation.invariants import Decodes, WatchedQueue
from tests.simulation.loop import StuckError, VirtualLoop
from tests.simulation.network import Network, Weather
from tests.simulation.patches import Log, Machine
from tests.simulation.process import CURRENT, Process, adopt
from tests.simulation.store import DiskError
from tests.simulation.worker import Life, WorkerMachine

FAULT_SECONDS = 30.0
"""Faults happen in so much of a world's time; then everything must end."""

END_SECONDS = 300.0
"""How long after the last fault all jobs must have ended and all slots be free."""

LOOK_SECONDS = 0.5

MOST_STEPS = 300_000

TRACE_LINES = 400


@dataclass
class Result:
    """``failure`` is (invariant, what was seen); ``twice`` counts windows decoded again, by what explains it."""

    seed: int
    failure: tuple[str, str] | None = None
    steps: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    twice: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    trace: list[str] = field(default_factory=list)
    digest: str = ""


def simulate(seed: int, machine: Machine, trace: bool = False, lines: int = TRACE_LINES) -> Result:
    """Runs the world of the seed to its end, or to the first rule that is broken."""
    random = machine.random = Random(seed)
    loop = VirtualLoop(random, MOST_STEPS, adopt)
    world = World(loop, random, seed, trace, lines)
    machine.open_channel = world.network.channel
    Log.note = world.note if trace else None
    Log.error = world.log_error
    WatchedQueue.fail = world.fail
    loop.set_exception_handler(lambda _, context: world.loop_failed(context))
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(world.run())
    except StuckError as stuck:
        world.fail("goes on", str(stuck))
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    return world.result(loop.steps)


class World:
    """Made from the seed alone; run once."""

    def __init__(self, loop: VirtualLoop, random: Random, seed: int, trace: bool, lines: int) -> None:
        self.loop = loop
        self.random = random
        self.numbers = itertools.count(1)
        self.failures: list[tuple[str, str]] = []
        self.faults = Faults(self)
        self.ends: Counter[str] = Counter()
        self._seed = seed
        self._trace: deque[str] | None = deque(maxlen=lines) if trace else None
        self._digest = hashlib.sha256()
        self._over = asyncio.Event()
        weather = Weather(random.choice((0.001, 0.004, 0.03)), random.choice((0.0, 0.0, 0.0, 0.1, 0.5)))
        self.network = Network(loop, random, weather)
        self.decodes = Decodes(self.fail)
        mixed = random.random() < 0.1
        self.workers = [
            WorkerMachine(self, number, random.randint(1, 2), str(number) if mixed else "0")
            for number in range(random.randint(1, 3))
        ]
        self.workers[0].forgetful = random.random() < 0.05
        self.controllers = [
            ControllerMachine(self, number, self._settings()) for number in range(random.choice((1, 1, 2)))
        ]

    def _settings(self) -> DispatchSettings:
        """Long limits mostly, so that a job that fails by one of them is no rule of its own."""
        chance = self.random.random
        run_seconds = 8.0 if chance() < 0.1 else 600.0
        capacity_seconds = 15.0 if chance() < 0.1 else 3600.0
        return DispatchSettings(run_seconds, capacity_seconds, self.random.choice((5.0, 8.0, 20.0)), INTERVAL_SECONDS)

    # --- what others tell

    def fail(self, invariant: str, text: str) -> None:
        self.note("BROKEN", invariant, text)
        self.failures.append((invariant, text))
        self._over.set()

    def note(self, *what: object) -> None:
        if self._trace is None:
            return
        line = f"{self.loop.time():9.4f} {' '.join(map(str, what))}"
        self._trace.append(line)
        self._digest.update(line.encode())

    def log_error(self, event: str, values: dict[str, Any]) -> None:
        """An exception that a service logged as one that it did not expect."""
        error = sys.exc_info()[1]
        if not isinstance(error, StoreFullError | DiskError):
            self.unexpected(error or Exception(event))

    def loop_failed(self, context: dict[str, Any]) -> None:
        """A callback raised, or an exception that nobody looked at."""
        process = CURRENT.get()
        if process is None or process.alive:
            self.fail("nothing unexpected", f"{context.get('message')}: {context.get('exception')!r}")

    def unexpected(self, error: BaseException) -> None:
        process = CURRENT.get()
        if process is None or process.alive:
            self.fail("nothing unexpected", f"{process.name if process else ''}: {error!r}")

    def spawner(self, process: Process) -> Callable[[str, Coroutine[Any, Any, Any]], Any]:
        """Starts tasks whose failure would end the process."""

        def spawn(name: str, run: Coroutine[Any, Any, Any]) -> Any:
            task = process.spawn(name, run)
            task.add_done_callback(lambda done: self._root_ended(process, name, done))
            return task

        return spawn

    def _root_ended(self, process: Process, name: str, task: asyncio.Task[Any]) -> None:
        if process.alive and not task.cancelled() and task.exception() is not None:
            self.fail("process lives", f"{process.name}: {name}: {task.exception()!r}")

    def decoded(self, worker: WorkerMachine, key: AttemptKey, piece: int, life: Life) -> None:
        self.note("decoded", worker.url, key, piece)
        self.faults.count_decode()
        controller = next(one for one in self.controllers if key.job_id in one.tables.jobs)
        fingerprint = engine.fingerprint(worker.revision)
        if not self.network.repeats:
            controller.rules.decoding(controller.tables, key, piece, fingerprint)
        if self.faults.quiet:
            controller.rules.decoding_canceled(key, self.loop.time())

        self.decodes.note(key.job_id, worker.revision, piece, life, self._explain)

    def _explain(self, job_id: str, piece: int, before: Life) -> str:
        """Why a piece is done again that was done before; nothing where nothing explains it."""
        machine = before.machine
        if before.process.alive:
            crashed = before.engine_crashes < machine.engine_crashes
            return "engine crashed" if crashed else self.faults.explanation()
        if machine.gone:
            return "worker gone for good"
        if before.disk is not machine.disk:
            return "worker lost its disk"
        if (job_id, piece) not in machine.disk.journal.pieces:
            return "worker ended before it was written"
        return "worker away for longer than its lease" if len(self.workers) > 1 else self.faults.explanation()

    # --- its way

    async def run(self) -> None:
        for worker in self.workers:
            worker.start()
        for controller in self.controllers:
            controller.start()
        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(client) for client in self._clients()]
            troubles = [group.create_task(self.faults.run(FAULT_SECONDS))]
            judge = group.create_task(self._judge([*clients, *troubles]))
            await self._over.wait()
            for task in (*clients, *troubles, judge):
                task.cancel()
        for machine in (*self.controllers, *self.workers):
            machine.crash()
        for _ in range(3):
            await asyncio.sleep(0)

    def _clients(self) -> list[Coroutine[Any, Any, None]]:
        made = []
        for number in range(self.random.randint(3, 8)):
            controller = self.random.choice(self.controllers)
            content = bytes([self.random.randrange(256) for _ in range(self.random.randint(1, 11))])
            made.append(self._client(controller, controller.add_recording(content, number), number))
        return made

    async def _client(self, controller: ControllerMachine, upload: str, number: int) -> None:
        """Submits one job, asks again where it got no answer, and may cancel it later."""
        random = self.random
        diarization, cancels = random.random() < 0.2, random.random() < 0.25
        model = random.choice(("", "", "demo"))
        await asyncio.sleep(random.choice((0.0, random.uniform(0, FAULT_SECONDS * 0.7))))
        request = jobs_pb2.CreateJobsRequest(
            owner=OWNER,
            upload_ids=[upload],
            options=jobs_pb2.JobOptions(use_remote_worker=True, diarization_enabled=diarization, model=model),
            request_id=f"request-{number}",
        )
        answer = await self._ask(controller, lambda api: api.CreateJobs(request, None))
        job_id = JobId(answer.jobs[0].job_id)
        self.note("acknowledged", job_id)
        controller.rules.submitted[job_id] = None
        if cancels:
            await asyncio.sleep(random.expovariate(1 / random.choice((0.1, 3.0, 10.0))))
            await self._cancel(controller, job_id)

    async def _cancel(self, controller: ControllerMachine, job_id: JobId) -> None:
        controller.rules.wanted_canceled[job_id] = None
        request = jobs_pb2.CancelJobRequest(owner=OWNER, job_id=job_id)
        try:
            await self._ask(controller, lambda api: api.CancelJob(request, None))
        except ServiceError as refused:
            if refused.reason is not Reason.JOB_ENDED:
                self.fail("cancel answered", repr(refused))
            return
        self.note("cancel acknowledged", job_id)
        controller.rules.canceled[job_id] = self.loop.time()

    async def _ask(self, controller: ControllerMachine, ask: Any) -> Any:
        while True:
            try:
                return await controller.call(ask)
            except (CallBrokeError, StoreFullError, DiskError):
                await asyncio.sleep(self.random.uniform(0.05, 1.0))

    async def _judge(self, before: list[asyncio.Task[Any]]) -> None:
        """Waits for the end of everything, for so long as it may take."""
        await asyncio.wait(before, timeout=2 * END_SECONDS)
        deadline = self.loop.time() + END_SECONDS
        while self._unfinished() and self.loop.time() < deadline:  # noqa: ASYNC110 - nothing tells of all of it
            await asyncio.sleep(LOOK_SECONDS)
        for controller in self.controllers:
            controller.rules.check_end(controller.tables)
            self.ends.update(row.job.state.value for row in controller.tables.jobs.values())
        if not self.failures:
            for text in self._unfinished():
                self.fail("nothing is held", text)
        self._over.set()

    def _unfinished(self) -> list[str]:
        found = []
        for controller in self.controllers:
            found += [
                f"{row.job.id} is {row.job.state.value}"
                for row in controller.tables.jobs.values()
                if not row.job.state.ended
            ]
            if controller.dispatcher is None or controller.dispatcher.depth().total():
                found.append(f"{controller.name} has jobs in hand")
        found += [f"{worker.url} {worker.holds()}" for worker in self.workers if worker.holds()]
        return found

    def result(self, steps: int) -> Result:
        failure = self.failures[0] if self.failures else None
        return Result(
            self._seed,
            failure,
            steps,
            self.loop.time(),
            self.faults.counted + Counter({"repeated call": self.network.repeats}),
            self.decodes.twice,
            self.ends,
            list(self._trace or ()),
            self._digest.hexdigest(),
        )

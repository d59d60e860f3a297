"""A worker's machine: its disk outlives its processes, which are the real front around a simulated engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from bulkscribe.worker.v1 import worker_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.worker.__main__ import _drain
from services.worker.api import WorkerApi
from services.worker.attempts import Attempts
from services.worker.status import Offer, WorkerStatus
from services.worker.work import AttemptKey
from tests.simulation.audio import Disk, SimulatedAudio
from tests.simulation.engine import STATE, SimulatedEngine
from tests.simulation.invariants import Told
from tests.simulation.journal import MemoryJournal
from tests.simulation.network import VirtualServer
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.world import World


class NoMetrics:
    """In place of services.worker.metrics.Metrics: making a registry takes longer than a quiet world."""

    def __getattr__(self, name: str) -> NoMetrics:
        return self

    def labels(self, *_: Any) -> NoMetrics:
        return self

    def inc(self, _: float = 1) -> None:
        pass


NO_METRICS = NoMetrics()


class Health(health_pb2_grpc.HealthServicer):
    async def Check(self, request: Any, context: Any) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


@dataclass(frozen=True)
class Life:
    """Who decoded a window, and as of when."""

    machine: WorkerMachine
    process: Process
    disk: Disk
    engine_crashes: int


class WorkerMachine:
    """``revision`` is its model's: plans of two revisions differ."""

    def __init__(self, world: World, number: int, slots: int, revision: str) -> None:
        self.name = self.url = f"worker-{number}"
        self.slots = slots
        self.revision = revision
        self.disk = Disk()
        self.process: Process | None = None
        self.serving = False
        self.engine_crashes = 0
        self.forgetful = False
        self.gone = False
        """Whether it never comes back."""
        self.armed = False
        """Whether it dies at its next window."""
        self._world = world
        self._random: Random = world.random

    def start(self) -> None:
        if self.gone:
            return
        process = self.process = Process(self.url)
        self.serving = False
        self._world.spawner(process)("main", self._main(process))

    async def _main(self, process: Process) -> None:
        """As services.worker.__main__ puts it together."""
        world = self._world
        self.engine = SimulatedEngine(self._random, self.slots, self.revision, self._decoded, world.fail)
        self.engine.forgetful = self.forgetful
        offer = Offer("demo", 1 << 30, f"{self.url}-{next(world.numbers)}", 0.0)
        self.status = WorkerStatus(offer, self.slots, STATE, world.loop.time)
        journal = MemoryJournal(self.disk.journal, process, self._random)
        spawn = world.spawner(process)
        self.attempts = Attempts(self.engine, self.status, NO_METRICS, journal, spawn, world.loop.time)
        await self.attempts.restore()
        audio = SimulatedAudio(self.disk, process, self._random)
        self.server = VirtualServer(world.network, process, self.url, world.unexpected)
        api = WorkerApi(self.status, self.attempts, audio, NO_METRICS)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(api, self.server)
        health_pb2_grpc.add_HealthServicer_to_server(Health(), self.server)
        self.server.on_run_response = Told(world.fail, self.disk.journal).said
        self.server.start()
        self.serving = True
        await self.attempts.write()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.alive

    def crash(self) -> None:
        if self.process is not None:
            self.process.crash()

    def wipe(self) -> None:
        """The disk is lost; the process is dead."""
        self.disk = Disk()

    async def drain(self) -> None:
        """As SIGTERM does it."""
        if self.alive and self.serving:
            assert self.process is not None
            seconds = self._random.choice((0.2, 3.0, 30.0))
            draining = self.process.spawn("drain", _drain(self.status, self.server, self.attempts, seconds))
            await asyncio.wait({draining})
            self.crash()

    def holds(self) -> str:
        """What it still has in hand; nothing when all is over."""
        if not self.alive:
            return "" if self.gone else "it is down"
        if not self.serving:
            return "it is starting"
        held = [str(key) for key in self.attempts.held()]
        taken, running = self.status.slots.taken, [str(key) for key in self.engine.running]
        return f"holds {held}, runs {running}, {taken} slots taken" if held or running or taken else ""

    def _decoded(self, key: AttemptKey, piece: int) -> None:
        process = self.process
        assert process is not None
        if not process.alive:
            return
        self._world.decoded(self, key, piece, Life(self, process, self.disk, self.engine_crashes))
        if self.armed:
            self.armed = False
            self._world.note("dies at a window", self.name)
            self.crash()
            self._world.faults.restart(self)
            process.require_life()

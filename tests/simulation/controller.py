"""A controller's machine: its database outlives its processes, which are the real dispatcher and its links."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING, Any

from services.controller.api_jobs import Fleet, JobApi
from services.controller.attempt import Stores
from services.controller.dispatch import Dispatcher, DispatchSettings
from services.controller.jobs import ExecutionMode, Owner, UploadId
from services.controller.journal import JobJournal
from services.controller.store.protocol import Upload
from services.controller.wait_clock import WaitClock
from services.controller.watchers import Watchers
from services.controller.workers import LinkSettings, WorkerLink
from tests.fakes.store import Tables
from tests.simulation.audio import Blobs
from tests.simulation.invariants import Rules
from tests.simulation.patches import BEGINNING
from tests.simulation.process import Process
from tests.simulation.store import SimulatedStore

if TYPE_CHECKING:
    from tests.simulation.world import World

INTERVAL_SECONDS = 2.0
OWNER = Owner("owner")


class CallBrokeError(Exception):
    """The controller died before it answered, or is down."""


class UploadsDone:
    """In place of services.controller.recordings.Recordings: all uploads are complete."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def owned(self, owner: Owner, upload_id: UploadId) -> Upload:
        return self._tables.uploads[upload_id]


class ControllerMachine:
    def __init__(self, world: World, number: int, settings: DispatchSettings) -> None:
        self.name = f"controller-{number}"
        self.tables = Tables()
        self.blobs = Blobs()
        self.rules = Rules(world.fail, world.note, settings)
        self.process: Process | None = None
        self.api: JobApi | None = None
        self.dispatcher: Dispatcher | None = None
        self.store: SimulatedStore | None = None
        self.failing = 0.0
        self.armed = ("", "")
        """When the process dies: "before" or "after" its next commit, and of which kind ("any" for all)."""
        self._world = world
        self._random: Random = world.random
        self._settings = settings

    def add_recording(self, content: bytes, number: int) -> UploadId:
        sha256 = self.blobs.add(content)
        upload_id = UploadId(f"{self.name}-upload-{number}")
        self.tables.uploads[upload_id] = Upload(
            upload_id, OWNER, f"{number}.wav", BEGINNING, len(content), sha256, 60.0, complete=True
        )
        return upload_id

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.alive

    def start(self) -> None:
        process = self.process = Process(self.name)
        self._world.spawner(process)("main", self._main(process))

    def crash(self) -> None:
        self.api = self.dispatcher = None
        if self.process is not None:
            self.process.crash()

    def fail_writes(self, chance: float) -> None:
        self.failing = chance
        if self.store is not None:
            self.store.failing = chance

    async def call(self, ask: Callable[[JobApi], Awaitable[Any]]) -> Any:
        """An RPC of a client. Raises CallBrokeError, and what the controller answers."""
        if self.api is None or self.process is None or not self.process.alive:
            raise CallBrokeError
        process = self.process
        asked = process.spawn("client's call", self._ask(ask))
        await asyncio.wait({asked})
        if not process.alive or asked.cancelled():
            raise CallBrokeError
        return asked.result()

    async def _ask(self, ask: Callable[[JobApi], Awaitable[Any]]) -> Any:
        assert self.api is not None
        return await ask(self.api)

    async def _main(self, process: Process) -> None:
        world = self._world
        store = self.store = SimulatedStore(self.tables, process, self.rules, self._random, self._die_if_armed)
        store.failing = self.failing
        clock = WaitClock(world.loop.time, await store.read_wait_clock())
        watchers = Watchers()
        stores = Stores(JobJournal(store, watchers), self.blobs, clock)
        links: list[WorkerLink] = []
        self.dispatcher = dispatcher = Dispatcher(stores, links, self._settings, lambda: None)
        links += [
            WorkerLink(
                LinkSettings(worker.url, ExecutionMode.REMOTE, "", INTERVAL_SECONDS),
                dispatcher.wake,
                dispatcher.worker_holds,
            )
            for worker in world.workers
        ]
        fleet = Fleet("required", links, links[0], None, True)
        self.api = JobApi(stores.journal, watchers, dispatcher, fleet, UploadsDone(self.tables))
        store.started = True
        async with asyncio.TaskGroup() as roots:
            roots.create_task(dispatcher.run(), name="dispatcher")
            for link in links:
                roots.create_task(link.run(), name=f"link {link.url}")

    def _die_if_armed(self, when: str, kind: str) -> None:
        if self.armed in ((when, kind), (when, "any")):
            self.armed = ("", "")
            self._world.note("dies at a commit", self.name, when, kind)
            self.crash()
            self._world.faults.restart(self)

"""What breaks, and when: a schedule from the seed. Every fault ends; what it breaks is put right again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from tests.simulation.network import Road

if TYPE_CHECKING:
    from tests.simulation.controller import ControllerMachine
    from tests.simulation.worker import WorkerMachine
    from tests.simulation.world import World

MOST_FAULTS = 14

LINK_FAULTS = ("link broken", "road closed", "road slow", "link broken at a run", "road closed at a run")
CONTROLLER_FAULTS = ("controller crash", "controller crash at a commit")

LONG_DELAY = 0.01
"""Seconds: above it a network is slow even without a fault."""


class Faults:
    """``counted`` tells how often each kind happened."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = world.random
        self.counted: Counter[str] = Counter()
        self._kinds: list[Callable[[], Awaitable[None]]] = [
            self._crash_worker,
            self._crash_worker_at_window,
            self._crash_controller,
            self._crash_controller_at_commit,
            self._drain_worker,
            self._lose_worker,
            self._remove_worker,
            self._break_link,
            self._close_road,
            self._break_link_at_run,
            self._close_road_at_run,
            self._slow_road,
            self._fill_disk,
            self._crash_engine,
            self._trouble_store,
        ]

    def count_decode(self) -> None:
        self.counted["windows decoded"] += 1

    @property
    def quiet(self) -> bool:
        """Whether nothing has come between a controller and its workers so far."""
        world = self._world
        troubled = any(self.counted[kind] for kind in (*LINK_FAULTS, *CONTROLLER_FAULTS, "store trouble"))
        return not troubled and not world.network.repeats and world.network.weather.delay < LONG_DELAY

    def explanation(self) -> str:
        """Why an attempt may have been given up at a worker that lives on."""
        if self._world.network.repeats:
            return "repeated call"
        if any(self.counted[kind] for kind in LINK_FAULTS):
            return "link lost"
        if self._world.network.weather.delay > LONG_DELAY:
            return "link slow"
        return ""

    async def run(self, seconds: float) -> None:
        """All faults of this world; returns when the last one is over."""
        random = self._random
        chosen = random.sample(self._kinds, random.randint(1, len(self._kinds)))
        moments = sorted(random.uniform(0, seconds) for _ in range(random.randint(0, MOST_FAULTS)))
        async with asyncio.TaskGroup() as group:
            for moment in moments:
                group.create_task(self._at(moment, random.choice(chosen)))

    async def _at(self, moment: float, fault: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(moment)
        await fault()

    def _begin(self, kind: str, *where: object) -> None:
        self.counted[kind] += 1
        self._world.note("FAULT", kind, *where)

    def _worker(self) -> WorkerMachine:
        return self._random.choice(self._world.workers)

    def _controller(self) -> ControllerMachine:
        return self._random.choice(self._world.controllers)

    def _road(self) -> Road:
        return self._world.network.road(self._controller().name, self._worker().url)

    async def _wait(self, longest: float) -> None:
        await asyncio.sleep(self._random.choice((0.01, self._random.uniform(0.05, longest / 4), longest)))

    # --- processes

    async def _crash_worker(self) -> None:
        worker = self._worker()
        if worker.alive:
            self._begin("worker crash", worker.url)
            worker.crash()
            self.restart(worker, 8.0)

    async def _crash_worker_at_window(self) -> None:
        worker = self._worker()
        if worker.alive:
            self._begin("worker crash at a window", worker.url)
            worker.armed = True
            await asyncio.sleep(5.0)
            worker.armed = False

    async def _lose_worker(self) -> None:
        worker = self._worker()
        if worker.alive:
            self._begin("worker lost with its disk", worker.url)
            worker.crash()
            worker.wipe()
            self.restart(worker, 8.0)

    async def _remove_worker(self) -> None:
        """For good; one is left."""
        worker = self._worker()
        if len(self._world.workers) > 1 and not any(one.gone for one in self._world.workers):
            self._begin("worker gone for good", worker.url)
            worker.gone = True
            worker.crash()

    async def _drain_worker(self) -> None:
        worker = self._worker()
        if worker.alive:
            self._begin("worker drained", worker.url)
            await worker.drain()
            self.restart(worker, 4.0)

    async def _crash_controller(self) -> None:
        controller = self._controller()
        if controller.alive:
            self._begin("controller crash", controller.name)
            controller.crash()
            self.restart(controller, 6.0)

    async def _crash_controller_at_commit(self) -> None:
        controller = self._controller()
        if controller.alive:
            self._begin("controller crash at a commit", controller.name)
            kind = self._random.choice(("any", "dispatch", "start", "start", "end", "event"))
            controller.armed = (self._random.choice(("before", "after")), kind)
            await asyncio.sleep(3.0)
            controller.armed = ("", "")

    def restart(self, machine: WorkerMachine | ControllerMachine, longest: float = 8.0) -> None:
        """After a while, by whoever watches over the machine."""
        wait = self._random.choice((0.01, self._random.uniform(0.05, longest / 4), longest))
        self._world.loop.call_later(wait, self._start, machine)

    def _start(self, machine: WorkerMachine | ControllerMachine) -> None:
        if not machine.alive:
            self._world.note("starts", machine.name)
            machine.start()

    async def _crash_engine(self) -> None:
        """At once, or whenever a window is decoded for a while."""
        worker = self._worker()
        if not worker.alive or not worker.serving:
            return
        self._begin("engine crash", worker.url)
        worker.engine_crashes += 1
        worker.engine.crash()

    # --- the network

    async def _break_link(self) -> None:
        road = self._road()
        self._begin("link broken", road.name)
        road.break_connections()

    async def _close_road(self) -> None:
        road = self._road()
        up, down = self._random.choice(((True, True), (True, False), (False, True)))
        self._begin("road closed", road.name, f"up={up}", f"down={down}")
        road.close(up, down)
        await self._wait(20.0)
        road.reopen()
        self._world.note("road open", road.name)

    async def _break_link_at_run(self) -> None:
        """While a worker is asked: what it answers may be lost."""
        road = self._road()
        self._begin("link broken at a run", road.name)
        road.at_run = road.break_connections

    async def _close_road_at_run(self) -> None:
        """For longer than most leases."""
        road = self._road()
        self._begin("road closed at a run", road.name)
        closed, over = asyncio.Event(), asyncio.Event()

        def close() -> None:
            if not over.is_set():
                road.close(up=False, down=True)
                closed.set()

        road.at_run = close
        try:
            async with asyncio.timeout(5.0):
                await closed.wait()
            await asyncio.sleep(self._random.uniform(5.0, 25.0))
        except TimeoutError:
            road.at_run = None
        over.set()
        road.reopen()

    async def _slow_road(self) -> None:
        road = self._road()
        self._begin("road slow", road.name)
        road.slowness = self._random.choice((10.0, 100.0, 400.0))
        await self._wait(15.0)
        road.slowness = 1.0

    # --- disks

    async def _fill_disk(self) -> None:
        worker = self._worker()
        self._begin("worker's disk full", worker.url)
        disk = worker.disk
        disk.full = disk.journal.reserved = True
        disk.journal.full = self._random.random() < 0.3
        await self._wait(10.0)
        disk.full = disk.journal.reserved = disk.journal.full = False

    async def _trouble_store(self) -> None:
        controller = self._controller()
        self._begin("store trouble", controller.name)
        controller.fail_writes(self._random.choice((0.1, 0.5, 1.0)))
        await self._wait(8.0)
        controller.fail_writes(0.0)

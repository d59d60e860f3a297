"""Processes that are killed, stopped and let go on at random moments."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from datetime import datetime

from tests.faults import decodes
from tests.faults.library import Library
from tests.faults.world import CONTROLLER, GATEWAY, WORKER, World

Run = Callable[[World, Library, int], Awaitable[None]]

LONGEST_WAIT_SECONDS = 1.2
"""From a window's end to the fault: so it comes within windows, at the ends of jobs and between jobs."""
LONGEST_DOWN_SECONDS = 0.3
SEEN_THROUGH = 0.75
"""The share of faults that the system may recover from before the next one; the others hit a system that is starting."""
STOPPED_SECONDS = (2.0, 5.0)
"""More than three heartbeats of half a second."""
ATTACHED_WITHIN_SECONDS = 5.0
HANG_NOTICED_WITHIN_SECONDS = 80.0
"""A ping every 10 s, which may take 60 s to be answered while a library is loaded."""


def killed(name: str) -> Run:
    async def run(world: World, library: Library, times: int) -> None:
        lives: list[tuple[datetime, datetime]] = []
        for _ in range(times):
            await _a_moment(world, library)
            began = await world.strike(name, world.random.uniform(0, LONGEST_DOWN_SECONDS))
            since = world.now
            world.outcome.times += 1
            if world.random.random() < SEEN_THROUGH:
                await world.note_recovery(since)
            lives.append((began, world.clock()))
        await world.ended()
        if name == CONTROLLER:
            _measure_attaching(world, lives)

    return run


async def engine_killed(world: World, library: Library, times: int) -> None:
    """A job that kills its engine three times is ended for it, so each gets one of its own."""
    for _ in range(times):
        await _a_moment(world, library)
        pid = await world.engine()
        with world.deaf():
            os.kill(pid, signal.SIGKILL)
        since = world.now
        world.outcome.times += 1
        await world.note_recovery(since)
        await world.ended()


async def all_killed(world: World, library: Library, times: int) -> None:
    """As when a machine loses its power."""
    names = (WORKER, CONTROLLER, GATEWAY)
    for _ in range(times):
        await _a_moment(world, library)
        with world.deaf():
            for name in names:
                await world.processes.kill(name)
        for name in world.random.sample(names, 3):
            await world.processes.start(name)
        world.outcome.times += 1
        await world.note_recovery(world.now)


async def killed_unheard(world: World, library: Library, times: int) -> None:
    """The worker dies after it went on for a while with nobody to tell: what it had finished is still delivered."""
    for number in range(times):
        job = await world.submit(library.long)
        await world.moved(job)
        await asyncio.sleep(world.random.uniform(0, 1.0))
        controller_dies = number % 2 == 1
        if controller_dies:
            await world.processes.strike(CONTROLLER)
        else:
            world.links[WORKER].refuse()
            world.links[WORKER].cut()
        await asyncio.sleep(world.random.uniform(0.5, 2.5))
        await world.strike(WORKER)
        if controller_dies:
            await world.processes.start(CONTROLLER)
        else:
            await world.links[WORKER].accept()
        world.outcome.times += 1
        await world.note_recovery(world.now)
        await world.ended([job])


def stopped(name: str) -> Run:
    """SIGSTOP for longer than the heartbeat may be silent, then SIGCONT."""

    async def run(world: World, library: Library, times: int) -> None:
        for _ in range(times):
            await _a_moment(world, library)
            pid = await world.engine() if name == "engine" else world.processes.pid(name)
            with world.stopped(pid):
                await asyncio.sleep(world.random.uniform(*STOPPED_SECONDS))
            world.outcome.times += 1
            await world.note_recovery(world.now)

    return run


async def engine_hung(world: World, library: Library, times: int) -> None:
    """SIGSTOP for good: the worker notices by itself, and starts another."""
    for _ in range(times):
        await _a_moment(world, library)
        pid, begun = await world.engine(), world.now
        os.kill(pid, signal.SIGSTOP)
        with world.deaf():
            while await world.engine() == pid:  # noqa: ASYNC110 - another process has no event to wait for
                await asyncio.sleep(0.2)
        world.outcome.measure("hang to another engine", world.now - begun, at_most=HANG_NOTICED_WITHIN_SECONDS)
        world.outcome.times += 1
        await world.note_recovery(world.now)


async def drained(world: World, library: Library, times: int) -> None:
    """SIGTERM: what runs is handed back at the end of its window, and goes on where it was."""
    for _ in range(times):
        await _a_moment(world, library)
        world.processes.send(WORKER, signal.SIGTERM)
        begun = world.now
        status = await world.processes.ended(WORKER)
        world.outcome.promise(status == 0, f"the worker ended with {status} after SIGTERM")
        world.outcome.measure("end after SIGTERM", world.now - begun)
        await world.processes.start(WORKER)
        world.outcome.times += 1
        await world.note_recovery(world.now)


async def _a_moment(world: World, library: Library) -> None:
    await world.keep_busy(library.recordings)
    if world.random.random() < SEEN_THROUGH:
        await world.next_segment()
    await asyncio.sleep(world.random.uniform(0, LONGEST_WAIT_SECONDS))


def _measure_attaching(world: World, lives: list[tuple[datetime, datetime]]) -> None:
    """From a controller's start to when it follows an attempt that had gone on without it."""
    attached = [
        datetime.fromisoformat(line["timestamp"])
        for line in decodes.lines(world.log, "remote_attempt_attached")
        if line["service"] == "controller"
    ]
    for began, ended in lives:
        first = next((moment for moment in attached if began <= moment <= ended), None)
        if first is not None:
            seconds = (first - began).total_seconds()
            world.outcome.measure("start to attached again", seconds, at_most=ATTACHED_WITHIN_SECONDS)

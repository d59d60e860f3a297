"""Links that are cut, stalled, slowed down and refused, between controllers and workers, and gateways and controllers."""

from __future__ import annotations

import asyncio
import json

from tests.faults.kills import Run
from tests.faults.library import Library
from tests.faults.world import CONTROLLER, WORKER, World

NOTICED_WITHIN_SECONDS = 20.0
HEALED_WITHIN_SECONDS = 5.0
GATEWAY_ANSWERS_WITHIN_SECONDS = 10.0
UNREACHABLE = "REMOTE_WORKER_UNREACHABLE"


def cut(name: str) -> Run:
    """Every connection is reset; new ones are taken at once."""

    async def run(world: World, library: Library, times: int) -> None:
        for _ in range(times):
            await _a_moment(world, library)
            world.links[name].cut()
            world.outcome.times += 1
            await world.note_recovery(world.now)

    return run


def refused(name: str) -> Run:
    """Reset, and nobody listens for a while."""

    async def run(world: World, library: Library, times: int) -> None:
        link = world.links[name]
        for _ in range(times):
            await _a_moment(world, library)
            link.refuse()
            link.cut()
            await asyncio.sleep(world.random.uniform(0.5, 4.0))
            await link.accept()
            world.outcome.times += 1
            await world.note_recovery(world.now)

    return run


def delayed(name: str) -> Run:
    """A slow line is no outage: nothing is lost, nothing is taken for lost."""

    async def run(world: World, library: Library, times: int) -> None:
        for _ in range(times):
            await world.keep_busy(library.recordings)
            world.links[name].delay(world.random.uniform(0.05, 0.5))
            await world.moves()
            await asyncio.sleep(world.random.uniform(0, 2.0))
            world.links[name].delay(0.0)
            world.outcome.times += 1
            await world.note_recovery(world.now)

    return run


def stalled(up: bool = True, down: bool = True) -> Run:
    """The worker's link, in both directions or one. How soon it is noticed, shown, and forgotten when it is back."""

    async def run(world: World, library: Library, times: int) -> None:
        link = world.links[WORKER]
        for _ in range(times):
            first, job = [await world.submit(library.long) for _ in range(2)]
            await world.moved(first)
            await asyncio.sleep(world.random.uniform(0, 1.0))
            link.stall(up=up, down=down)
            begun = world.now
            shown = await world.until(job, lastErrorCode=UNREACHABLE)
            world.outcome.measure("stall to shown", world.now - begun, at_most=NOTICED_WITHIN_SECONDS)
            unfinished = shown["status"] in (
                "running",
                "queued_remote",
            )  # the first may end while its worker still talks
            world.outcome.promise(unfinished, f"a job of a lost worker is {shown['status']}")
            await _check_runtime(world)
            link.heal()
            since = world.now
            world.outcome.times += 1
            await world.note_recovery(since)
            await world.until(job, lastErrorCode=None)
            world.outcome.measure("link back to healed", world.now - since, at_most=HEALED_WITHIN_SECONDS)
            await world.ended([first, job])

    return run


async def gateway_stalled(world: World, library: Library, times: int) -> None:
    """The gateway says that the controller is away instead of waiting with its client."""
    link = world.links[CONTROLLER]
    for _ in range(times):
        await _a_moment(world, library)
        link.stall()
        begun = world.now
        status, answer = await world.visitor.ask_once("GET", "/api/jobs")
        world.outcome.measure("stall to 503", world.now - begun, at_most=GATEWAY_ANSWERS_WITHIN_SECONDS)
        code = json.loads(answer).get("code")
        world.outcome.promise((status, code) == (503, "CONTROLLER_UNREACHABLE"), f"the gateway answers {status} {code}")
        link.heal()
        world.outcome.times += 1
        await world.note_recovery(world.now)


async def _check_runtime(world: World) -> None:
    remote = (await world.visitor.runtime())["remoteWorker"]
    world.outcome.promise(remote["connected"] is False, "the runtime says that a stalled worker is connected")
    world.outcome.promise(bool(remote["error"]), "the runtime does not say why the worker is not connected")


async def _a_moment(world: World, library: Library) -> None:
    await world.keep_busy(library.recordings)
    await world.moves()
    await asyncio.sleep(world.random.uniform(0, 1.0))

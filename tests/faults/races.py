"""Cancels that meet the end of their job or an outage, workers that are left behind, controllers that share a worker."""

from __future__ import annotations

import asyncio

from tests.faults.library import Library
from tests.faults.world import CONTROLLER, WORKER, World

FREE_WITHIN_SECONDS = 10.0


async def canceled_at_the_end(world: World, library: Library, times: int) -> None:
    """About when the job ends by itself: one of the two wins, once."""
    lasts = 1.0
    for _ in range(times):
        job = await world.submit(world.random.choice(library.recordings))
        begun = world.now
        await asyncio.sleep(world.random.uniform(0.6, 1.1) * lasts)
        status = await world.visitor.cancel(job.job_id)
        job.canceled = status == 200
        await world.ended([job])
        world.outcome.times += 1
        agreed = (job.end == "canceled") == job.canceled
        world.outcome.promise(agreed, f"{job.job_id}: the cancel was answered {status}, the job is {job.end}")
        if job.end == "complete":
            lasts = 0.7 * lasts + 0.3 * (world.now - begun)
        else:
            lasts *= 1.05


async def canceled_while_unreachable(world: World, library: Library, times: int) -> None:
    """The job is canceled at once; the worker hears of it when it is back, and its slot is free."""
    link = world.links[WORKER]
    for _ in range(times):
        job = await world.submit(library.long)
        await world.moved(job)
        link.stall()
        if world.random.random() < 0.5:
            await world.until(job, lastErrorCode="REMOTE_WORKER_UNREACHABLE")
        job.canceled = await world.visitor.cancel(job.job_id) == 200
        world.outcome.promise(job.canceled, f"{job.job_id} could not be canceled while its worker was away")
        await world.ended([job])
        await asyncio.sleep(world.random.uniform(0, 1.0))
        link.heal()
        since = world.now
        world.outcome.times += 1
        await world.idle(WORKER)
        world.outcome.measure("link back to slot free", world.now - since, at_most=FREE_WITHIN_SECONDS)
        after = await world.submit(library.recordings[1])
        await world.note_recovery(world.now)
        await world.ended([after])


async def left_behind(world: World, library: Library, times: int) -> None:
    """A worker in a black hole for longer than the lease: another goes on, and what the first still says is void."""
    workers = [name for name in world.links if name.startswith(WORKER)]
    for _ in range(times):
        job = await world.submit(library.long)
        await world.moved(job)
        first = await _at(world, job.job_id, workers)
        link = world.links[first]
        begun = world.now
        with world.deaf():
            link.stall()
            await world.until(job, attempt=2)
            world.outcome.measure("stall to running elsewhere", world.now - begun)
            await asyncio.sleep(world.random.uniform(0, 2.0))
            link.heal()
            since = world.now
            await world.idle(first)  # it goes on until it is told
        world.outcome.times += 1
        world.outcome.measure("link back to slot free", world.now - since, at_most=FREE_WITHIN_SECONDS)
        await world.note_recovery(since)
        await world.ended([job])


async def shared_worker(world: World, library: Library, times: int) -> None:
    """Two controllers at one worker, one of which is killed again and again: never more runs than slots."""
    for number in range(times):
        for visitor in world.visitors:
            for _ in range(3):
                await world.submit(world.random.choice(library.recordings), visitor)
        await world.moves()
        await asyncio.sleep(world.random.uniform(0, 1.0))
        await world.strike(CONTROLLER if number % 2 else f"{CONTROLLER}-2")
        world.outcome.times += 1
        await world.note_recovery(world.now)
    await world.ended()


async def _at(world: World, job_id: str, workers: list[str]) -> str:
    """The worker that runs the job."""
    shown = await world.visitor.job(job_id)
    return next(name for name in workers if shown["worker"]["url"].endswith(f":{world.links[name].port}"))

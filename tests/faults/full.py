"""Disks that run full in the middle of the work, and get room again."""

from __future__ import annotations

import asyncio
import json

from tests.disks import fill, make_room
from tests.faults.kills import Run
from tests.faults.library import Library
from tests.faults.world import CONTROLLER, GATEWAY, WORKER, World

FULL_SECONDS = (1.0, 3.0)


def filled(folder: str) -> Run:
    """``folder``: controller, worker or logs. Every byte is taken while jobs run; then there is room again."""

    async def run(world: World, library: Library, times: int) -> None:
        disk = world.processes.folder / folder
        for _ in range(times):
            await world.keep_busy(library.recordings, 3)
            await world.moves()
            await asyncio.sleep(world.random.uniform(0, 1.0))
            await asyncio.to_thread(fill, disk)
            if folder == CONTROLLER:
                await _check_upload(world, library)
            await asyncio.sleep(world.random.uniform(*FULL_SECONDS))
            await _check_shown(world)
            make_room(disk)
            world.outcome.times += 1
            await world.note_recovery(world.now)

    return run


async def _check_upload(world: World, library: Library) -> None:
    content = await asyncio.to_thread(library.long.path.read_bytes)
    try:
        status, answer = await world.visitor.try_upload("another.wav", content + b"\0")
    except OSError as error:
        world.outcome.promise(False, f"an upload to a full disk broke: {error}")
        return
    code = answer.get("code")
    world.outcome.promise((status, code) == (507, "STORAGE_FULL"), f"an upload to a full disk: {status} {code}")


async def _check_shown(world: World) -> None:
    """Jobs can be looked at meanwhile, none has failed, and every process lives."""
    for job in world.going:
        status, answer = await world.visitor.ask_once("GET", f"/api/jobs/{job.job_id}")
        world.outcome.promise(status == 200, f"with a full disk a job is answered with {status}: {answer.decode()}")
        if status == 200:
            shown = json.loads(answer)
            world.outcome.promise(shown["status"] != "failed", f"a full disk made a job fail: {shown}")
    for name in (WORKER, CONTROLLER, GATEWAY):
        world.outcome.promise(world.processes.lives(name), f"a full disk ended the {name}")

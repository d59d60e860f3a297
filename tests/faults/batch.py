"""The batch runner, killed and run again until it is through."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from typing import Any

import aiohttp

from scripts.processes import ROOT
from tests.faults.library import Library
from tests.faults.visitor import Visitor
from tests.faults.world import World

RUN_SECONDS = 60.0
LONGEST_RUN_SECONDS = 3.0
ROUNDS_WITHOUT_END = 40


async def batch_killed(world: World, library: Library, times: int) -> None:
    """Each folder is run to its end, through kills; the first one without any."""
    expected: dict[str, bytes] = {}
    number = 0
    while world.outcome.times < times:
        batch = _Batch(world, library, number)
        kills = 0
        while number and world.outcome.times < times and kills < ROUNDS_WITHOUT_END:
            if await batch.run(world.random.uniform(0.1, LONGEST_RUN_SECONDS)) is not None:
                break
            kills += 1
            world.outcome.times += 1
        status = await batch.run(RUN_SECONDS)
        world.outcome.promise(status == 0, f"the batch runner ended with {status}")
        expected = expected or batch.transcripts()
        await batch.judge(expected)
        number += 1


class _Batch:
    def __init__(self, world: World, library: Library, number: int) -> None:
        self._world = world
        self._folder = world.processes.folder / f"batch-{number}"
        self._folder.mkdir()
        for recording in library.recordings[1:]:
            shutil.copy(recording.path, self._folder)
        self._files = len(library.recordings) - 1

    async def run(self, seconds: float) -> int | None:
        """The exit status; None when it was killed after so many seconds."""
        with (self._folder.parent / "batch.out").open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                ROOT / "scripts" / "run_batch.sh",
                *("--input", str(self._folder), "--controller", self._world.page, "--remote", "--model", "demo"),
                *("--parallel", "2", "--formats", "json"),
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                env=dict(self._world.processes.system.environment),
            )
        try:
            async with asyncio.timeout(seconds):
                return await process.wait()
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            return None

    def transcripts(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self._folder / "transcripts").glob("*.json")}

    async def judge(self, expected: dict[str, bytes]) -> None:
        outcome, state = self._world.outcome, self._state()
        found = self.transcripts()
        outcome.jobs += self._files
        outcome.lost += self._files - len(found)
        outcome.unequal += sum(1 for name, content in found.items() if content != expected[name])
        states = [file["status"] for file in state["files"].values()]
        outcome.promise(states == ["complete"] * self._files, f"the state file says {states}")
        made = await self._jobs(state["session"])
        outcome.duplicated += max(0, made - self._files)
        outcome.promise(
            made == self._files, f"{made} jobs were made for {self._files} recordings in {self._folder.name}"
        )

    def _state(self) -> dict[str, Any]:
        return dict(json.loads((self._folder / "batch_state.json").read_text()))

    async def _jobs(self, session: str) -> int:
        async with aiohttp.ClientSession(headers={"Cookie": f"bulkscribe_session={session}"}) as http:
            return len(await Visitor(self._world.page, http).jobs())

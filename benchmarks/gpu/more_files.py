"""The system's speed with many files beside its speed with few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.engine.arms import Arm, Done, SystemArm
from benchmarks.engine.compare import SYSTEM, WARM_UP_SECONDS, progress
from benchmarks.engine.sets import Set, first, renew
from benchmarks.report import Figure, of_spread
from benchmarks.running import running
from benchmarks.spread import spread

LEAST_SHARE = 0.95
"""Of the speed with few that is to be left with many."""


async def measure(where: str, settings: Mapping[str, str], few: Set, many: Set, slots: int) -> list[Figure]:
    """The many once, the few before and after; ``settings`` are the worker's."""
    async with running(**settings) as up:
        arm = SystemArm(SYSTEM, up, settings["WORKER_MODEL"], 2 * slots)
        await arm.warm_up(first(few, WARM_UP_SECONDS).paths)
        before = await _renewed(arm, few, 1)
        progress(f"{where}: {len(many.recordings)} files")
        done = await arm.run(many)
        after = await _renewed(arm, few, 2)
    return figures(where, few, [before.seconds, after.seconds], many, done.seconds)


async def _renewed(arm: Arm, recordings: Set, number: int) -> Done:
    renew(recordings, number)
    return await arm.run(recordings)


def figures(where: str, few: Set, few_seconds: Sequence[float], many: Set, many_seconds: float) -> list[Figure]:
    """Speeds, and what is left of the few's."""
    speed = spread([few.seconds / seconds for seconds in few_seconds])
    of_many = many.seconds / many_seconds
    name = f"{where}, {SYSTEM}, speed"
    return [
        of_spread(f"{name} with {len(few.recordings)} files", speed, "x real time"),
        Figure(f"{name} with {len(many.recordings)} files", of_many, "x real time"),
        Figure(f"{name}, many over few", of_many / speed.median, "ratio", at_least=LEAST_SHARE),
    ]

"""`make soak`, or `python -m tests.faults.soak`: thousands of jobs, hundreds of clients, a fault every half minute.

The worker's engine is a fake; worker, controller and gateway are real processes. In the second half only links are
cut, so that the memory of a process can be compared within one long life of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.running import scratch_root
from scripts.processes import cancel_on_signals
from tests.faults import followed
from tests.faults.followed import Followed
from tests.faults.library import undisturbed
from tests.faults.outcome import NOTES_SHOWN, Outcome, save
from tests.faults.usage import FLAT, Usage
from tests.faults.visitor import Visitor, visiting
from tests.faults.world import CONTROLLER, GATEWAY, WORKER, Recording, Shape, Transcripts, World, world
from tests.recordings import tone, write_wav

JOBS, CLIENTS, MINUTES = 5_000, 200, 15.0
SHAPE = Shape(slots=4, paced=0.02)
FAULT_SECONDS = (20.0, 30.0)
CANCELED_SHARE = 0.1
LONGEST_CANCEL_SECONDS = 3.0
END_SECONDS = 300.0
"""No job of so few windows takes so long, whatever breaks meanwhile."""
NAMES = (WORKER, CONTROLLER, GATEWAY)


@dataclass
class Soak:
    """What the clients share. ``taken`` jobs were begun; times are the loop's."""

    world: World
    recordings: Sequence[Recording]
    expected: Transcripts
    jobs: int
    began_at: float
    ends_at: float
    taken: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def over(self) -> bool:
        return self.taken >= self.jobs or self.world.now >= self.ends_at

    @property
    def half_over(self) -> bool:
        return self.taken >= self.jobs / 2 or self.world.now >= (self.began_at + self.ends_at) / 2

    async def client(self, visitor: Visitor, recording: Recording) -> None:
        """One job after the other, to the end of each."""
        mine: set[str] = set()
        while not self.over:
            self.taken += 1
            job = await self.world.submit(recording, visitor)
            mine.add(job.job_id)
            if self.world.random.random() < CANCELED_SHARE:
                await asyncio.sleep(self.world.random.uniform(0, LONGEST_CANCEL_SECONDS))
                job.canceled = True
                await visitor.cancel(job.job_id)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    await job.ended.wait()
            await self._judge(job)
        there = await visitor.jobs()
        self.world.outcome.duplicated += len(there) - len(mine & set(there))
        self.world.outcome.lost += len(mine - set(there))

    async def _judge(self, job: Followed) -> None:
        outcome = self.world.outcome
        self.world.jobs.remove(job)
        self.ends[job.end or "not ended"] += 1
        outcome.jobs += 1
        outcome.wrong_events += followed.wrong_numbers(job.events)
        if followed.ends(job.events) > 1:
            outcome.duplicated += 1
        if job.end == "complete":
            await self._compare(job)
        elif job.end != "canceled" or not job.canceled:
            outcome.lost += 1
            outcome.note(f"{job.job_id} {job.end}: {job.events[-1:]}")

    async def _compare(self, job: Followed) -> None:
        outcome = self.world.outcome
        status, transcript = await job.followed_by.transcript(job.job_id)
        if status != 200 or transcript != self.expected[job.recording]:
            outcome.unequal += 1
            outcome.note(f"{job.job_id}: the transcript differs ({status})")
        elif json.loads(transcript)["segments"] != followed.segments(job.events):
            outcome.wrong_segments += 1
            outcome.note(f"{job.job_id}: other segments were told than the transcript has")

    async def break_things(self) -> None:
        while True:
            await asyncio.sleep(self.world.random.uniform(*FAULT_SECONDS))
            name = self.world.random.choice(
                [f"{CONTROLLER} link", f"{WORKER} link", *(() if self.half_over else NAMES)]
            )
            self.faults[name] += 1
            if name in NAMES:
                await self.world.strike(name, self.world.random.uniform(0, 1.0))
            else:
                self.world.links[name.removesuffix(" link")].cut()
            await self.world.note_recovery(self.world.now)


async def soak(folder: Path, jobs: int, clients: int, minutes: float, seed: int) -> tuple[Soak, Usage, float]:
    """Returns what was found, what was used, and the seconds that it took."""
    recordings = tuple(_recordings(folder))
    expected = await undisturbed(folder / "undisturbed", SHAPE, recordings)
    outcome = Outcome("soak", seed, logs=str(folder / "soak"))
    async with world(folder / "soak", SHAPE, outcome) as made, AsyncExitStack() as stack:
        visitors = [await stack.enter_async_context(visiting(made.page)) for _ in range(clients)]
        began = made.now
        found = Soak(made, recordings, expected, jobs, began, began + 60 * minutes)
        usage = Usage(made.processes, NAMES)
        await _run(found, usage, visitors)
        seconds = made.now - began
        outcome.times = sum(found.faults.values())
        made.read_log()
    return found, usage, seconds


async def _run(found: Soak, usage: Usage, visitors: Sequence[Visitor]) -> None:
    async with asyncio.TaskGroup() as around:
        aside = [
            around.create_task(usage.watch(), name="usage"),
            around.create_task(found.break_things(), name="faults"),
            around.create_task(_tell(found), name="progress"),
        ]
        async with asyncio.TaskGroup() as group:
            for number, visitor in enumerate(visitors):
                recording = found.recordings[number % len(found.recordings)]
                group.create_task(found.client(visitor, recording), name=f"client {number}")
        for task in aside:
            task.cancel()


async def _tell(found: Soak) -> None:
    while True:
        await asyncio.sleep(30)
        print(f"{found.taken} jobs begun, {dict(found.ends)}, faults {dict(found.faults)}", file=sys.stderr, flush=True)


def _recordings(folder: Path) -> list[Recording]:
    folder.mkdir(parents=True, exist_ok=True)
    return [Recording(write_wav(folder / f"tone-{seconds}.wav", tone(seconds / 10))) for seconds in range(5, 10)]


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every promise was kept."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.soak", description=__doc__, epilog="Exit status 1: a promise was broken."
    )
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"at most so many ({JOBS})")
    parser.add_argument("--clients", type=int, default=CLIENTS, help=f"at once ({CLIENTS})")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"no job is begun after so many ({MINUTES:g})")
    parser.add_argument("--seed", type=int, help="of the faults' kinds and moments")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 31)
    folder = Path(tempfile.mkdtemp(prefix="bulkscribe-soak-", dir=scratch_root()))
    print(f"Seed {seed}, logs in {folder}", file=sys.stderr, flush=True)
    try:
        found, usage, seconds = asyncio.run(_stoppable(folder, options, seed))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("Stopped.", file=sys.stderr)
        return 130
    good = _report(found, usage, seconds)
    if good:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if good else 1


async def _stoppable(folder: Path, options: argparse.Namespace, seed: int) -> tuple[Soak, Usage, float]:
    cancel_on_signals(lambda _number: None)
    return await soak(folder, options.jobs, options.clients, options.minutes, seed)


def _report(found: Soak, usage: Usage, seconds: float) -> bool:
    outcome = found.world.outcome
    for name in NAMES:
        growth, files = usage.growth(name), usage.more_files(name)
        outcome.promise(growth is None or growth <= FLAT, f"the {name}'s memory grew by {growth or 0:.2f}")
        outcome.promise(files is None or files <= 10, f"the {name} holds {files} more files")
    document = outcome.document() | {
        "ends": dict(found.ends),
        "faults": dict(found.faults),
        "seconds": round(seconds, 1),
        "jobs_a_second": round(outcome.jobs / seconds, 2),
        "usage": usage.document(),
    }
    save("soak", document)
    _show(document)
    return outcome.good


def _show(document: dict[str, object]) -> None:
    table = Table("what", "value", title=f"bulkscribe soak, {time.strftime('%H:%M')}")
    for name in (
        *("jobs", "ends", "lost", "duplicated", "unequal", "wrong_segments", "wrong_events", "decoded_twice"),
        *("decoded_twice_unavoidably", "oversubscribed", "faults", "seconds", "jobs_a_second"),
        *("recovery_median", "recovery_worst", "good"),
    ):
        table.add_row(name.replace("_", " "), str(document[name]))
    usage = document["usage"]
    assert isinstance(usage, dict)
    for name, used in usage.items():
        kept = {key: value for key, value in used.items() if key != "megabytes"}
        table.add_row(f"{name}'s use", str(kept))
    console = Console(width=max(Console().width, 130))
    console.print(table)
    notes = document["notes"]
    assert isinstance(notes, list)
    for text in notes[:NOTES_SHOWN]:
        console.print(f"  {text}", markup=False)


if __name__ == "__main__":
    sys.exit(main())

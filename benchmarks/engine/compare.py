"""Stock faster-whisper, this system and its engine alone over the same files, round by round in turn.

i. stock, one file after the other, window by window; ii. stock batched, at its best batch size and threads; iii. the same
in two threads; iv. the whole system; v. its engine alone on ready features. A round is every arm once, each begun by another
arm than the round before, so that what else the machine does falls on all of them. All have their models loaded and are
warm. Texts are compared, and scored where the model is one that understands.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.engine.arms import Arm, Done, ModelArm, SystemArm, model_process
from benchmarks.engine.sets import CLIPS, LONG, MIXED, Kind, Set, first, renew
from benchmarks.random_model import SHAPES, make_random_model
from benchmarks.report import Figure, NotMeasured, Report, of_spread
from benchmarks.running import running, scratch_root
from benchmarks.scoring import NONE, ErrorRate, word_errors
from benchmarks.spread import ratios, spread
from scripts.processes import ROOT

BATCH_SIZES = (4, 8, 16)
THREADS = (1, 2)
ROUNDS, QUICK_ROUNDS = 5, 2
SEARCH_SECONDS = 240.0
"""Of audio, at which batch size and threads are chosen."""
WARM_UP_SECONDS = 30.0

SEQUENTIAL, BATCHED, IN_THREADS = "stock sequential", "stock batched", "stock batched, 2 threads"
SYSTEM, ALONE = "system", "engine alone"

MOST_TIMES_ALONE = 1.10


@dataclass(frozen=True, slots=True)
class Model:
    """``name`` is the worker's for it, ``folder`` where it lies. Texts of one that ``understands`` are scored."""

    name: str
    folder: Path
    understands: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """``slots``: of the system. ``most_times_stock``: how long it may take, where stock batched takes 1."""

    name: str
    kind: Kind
    slots: int
    most_times_stock: float | None
    random: bool = False


COMPARISONS = (
    Comparison("engine-mixed", MIXED, slots=4, most_times_stock=0.80),
    Comparison("engine-clips", CLIPS, slots=16, most_times_stock=0.60),
    Comparison("engine-long", LONG, slots=2, most_times_stock=None),
    Comparison("engine-tiny-mixed", MIXED, slots=16, most_times_stock=0.80, random=True),
    Comparison("engine-tiny-clips", CLIPS, slots=16, most_times_stock=0.60, random=True),
    Comparison("engine-tiny-long", LONG, slots=2, most_times_stock=None, random=True),
)


@dataclass(slots=True)
class Results:
    """What each arm did, round by round; ``missing`` says why an arm did nothing."""

    rounds: dict[str, list[Done]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def seconds(self, arm: str) -> list[float]:
        return [done.seconds for done in self.rounds[arm]]


async def compare(comparison: Comparison, quick: bool) -> Report:
    with tempfile.TemporaryDirectory(prefix="bulkscribe-engine-", dir=scratch_root()) as scratch:
        folder = Path(scratch)
        model = await asyncio.to_thread(_model, folder / "models", comparison.random)
        recordings = await asyncio.to_thread(comparison.kind.make, folder / "recordings", quick=quick)
        progress(f"{len(recordings.recordings)} recordings, {recordings.seconds:.0f} s of audio, model {model.name}")
        threads, batch_size = await _best(model, first(recordings, SEARCH_SECONDS).paths)
        progress(f"stock batched is fastest with {threads} threads and batches of {batch_size}")
        async with _arms(model, threads, batch_size, comparison.slots) as arms:
            results = await rounds(arms, recordings, QUICK_ROUNDS if quick else ROUNDS)
    chosen = f"stock batched was fastest with cpu_threads={threads}, batch_size={batch_size}"
    return Report(
        comparison.name,
        tuple(figures(results, recordings, model, comparison.most_times_stock)),
        (chosen, *(f"{arm}: not measured, {reason}" for arm, reason in results.missing.items())),
    )


async def rounds(arms: Sequence[Arm], recordings: Set, count: int) -> Results:
    """Warms all arms up, then runs them in turn. An arm that raises NotMeasured is left out from then on."""
    results = Results()
    for arm in arms:
        progress(f"warming up: {arm.name}")
        try:
            await arm.warm_up(first(recordings, WARM_UP_SECONDS).paths)
            results.rounds[arm.name] = []
        except NotMeasured as error:
            results.missing[arm.name] = str(error)
    for number in range(count):
        renew(recordings, number + 1)
        running_arms = [arm for arm in arms if arm.name in results.rounds]
        begin = number % max(1, len(running_arms))
        for arm in (*running_arms[begin:], *running_arms[:begin]):
            try:
                done = await arm.run(recordings)
            except NotMeasured as error:
                results.missing[arm.name] = str(error)
                del results.rounds[arm.name]
                continue
            results.rounds[arm.name].append(done)
            progress(f"round {number + 1} of {count}: {arm.name} took {done.seconds:.1f} s")
    return results


def figures(results: Results, recordings: Set, model: Model, most_times_stock: float | None) -> list[Figure]:
    """Wall times, what was decoded for them, how the texts compare, and what was promised."""
    made = [
        Figure("audio", recordings.seconds, "s"),
        Figure("recordings", len(recordings.recordings), ""),
        Figure("rounds", max((len(done) for done in results.rounds.values()), default=0), ""),
    ]
    for arm, done in results.rounds.items():
        made += _figures_of(arm, done, recordings, model.understands)
    made += _compared(results, SYSTEM, BATCHED, at_most=most_times_stock)
    made += _compared(results, SYSTEM, IN_THREADS)
    made += _compared(results, SYSTEM, SEQUENTIAL)
    made += _compared(results, SYSTEM, ALONE, at_least=1.0, at_most=MOST_TIMES_ALONE)
    made += differences(results, at_most=0)
    return made


def _figures_of(arm: str, done: Sequence[Done], recordings: Set, understands: bool) -> list[Figure]:
    seconds = spread([one.seconds for one in done])
    made = [
        of_spread(f"{arm}", seconds, "s"),
        Figure(f"{arm}, speed", recordings.seconds / seconds.median, "x real time"),
        Figure(f"{arm}, words", done[-1].words, ""),
    ]
    counts = {"windows": done[-1].windows, "batches": done[-1].batches, "tokens": done[-1].tokens}
    made += [Figure(f"{arm}, {what}", count, "") for what, count in counts.items() if count is not None]
    for process in done[-1].cpu:
        used = spread([one.cpu.get(process, 0.0) for one in done])
        made.append(of_spread(f"{arm}, CPU time of {process}", used, "s"))
    if understands:
        made.append(Figure(f"{arm}, word error rate", 100 * errors(recordings, done[-1]).rate, "%"))
    return made


def _compared(
    results: Results, one: str, other: str, at_most: float | None = None, at_least: float | None = None
) -> list[Figure]:
    if one not in results.rounds or other not in results.rounds:
        return []
    ratio = ratios(results.seconds(one), results.seconds(other))
    return [of_spread(f"wall time, {one} over {other}", ratio, "ratio", at_most=at_most, at_least=at_least)]


def differences(results: Results, at_most: float | None = None) -> list[Figure]:
    """Of texts: within each arm from round to round, the system's at most so many; and between the arms that cut the same windows."""
    made = []
    for arm, done in results.rounds.items():
        changed = max(differing(done[0].texts, one.texts) for one in done)
        bound = at_most if arm == SYSTEM else None
        made.append(Figure(f"{arm}, texts that differ between rounds", changed, "files", at_most=bound))
    for one, other in itertools.combinations((BATCHED, SYSTEM, ALONE), 2):
        if one in results.rounds and other in results.rounds:
            count = differing(results.rounds[one][-1].texts, results.rounds[other][-1].texts)
            made.append(Figure(f"texts that differ, {one} and {other}", count, "files"))
    return made


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> int:
    """How many recordings have other words; those that are in one only count. Spaces do not."""
    return sum(one.get(name, "").split() != other.get(name, "").split() for name in {*one, *other})


def errors(recordings: Set, done: Done) -> ErrorRate:
    """Pooled over the set."""
    return sum((word_errors(spoken.text, done.texts[spoken.name]) for spoken in recordings.recordings), NONE)


async def _best(model: Model, files: Sequence[Path]) -> tuple[int, int]:
    """Threads and batch size with which stock batched is fastest on these files; each is tried once, warm."""
    took: dict[tuple[int, int], float] = {}
    for threads in THREADS:
        async with model_process(model.folder, threads=threads) as process:
            await process.ask("batched", files[:1], BATCH_SIZES[0])
            for batch_size in BATCH_SIZES:
                answer = await process.ask("batched", files, batch_size)
                took[threads, batch_size] = answer["seconds"]
                progress(f"cpu_threads={threads} batch_size={batch_size}: {answer['seconds']:.2f} s")
    return min(took, key=lambda choice: took[choice])


@asynccontextmanager
async def _arms(model: Model, threads: int, batch_size: int, slots: int) -> AsyncIterator[list[Arm]]:
    async with AsyncExitStack() as stack:
        stock = await stack.enter_async_context(model_process(model.folder, threads=threads))
        in_two = await stack.enter_async_context(model_process(model.folder, threads=1, workers=2))
        ours = await stack.enter_async_context(model_process(model.folder, threads=1))
        up = await stack.enter_async_context(running(**_worker_settings(model, slots)))
        yield [
            ModelArm(SEQUENTIAL, stock, "sequential", 1),
            ModelArm(BATCHED, stock, "batched", batch_size),
            ModelArm(IN_THREADS, in_two, "threads", batch_size),
            SystemArm(SYSTEM, up, model.name, parallel=2 * slots),  # so that none waits for an upload
            ModelArm(ALONE, ours, "alone", 0),
        ]


def _worker_settings(model: Model, slots: int) -> dict[str, str]:
    chosen = {"WORKER_MAX_CONCURRENT_JOBS": str(slots), "WORKER_DIARIZATION_MODEL": "none", "WORKER_MODEL": model.name}
    return chosen | ({} if model.understands else {"WORKER_MODEL_DIR": str(model.folder.parent)})


def _model(folder: Path, random: bool) -> Model:
    """The bundled model, or one of the shape of tiny that knows nothing."""
    if not random:
        return Model("demo", ROOT / "models" / "whisper-demo", understands=True)
    name = "random-tiny"
    return Model(name, make_random_model(folder / name, SHAPES["tiny"]), understands=False)


def progress(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)

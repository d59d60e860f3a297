"""The comparison of `benchmarks.engine.compare` on a GPU, with large-v3 and turbo of random weights made on the spot.

`python -m benchmarks gpu`, or `python -m benchmarks.gpu --help` for smaller pieces of it. Needs this repository, its Python
packages and a GPU; no network. Stock, which is slow, does a part of each set only: what is compared is the speed.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.engine.arms import Arm, Done, ModelArm, ModelProcess, SystemArm, model_process
from benchmarks.engine.compare import (
    ALONE,
    BATCHED,
    IN_THREADS,
    SEQUENTIAL,
    SYSTEM,
    Results,
    differences,
    progress,
    rounds,
)
from benchmarks.engine.sets import Set, first
from benchmarks.gpu import more_files, speakers
from benchmarks.gpu.cublas import environment
from benchmarks.gpu.device import Busy, device_id, device_name, sampled
from benchmarks.gpu.recordings import LONG, RAGGED, make_set, ragged, repeated
from benchmarks.gpu.roofline import WINDOW_SECONDS, card_of, peak_speed
from benchmarks.random_model import SHAPES, Shape, make_random_model
from benchmarks.report import Figure, NotMeasured, Report, of_spread
from benchmarks.running import running, scratch_root
from benchmarks.spread import Spread, spread

BEAMS = 5
STEP_BATCHES = (1, 2, 4, 8, 16, 32, 64)
PRACTICAL_SHARE = 0.65
"""Of the roofline that a good program reaches: 2,000 of 3,100 times real time for large-v3 on an H200."""

TIMES_STOCK, SHARE_OF_ALONE, SHARE_OF_ROOFLINE = 4.0, 0.9, 0.5
"""What is to be reached: the system's speed over the best of stock batched, and over the engine's alone; the engine's alone
over the roofline."""


@dataclass(frozen=True, slots=True)
class Options:
    """``audio_minutes`` is each long file's length; ``stock_seconds`` the audio of each set that stock does in a round,
    ``sequential_seconds`` the one that it does window by window. ``device`` "cpu" is for trying out this program itself."""

    models: tuple[str, ...] = ("large-v3", "turbo")
    sets: tuple[str, ...] = ("long", "ragged")
    arms: tuple[str, ...] = ("sequential", "batched", "threads", "system", "alone", "steps", "more", "speakers")
    files: int = 48
    more_files: int = 480
    audio_minutes: float = 20.0
    ragged_files: int = 16
    shortest_seconds: float = 10.0
    longest_seconds: float = 7200.0
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64)
    slots: int = 16
    rounds: int = 5
    stock_seconds: float = 4800.0
    sequential_seconds: float = 1200.0
    device: str = "cuda"


QUICK = Options(
    models=("turbo",),
    files=8,
    more_files=24,
    ragged_files=4,
    longest_seconds=600.0,
    batch_sizes=(16,),
    rounds=1,
    stock_seconds=1200.0,
    sequential_seconds=300.0,
)


async def measure(options: Options) -> Report:
    """Raises NotMeasured where there is no GPU."""
    card = require_gpu() if options.device == "cuda" else "a CPU"
    made: list[Figure] = []
    notes = [f"measured on {card}"]
    with tempfile.TemporaryDirectory(prefix="bulkscribe-gpu-", dir=scratch_root()) as scratch:
        folder = Path(scratch)
        given = environment(folder / "cublas", os.environ)
        if options.device == "cuda" and (one := device_id()):
            given.setdefault("CUDA_VISIBLE_DEVICES", one)  # which is looked at: the system would take all there are
        progress("writing the recordings")
        sets = [await asyncio.to_thread(make_set, folder, name, lengths_of(name, options)) for name in options.sets]
        pipeline = folder / "pipeline"
        if "speakers" in options.arms:
            made += await _speakers_alone(
                pipeline, max(sets, key=lambda made: made.name == LONG), given, options, notes
            )
        for name in options.models:
            progress(f"writing {name} with random weights")
            model = folder / "models" / f"random-{name}"
            await asyncio.to_thread(make_random_model, model, SHAPES[name])
            if "steps" in options.arms:
                async with model_process(model, threads=4, device=options.device, environment=given) as process:
                    made += await _steps(name, process, notes)
            for recordings in sets:
                where = f"{name}, {recordings.name}"
                async with _arms(model, given, options) as arms:
                    results = await rounds(arms, recordings, options.rounds)
                made += figures(where, results, arms, recordings, SHAPES[name], card)
                notes += [f"{where}, {arm}: not measured, {why}" for arm, why in results.missing.items()]
                if recordings.name != LONG:
                    continue
                settings = _worker_settings(model, given, options)
                if "more" in options.arms:
                    many = await asyncio.to_thread(repeated, recordings, folder / "more", options.more_files)
                    made += await more_files.measure(where, settings, recordings, many, options.slots)
                    await asyncio.to_thread(shutil.rmtree, many.folder)
                if "speakers" in options.arms:
                    progress(f"{where}: words and speakers")
                    made += await speakers.measure_together(
                        where, settings, pipeline, recordings, options.slots, options.rounds, card
                    )
    return Report("gpu", tuple(made), tuple(notes))


def lengths_of(name: str, options: Options) -> list[float]:
    """In seconds, of a set's recordings."""
    if name == RAGGED:
        return ragged(options.ragged_files, options.shortest_seconds, options.longest_seconds)
    return [60 * options.audio_minutes] * options.files


def require_gpu() -> str:
    """The GPU's name. Raises NotMeasured where CTranslate2 finds none."""
    import ctranslate2

    if ctranslate2.get_cuda_device_count() == 0:
        raise NotMeasured("this machine has no GPU that CTranslate2 can use; run it on one that has")
    return device_name() or "an unknown GPU"


class Watched:
    """An arm over a part of the set, with the device's samples of all its rounds."""

    def __init__(self, arm: Arm, seconds: float | None, batch_size: int | None) -> None:
        self.name = arm.name
        self.batch_size = batch_size
        self.busy = Busy()
        self._arm = arm
        self._seconds = seconds

    async def warm_up(self, files: Sequence[Path]) -> None:
        await self._arm.warm_up(files)

    async def run(self, recordings: Set) -> Done:
        part = recordings if self._seconds is None else first(recordings, self._seconds)
        async with sampled() as busy:
            done = await self._arm.run(part)
        self.busy.shares += busy.shares
        self.busy.memory += busy.memory
        return done


@asynccontextmanager
async def _arms(model: Path, given: Mapping[str, str], options: Options) -> AsyncIterator[list[Watched]]:
    async with AsyncExitStack() as stack:
        arms: list[Watched] = []
        load = functools.partial(model_process, model, threads=4, device=options.device, environment=given)
        one: ModelProcess | None = None
        if {"sequential", "batched", "alone"} & set(options.arms):
            one = await stack.enter_async_context(load())
        if one is not None and "sequential" in options.arms:
            arms.append(Watched(ModelArm(SEQUENTIAL, one, "sequential", 1), options.sequential_seconds, 1))
        if one is not None and "batched" in options.arms:
            arms += [
                Watched(ModelArm(f"{BATCHED}, {size}", one, "batched", size), options.stock_seconds, size)
                for size in options.batch_sizes
            ]
        if "threads" in options.arms:
            two = await stack.enter_async_context(load(workers=2))
            size = max(options.batch_sizes)
            arms.append(Watched(ModelArm(IN_THREADS, two, "threads", size), options.stock_seconds, size))
        if "system" in options.arms:
            up = await stack.enter_async_context(running(**_worker_settings(model, given, options)))
            arms.append(Watched(SystemArm(SYSTEM, up, model.name, 2 * options.slots), None, None))
        if one is not None and "alone" in options.arms:
            arms.append(Watched(ModelArm(ALONE, one, "alone", 0), None, None))
        yield arms


def _worker_settings(model: Path, given: Mapping[str, str], options: Options) -> dict[str, str]:
    chosen = {
        "WORKER_DEVICE": options.device,
        "WORKER_MODEL": model.name,
        "WORKER_MODEL_DIR": str(model.parent),
        "WORKER_MAX_CONCURRENT_JOBS": str(options.slots),
        "WORKER_DIARIZATION_MODEL": "none",
    }
    return chosen | {name: given[name] for name in ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES") if given.get(name)}


async def _speakers_alone(
    pipeline: Path, recordings: Set, given: Mapping[str, str], options: Options, notes: list[str]
) -> list[Figure]:
    """Writes the pipeline."""
    progress("speakers alone")
    await asyncio.to_thread(speakers.make_pipeline, pipeline, recordings)
    try:
        return await speakers.measure_alone(pipeline, recordings, options.device, given)
    except NotMeasured as error:
        notes.append(f"speakers alone: not measured, {error}")
        return []


async def _steps(model: str, process: ModelProcess, notes: list[str]) -> list[Figure]:
    """Encoding and one step of generating, by batch size."""
    made = []
    for size in STEP_BATCHES:
        try:
            answer = await process.ask("steps", [], size)
        except NotMeasured as error:
            notes.append(f"{model}, batches of {size}: not measured, {error}")
            break
        made.append(Figure(f"{model}, encoding {size} windows", 1000 * answer["encode_seconds"], "ms"))
        made.append(Figure(f"{model}, one step of {size} windows", 1000 * answer["step_seconds"], "ms"))
    return made


def figures(
    where: str, results: Results, arms: Sequence[Watched], recordings: Set, shape: Shape, card: str
) -> list[Figure]:
    """Speeds, what they cost the device, what it could do at most, and the ratios that the goals are about."""
    made = []
    speeds: dict[str, float] = {}
    peak: float | None = None
    decoded: float | None = None
    of_files = {spoken.name: spoken.seconds for spoken in recordings.recordings}
    for arm in arms:
        done = results.rounds.get(arm.name)
        if not done:
            continue
        speeds[arm.name] = _speed(done, of_files).median
        made += _figures_of(f"{where}, {arm.name}", arm, done, of_files)
        tokens, windows = done[-1].words, done[-1].windows
        if arm.name == ALONE and windows:
            decoded = spread([WINDOW_SECONDS * windows / one.seconds for one in done]).median
        known = card_of(card)
        if known is not None and windows and arm.name == SYSTEM:
            peak = peak_speed(shape, known, tokens / windows, BEAMS)
            made.append(Figure(f"{where}, roofline at these tokens a window", peak, "x real time of speech"))
            made.append(Figure(f"{where}, what is practical of it", PRACTICAL_SHARE * peak, "x real time of speech"))
    if decoded is not None and peak is not None:
        share = decoded / peak  # windows to windows: audio has pauses, of which the device sees nothing
        made.append(Figure(f"{where}, {ALONE} over the roofline", share, "ratio", at_least=SHARE_OF_ROOFLINE))
    made += [replace(figure, name=f"{where}, {figure.name}") for figure in differences(results)]
    return made + _ratios(where, speeds)


def _ratios(where: str, speeds: Mapping[str, float]) -> list[Figure]:
    """Of speeds; those whose both sides were measured."""
    made = []
    batched = [speed for name, speed in speeds.items() if name.startswith(BATCHED) and name != IN_THREADS]
    system, alone = speeds.get(SYSTEM), speeds.get(ALONE)
    if system is not None and batched:
        made.append(
            Figure(f"{where}, {SYSTEM} over the best {BATCHED}", system / max(batched), "ratio", at_least=TIMES_STOCK)
        )
    if system is not None and alone is not None:
        made.append(Figure(f"{where}, {SYSTEM} over {ALONE}", system / alone, "ratio", at_least=SHARE_OF_ALONE))
    return made


def _speed(done: Sequence[Done], lengths: Mapping[str, float]) -> Spread:
    """In times of real time."""
    return spread([sum(lengths[file] for file in one.texts) / one.seconds for one in done])


def _figures_of(name: str, arm: Watched, done: Sequence[Done], lengths: Mapping[str, float]) -> list[Figure]:
    speeds = _speed(done, lengths)
    last = done[-1]
    made = [
        of_spread(f"{name}, speed", speeds, "x real time"),
        Figure(f"{name}, seconds for each second of audio", 1 / speeds.median, ""),
        Figure(f"{name}, words", last.words, ""),
    ]
    if arm.busy.mean is not None:
        made.append(Figure(f"{name}, device busy", arm.busy.mean, "%"))
        made.append(Figure(f"{name}, device memory, most", max(arm.busy.memory), "MiB"))
    if last.windows is not None:
        made.append(Figure(f"{name}, windows", last.windows, ""))
        made.append(Figure(f"{name}, words a window", last.words / last.windows, ""))
    if last.windows is not None and last.batches:
        made.append(Figure(f"{name}, windows a batch", last.windows / last.batches, ""))
        if arm.batch_size:
            made.append(Figure(f"{name}, batch fill", 100 * last.windows / last.batches / arm.batch_size, "%"))
    return made

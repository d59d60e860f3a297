"""Who speaks when on a GPU, with a pipeline of community-1's shape and random weights: alone, and words and speakers together.

`python -m benchmarks.gpu.speakers PIPELINE RECORDING DEVICE` is the process in which the pipeline is alone.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.corpus import RATE, decoded
from benchmarks.engine.arms import SystemArm
from benchmarks.engine.compare import progress
from benchmarks.engine.sets import Set, first, renew
from benchmarks.gpu.device import sampled
from benchmarks.random_speakers import make_random_pipeline
from benchmarks.report import Figure, NotMeasured, of_spread
from benchmarks.running import running
from benchmarks.spread import Spread, ratios, spread
from scripts.processes import ROOT

SPEAKERS = 2
"""As many as are asked for, which random weights cannot tell."""

GOAL_CARD, GOAL_FILES, GOAL_MINUTES, GOAL_SECONDS = "H200", 48, 20.0, 120.0
"""So many recordings of that length, with speakers, are to take so long at most on that card."""

ROUNDS_ALONE = 3
SOUND_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Alone:
    """One recording through the pipeline; ``seconds`` of each round, ``audio`` the recording's."""

    seconds: tuple[float, ...]
    audio: float

    @property
    def cost(self) -> float:
        """Seconds for each second of audio."""
        return spread(self.seconds).median / self.audio


def make_pipeline(folder: Path, recordings: Set) -> Path:
    """Of random weights; it has heard the beginning of a recording. Returns its folder."""
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
    return make_random_pipeline(folder, decoded(recordings.paths[0])[: SOUND_SECONDS * RATE])


async def measure_alone(pipeline: Path, recordings: Set, device: str, environment: Mapping[str, str]) -> list[Figure]:
    """The device's speed where nothing but the pipeline uses it. Raises NotMeasured."""
    async with sampled() as busy:
        alone = await _in_process(pipeline, recordings.paths[0], device, environment)
    made = [
        of_spread(f"speakers of {alone.audio / 60:.0f} min alone", spread(alone.seconds), "s"),
        Figure("speakers alone, speed", 1 / alone.cost, "x real time"),
        Figure("speakers alone, seconds for each second of audio", alone.cost, ""),
    ]
    if busy.mean is not None:
        made.append(Figure("speakers alone, device busy (loading included)", busy.mean, "%"))
    return made


async def measure_together(
    where: str, settings: Mapping[str, str], pipeline: Path, recordings: Set, slots: int, rounds: int, card: str
) -> list[Figure]:
    """Words and speakers through the whole system, and in the same run words alone; ``settings`` are the worker's."""
    given = dict(settings) | {"WORKER_DIARIZATION_MODEL": str(pipeline)}
    asked = ("--diarization", "--min-speakers", str(SPEAKERS), "--max-speakers", str(SPEAKERS))
    times: dict[str, list[float]] = {"words": [], "words and speakers": []}
    made = []
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(running(**given))
        arms = [
            SystemArm("words", up, given["WORKER_MODEL"], 2 * slots),
            SystemArm("words and speakers", up, given["WORKER_MODEL"], 2 * slots, asked),
        ]
        for arm in arms:
            await arm.warm_up(first(recordings, 60.0).paths)
        for number in range(rounds):
            for arm in arms:
                renew(recordings, 1000 * (number + 1) + len(arm.name))
                async with sampled() as busy:
                    done = await arm.run(recordings)
                times[arm.name].append(done.seconds)
                progress(f"{where}, {arm.name}: {done.seconds:.1f} s")
                if number == rounds - 1 and busy.mean is not None:
                    made.append(Figure(f"{where}, {arm.name}: device busy", busy.mean, "%"))
    return made + together_figures(where, times, recordings, card)


def together_figures(where: str, times: Mapping[str, Sequence[float]], recordings: Set, card: str) -> list[Figure]:
    """Of the seconds of each round; the goal is for its own card and batch, and no other is held to it."""
    both = spread(times["words and speakers"])
    is_goal = (
        GOAL_CARD in card
        and len(recordings.recordings) == GOAL_FILES
        and recordings.seconds >= 60 * GOAL_MINUTES * GOAL_FILES
    )
    shared = ratios(times["words and speakers"], times["words"])
    return [
        of_spread(f"{where}, words and speakers", both, "s", at_most=GOAL_SECONDS if is_goal else None),
        _speed(f"{where}, words and speakers, speed", both, recordings),
        of_spread(f"{where}, words and speakers over words", shared, "ratio"),
    ]


def _speed(name: str, seconds: Spread, recordings: Set) -> Figure:
    return Figure(name, recordings.seconds / seconds.median, "x real time")


async def _in_process(pipeline: Path, recording: Path, device: str, environment: Mapping[str, str]) -> Alone:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.gpu.speakers", pipeline, recording, device),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    if process.returncode != 0:
        raise NotMeasured(f"the process with the pipeline ended with status {process.returncode}")
    answer = json.loads(out.decode().splitlines()[-1])
    return Alone(tuple(answer["seconds"]), answer["audio"])


def main(pipeline: Path, recording: Path, device: str) -> None:
    """In the process: prints an `Alone` as JSON."""
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
    from benchmarks.diarization import SETTINGS, diarized, ready_diarizer, spooled
    from services.worker.engine import speaker_models
    from services.worker.work import Options

    diarizer = ready_diarizer(speaker_models.load(str(pipeline), SETTINGS, device), device)
    samples = decoded(recording)
    options = Options(min_speakers=SPEAKERS, max_speakers=SPEAKERS)
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        run = functools.partial(diarized, diarizer)
        run(spooled(Path(folder), samples[: 3 * SOUND_SECONDS * RATE], "short"), options)
        whole = spooled(Path(folder), samples)
        for _ in range(ROUNDS_ALONE):
            began = time.monotonic()
            run(whole, options)
            seconds.append(time.monotonic() - began)
    diarizer.close()
    print(json.dumps(asdict(Alone(tuple(seconds), len(samples) / RATE))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])

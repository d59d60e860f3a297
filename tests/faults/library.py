"""The recordings that jobs are made of, and the transcripts that an undisturbed run gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.corpus import make_corpus
from tests.faults.outcome import Outcome
from tests.faults.world import Recording, Shape, Transcripts, World, world
from tests.recordings import EXAMPLES

LONG_SECONDS, MIDDLE_SECONDS = 300.0, 90.0
"""About 10 windows and 3."""
PACED = 0.02


@dataclass(frozen=True, slots=True)
class Library:
    recordings: tuple[Recording, ...]
    real: Transcripts
    paced: Transcripts
    speakers: Transcripts

    @property
    def long(self) -> Recording:
        return self.recordings[0]

    def transcripts(self, shape: Shape) -> Transcripts:
        if shape.paced is not None:
            return self.paced
        return self.speakers if shape.speakers else self.real


async def library(folder: Path, speakers: bool) -> Library:
    """Writes the long ones, and runs each once through the real engine (with ``speakers`` once more) and the fake one."""
    recordings = tuple(_recordings(folder / "recordings"))
    real = await undisturbed(folder / "undisturbed", Shape(), recordings)
    paced = await undisturbed(folder / "undisturbed-paced", Shape(paced=PACED), recordings)
    told = await undisturbed(folder / "undisturbed-speakers", Shape(speakers=True), recordings) if speakers else {}
    return Library(recordings, real, paced, told)


def _recordings(folder: Path) -> list[Recording]:
    long, middle = (
        folder / name / make_corpus(folder / name, 1, seconds, seconds, seed)[0].name
        for name, seconds, seed in (("long", LONG_SECONDS, 1), ("middle", MIDDLE_SECONDS, 2))
    )
    return [
        Recording(_renamed(long, "long.wav")),
        Recording(_renamed(middle, "middle.wav"), {"wordTimestamps": True}),
        Recording(EXAMPLES / "hearing.flac"),
        Recording(EXAMPLES / "interview-001.mp3", {"wordTimestamps": True}),
    ]


def _renamed(path: Path, name: str) -> Path:
    return path.rename(path.with_name(name))


async def undisturbed(folder: Path, shape: Shape, recordings: tuple[Recording, ...]) -> Transcripts:
    """Each recording once, in a system that nothing happens to."""
    async with world(folder, shape, Outcome("undisturbed", 0)) as quiet:
        jobs = [await quiet.submit(recording) for recording in recordings]
        await quiet.ended()
        return {job.recording: await _transcript(quiet, job.job_id) for job in jobs}


async def _transcript(quiet: World, job_id: str) -> bytes:
    status, content = await quiet.visitor.transcript(job_id)
    if status != 200:
        raise RuntimeError(f"an undisturbed job gave no transcript: {content.decode()}")
    return content

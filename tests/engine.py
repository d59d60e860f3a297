"""The engine's real child process with the bundled models, and what it reports of a recording."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jiwer
import numpy as np

from services.worker.engine.protocol import EngineSettings
from services.worker.engine.supervisor import Supervision, Supervisor
from services.worker.work import (
    AttemptKey,
    Completed,
    Failed,
    FinishedWork,
    Options,
    Planned,
    Report,
    Segment,
    WindowFinished,
    WindowPlan,
    Work,
)
from tests import recordings
from tests.recordings import Example

BUNDLED = Path(__file__).parents[1] / "models"
DEADLINE = 30.0
MOST_WORD_ERRORS = 0.05
SOON = Supervision(first_pause=0.1, longest_pause=0.2)

R = TypeVar("R")
attempts = itertools.count(1)


@dataclass(frozen=True)
class Run:
    """What the engine reported of one job."""

    reports: list[Report]

    def all(self, kind: type[R]) -> list[R]:
        return [report for report in self.reports if isinstance(report, kind)]

    @property
    def outcome(self) -> Report:
        return self.reports[-1]

    @property
    def failure(self) -> Failed:
        assert isinstance(self.outcome, Failed), self.outcome
        return self.outcome

    @property
    def plan(self) -> WindowPlan:
        (planned,) = self.all(Planned)
        return planned.plan

    @property
    def windows(self) -> dict[int, tuple[Segment, ...]]:
        return {window.index: window.segments for window in self.all(WindowFinished)}

    @property
    def segments(self) -> list[Segment]:
        assert isinstance(self.outcome, Completed), self.outcome
        return [segment for window in self.all(WindowFinished) for segment in window.segments]

    @property
    def text(self) -> str:
        return text_of(self.segments)


def text_of(segments: list[Segment]) -> str:
    return "".join(segment.text for segment in segments).strip()


def word_errors(reference: str, text: str) -> float:
    return float(jiwer.wer(reference, text))


def work(path: Path, finished: FinishedWork | None = None, **options: Any) -> Work:
    return Work(AttemptKey(f"job {next(attempts)}", 1), path, Options(**options), finished)


async def run(engine: Supervisor, path: Path, finished: FinishedWork | None = None, **options: Any) -> Run:
    return await finish(engine, work(path, finished, **options))


async def finish(engine: Supervisor, given: Work) -> Run:
    async with asyncio.timeout(DEADLINE):
        return Run([report async for report in engine.run(given)])


async def ready(engine: Supervisor, seconds: float = DEADLINE) -> None:
    async with asyncio.timeout(seconds):
        while not engine.state.ready:
            await engine.changed(engine.state)


def model(engine: Supervisor, name: str) -> tuple[str, str]:
    """A model's state and what is wrong with it."""
    return next((state.state, state.error) for state in engine.state.models if state.name == name)


@asynccontextmanager
async def started(**settings: Any) -> AsyncIterator[Supervisor]:
    """An engine of a test's own, without torch, so that it is ready in seconds; on the CPU, unless ``device`` is another."""
    given = {"default_model": "demo", "bundled_dir": BUNDLED, "diarization_model": "none", "device": "cpu"}
    engine = Supervisor(EngineSettings(**(given | settings)), SOON)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@dataclass(frozen=True)
class Long:
    """Examples one after the other."""

    path: Path
    text: str


def make_long(folder: Path, seconds: float = 170.0) -> Long:
    """Of at least so many seconds, which are five windows of speech."""
    parts: list[Example] = []
    for example in recordings.examples():
        if sum(part.duration for part in parts) < seconds:
            parts.append(example)
    samples = np.concatenate([part.samples() for part in parts])
    return Long(recordings.write_wav(folder / "long.wav", samples), " ".join(part.text for part in parts))

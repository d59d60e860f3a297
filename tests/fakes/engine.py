"""An engine that does as a test says: scripted reports, held back until they are let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from services.runtime.bell import Bell
from services.worker.work import (
    AttemptKey,
    Canceled,
    Completed,
    EngineState,
    ModelState,
    Planned,
    Progress,
    Report,
    Segment,
    StageChanged,
    Window,
    WindowFinished,
    WindowPlan,
    Work,
)

WINDOW_SECONDS = 30.0

STATE = EngineState(
    ready=True,
    device="cpu",
    models=(ModelState("demo", "loaded"), ModelState("broken", "failed", "no such folder: set WORKER_MODEL_DIR")),
    diarization="demo",
    languages={"demo": ("de", "en")},
)


def plan(windows: int) -> WindowPlan:
    cut = tuple(Window(i, i * WINDOW_SECONDS, (i + 1) * WINDOW_SECONDS) for i in range(windows))
    return WindowPlan("fingerprint", "en", 0.9, windows * WINDOW_SECONDS, cut)


def window_finished(index: int) -> WindowFinished:
    start = index * WINDOW_SECONDS
    return WindowFinished(index, (Segment(start, start + 2.5, f" window {index}"),))


def whole_run(windows: int = 3) -> list[Report]:
    """What an engine reports of a recording of so many windows."""
    reports: list[Report] = [StageChanged("loading"), Planned(plan(windows)), StageChanged("transcribing")]
    for index in range(windows):
        reports += [window_finished(index), Progress(100 * (index + 1) / windows)]
    return [*reports, Completed(windows * WINDOW_SECONDS, 0.5)]


@dataclass
class Script:
    """``reports`` in order; each waits for ``steps`` to grow, unless ``free``."""

    reports: list[Report] = field(default_factory=whole_run)
    free: bool = True
    steps: int = 0
    fault: Exception | None = None


class FakeEngine:
    """Implements services.worker.engine.protocol.Engine."""

    def __init__(self, state: EngineState = STATE) -> None:
        self.works: list[Work] = []
        self.canceled: list[AttemptKey] = []
        self.foreseen: list[Path] = []
        self.obedient = True
        """Whether a cancel ends the run at once."""
        self.scripts: dict[str, Script] = {}
        """By job id; a job without one runs freely."""
        self._state = state
        self._changed = Bell()
        self._moved = Bell()

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    @property
    def state(self) -> EngineState:
        return self._state

    async def changed(self, seen: EngineState) -> EngineState:
        while self._state == seen:
            await self._changed.wait()
        return self._state

    def change(self, **fields: object) -> None:
        self._state = replace(self._state, **fields)
        self._changed.ring()

    def hold(self, job_id: str, reports: list[Report] | None = None) -> Script:
        script = self.scripts[job_id] = Script(whole_run() if reports is None else reports, free=False)
        return script

    def let(self, job_id: str, steps: int = 1) -> None:
        self.scripts[job_id].steps += steps
        self._moved.ring()

    def let_all(self, job_id: str) -> None:
        self.scripts[job_id].free = True
        self._moved.ring()

    def run(self, work: Work) -> AsyncIterator[Report]:
        self.works.append(work)
        return self._reports(work, self.scripts.setdefault(work.key.job_id, Script()))

    def foresee(self, audio_path: Path) -> None:
        self.foreseen.append(audio_path)

    def cancel(self, key: AttemptKey) -> None:
        self.canceled.append(key)
        self._moved.ring()

    async def _reports(self, work: Work, script: Script) -> AsyncIterator[Report]:
        for report in script.reports:
            while not script.free and script.steps == 0 and not self._must_stop(work):
                await self._moved.wait()
            if self._must_stop(work):
                yield Canceled()
                return
            script.steps -= 1
            yield report
            await asyncio.sleep(0)
        if script.fault is not None:
            raise script.fault

    def _must_stop(self, work: Work) -> bool:
        return self.obedient and work.key in self.canceled

"""An engine that takes its time and does nothing else: windows cut from the recording's name, the same text each time.

Like the real one it keeps what an earlier attempt finished, stops between windows, and logs what it decoded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from services.worker.engine.protocol import EngineSettings
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

log = structlog.get_logger()

WINDOW_SECONDS = 30.0

STATE = EngineState(ready=True, models=(ModelState("demo", "loaded"),), diarization="demo", languages={"demo": ("en",)})


class PacedEngine:
    """Implements services.worker.engine.protocol.Engine; ``pace_seconds`` a window."""

    def __init__(self, settings: EngineSettings, pace_seconds: float) -> None:
        self._slots = settings.slots
        self._pace_seconds = pace_seconds
        self._running: set[AttemptKey] = set()
        self._canceled: set[AttemptKey] = set()

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    @property
    def state(self) -> EngineState:
        return STATE

    async def changed(self, seen: EngineState) -> EngineState:
        if seen == STATE:
            await asyncio.Event().wait()
        return STATE

    def run(self, work: Work) -> AsyncIterator[Report]:
        self._running.add(work.key)  # here: a cancel may come before the first step of the reports
        return self._reports(work)

    def foresee(self, audio_path: Path) -> None:
        pass

    def cancel(self, key: AttemptKey) -> None:
        if key in self._running:
            self._canceled.add(key)

    async def _reports(self, work: Work) -> AsyncIterator[Report]:
        log.info("paced_engine_runs", job_id=work.key.job_id, running=len(self._running), slots=self._slots)
        try:
            async for report in self._decode(work):
                yield report
        finally:
            self._running.discard(work.key)
            self._canceled.discard(work.key)

    async def _decode(self, work: Work) -> AsyncIterator[Report]:
        plan = plan_of(work.audio_path.name)
        earlier = work.finished
        known = earlier is not None and earlier.plan.fingerprint == plan.fingerprint
        finished = earlier.finished_windows if earlier is not None and known else frozenset()
        yield StageChanged("preparing")
        yield Planned(plan)
        yield StageChanged("transcribing")
        for window in plan.windows:
            if window.index in finished:
                continue
            await asyncio.sleep(self._pace_seconds)
            if work.key in self._canceled:
                yield Canceled()
                return
            ids = {"job_id": work.key.job_id, "attempt": work.key.attempt}
            log.info("windows_decoded", windows=[window.index], **ids)
            text = f" {work.audio_path.name[:8]} says {window.index}"
            yield WindowFinished(window.index, (Segment(window.start, window.start + 2.5, text),))
            yield Progress(100 * (window.index + 1) / len(plan.windows))
        yield Completed(plan.duration, len(plan.windows) * self._pace_seconds)


def plan_of(name: str) -> WindowPlan:
    """3 to 10 windows."""
    count = 3 + int(name[:8], 16) % 8
    windows = tuple(Window(i, i * WINDOW_SECONDS, (i + 1) * WINDOW_SECONDS) for i in range(count))
    return WindowPlan(name, "en", 1.0, count * WINDOW_SECONDS, windows)

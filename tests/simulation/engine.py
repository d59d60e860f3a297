"""An engine that is a function of the recording: what it says of a window depends on nothing else.

Invariant: the text of a window is the same in every run of the same plan, so that a transcript can be compared with
what an undisturbed run would have given.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

from services.worker.work import (
    AttemptKey,
    Canceled,
    ChunkSpeakers,
    Completed,
    EngineState,
    Failed,
    FinishedWork,
    ModelState,
    Planned,
    Progress,
    Report,
    Segment,
    SpeakerChunkFound,
    SpeakersFound,
    SpeakerTurn,
    StageChanged,
    Voice,
    VoiceTurn,
    Window,
    WindowDecoded,
    WindowFinished,
    WindowPlan,
    Work,
)

WINDOW_SECONDS = 30.0

SPEAKER_CHUNKS = 2
FIRST_CHUNK = -1
"""Chunks are counted downward, and so are told from windows."""

STATE = EngineState(
    ready=True, models=(ModelState("demo", "loaded"), ModelState("other", "available")), diarization="demo"
)

ENGINE_CRASHED = Failed("ENGINE_CRASHED", "The engine process died.")


def plan(sha256: str, revision: str) -> WindowPlan:
    """3 to 8 windows; ``revision`` is the model's, and plans of two revisions differ."""
    count = 3 + zlib.crc32(f"{sha256} {revision}".encode()) % 6
    windows = tuple(Window(i, i * WINDOW_SECONDS, (i + 1) * WINDOW_SECONDS) for i in range(count))
    return WindowPlan(fingerprint(revision), "en", 0.9, count * WINDOW_SECONDS, windows)


def fingerprint(revision: str) -> str:
    return f"fingerprint {revision}"


def segments(sha256: str, revision: str, window: int) -> tuple[Segment, ...]:
    """0 to 2 segments."""
    count = zlib.crc32(f"{sha256} {revision} {window}".encode()) % 3
    start = window * WINDOW_SECONDS
    return tuple(
        Segment(start + 10 * i, start + 10 * i + 5.0, f" {sha256[:8]} {revision} {window}.{i}") for i in range(count)
    )


def silent(sha256: str, revision: str, window: int) -> bool:
    """Half of the windows without words."""
    without = not segments(sha256, revision, window)
    return without and zlib.crc32(f"silent {sha256} {revision} {window}".encode()) % 2 == 0


def decoded_window(sha256: str, revision: str, window: int) -> WindowDecoded:
    """What is told of a window while nobody's speakers are known."""
    return WindowDecoded(window, segments(sha256, revision, window), silent(sha256, revision, window))


def transcript(sha256: str, revision: str) -> list[Segment]:
    """What an undisturbed run gives."""
    found: list[Segment] = []
    for window in plan(sha256, revision).windows:
        found += segments(sha256, revision, window.index)
    return found


def silent_stretches(sha256: str, revision: str) -> list[tuple[float, float]]:
    """(start, end) of the silent windows."""
    windows = plan(sha256, revision).windows
    return [(window.start, window.end) for window in windows if silent(sha256, revision, window.index)]


def speaker_chunk(index: int) -> ChunkSpeakers:
    """What is known of who speaks in a chunk."""
    start, end = 10.0 * index, 10.0 * index + 10
    turns = (VoiceTurn(start + 1, start + 6, 0), VoiceTurn(start + 5, end, 1))
    voices = (Voice((0.5, -0.25), 5.0), Voice((), 5.0))
    return ChunkSpeakers(index, start, end, voices, turns, (turns[0], VoiceTurn(start + 6, end, 1)))


def speakers(seconds: float) -> SpeakersFound:
    """What is known of a recording, once all of its chunks are."""
    turns = (SpeakerTurn(0.0, seconds, "SPEAKER_00"), SpeakerTurn(1.0, 2.0, "SPEAKER_01"))
    return SpeakersFound(turns, turns[:1])


def piece_of(report: Report) -> int | None:
    """What of a recording is done by it: a window's number, or below 0 that of a chunk of which the speakers are known."""
    match report:
        case WindowDecoded(index) | WindowFinished(index):
            return index
        case SpeakerChunkFound(chunk):
            return FIRST_CHUNK - chunk.index
    return None


class SimulatedEngine:
    """Implements services.worker.engine.protocol.Engine.

    ``decoded`` is told of every piece (`piece_of`) that is done; ``fail`` of a rule that the front broke.
    """

    def __init__(
        self,
        random: Random,
        slots: int,
        revision: str,
        decoded: Callable[[AttemptKey, int], None],
        fail: Callable[[str, str], None],
    ) -> None:
        self.running: dict[AttemptKey, Work] = {}
        self.forgetful = False
        """Whether it decodes finished windows again, as an engine may that batches across them."""
        self._random = random
        self._slots = slots
        self._revision = revision
        self._decoded = decoded
        self._fail = fail
        self._canceled: set[AttemptKey] = set()
        self._newest: dict[str, int] = {}
        self._crashes = 0

    @property
    def state(self) -> EngineState:
        return STATE

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def changed(self, seen: EngineState) -> EngineState:
        await asyncio.get_running_loop().create_future()
        return seen

    def crash(self) -> None:
        """All that runs ends in Failed, as when the engine's process dies."""
        self._crashes += 1

    def run(self, work: Work) -> AsyncIterator[Report]:
        if work.key in self.running:
            self._fail("engine", f"{work.key} runs already")
        newest = self._newest.get(work.key.job_id, 0)
        if work.key.attempt < newest:
            self._fail("newest attempt", f"{work.key} runs, though {newest} ran")
        self._newest[work.key.job_id] = max(newest, work.key.attempt)
        self.running[work.key] = work
        self._canceled.discard(work.key)
        if len(self.running) > self._slots:
            self._fail("slots", f"{len(self.running)} runs in {self._slots} slots: {[*map(str, self.running)]}")
        return self._run(work, self._crashes)

    def foresee(self, audio_path: Path) -> None:
        pass

    def cancel(self, key: AttemptKey) -> None:
        if key in self.running:
            self._canceled.add(key)

    async def _run(self, work: Work, crashes: int) -> AsyncIterator[Report]:
        known = _told(work)
        try:
            async for report in self._reports(work):
                if self._crashes > crashes:
                    yield ENGINE_CRASHED
                    return
                if work.key in self._canceled:
                    yield Canceled()
                    return
                piece = piece_of(report)
                if piece is not None and piece not in known:
                    known.add(piece)
                    self._decoded(work.key, piece)
                yield report
        finally:
            self.running.pop(work.key, None)
            self._canceled.discard(work.key)

    async def _reports(self, work: Work) -> AsyncIterator[Report]:
        sha256, finished = work.audio_path.name, work.finished
        yield StageChanged("preparing")
        await self._work(0.2)
        made = plan(sha256, self._revision)
        yield Planned(made)
        same = finished is not None and finished.plan.fingerprint == made.fingerprint
        if same:
            self._check_kept(work.key, finished, work.audio_path, made.duration)
        done = finished.finished_windows if same else frozenset()
        decoded = {window.index for window in finished.decoded_windows} if same else set()
        if work.options.diarization and not (same and finished.turns is not None):
            known = {chunk.index for chunk in finished.speaker_chunks} if same else set()
            for index in range(SPEAKER_CHUNKS):
                if index not in known:
                    await self._work(0.15)
                    yield SpeakerChunkFound(speaker_chunk(index))
                missing = [window.index for window in made.windows if window.index not in done | decoded]
                if missing:
                    await self._work(0.6)
                    decoded.add(missing[0])
                    yield decoded_window(sha256, self._revision, missing[0])
            yield speakers(made.duration)
        yield StageChanged("transcribing")
        for window in made.windows:
            if window.index in done and not self.forgetful:
                continue
            if window.index not in decoded or self.forgetful:
                await self._work(0.6)
            said = segments(sha256, self._revision, window.index)
            yield WindowFinished(window.index, said, silent(sha256, self._revision, window.index))
            left = len(made.windows) - window.index - 1
            yield Progress(100 * (window.index + 1) / len(made.windows), 0.6 * left)
        yield Completed(made.duration, 0.5)

    def _check_kept(self, key: AttemptKey, finished: FinishedWork, path: Path, seconds: float) -> None:
        """What an attempt made known of words and speakers comes to the next one as it was."""
        for window in finished.decoded_windows:
            if window != decoded_window(path.name, self._revision, window.index):
                self._fail("decoded windows kept", f"{key} gets {window}")
        for chunk in finished.speaker_chunks:
            if chunk != speaker_chunk(chunk.index):
                self._fail("speakers kept", f"{key} gets {chunk}")
        if finished.turns is not None and SpeakersFound(finished.turns, finished.exclusive_turns) != speakers(seconds):
            self._fail("speakers kept", f"{key} gets {finished.turns}, {finished.exclusive_turns}")

    async def _work(self, seconds: float) -> None:
        if self._random.random() < 0.1:  # several reports at the same moment
            return
        await asyncio.sleep(self._random.expovariate(1 / seconds))


def _told(work: Work) -> set[int]:
    if work.finished is None:
        return set()
    return {*work.finished.finished_windows, *(window.index for window in work.finished.decoded_windows)}

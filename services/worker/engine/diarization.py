"""Who speaks when: a recording's chunks, one after the other, through the speaker models and the clustering, shared by all jobs.

Invariant: what is in memory does not grow with the recording, but for its turns. Sound is read from disk as it is needed.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from services.runtime.backoff import Backoff
from services.worker.engine import cuda, speaker_models
from services.worker.engine.memory import BatchLimit, is_out_of_memory
from services.worker.engine.protocol import EngineSettings
from services.worker.engine.speaker_clusters import (
    FAST_STEP,
    Bounds,
    ClusterProcess,
    Clusters,
    Found,
    Heard,
    Rules,
    counting_less,
    joined,
)
from services.worker.engine.speaker_models import DEMO
from services.worker.pipeline.faults import WorkError
from services.worker.pipeline.recording import PreparedRecording, Samples
from services.worker.pipeline.speaker_chunks import Chunk, plan_chunks
from services.worker.pipeline.speaker_linking import link
from services.worker.pipeline.windows import SAMPLE_RATE
from services.worker.work import ChunkSpeakers, Options, Speakers, SpeakerTurn, VoiceTurn

if TYPE_CHECKING:
    from services.worker.engine.speaker_windows import Grid, SpeakerModels

log = structlog.get_logger()

DEMO_NOTE = "Bundled for demo and tests: tells synthetic voices apart, and no people's."

BATCH_SIZES = {"cpu": 8, "cuda": 32}
"""Windows that go through the models at once: a second or two, after which a canceled job ends, and on a GPU transcription gets
its turn."""

MOST_THREADS = 4
"""On a CPU, each with a batch of its own: batches side by side are faster than one that is spread over the cores."""

# Embeddings need 0.3 s; less than this holds no turns worth the name, and one speaker if any.
_SHORTEST_SECONDS = 0.5

_NICENESS = 10
"""Of the threads on a CPU: transcription goes first."""

_LOOK_SECONDS = 0.1

ROOM_TRIES, ROOM_SECONDS = 5, 1.0
"""How often, and after how long, a single window is tried again that the device has no room for."""

AGAIN_SECONDS = 60.0, 900.0
"""Bounds of the wait before a pipeline that could not be loaded is tried again: the first, and the longest."""


@dataclass(frozen=True, slots=True)
class Watch:
    """How a job follows its diarization.

    - check: called every tenth of a second or so, from several threads; may raise to give up.
    - finished: told each chunk that is new, which then need not be diarized again; in order.
    - progress: told the share that is done, 0 to 1, never falling.
    - waiting: told what it waits for, where that takes longer than a pipeline takes to load.
    """

    check: Callable[[], None] = lambda: None
    finished: Callable[[ChunkSpeakers], None] = lambda _: None
    progress: Callable[[float], None] = lambda _: None
    waiting: Callable[[str], None] = lambda _: None


class Diarizer:
    """The pipeline, if any. ``name`` is the configured one, "" for none; ``error`` says why there is none; ``revision``
    changes with its models."""

    def __init__(
        self,
        settings: EngineSettings,
        device: str,
        changed: Callable[[], None],
        clusters: Clusters | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._device = device
        self._changed = changed
        self._models: SpeakerModels
        self._rules: Callable[[Grid], Rules]
        self._tried = threading.Event()
        self._process = ClusterProcess() if clusters is None else None
        self._clusters: Clusters = clusters or self._process  # type: ignore[assignment]  # one of them is there
        threads = min(MOST_THREADS, len(os.sched_getaffinity(0))) if device == "cpu" else 1
        self._ahead = threads + 1
        # All jobs' batches wait in one line, so that a short recording is not behind hours.
        self._threads = ThreadPoolExecutor(threads, "speakers", _be_nice if device == "cpu" else cuda.use_own_stream)
        self._batch = BatchLimit(BATCH_SIZES[device])
        self.name, self.error = speaker_models.choose(settings)
        self.revision = speaker_models.revision(self.name, settings)
        if not self.name:
            self._tried.set()
        self._clock = clock
        self._backoff = Backoff(*AGAIN_SECONDS)
        self._again = math.inf
        self._trouble = ""
        self._is_here = speaker_models.is_here(self.name, settings)

    def load(self) -> None:
        """Loads the configured pipeline; what is wrong with it is kept in ``error``. Takes seconds, for torch is large.

        That the hub does not answer now is nothing wrong: jobs wait until it does.
        """
        if not self.name:
            return
        self._again = math.inf
        try:
            self._use(speaker_models.load(self.name, self._settings, self._device))
            self.revision = speaker_models.revision(self.name, self._settings)  # what the hub gave may be a newer one
            log.info("diarization_loaded", model=self.name, revision=self.revision, device=self._device)
            self.error = self._trouble = ""
            self._is_here = True
        except Exception as error:  # whatever a pipeline's code raises: jobs without diarization go on
            self._again = self._clock() + self._backoff.failed()
            self._trouble = speaker_models.failure(self.name, error, token=speaker_models.has_token(self._settings))
            if speaker_models.is_passing(error):
                log.warning("diarization_waits", model=self.name, message=self._trouble)
            else:
                log.exception("diarization_failed", model=self.name)
                self.error = self._trouble
        if not self._trouble or self.error:
            self._tried.set()
        self._changed()

    def load_again(self) -> None:
        """Tries once more what could not be loaded: terms are accepted, folders filled, networks mended while a worker runs.
        To be called now and then; it tries the more rarely the longer it fails."""
        if self._clock() >= self._again:
            self.load()

    def _use(self, pipeline: Any) -> None:
        from joblib import wrap_non_picklable_objects
        from pyannote.core import SlidingWindow

        from services.worker.engine.speaker_windows import SpeakerModels

        models = SpeakerModels(pipeline, self._device)
        if self._device == "cuda":
            cuda.settle()  # its threads have streams of their own
        clustering = {
            share: wrap_non_picklable_objects(counting_less(pipeline.clustering, share)) for share in (1.0, FAST_STEP)
        }
        pause = float(pipeline.segmentation.min_duration_off)

        def rules(grid: Grid) -> Rules:
            step = grid.step / SAMPLE_RATE
            windows = SlidingWindow(start=0.0, duration=models.window_seconds, step=step)
            return Rules(clustering[grid.step_share], windows, models.frames, pause)

        self._models, self._rules = models, rules
        if self._process is not None:
            self._process.start()

    def close(self) -> None:
        """Ends its process."""
        if self._process is not None:
            self._process.close()

    @property
    def ready_name(self) -> str:
        """The pipeline's name once there is nothing but loading between it and jobs: one that the hub has yet to give would
        hold their slots while it does not answer."""
        return speaker_models.shown(self.name) if self._is_here and not self._trouble else ""

    @property
    def note(self) -> str:
        if self._trouble and not self.error:
            return self._trouble
        return DEMO_NOTE if self.ready_name == DEMO else ""

    def require(self) -> None:
        """Raises WorkError DIARIZATION_UNAVAILABLE where it is already known that there is no pipeline."""
        if self.error:
            raise WorkError("DIARIZATION_UNAVAILABLE", self.error)

    def speakers(
        self, recording: PreparedRecording, options: Options, watch: Watch, earlier: Iterable[ChunkSpeakers] = ()
    ) -> Speakers:
        """Who speaks when in a recording; nobody where nobody does.

        It is diarized in chunks of ``options.diarization_max_duration_seconds`` (`speaker_chunks`); those of ``earlier``, which
        another attempt finished, are taken as they are, where they lie where they would be now. Raises WorkError DIARIZATION_UNAVAILABLE.
        """
        told = ""
        while not self._tried.wait(_LOOK_SECONDS):
            watch.check()
            if told != self._trouble:
                told = self._trouble
                watch.waiting(told)
        self.require()
        if recording.seconds < _SHORTEST_SECONDS:
            return _one_speaker(recording)
        chunks = plan_chunks(
            recording.samples, options.diarization_max_duration_seconds, options.diarization_fast_switching
        )
        known = {_place(chunk.index, chunk.start, chunk.end): chunk for chunk in earlier}
        found: list[ChunkSpeakers] = []
        for chunk in chunks:
            end = min(recording.seconds, chunk.end / SAMPLE_RATE)
            speakers = known.get(_place(chunk.index, chunk.start / SAMPLE_RATE, end))
            if speakers is None:
                speakers = self._diarized(recording, options, chunk, len(chunks), watch)
                watch.finished(speakers)
            found.append(speakers)
            watch.progress(len(found) / len(chunks))
        return link(found, options.min_speakers, options.max_speakers, watch.check)

    def _diarized(
        self, recording: PreparedRecording, options: Options, chunk: Chunk, chunks: int, watch: Watch
    ) -> ChunkSpeakers:
        grid = self._models.grid(chunk.length, options.diarization_fast_switching)

        def progress(share: float) -> None:
            watch.progress((chunk.index + _MODELS_SHARE * share) / chunks)

        heard = self._heard(recording, chunk, grid, watch.check, progress)
        found = Found()
        if heard.active.any():
            bounds = Bounds(options.min_speakers, options.max_speakers, is_all=chunks == 1)
            found = self._clusters.find(heard, self._rules(grid), bounds, watch.check)
        return _placed(found, chunk, recording.seconds)

    def _heard(
        self,
        recording: PreparedRecording,
        chunk: Chunk,
        grid: Grid,
        check: Callable[[], None],
        progress: Callable[[float], None],
    ) -> Heard:
        """What the models say of all windows of a chunk."""
        parts: list[Heard] = []
        waiting: deque[Future[Heard]] = deque()
        batch = self._batch.size
        firsts = deque(range(0, grid.count, batch))
        try:
            while firsts or waiting:
                while firsts and len(waiting) < self._ahead:
                    first = firsts.popleft()
                    end = min(first + batch, grid.count)
                    waiting.append(self._threads.submit(self._listen, recording, chunk, grid, first, end, check))
                parts.append(_result(waiting.popleft(), check))
                progress(min(1.0, len(parts) * batch / grid.count))
        finally:
            for future in waiting:
                future.cancel()
        return joined(parts)

    def _listen(
        self, recording: PreparedRecording, chunk: Chunk, grid: Grid, first: int, end: int, check: Callable[[], None]
    ) -> Heard:
        """Half at a time where the device has no room for all of these windows."""
        check()
        windows = end - first
        if windows <= self._batch.size:
            start, length = grid.span(first, end)
            piece = recording.stretch(chunk.start + start, min(length, chunk.length - start))
            try:
                heard = self._models.listen(grid.cut(piece, windows), check)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                log.warning("diarization_batch_halved", windows=windows, batch_size=self._batch.halve(windows))
            else:
                self._batch.succeeded(windows)
                return heard
            if windows == 1:  # behind the error, which holds what the models had made
                return self._listen_alone(grid.cut(piece, windows), check)
        middle = (first + end) // 2
        halves = (first, middle), (middle, end)
        return joined([self._listen(recording, chunk, grid, one, other, check) for one, other in halves])

    def _listen_alone(self, window: Samples, check: Callable[[], None]) -> Heard:
        """Once there is room for this one window: a batch of words that takes it is over in a second or two."""
        for left in reversed(range(ROOM_TRIES)):
            check()
            time.sleep(ROOM_SECONDS)
            try:
                return self._models.listen(window, check)
            except Exception as error:
                if not (left and is_out_of_memory(error)):
                    raise
        raise AssertionError("the last try returns or raises")


_MODELS_SHARE = 0.95
"""Of the time that a chunk takes; the rest is clustering."""


def _one_speaker(recording: PreparedRecording) -> Speakers:
    """Whoever says what there is to be heard."""
    turns = tuple(SpeakerTurn(0.0, round(recording.seconds, 3), "SPEAKER_00") for _ in recording.windows[:1])
    return Speakers(turns, turns)


def _place(index: int, start: float, end: float) -> tuple[int, float, float]:
    """Of a chunk, in seconds to the millisecond."""
    return index, round(start, 3), round(end, 3)


def _placed(found: Found, chunk: Chunk, seconds: float) -> ChunkSpeakers:
    """In the recording's time, to the microsecond, which every store keeps. The last window is filled up with silence, in which a
    turn may end a frame behind the recording's end."""
    offset = chunk.start / SAMPLE_RATE
    end = min(seconds, chunk.end / SAMPLE_RATE)

    def moved(turns: Iterable[VoiceTurn]) -> tuple[VoiceTurn, ...]:
        placed = ((turn.start + offset, min(turn.end + offset, seconds), turn.voice) for turn in turns)
        return tuple(VoiceTurn(round(start, 6), round(end, 6), voice) for start, end, voice in placed if start < end)

    return ChunkSpeakers(chunk.index, offset, end, found.voices, moved(found.turns), moved(found.exclusive))


def _result(future: Future[Heard], check: Callable[[], None]) -> Heard:
    while True:
        try:
            return future.result(_LOOK_SECONDS)
        except TimeoutError:
            if future.done():  # then it may be its own error
                return future.result()
            check()


def _be_nice() -> None:
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))

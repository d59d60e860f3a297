"""One job in the engine child, from its file to its outcome. Runs in a thread of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from services.worker.engine.diarization import Diarizer
from services.worker.engine.models import LoadedModel, Models
from services.worker.engine.whisper import BEAM_SIZE, WindowDecoder, detect_language, settle_language
from services.worker.pipeline import prepare
from services.worker.pipeline.assemble import assign_speakers, without_words
from services.worker.pipeline.faults import WorkCanceled, WorkError
from services.worker.pipeline.prepare import Samples
from services.worker.pipeline.windows import SAMPLE_RATE, SpeechWindow, fingerprint, to_recording_time
from services.worker.work import (
    Canceled,
    Completed,
    Failed,
    Outcome,
    Planned,
    Progress,
    Report,
    Segment,
    SpeakersFound,
    SpeakerTurn,
    StageChanged,
    WindowFinished,
    WindowPlan,
    Work,
)

log = structlog.get_logger()

_PROGRESS_SECONDS = 0.5

# The language is heard from one chunk of speech; two neighbors always hold that much, or they would be one window.
_HEARD_WINDOWS = 2


@dataclass(frozen=True, slots=True)
class Tools:
    """What all jobs of the process share."""

    models: Models
    diarizer: Diarizer
    default_model: str
    batch_size: int


def run_job(work: Work, tools: Tools, report: Callable[[Report], None], is_canceled: Callable[[], bool]) -> None:
    """Reports everything about ``work``, at last exactly one outcome; raises nothing."""
    with structlog.contextvars.bound_contextvars(job_id=work.key.job_id, attempt=work.key.attempt):
        report(_outcome(_Job(work, tools, report, is_canceled)))


def _outcome(job: _Job) -> Outcome:
    try:
        return job.run()
    except WorkCanceled:
        return Canceled()
    except WorkError as error:
        log.warning("job_failed", reason=error.reason, message=error.message)
        return Failed(error.reason, error.message)
    except Exception as error:
        # A fault in one job must not take the others down; the log has the whole of it.
        log.exception("job_failed", reason="ENGINE_FAILED")
        return Failed("ENGINE_FAILED", f"The engine met an unexpected {type(error).__name__}. Check the worker's log.")


class _Job:
    def __init__(
        self, work: Work, tools: Tools, report: Callable[[Report], None], is_canceled: Callable[[], bool]
    ) -> None:
        self._work = work
        self._options = work.options
        self._tools = tools
        self._report = report
        self._is_canceled = is_canceled

    def run(self) -> Outcome:
        started = time.monotonic()
        model, language = self._model()
        self._check()
        self._report(StageChanged("preparing"))
        samples = prepare.decode(self._work.audio_path, self._check)
        windows = prepare.plan(samples, vad=self._options.vad, max_seconds=model.chunk_seconds)
        self._check()
        plan = self._plan(model, language, samples, windows)
        self._report(Planned(plan))
        turns = self._turns(samples, plan)
        self._report(StageChanged("transcribing"))
        self._transcribe(model, plan.language, samples, windows, self._finished(plan), turns)
        return Completed(plan.duration, time.monotonic() - started)

    def _check(self) -> None:
        if self._is_canceled():
            raise WorkCanceled

    def _model(self) -> tuple[LoadedModel, str]:
        """The model and the language, "" where it must be heard; what can be refused is refused before any work."""
        name = self._options.model or self._tools.default_model
        if self._options.diarization:
            self._tools.diarizer.require()
        self._check()
        if not self._tools.models.is_loaded(name):
            self._report(StageChanged("loading", f"loading model {name}"))
        model = self._tools.models.get(name)
        return model, settle_language(model, self._options.language)

    def _plan(self, model: LoadedModel, language: str, samples: Samples, windows: Sequence[SpeechWindow]) -> WindowPlan:
        digest = fingerprint(windows, self._decisive(model))
        probability = 1.0
        earlier = self._work.finished
        if not language and earlier is not None and earlier.plan.fingerprint == digest:
            language, probability = earlier.plan.language, earlier.plan.language_probability
        elif not language:
            language, probability = detect_language(
                model, [prepare.cut_out(samples, w) for w in windows[:_HEARD_WINDOWS]]
            )
        stretches = tuple(window.stretch() for window in windows)
        return WindowPlan(digest, language, probability, len(samples) / SAMPLE_RATE, stretches)

    def _decisive(self, model: LoadedModel) -> dict[str, object]:
        """Everything besides the plan that text, times and speakers depend on."""
        options = self._options
        return {
            "model": model.revision,
            "compute_type": model.compute_type,
            "beam_size": BEAM_SIZE,
            "language": options.language,
            "initial_prompt": options.initial_prompt,
            "hotwords": options.hotwords,
            "word_timestamps": options.word_timestamps,
            "diarization": self._tools.diarizer.name if options.diarization else "",
            "diarization_max_duration_seconds": options.diarization_max_duration_seconds,
            "diarization_fast_switching": options.diarization_fast_switching,
            "speakers": [options.min_speakers, options.max_speakers],
        }

    def _finished(self, plan: WindowPlan) -> frozenset[int]:
        earlier = self._work.finished
        if earlier is None or earlier.plan.fingerprint != plan.fingerprint:
            return frozenset()
        return earlier.finished_windows

    def _turns(self, samples: Samples, plan: WindowPlan) -> tuple[SpeakerTurn, ...]:
        if not self._options.diarization:
            return ()
        self._report(StageChanged("diarizing"))
        earlier = self._work.finished
        if earlier is not None and earlier.plan.fingerprint == plan.fingerprint and earlier.turns is not None:
            turns = earlier.turns
        else:
            turns = self._tools.diarizer.turns(samples, self._options, self._check)
        self._report(SpeakersFound(turns))
        return turns

    def _transcribe(
        self,
        model: LoadedModel,
        language: str,
        samples: Samples,
        windows: Sequence[SpeechWindow],
        finished: frozenset[int],
        turns: Sequence[SpeakerTurn],
    ) -> None:
        words = self._options.word_timestamps or self._options.diarization
        decoder = WindowDecoder(model, language, self._options, words=words)
        progress = _SpeechProgress(windows, finished, self._report)
        # Batches are those of an undisturbed run: beside other rows, a few words get times that differ by 0.02 s.
        for batch in _batches(windows, self._tools.batch_size):
            missing = [window for window in batch if window.index not in finished]
            if not missing:
                continue
            self._check()
            decoded = decoder.decode([prepare.cut_out(samples, window) for window in batch])
            log.info("windows_decoded", windows=_indexes(batch), reported=_indexes(missing))
            for window, segments in zip(batch, decoded, strict=True):
                if window not in missing:
                    continue
                self._report(WindowFinished(window.index, self._assembled(window, segments, turns)))
                progress.add(window)

    def _assembled(
        self, window: SpeechWindow, segments: Sequence[Segment], turns: Sequence[SpeakerTurn]
    ) -> tuple[Segment, ...]:
        placed = assign_speakers(to_recording_time(segments, window.spans), turns)
        return placed if self._options.word_timestamps else without_words(placed)


class _SpeechProgress:
    """Reports the share of speech that is finished, at most twice a second."""

    def __init__(
        self, windows: Sequence[SpeechWindow], finished: frozenset[int], report: Callable[[Report], None]
    ) -> None:
        self._total = math.fsum(window.seconds for window in windows)
        self._done = math.fsum(window.seconds for window in windows if window.index in finished)
        self._report = report
        self._last = -math.inf

    def add(self, window: SpeechWindow) -> None:
        self._done += window.seconds
        now = time.monotonic()
        if now - self._last >= _PROGRESS_SECONDS:
            self._last = now
            self._report(Progress(min(100.0, round(100 * self._done / self._total, 1))))


def _indexes(windows: Sequence[SpeechWindow]) -> list[int]:
    return [window.index for window in windows]


def _batches(windows: Sequence[SpeechWindow], size: int) -> Iterator[Sequence[SpeechWindow]]:
    for first in range(0, len(windows), size):
        yield windows[first : first + size]
